"""The cluster as the verbs read it: immutable, built from the watches' caches.

The verbs do no I/O and take no lock: they read the snapshot that is current when they start.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evenkeel_core.quantities import Vector
from evenkeel_core.servers import Server
from evenkeel_extender.census import Census
from evenkeel_extender.planned import JobPlan, Planned
from evenkeel_extender.pods import Pod
from evenkeel_kube import nodes

Object = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Servers, what is held of them, and the plans."""

    servers: Mapping[str, Server] = field(default_factory=dict)
    free: Mapping[str, Vector] = field(default_factory=dict)
    """What our pods may still use: plannable less what is bound and reserved."""
    loads: Mapping[str, float] = field(default_factory=dict)
    """Reference seconds that our pods have bound, reserved or planned."""
    pods: Mapping[str, Pod] = field(default_factory=dict)
    """Ours that have not ended, by uid."""
    keys: Mapping[str, Pod] = field(default_factory=dict)
    """Ours, ended ones included, by ``namespace/name``."""
    places: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Job and subtask to where it is or should go: the neighbours of edges."""
    plans: Mapping[str, JobPlan] = field(default_factory=dict)
    """By the job's uid."""
    census: Census = field(default_factory=lambda: Census({}, ()))
    """What all pods that the watch shows ask for, on these servers."""

    def planned(self, pod: Pod) -> Planned | None:
        """Return what the plan says of a pod, None where no plan of it is known."""
        plan = self.plans.get(pod.job)
        return plan.subtasks.get(pod.subtask) if plan is not None else None


class Servers:
    """Nodes as `Server`s; one is built anew only when something of it changed."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Object, Object | None, Vector, Server | None]] = {}

    def update(
        self, found: Iterable[Object], profiles: Mapping[str, Object], foreign: Mapping[str, Vector]
    ) -> dict[str, Server]:
        """Return the servers by name; a node that can't be read is left out."""
        made: dict[str, tuple[Object, Object | None, Vector, Server | None]] = {}
        for node in found:
            name = node["metadata"]["name"]
            profile, taken = profiles.get(name), foreign.get(name, {})
            held = self._made.get(name)
            if held is None or held[0] is not node or held[1] is not profile or held[2] != taken:
                held = (node, profile, taken, _server(node, profile, taken))
            made[name] = held
        self._made = made
        return {name: held[3] for name, held in made.items() if held[3] is not None}


def _server(node: Object, profile: Object | None, foreign: Vector) -> Server | None:
    try:
        return nodes.server(node, profile, foreign)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.error("node %s is left out: %r", node["metadata"]["name"], error)
        return None


def build(
    servers: Servers,
    all_nodes: Iterable[Object],
    profiles: Iterable[Object],
    pods: Iterable[Pod],
    plans: Iterable[JobPlan],
) -> Snapshot:
    """Return the snapshot of what the watches hold."""
    pods = tuple(pods)
    live: dict[str, Pod] = {}
    keys: dict[str, Pod] = {}
    places: dict[tuple[str, str], str] = {}
    foreign: dict[str, dict[str, int]] = {}
    for pod in pods:
        if pod.job:
            keys[pod.key] = pod
            places[pod.job, pod.subtask] = pod.server
            if not pod.over:
                live[pod.uid] = pod
        elif pod.node and not pod.over:
            _add(foreign.setdefault(pod.node, {}), pod.demand)
    by_name = {profile["metadata"]["name"]: profile for profile in profiles}
    made = servers.update(all_nodes, by_name, foreign)
    free, loads = _left(made, live.values())
    jobs = {plan.job: plan for plan in plans}
    return Snapshot(made, free, loads, live, keys, places, jobs, Census(made, pods))


def _left(
    servers: Mapping[str, Server], pods: Iterable[Pod]
) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    """Return what our pods leave free, and their load, by server."""
    free = {name: dict(server.plannable) for name, server in servers.items()}
    loads = dict.fromkeys(servers, 0.0)
    for pod in pods:
        if pod.server not in servers:
            continue
        loads[pod.server] += pod.work
        if pod.reserves:
            _add(free[pod.server], pod.demand, -1)
    return free, loads


def _add(total: dict[str, int], demand: Vector, sign: int = 1) -> None:
    for name, amount in demand.items():
        total[name] = total.get(name, 0) + sign * amount
