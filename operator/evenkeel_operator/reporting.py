"""What a job's status says: conditions, counts, index ranges. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evenkeel_core.plans import Plan, Refusal
from evenkeel_core.reasons import Reason
from evenkeel_kube import amounts

Object = dict[str, Any]
Conditions = Mapping[str, tuple[str, str, str]]
"""Type to status, reason and message."""

TYPES = ("Accepted", "Planned", "Scheduled", "Running", "Balanced", "Succeeded", "Failed")
PLAN_ROWS = 64
MESSAGE = 2000


def stamp(now: float) -> str:
    """Return seconds since the epoch as the API server writes times."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(
    before: Sequence[Mapping[str, Any]], wanted: Conditions, generation: int, now: float
) -> list[Object]:
    """Return all conditions, each with the time of its last transition.

    What `wanted` does not name stays as it was, Unknown where it never was.
    """
    old = {item["type"]: item for item in before}
    found = []
    for kind in TYPES:
        last = old.get(kind)
        if kind not in wanted and last is not None:
            found.append(dict(last))
            continue
        status, reason, message = wanted.get(kind, ("Unknown", "NotYet", ""))
        same = last is not None and last["status"] == status
        found.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message[:MESSAGE],
                "observedGeneration": generation,
                "lastTransitionTime": last["lastTransitionTime"]
                if same and last is not None
                else stamp(now),
            }
        )
    return found


def is_true(job: Mapping[str, Any], kind: str) -> bool:
    """Tell whether a condition of a job is True."""
    found = (job.get("status") or {}).get("conditions") or ()
    return any(item["type"] == kind and item["status"] == "True" for item in found)


def finished(job: Mapping[str, Any]) -> bool:
    """Tell whether a job has ended."""
    return is_true(job, "Succeeded") or is_true(job, "Failed")


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as index ranges, such as ``0-3,7``."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def summary(plan: Plan, revision: int, config_map: str) -> Object:
    """Return ``status.plan``: the first rows, and what describes the whole."""
    subtasks = {subtask.name: subtask for subtask in plan.graph.subtasks}
    rows = []
    for assignment in plan.assignments[:PLAN_ROWS]:
        subtask = subtasks[assignment.subtask]
        layers = "" if subtask.layers is None else f"{subtask.layers[0]}-{subtask.layers[1] - 1}"
        rows.append(
            {
                "name": assignment.subtask,
                "server": assignment.server,
                "layers": layers,
                "weightBytes": int(subtask.weight_bytes),
                "predictedSeconds": round(assignment.seconds, 3),
            }
        )
    found: Object = {
        "revision": revision,
        "configMap": config_map,
        "subtasks": rows,
        "totalSubtasks": len(plan.assignments),
        "makespanSeconds": round(plan.makespan, 3),
        "potential": round(plan.potential, 6),
        "stable": plan.stable,
    }
    if plan.factorisation is not None:
        factors = plan.factorisation
        found["factorisation"] = {
            "rank": factors.rank,
            "explained": round(factors.explained, 6),
            "error": round(factors.error, 6),
            "costFromFactors": round(factors.cost_from_factors, 3),
            "costFinal": round(factors.cost_final, 3),
        }
    return found


def refused(refusals: Sequence[Refusal]) -> tuple[str, str]:
    """Return the reason and the message of a plan that could not be made."""
    first = refusals[0]
    parts = [first.message]
    if first.resource:
        missing = amounts.render(first.missing, first.resource)
        parts.append(f"binding resource {first.resource}, missing {missing}")
    if first.remedy:
        parts.append(first.remedy)
    if len(refusals) > 1:
        parts.append(f"and {len(refusals) - 1} more")
    return str(first.reason), "; ".join(parts)


def word(job: Mapping[str, Any], wanted: Conditions) -> str:
    """Return the conditions as one word, for people."""
    for kind in ("Succeeded", "Failed"):
        if wanted.get(kind, ("",))[0] == "True" or is_true(job, kind):
            return kind
    if wanted.get("Accepted", ("",))[0] == "False":
        return str(wanted["Accepted"][1])
    planned = wanted.get("Planned", ("", "", ""))
    if planned[0] != "True":
        return "Unplaceable" if planned[0] == "False" else str(planned[1] or Reason.QUEUED)
    if wanted.get("Running", ("",))[0] == "True":
        return "Running"
    return str(wanted.get("Scheduled", ("", "Planned"))[1])
