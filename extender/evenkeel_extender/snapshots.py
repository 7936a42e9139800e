"""The cluster as the verbs read it: immutable, built from the watches' caches.

The verbs do no I/O and take no lock: they read the snapshot that is current when they start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from evenkeel_core.plans import Assignment, Plan, costs
from evenkeel_core.quantities import Vector, minus
from evenkeel_core.servers import Server, rate
from evenkeel_core.subtasks import Subtask
from evenkeel_kube import names, nodes, plans

Object = Mapping[str, Any]


class Metadata(msgspec.Struct, gc=False):
    """The part of an object's metadata that is looked at."""

    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Pod(msgspec.Struct, gc=False):
    """The part of a pod that is looked at."""

    metadata: Metadata
    spec: dict[str, Any]
    status: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


_pod = msgspec.json.Decoder(Pod)
_object = msgspec.json.Decoder(dict[str, Any])


def decode_pod(data: bytes) -> Pod:
    """Decode what is looked at of a pod, without what is large and never used."""
    pod = _pod.decode(data)
    kept = ("nodeName", "containers", "initContainers", "overhead", "schedulingGates")
    spec = {key: pod.spec[key] for key in kept if key in pod.spec}
    for kind in ("containers", "initContainers"):
        if kind in spec:
            spec[kind] = [
                {key: item[key] for key in ("resources", "restartPolicy") if key in item}
                for item in spec[kind]
            ]
    annotations = {k: v for k, v in pod.metadata.annotations.items() if k.startswith(names.GROUP)}
    labels = {k: v for k, v in pod.metadata.labels.items() if k.startswith(names.GROUP)}
    metadata = msgspec.structs.replace(pod.metadata, labels=labels, annotations=annotations)
    return Pod(metadata, spec, {"phase": pod.status.get("phase", "Pending")})


def decode_object(data: bytes) -> dict[str, Any]:
    """Decode a node, a profile or a ConfigMap."""
    return _object.decode(data)


@dataclass(frozen=True, slots=True)
class Holder:
    """What one of our pods holds of a server."""

    server: str
    demand: Vector
    work: float
    reserves: bool
    """Bound, or released onto its planned server; a gated pod only plans to go there."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A subtask with the plan it is in."""

    plan: Plan
    subtask: Subtask
    assignment: Assignment
    costs: Mapping[str, float]
    """Seconds on each server."""
    rates: Mapping[str, float]
    """Reference seconds per second that each server has for this job."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Servers, what is held of them, and the plans."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, Vector] = field(default_factory=dict)
    """What our pods may still use: plannable less what is bound and reserved."""
    loads: Mapping[str, float] = field(default_factory=dict)
    """Reference seconds bound, reserved or planned; observed load where that is more."""
    holders: Mapping[str, Holder] = field(default_factory=dict)
    """By the pod's uid."""
    places: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Job uid and subtask to where it is or should go: the neighbours of edges."""
    planned: Mapping[tuple[str, str], Planned] = field(default_factory=dict)
    """Job uid and subtask label to the subtask in its plan."""
    pods: Mapping[str, Pod] = field(default_factory=dict)
    """Our pods by ``namespace/name``."""


class Plans:
    """Decoded plans, each decoded once a version."""

    def __init__(self) -> None:
        self._decoded: dict[str, tuple[str, dict[tuple[str, str], Planned]]] = {}

    def subtasks(self, config_maps: Iterable[Object]) -> dict[tuple[str, str], Planned]:
        """Return every planned subtask of the ConfigMaps; one that can't be read is left out."""
        found: dict[tuple[str, str], Planned] = {}
        keep: dict[str, tuple[str, dict[tuple[str, str], Planned]]] = {}
        for item in config_maps:
            metadata = item["metadata"]
            key, version = (
                f"{metadata['namespace']}/{metadata['name']}",
                metadata["resourceVersion"],
            )
            held = self._decoded.get(key)
            if held is None or held[0] != version:
                held = (version, _subtasks(item))
            keep[key] = held
            found |= held[1]
        self._decoded = keep
        return found


def _subtasks(config_map: Object) -> dict[tuple[str, str], Planned]:
    uid = (config_map["metadata"].get("labels") or {}).get(names.LABEL_JOB_UID, "")
    try:
        plan = plans.decode((config_map.get("binaryData") or {}).get(plans.KEY, "")).plan
    except plans.RecordError:
        return {}
    subtasks = {subtask.name: subtask for subtask in plan.graph.subtasks}
    rows = costs(plan)
    rates = dict(zip(plan.servers, plan.rates, strict=True))
    return {
        (uid, place.subtask[:63].rstrip("-.")): Planned(
            plan, subtasks[place.subtask], place, rows[row], rates
        )
        for place, row in zip(plan.assignments, plan.rows, strict=True)
    }


def number(pod: Pod, annotation: str) -> float:
    """Return a number a pod carries, 0 where it carries none."""
    try:
        return float(pod.metadata.annotations.get(annotation, 0))
    except ValueError:
        return 0.0


def build(
    all_nodes: Iterable[Object],
    profiles: Iterable[Object],
    pods: Iterable[Pod],
    planned: Mapping[tuple[str, str], Planned],
) -> Snapshot:
    """Return the snapshot of what the watches hold."""
    ours: dict[str, Pod] = {}
    holders: dict[str, Holder] = {}
    foreign: dict[str, Vector] = {}
    places: dict[tuple[str, str], str] = {}
    for pod in pods:
        if names.LABEL_JOB_UID not in pod.metadata.labels:
            _add_foreign(foreign, pod)
            continue
        ours[pod.key] = pod
        server = pod.spec.get("nodeName") or pod.metadata.annotations.get(
            names.ANNOTATION_SERVER, ""
        )
        labels = pod.metadata.labels
        places[labels[names.LABEL_JOB_UID], labels.get(names.LABEL_SUBTASK, "")] = server
        if pod.status["phase"] not in nodes.FINISHED:
            holders[pod.metadata.uid] = holder(pod, server)
    by_name = {profile["metadata"]["name"]: profile for profile in profiles}
    servers = {
        name: nodes.server(node, by_name.get(name), foreign.get(name))
        for node in all_nodes
        for name in (node["metadata"]["name"],)
    }
    free, loads = _taken(servers, holders.values())
    rates = {name: max(rate(server), 1e-9) for name, server in servers.items()}
    return Snapshot(servers, rates, free, loads, holders, places, planned, ours)


def _add_foreign(foreign: dict[str, Vector], pod: Pod) -> None:
    node = pod.spec.get("nodeName")
    if node and pod.status["phase"] not in nodes.FINISHED:
        taken = dict(foreign.get(node, {}))
        for name, amount in nodes.pod_demand(pod.spec).items():
            taken[name] = taken.get(name, 0) + amount
        foreign[node] = taken


def holder(pod: Pod, server: str) -> Holder:
    """Return what a pod of ours holds."""
    gates = pod.spec.get("schedulingGates") or ()
    gated = any(gate["name"] == names.GATE for gate in gates)
    demand = nodes.pod_demand(pod.spec)
    reserves = bool(pod.spec.get("nodeName")) or not gated
    return Holder(server, demand, number(pod, names.ANNOTATION_WORK), reserves)


def _taken(
    servers: Mapping[str, Server], holders: Iterable[Holder]
) -> tuple[dict[str, Vector], dict[str, float]]:
    free = {name: server.plannable for name, server in servers.items()}
    loads = dict.fromkeys(servers, 0.0)
    for item in holders:
        if item.server not in servers:
            continue
        loads[item.server] += item.work
        if item.reserves:
            free[item.server] = minus(free[item.server], item.demand)
    observed = {name: server.observed_load or 0.0 for name, server in servers.items()}
    return free, {name: max(load, observed[name]) for name, load in loads.items()}
