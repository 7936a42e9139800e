"""What became of a group's pods: pure, from objects to one word and a reason.

    absent → gated → released → starting → running → succeeded
                │        │          │          └──→ lost (with a reason of a class)
                └────────┴──────────┴──→ lost (impossible, deleted, timed out, not started)

A lost attempt is followed by a new one with the next number; what an older attempt says later
does not count (the number is the fence).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from evenkeel_core.plans import Plan
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Server
from evenkeel_kube import names, pods

Object = Mapping[str, Any]


class Phase(StrEnum):
    """How far the current attempt of a group is."""

    ABSENT = "absent"
    GATED = "gated"
    RELEASED = "released"
    STARTING = "starting"
    """Bound, and not every container runs yet."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    LOST = "lost"
    BLOCKED = "blocked"
    """Not started; its server can't take it any more and, as things are, no other can."""


@dataclass(frozen=True, slots=True)
class Look:
    """A group as its pods show it."""

    phase: Phase
    reason: Reason | None = None
    message: str = ""
    servers: tuple[str, ...] = ()
    """Servers to avoid next time, where the loss says so."""


FREE = (
    Reason.DISRUPTED,
    Reason.REJECTED_BY_NODE,
    Reason.NOT_STARTED,
    Reason.GANG_TIMEOUT,
    Reason.REPLANNED,
)
"""Losses that do not count against backoffLimit."""
REJECTED = (
    "NodeAffinity", "UnexpectedAdmissionError", "TopologyAffinityError", "InvalidNodeInfo",
)  # fmt: skip
DISRUPTED = (
    "Evicted", "Preempting", "Shutdown", "NodeShutdown", "Terminated", "NodeLost", "Preempted",
)  # fmt: skip


def attempt(pod: Object) -> int:
    """Return the attempt a pod belongs to, 0 where it says none."""
    text = (pod["metadata"].get("annotations") or {}).get(names.ANNOTATION_ATTEMPT, "")
    return int(text) if text.isdigit() else 0


def attempts_after(found: Iterable[Object], plan: Plan) -> dict[str, int]:
    """Return attempts of a new plan's groups that no pod of an older plan has."""
    last: dict[str, int] = {}
    for pod in found:
        group = pod["metadata"]["labels"][names.LABEL_GROUP]
        last[group] = max(last.get(group, 0), attempt(pod))
    groups = {subtask.group for subtask in plan.graph.subtasks}
    return {
        group: last[label] + 1 for group in sorted(groups) if (label := names.label(group)) in last
    }


def phase(pod: Object) -> str:
    """Return the phase of a pod."""
    return str(pod.get("status", {}).get("phase", "Pending"))


def terminal(pod: Object) -> bool:
    """Tell whether a pod has ended."""
    return phase(pod) in ("Succeeded", "Failed")


def bound(pod: Object) -> str | None:
    """Return the node of a pod."""
    return pod["spec"].get("nodeName") or None


def planned(pod: Object) -> str:
    """Return the server the plan wants a pod on."""
    return str((pod["metadata"].get("annotations") or {}).get(names.ANNOTATION_SERVER, ""))


def number(pod: Object, annotation: str) -> float:
    """Return a number a pod carries as an annotation, 0 where it carries none that makes sense."""
    try:
        found = float((pod["metadata"].get("annotations") or {}).get(annotation, 0))
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def seconds_since(stamp: str | None, now: float) -> float:
    """Return the seconds since a time of the API server, 0 where there is none."""
    if not stamp:
        return 0.0
    return now - datetime.fromisoformat(stamp).timestamp()


def failure(pod: Object) -> tuple[Reason, str]:
    """Return the class of a failed pod's failure, and what it says."""
    status = pod.get("status", {})
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))[:500]
    conditions = status.get("conditions") or ()
    said = f"{pod['metadata']['name']}: {reason or 'Failed'} {message}".strip()
    if any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in conditions):
        return Reason.DISRUPTED, said
    if reason.startswith("OutOf") or reason in REJECTED:
        return Reason.REJECTED_BY_NODE, said
    if reason in DISRUPTED:
        return Reason.DISRUPTED, said
    ended = [
        found
        for container in status.get("containerStatuses") or ()
        if (found := (container.get("state") or {}).get("terminated"))
    ]
    if any(state.get("reason") == "OOMKilled" for state in ended):
        return Reason.OUT_OF_MEMORY, f"{pod['metadata']['name']}: OOMKilled"
    if unstarted := next((state for state in ended if _never_ran(state)), None):
        said = str(unstarted.get("message", ""))[:300]
        return Reason.NOT_STARTED, f"{pod['metadata']['name']} on {bound(pod)}: {said}"
    codes = ", ".join(str(state.get("exitCode")) for state in ended)
    where = bound(pod) or "no node"
    words = "".join(
        f", {state['reason']}: {str(state.get('message', ''))[:300]}"
        for state in ended
        if state.get("reason") in NEVER_RAN
    )
    message = f"{pod['metadata']['name']} on {where}: exit code {codes or '-'}{words}"
    return Reason.ATTEMPT_FAILED, message


NEVER_RAN = ("StartError", "ContainerCannotRun")
OWN_FAULTS = (
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "exec format error",
)
"""What the runtime says of a command that can't be run anywhere."""


def _never_ran(state: Object) -> bool:
    """Tell whether the node failed to start a container: it was too busy, or broke off."""
    said = str(state.get("message", ""))
    return state.get("reason") in NEVER_RAN and not any(fault in said for fault in OWN_FAULTS)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what is waited for."""

    gang: float
    """Seconds a coupled set may take to be wholly bound."""
    kill: float
    """Seconds after its deletion was due that a pod on a ready server is taken for gone."""
    stuck: float
    """Seconds a single released pod may stay unbound."""
    start: float
    """Seconds a bound pod may wait for its image or a volume."""


def look(
    members: Sequence[str],
    found: Mapping[str, Object],
    servers: Mapping[str, Server],
    now: float,
    patience: Patience,
    *,
    retry_on_node_loss: bool,
    steady: Mapping[str, float] | None = None,
) -> Look:
    """Return how far a group's current attempt is.

    Parameters
    ----------
    members : sequence of str
        Subtasks of the group.
    found : mapping
        Pods of the current attempt by subtask.
    servers : mapping
        Servers by name as they are now.
    now : float
        Seconds since the epoch.
    patience : Patience
    retry_on_node_loss : bool
        Start anew while an unreachable node may still be running it.
    steady : mapping, optional
        Seconds for which we have seen each server Ready without a break, by our own clock.
    """
    steady = steady or {}
    there = [found[name] for name in members if name in found]
    if len(there) == len(members) and all(phase(pod) == "Succeeded" for pod in there):
        return Look(Phase.SUCCEEDED)
    for pod in there:
        lost = _lost(pod, servers, now, patience, steady, retry_on_node_loss=retry_on_node_loss)
        if lost is not None:
            return lost
    if len(there) < len(members):
        # A member of a set that had started is gone although its finalizer should hold it.
        if any(not pods.gated(pod) for pod in there):
            return Look(Phase.LOST, Reason.DISRUPTED, "a pod of the set vanished")
        return Look(Phase.ABSENT)
    opened = [pod for pod in there if not pods.gated(pod)]
    if len(opened) < len(there):
        return _half_open(opened, now, patience) or Look(Phase.GATED)
    if all(bound(pod) for pod in there):
        return _starting(there, now, patience)
    return _unbound(there, servers, now, patience)


def _half_open(opened: Sequence[Object], now: float, patience: Patience) -> Look | None:
    """Judge a set of which some gates fell and others did not: the rest may be refused for ever."""
    since = now - min((number(pod, names.ANNOTATION_RELEASED) for pod in opened), default=now)
    if since <= patience.gang:
        return None
    return Look(Phase.LOST, Reason.GANG_TIMEOUT, f"not wholly released after {since:.0f} s")


def _starting(there: Sequence[Object], now: float, patience: Patience) -> Look:
    """Tell whether bound pods run, still start, or can't be started where they are."""
    pending = [pod for pod in there if phase(pod) == "Pending"]
    said = ""
    for pod in pending:
        obstacle, server = waiting_for(pod), bound(pod) or ""
        since = seconds_since(pod.get("status", {}).get("startTime"), now)
        limit = patience.start * (CREATING_LONGER if obstacle.startswith(CREATING) else 1)
        message = f"{pod['metadata']['name']} on {server}: {obstacle}"
        said = said or (message if obstacle else "")
        if obstacle and since > limit:
            return Look(Phase.LOST, Reason.NOT_STARTED, message, (server,))
    return Look(Phase.STARTING, message=said) if pending else Look(Phase.RUNNING)


HARMLESS = ("PodInitializing",)
CREATING = "ContainerCreating"
CREATING_LONGER = 10
"""A volume that can't be mounted looks like a large image that is being pulled: such waits get so
many times the patience that an error gets."""


def waiting_for(pod: Object) -> str:
    """Return what a bound pod's containers wait for, as the kubelet says it; empty for nothing."""
    status = pod.get("status", {})
    states = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for state in states:
        waiting = (state.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in HARMLESS:
            said = f"{waiting['reason']} {waiting.get('message', '')}"
            return said.strip()[:300]
    return ""


def _lost(
    pod: Object,
    servers: Mapping[str, Server],
    now: float,
    patience: Patience,
    steady: Mapping[str, float],
    *,
    retry_on_node_loss: bool,
) -> Look | None:
    node = bound(pod)
    if phase(pod) == "Failed":
        reason, message = failure(pod)
        return Look(Phase.LOST, reason, message, (node,) if node else ())
    if terminal(pod):
        return None
    name = pod["metadata"]["name"]
    if node is not None and node not in servers:
        return Look(Phase.LOST, Reason.DISRUPTED, f"{name}: node {node} is gone", (node,))
    due = pod["metadata"].get("deletionTimestamp")
    if due is None:
        return None
    if node is None:
        return Look(Phase.LOST, Reason.DISRUPTED, f"{name} was deleted before it was bound")
    if not servers[node].ready:
        # A lost node is not a stopped node: the container may run on. What must not run twice
        # waits until the kubelet has spoken or the Node object is gone.
        if retry_on_node_loss:
            return Look(Phase.LOST, Reason.DISRUPTED, f"{name}: node {node} is lost", (node,))
        return None
    waited = seconds_since(due, now)
    if not retry_on_node_loss:
        # A dead server is Ready until the node monitor notices, and one that came back is before
        # its kubelet has told of its pods: only a server seen Ready all the time can be believed.
        waited = min(waited, steady.get(node, 0.0)) - NOTICED
    if waited > patience.kill:
        return Look(Phase.LOST, Reason.DISRUPTED, f"{name} was deleted")
    return None


NOTICED = 50.0
"""Seconds until the control plane says of a dead node that it is not Ready, by its default."""


def _unbound(
    there: Sequence[Object], servers: Mapping[str, Server], now: float, patience: Patience
) -> Look:
    """Judge a released group that is not wholly bound."""
    since = now - min(number(pod, names.ANNOTATION_RELEASED) for pod in there)
    free = [pod for pod in there if not bound(pod)]
    if any(pod["spec"].get("schedulingGates") for pod in free):
        return Look(Phase.RELEASED)  # somebody else's gate: theirs to open
    impossible = {
        planned(pod)
        for pod in free
        if (server := servers.get(planned(pod))) is None
        or not server.ready
        or not server.schedulable
    }
    if len(there) > 1:
        if impossible:
            return Look(
                Phase.LOST,
                Reason.REPLANNED,
                f"{', '.join(sorted(impossible))} can not take its member any more",
                tuple(sorted(impossible)),
            )
        if since > patience.gang:
            missing = ", ".join(pod["metadata"]["name"] for pod in free)
            message = f"not bound after {since:.0f} s: {missing}"
            return Look(Phase.LOST, Reason.GANG_TIMEOUT, message)
        return Look(Phase.RELEASED)
    names_ = shortlist(there[0])
    left = [
        name
        for name in names_
        if name in servers and servers[name].ready and servers[name].schedulable
    ]
    if names_ and not left:
        message = f"none of {', '.join(names_)} can take it any more"
        return Look(Phase.LOST, Reason.REPLANNED, message, names_)
    if since > patience.stuck and _looked_at(there[0]):
        message = f"not bound after {since:.0f} s"
        return Look(Phase.LOST, Reason.REPLANNED, message, (planned(there[0]),))
    return Look(Phase.RELEASED)


def _looked_at(pod: Object) -> bool:
    """Tell whether a scheduler has tried to place a pod: no other attempt helps while none does."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "PodScheduled" for condition in conditions)


def shortlist(pod: Object) -> tuple[str, ...]:
    """Return the servers a released pod may go to; empty where it may go anywhere."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get(pods.REQUIRED) or {}).get("nodeSelectorTerms") or ()
    return tuple(
        dict.fromkeys(
            value
            for term in terms
            for item in term.get("matchFields") or ()
            for value in item.get("values") or ()
        )
    )
