"""What a pass looks at: reflectors' caches into one immutable snapshot."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from evenkeel_core import calibrating
from evenkeel_core.costs import MANY
from evenkeel_core.quantities import PODS, Vector
from evenkeel_core.releasing import Occupied
from evenkeel_core.servers import Server
from evenkeel_kube import client, names, nodes, plans, reflecting
from evenkeel_kube.client import Client
from evenkeel_kube.volumes import Storage
from evenkeel_operator import following

Object = dict[str, Any]


def decode_pod(data: bytes) -> Object:
    """Decode a pod without what is large and never looked at."""
    pod: Object = msgspec.json.decode(data)
    pod["metadata"].pop("managedFields", None)
    return pod


class Caches:
    """The reflectors of the operator."""

    def __init__(self, api: Client, changed: Callable[[], None]) -> None:
        def watch(
            where: str, params: Mapping[str, str] | None = None
        ) -> reflecting.Reflector[Object]:
            return reflecting.Reflector(
                api, where, decode_pod, params=params, on_change=lambda *_: changed()
            )

        self.pods = watch(client.path("v1", "pods"))
        self.nodes = watch(client.path("v1", "nodes"))
        self.profiles = watch(client.path(names.API_VERSION, "serverprofiles"))
        self.plans = watch(
            client.path("v1", "configmaps"), {"labelSelector": f"{names.LABEL_PLAN}=true"}
        )
        self.priorities = watch(client.path("scheduling.k8s.io/v1", "priorityclasses"))
        self.claims = watch(client.path("v1", "persistentvolumeclaims"))
        self.volumes = watch(client.path("v1", "persistentvolumes"))

    def all(self) -> tuple[reflecting.Reflector[Object], ...]:
        """Return every reflector."""
        return (
            self.pods,
            self.nodes,
            self.profiles,
            self.plans,
            self.priorities,
            self.claims,
            self.volumes,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster as one pass sees it."""

    servers: Mapping[str, Server]
    by_job: Mapping[str, tuple[Object, ...]]
    """``namespace/uid`` of the job to its pods."""
    own: tuple[Object, ...]
    """Every pod of every job."""
    storage: Storage
    steady: Mapping[str, float]
    """Seconds for which each server has been seen Ready without a break."""

    def signature(self) -> int:
        """Return a number that changes when it may pay to plan a refused job anew."""
        servers = tuple(
            (
                server.name,
                tuple(sorted(server.plannable.items())),
                tuple(sorted(server.labels.items())),
                server.taints,
                server.ready,
                server.schedulable,
                server.accelerators,
                server.models,
            )
            for server in self.servers.values()
        )
        return hash((servers, self.storage.bindings()))


class Servers:
    """Servers as last made, so that a pass makes only those anew that changed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._servers: dict[str, Server] = {}
        self._made: dict[str, tuple[Object, Object | None, Vector, Server]] = {}
        self._taken: dict[int, tuple[Mapping[str, Any], Vector]] = {}
        self._ready_since: dict[str, float] = {}

    def taken_by(self, pod: Mapping[str, Any]) -> Vector:
        """Return what a pod takes of its node; worked out once for each version of the pod."""
        held = self._taken.get(id(pod))
        if held is None or held[0] is not pod:
            held = self._taken[id(pod)] = (pod, nodes.taken_by(pod))
        return held[1]

    def steady(self) -> dict[str, float]:
        """Return for how long each server has been seen Ready without a break, in seconds."""
        now = self._clock()
        return {name: now - since for name, since in self._ready_since.items()}

    def of(self, caches: Caches, every: list[Object]) -> dict[str, Server]:
        """Return the servers by name, sorted."""
        known = self._taken
        self._taken = {id(pod): known[id(pod)] for pod in every if id(pod) in known}
        foreign = nodes.foreign(every, self.taken_by)
        made: dict[str, tuple[Object, Object | None, Vector, Server]] = {}
        for name, node in sorted(caches.nodes.items.items()):
            profile, taken = caches.profiles.items.get(name), foreign.get(name, {})
            held = self._made.get(name)
            # A changed object is another object: the watch replaces, it never edits.
            if held is None or held[0] is not node or held[1] is not profile or held[2] != taken:
                held = (node, profile, taken, nodes.server(node, profile, taken))
            made[name] = held
        if made.keys() != self._made.keys() or any(
            held is not self._made[name] for name, held in made.items()
        ):
            alike = calibrating.shared([held[3] for held in made.values()])
            self._servers = {server.name: server for server in alike}
        self._made = made
        now = self._clock()
        self._ready_since = {
            name: self._ready_since.get(name, now) for name, held in made.items() if held[3].ready
        }
        return self._servers


def snapshot(caches: Caches, servers: Servers) -> Snapshot:
    """Return the caches as they are now."""
    every = list(caches.pods.items.values())
    by_job: dict[str, list[Object]] = {}
    for pod in every:
        if owner := nodes.job_of(pod):
            by_job.setdefault(owner, []).append(pod)
    own = tuple(pod for found in by_job.values() for pod in found)
    return Snapshot(
        servers.of(caches, every),
        {uid: tuple(found) for uid, found in by_job.items()},
        own,
        Storage(dict(caches.claims.items), dict(caches.volumes.items), every),
        servers.steady(),
    )


def place(pod: Object) -> str | None:
    """Return the server a pod is on, or has a reservation on because its gate fell."""
    if following.terminal(pod):
        return None
    node = following.bound(pod)
    if node is not None:
        return node
    gates = pod["spec"].get("schedulingGates") or ()
    reserved = not any(gate["name"] == names.GATE for gate in gates)
    return following.planned(pod) if reserved else None


def occupied(own: tuple[Object, ...], now: float) -> list[Occupied]:
    """Return what our bound and released pods take, and when they should end.

    Parameters
    ----------
    own : tuple
        Every pod of every job.
    now : float
        Seconds since the epoch.
    """
    found = []
    for pod in own:
        where = place(pod)
        if where is None:
            continue
        scale = following.number(pod, names.ANNOTATION_TIME_SCALE) or 1.0
        seconds = following.number(pod, names.ANNOTATION_SECONDS) / scale
        began = pod.get("status", {}).get("startTime")
        ran = following.seconds_since(began, now)
        found.append(Occupied(where, nodes.taken_by(pod), max(0.0, seconds - ran)))
    return found


def loads(own: tuple[Object, ...], without: str) -> dict[str, float]:
    """Return the reference seconds that the pods of all jobs but one commit to each server."""
    found: dict[str, float] = {}
    for pod in own:
        if following.terminal(pod) or pod["metadata"]["labels"][names.LABEL_JOB_UID] == without:
            continue
        where = following.bound(pod) or following.planned(pod)
        work = following.number(pod, names.ANNOTATION_WORK)
        found[where] = found.get(where, 0.0) + work
    return found


def room(servers: Mapping[str, Server]) -> dict[str, Vector]:
    """Return what our pods may use of each server that may be used at all."""
    return {
        name: {PODS: MANY, **server.plannable}
        for name, server in servers.items()
        if server.ready and server.schedulable
    }


def record(config_map: Object) -> plans.Record:
    """Return the plan of a ConfigMap.

    Raises
    ------
    plans.RecordError
        If there is none that can be read.
    """
    return plans.decode((config_map.get("binaryData") or {}).get(plans.KEY) or "")
