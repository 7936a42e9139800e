"""How far a job and its subtasks are, from its object, its plan on record and its pods. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenkeel_cli.cluster import Running
from evenkeel_core.plans import Assignment
from evenkeel_core.subtasks import Subtask
from evenkeel_kube import names, plans, pods, statuses

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One subtask: what was planned and what became of it."""

    subtask: str
    state: str
    planned: str
    """The server of the plan."""
    server: str | None
    """The server it is on, None where it has none yet."""
    predicted: float
    actual: float | None
    """Seconds it took, in the time of the prediction; None before its end."""
    attempt: int
    pod: str
    obstacle: str = ""
    """What the scheduler or the node says it waits for; empty where it does not wait."""


def done(job: Object) -> tuple[int, int]:
    """Return how many subtasks of a job have succeeded, and how many there are."""
    counts = (job.get("status") or {}).get("subtaskCounts") or {}
    return int(counts.get("succeeded", 0)), int(counts.get("total", 0))


def lines(running: Running) -> list[Line]:
    """Return one line a subtask of the plan on record."""
    record = running.record
    if record is None:
        return []
    subtasks = {subtask.name: subtask for subtask in record.plan.graph.subtasks}
    return [
        _line(running, record, place, subtasks[place.subtask]) for place in record.plan.assignments
    ]


def _line(running: Running, record: plans.Record, place: Assignment, subtask: Subtask) -> Line:
    job = running.job
    attempt = record.attempts.get(subtask.group, 1)
    name = pods.pod_name(job["metadata"], subtask.name, attempt)
    pod = running.pods.get(name)
    took = None if pod is None else statuses.seconds(pod)
    return Line(
        subtask.name,
        _state(job, subtask, pod),
        place.server,
        None if pod is None else pod["spec"].get("nodeName"),
        place.seconds,
        None if took is None else took * time_scale(job, subtask.task),
        attempt,
        name,
        "" if pod is None else obstacle(pod),
    )


def _state(job: Object, subtask: Subtask, pod: Object | None) -> str:
    status = job.get("status") or {}
    if subtask.index in statuses.indexes(status.get("completed")):
        return "Succeeded"
    if subtask.index in statuses.indexes(status.get("failed")):
        return "Failed"
    if pod is None:
        return "Waiting"
    if any(gate["name"] == names.GATE for gate in pod["spec"].get("schedulingGates") or ()):
        return "Waiting"
    if not pod["spec"].get("nodeName"):
        return "Scheduling"
    phase = str(pod.get("status", {}).get("phase", "Pending"))
    return "Starting" if phase == "Pending" else phase


def obstacle(pod: Object) -> str:
    """Return what keeps a pod from running, in the words of the scheduler or its node."""
    status = pod.get("status", {})
    for found in status.get("conditions") or ():
        if found["type"] == "PodScheduled" and found.get("reason") == "Unschedulable":
            return str(found.get("message") or found["reason"])
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            said = waiting.get("message")
            return f"{waiting['reason']}: {said}" if said else str(waiting["reason"])
    return ""


def time_scale(job: Object, task: str) -> float:
    """Return the seconds of a prediction that pass in one real second: the simulator's scale."""
    spec = job["spec"]
    own = next((item for item in spec.get("tasks") or () if item["name"] == task), None)
    holder = spec if own is None else own.get("inference") or {}
    return float((holder.get("runtime") or {}).get("timeScale") or 1.0)


def deviations(found: list[Line]) -> list[Line]:
    """Return the lines whose subtask is not on the server the plan wanted."""
    return [line for line in found if line.server is not None and line.server != line.planned]
