"""What became of a group's pods: pure, from objects to one word and a reason.

    absent → gated → released → running → succeeded
                │        │          └──→ lost (with a reason of a class)
                └────────┴──→ lost (its servers became impossible, deleted, timed out)

A lost attempt is followed by a new one with the next number; what an older attempt says later
does not count (the number is the fence).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Server
from evenkeel_kube import names, pods

Object = Mapping[str, Any]


class Phase(StrEnum):
    """How far the current attempt of a group is."""

    ABSENT = "absent"
    GATED = "gated"
    RELEASED = "released"
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


FREE = (Reason.DISRUPTED, Reason.REJECTED_BY_NODE, Reason.GANG_TIMEOUT, Reason.REPLANNED)
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
    """Return a number a pod carries as an annotation, 0 where it carries none."""
    try:
        return float((pod["metadata"].get("annotations") or {}).get(annotation, 0))
    except ValueError:
        return 0.0


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
    codes = ", ".join(str(state.get("exitCode")) for state in ended)
    where = bound(pod) or "no node"
    return Reason.ATTEMPT_FAILED, f"{pod['metadata']['name']} on {where}: exit code {codes or '-'}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what is waited for."""

    gang: float
    kill: float
    stuck: float


def look(
    members: Sequence[str],
    found: Mapping[str, Object],
    servers: Mapping[str, Server],
    now: float,
    patience: Patience,
    *,
    retry_on_node_loss: bool,
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
    """
    there = [found[name] for name in members if name in found]
    if len(there) == len(members) and all(phase(pod) == "Succeeded" for pod in there):
        return Look(Phase.SUCCEEDED)
    for pod in there:
        lost = _lost(pod, servers, now, patience, retry_on_node_loss=retry_on_node_loss)
        if lost is not None:
            return lost
    if len(there) < len(members):
        # A member of a set that had started is gone although its finalizer should hold it.
        if any(not pods.gated(pod) for pod in there):
            return Look(Phase.LOST, Reason.DISRUPTED, "a pod of the set vanished")
        return Look(Phase.ABSENT)
    if any(pods.gated(pod) for pod in there):
        return Look(Phase.GATED)
    if all(bound(pod) for pod in there):
        return Look(Phase.RUNNING)
    return _unbound(there, servers, now, patience)


def _lost(
    pod: Object,
    servers: Mapping[str, Server],
    now: float,
    patience: Patience,
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
    if seconds_since(due, now) > patience.kill:
        return Look(Phase.LOST, Reason.DISRUPTED, f"{name} was deleted")
    return None


def _unbound(
    there: Sequence[Object], servers: Mapping[str, Server], now: float, patience: Patience
) -> Look:
    """Judge a released group that is not wholly bound."""
    since = now - min(number(pod, names.ANNOTATION_RELEASED) for pod in there)
    free = [pod for pod in there if not bound(pod)]
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
    if since > patience.stuck:
        message = f"not bound after {since:.0f} s"
        return Look(Phase.LOST, Reason.REPLANNED, message, (planned(there[0]),))
    return Look(Phase.RELEASED)


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
