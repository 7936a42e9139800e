"""Why a subtask is not on the server the plan wanted, as far as can be seen now. Pure.

What the scheduler saw when it placed the pod is not kept anywhere. So the reasons are those that
hold now, said as such; where nothing keeps the subtask off any more, that is said, too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evenkeel_cli.following import Line
from evenkeel_core import checks, explaining
from evenkeel_core.plans import Plan
from evenkeel_core.quantities import Vector, minus, plus, shortage
from evenkeel_core.reasons import Reason
from evenkeel_core.refusing import amount
from evenkeel_core.servers import Server
from evenkeel_kube import names, nodes, pods

if TYPE_CHECKING:
    from evenkeel_cli.cluster import Running

Object = Mapping[str, Any]
HOLDERS = 3
"""Pods that are named; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A pod that holds or reserves room on a server."""

    name: str
    demand: Vector


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster now."""

    servers: Mapping[str, Server]
    held: Mapping[str, tuple[Holder, ...]] | None
    """By server; None where we may not see the pods."""


def holders(found: Iterable[Object]) -> dict[str, tuple[Holder, ...]]:
    """Return who holds or reserves room, by server: bound pods, and released pods of the plan."""
    held: dict[str, list[Holder]] = {}
    for pod in sorted(found, key=lambda pod: str(pod["metadata"]["name"])):
        server = pod["spec"].get("nodeName") or _reserved(pod)
        if server and nodes.occupies(pod):
            holder = Holder(pod["metadata"]["name"], nodes.pod_demand(pod["spec"]))
            held.setdefault(server, []).append(holder)
    return {server: tuple(pods_) for server, pods_ in held.items()}


def _reserved(pod: Object) -> str:
    annotations = pod["metadata"].get("annotations") or {}
    return "" if pods.gated(pod) else str(annotations.get(names.ANNOTATION_SERVER, ""))


def why(running: "Running", line: Line, seen: Seen, live: Any = None) -> str:
    """Return why the subtask of a line is elsewhere.

    `live` is what the extender says of the pod, where it was asked.
    """
    if running.record is None:
        raise ValueError("`running` has no plan on record: nothing was planned anywhere")
    said = f"{line.planned} was planned, {_obstacle(running, line, seen, live)}"
    return said + _compared(running.record.plan, line)


def _obstacle(running: "Running", line: Line, seen: Seen, live: Any) -> str:
    told = _told(live, line.planned)
    if told is not None:
        return f"but the extender refuses it now ({told})"
    server = seen.servers.get(line.planned)
    if server is None:
        return "but is no server of the cluster any more (ServerGone)"
    assert running.record is not None  # noqa: S101 - the caller has looked
    subtasks = running.record.plan.graph.subtasks
    subtask = next(item for item in subtasks if item.name == line.subtask)
    refused = checks.reason(subtask, server)
    if refused is not None:
        return f"but can't take it now ({refused}: {refused.sentence})"
    if seen.held is None:
        return "and no check refuses it; what its pods leave free can't be seen with these rights"
    others = [item for item in seen.held.get(line.planned, ()) if item.name != line.pod]
    missing = _missing(nodes.pod_demand(running.pods[line.pod]["spec"]), server, others)
    if missing:
        lacks = ", ".join(amount(name, number) for name, number in missing.items())
        return f"but lacks {lacks} now ({Reason.BUSY}): {_named(others)}"
    return "and could take it now; what was in the way when the pod was scheduled is not on record"


def _told(live: Any, planned: str) -> str | None:
    """Return why the extender refuses the planned server, None where it does not."""
    rows = live.get("servers") if isinstance(live, dict) else None
    for row in rows or ():
        if row.get("server") == planned and row.get("refused"):
            return str(row["refused"])
    return None


def _missing(demand: Vector, server: Server, others: Iterable[Holder]) -> dict[str, int]:
    room: Vector = server.plannable
    taken: Vector = {}
    for other in others:
        taken = plus(taken, other.demand)
    return shortage(demand, minus(room, taken))


def _named(others: list[Holder]) -> str:
    if not others:
        return "it is too small"
    some = ", ".join(item.name for item in others[:HOLDERS])
    more = f" and {len(others) - HOLDERS} more" if len(others) > HOLDERS else ""
    return f"its room is held by {some}{more}"


def _compared(plan: Plan, line: Line) -> str:
    """Return how the server it is on compares with the planned one."""
    found = {item.server: item for item in explaining.alternatives(plan, line.subtask)}
    here, there = found.get(line.server or ""), found.get(line.planned)
    said = ""
    if here is not None and here.place is not None:
        said += f"; {line.server} is number {here.place} of its shortlist"
    if here and there and here.seconds is not None and there.seconds is not None:
        said += f", {here.seconds:.1f} s instead of {there.seconds:.1f} s"
    return said
