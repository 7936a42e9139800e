"""What filter, prioritize and explain say of a pod: pure, from a snapshot and assumptions.

The utility is the planner's own (`evenkeel_core.game.terms`), with the costs of the plan on
record and with everything that is bound, reserved, assumed or planned as load. At the
equilibrium the planned server scores best; where it is gone, the best response to what is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenkeel_core import checks, game
from evenkeel_core.plans import Terms
from evenkeel_core.quantities import Vector, fits, minus, plus
from evenkeel_core.reasons import Reason
from evenkeel_extender.assuming import Assumption
from evenkeel_extender.protocol import MOST, FilterResult, HostPriority
from evenkeel_extender.snapshots import Holder, Planned, Snapshot
from evenkeel_kube import names, nodes

Object = Mapping[str, Any]


INERTIA = 0.25
"""In units of ĉ, the cost of a typical subtask of the job: a quarter of it is less than the
prediction is usually wrong by."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A pod that kube-scheduler asks about."""

    uid: str
    job: str
    subtask: str
    demand: Vector
    work: float
    planned: Planned | None
    """None for a pod whose plan is not known: it is judged by capacity alone."""


def asked(snapshot: Snapshot, pod: Object) -> Asked:
    """Return what is known of a pod."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    job = str(labels.get(names.LABEL_JOB_UID, ""))
    subtask = str(labels.get(names.LABEL_SUBTASK, ""))
    try:
        work = float(annotations.get(names.ANNOTATION_WORK, 0))
    except (TypeError, ValueError):
        work = 0.0
    demand = nodes.pod_demand(pod["spec"])
    planned = snapshot.planned.get((job, subtask))
    return Asked(str(metadata["uid"]), job, subtask, demand, work, planned)


@dataclass(frozen=True, slots=True)
class Around:
    """What others hold, seen from one pod: its own reservation never counts against it."""

    free: Mapping[str, Vector]
    loads: Mapping[str, float]


def around(
    snapshot: Snapshot, pod: Asked, assumed: Iterable[Assumption], candidates: Iterable[str]
) -> Around:
    """Return room and load of the candidates without the pod itself, with what is assumed."""
    free: dict[str, Vector] = {name: snapshot.free.get(name, {}) for name in candidates}
    loads = {name: snapshot.loads.get(name, 0.0) for name in free}
    _without(snapshot.holders.get(pod.uid), free, loads)
    for item in assumed:
        # Until the watch shows the bind, the pod still holds what it was planned for.
        _without(snapshot.holders.get(item.uid), free, loads)
        if item.server in free:
            free[item.server] = minus(free[item.server], item.demand)
            loads[item.server] += item.work
    return Around(free, loads)


def _without(held: Holder | None, free: dict[str, Vector], loads: dict[str, float]) -> None:
    """Take back what a pod holds in the snapshot."""
    if held is None or held.server not in free:
        return
    loads[held.server] = max(0.0, loads[held.server] - held.work)
    if held.reserves:
        free[held.server] = plus(free[held.server], held.demand)


def refusal(snapshot: Snapshot, pod: Asked, name: str, free: Vector) -> Reason | None:
    """Return why a pod may not go to a node, None if it may."""
    server = snapshot.servers.get(name)
    if server is None:
        return None  # a node the watch has not shown yet is kube-scheduler's to judge
    if pod.planned is not None:
        hard = checks.reason(pod.planned.subtask, server)
        if hard is not None:
            return hard
    elif not fits(pod.demand, server.plannable):
        return Reason.INSUFFICIENT_RESOURCE
    return None if fits(pod.demand, free) else Reason.BUSY


def filtered(
    snapshot: Snapshot, pod: Asked, candidates: Sequence[str], assumed: Iterable[Assumption]
) -> FilterResult:
    """Return the candidates that may take the pod, and why the others may not."""
    others = around(snapshot, pod, assumed, candidates)
    left: list[str] = []
    busy: dict[str, str] = {}
    never: dict[str, str] = {}
    for name in candidates:
        reason = refusal(snapshot, pod, name, others.free[name])
        if reason is None:
            left.append(name)
        else:
            refused = busy if reason is Reason.BUSY else never
            refused[name] = f"evenkeel: {reason}: {reason.sentence}"
    return FilterResult(left, busy, never)


def utilities(
    snapshot: Snapshot, pod: Asked, candidates: Sequence[str], assumed: Iterable[Assumption]
) -> list[Terms] | None:
    """Return the utility's terms on each candidate, None where the pod's plan is not known."""
    if pod.planned is None:
        return None
    others = around(snapshot, pod, assumed, candidates)
    planned = pod.planned
    cost = np.array([planned.costs.get(name, np.inf) for name in candidates])
    rate = np.array([planned.rates.get(name, 1e-9) for name in candidates])
    load = np.array([others.loads[name] for name in candidates])
    parts = game.terms(
        cost,
        _edges(snapshot, pod, candidates),
        max(float(planned.subtask.work), 1e-9),
        load,
        rate,
        balance=planned.plan.balance,
        scale=planned.plan.scale,
    )
    return [Terms(float(a), float(b), float(c)) for a, b, c in zip(*parts, strict=True)]


def _edges(
    snapshot: Snapshot, pod: Asked, candidates: Sequence[str]
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return the seconds the subtask's edges take to where its neighbours are or should be."""
    seconds = np.zeros(len(candidates))
    assert pod.planned is not None  # noqa: S101 - the caller has looked
    own = pod.planned.subtask.name
    for edge in pod.planned.plan.graph.edges:
        if own not in (edge.source, edge.target):
            continue
        other = edge.target if edge.source == own else edge.source
        there = snapshot.servers.get(snapshot.places.get((pod.job, other[:63].rstrip("-.")), ""))
        if there is None:
            continue
        for index, name in enumerate(candidates):
            here = snapshot.servers.get(name)
            if here is None or name == there.name:
                continue
            bandwidth = min(here.link_bandwidth, there.link_bandwidth)
            seconds[index] += here.link_latency + there.link_latency + edge.data / bandwidth
    return seconds


def prioritized(
    snapshot: Snapshot, pod: Asked, candidates: Sequence[str], assumed: Iterable[Assumption]
) -> list[HostPriority]:
    """Return 10 for exactly one candidate and at most 9 for the rest, ties by name.

    kube-scheduler breaks ties at random; the utilities' order is kept and their distances
    are shown as far as ten steps can. The planned server stays first while another is better by
    no more than `INERTIA`: a plan is left for a reason, not for the noise of what just ended.
    """
    terms = utilities(snapshot, pod, candidates, assumed)
    if terms is None:
        return [HostPriority(name, 0) for name in candidates]
    value = {name: term.utility for name, term in zip(candidates, terms, strict=True)}
    order = sorted(candidates, key=lambda name: (-value[name], name))
    chosen = order[0]
    wanted = pod.planned.assignment.server if pod.planned is not None else ""
    if wanted in value and value[wanted] >= value[chosen] - INERTIA:
        chosen = wanted
    finite = [value[name] for name in order if np.isfinite(value[name])]
    worst, best = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = best - worst

    def score(name: str) -> int:
        if name == chosen:
            return MOST
        if not np.isfinite(value[name]):
            return 0
        return int((MOST - 1) * (value[name] - worst) / span) if span > 0 else MOST - 1

    return [HostPriority(name, score(name)) for name in candidates]


def best(priorities: Sequence[HostPriority]) -> str | None:
    """Return the one node with the highest score, None where there is no opinion."""
    return next((item.Host for item in priorities if item.Score == MOST), None)


def explained(
    snapshot: Snapshot, pod: Asked, assumed: Sequence[Assumption]
) -> list[dict[str, Any]]:
    """Return every term for every server, best first; refusals with their reason."""
    candidates = sorted(snapshot.servers)
    others = around(snapshot, pod, assumed, candidates)
    terms: Sequence[Terms | None] = utilities(snapshot, pod, candidates, assumed) or [
        None for _ in candidates
    ]
    rows = []
    for name, term in zip(candidates, terms, strict=True):
        reason = refusal(snapshot, pod, name, others.free[name])
        known = term is not None and np.isfinite(term.utility)
        rows.append(
            {
                "server": name,
                "planned": pod.planned is not None and pod.planned.assignment.server == name,
                "refused": None if reason is None else str(reason),
                "utility": term.utility if term is not None and known else None,
                "cost": term.cost if term is not None and known else None,
                "edges": term.edges if term is not None and known else None,
                "load": term.load if term is not None and known else None,
            }
        )
    return sorted(
        rows,
        key=lambda row: (
            row["refused"] is not None,
            -(row["utility"] if row["utility"] is not None else float("-inf")),
            row["server"],
        ),
    )
