"""What filter, prioritize and explain say of a pod: pure, from a snapshot and assumptions.

The utility is the planner's own (`evenkeel_core.game.terms`), with the costs of the plan on
record and with everything that is bound, reserved, assumed or planned as load. At the
equilibrium the planned server scores best; where it is gone, the best response to what is.

What the utility leaves open is decided by what a pod strands on a server for the pods that usually
come (`evenkeel_core.fitting`): servers as good as the best within `INERTIA`, and all servers for a
pod of which no plan is known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenkeel_core import checks, game
from evenkeel_core.plans import Terms
from evenkeel_core.problems import Floats
from evenkeel_core.quantities import PODS, Vector, fits, minus, plus
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Server
from evenkeel_extender.assuming import Assumption
from evenkeel_extender.planned import Planned
from evenkeel_extender.pods import Pod
from evenkeel_extender.protocol import MOST, HostPriority
from evenkeel_extender.snapshots import Snapshot

INERTIA = 0.25
"""In units of ĉ, the cost of a typical subtask of the job: a quarter of it is less than the
prediction is usually wrong by."""


@dataclass(frozen=True, slots=True)
class Around:
    """What others hold, seen from one pod: its own reservation never counts against it."""

    free: Mapping[str, Vector]
    loads: Mapping[str, float]
    """The larger of what is committed and what was observed, reference seconds."""


def around(
    snapshot: Snapshot, pod: Pod, assumed: Iterable[Assumption], candidates: Iterable[str]
) -> Around:
    """Return room and load of the candidates without the pod itself, with what is assumed."""
    free: dict[str, Vector] = {name: snapshot.free.get(name, {}) for name in candidates}
    loads = {name: snapshot.loads.get(name, 0.0) for name in free}
    _lift(snapshot.pods.get(pod.uid), free, loads)
    for assumption in assumed:
        # Until the watch shows the bind, the snapshot has the pod where it was planned.
        _lift(snapshot.pods.get(assumption.pod.uid), free, loads)
        if assumption.server in free:
            free[assumption.server] = minus(free[assumption.server], assumption.pod.demand)
            loads[assumption.server] += assumption.pod.work
    for name in loads:
        server = snapshot.servers.get(name)
        observed = (server.observed_load if server is not None else None) or 0.0
        loads[name] = max(loads[name], observed)
    return Around(free, loads)


def _lift(pod: Pod | None, free: dict[str, Vector], loads: dict[str, float]) -> None:
    """Take back what a pod holds in the snapshot."""
    if pod is None or pod.server not in free:
        return
    loads[pod.server] = max(0.0, loads[pod.server] - pod.work)
    if pod.reserves:
        free[pod.server] = plus(free[pod.server], pod.demand)


def refusal(snapshot: Snapshot, pod: Pod, name: str, free: Vector) -> Reason | None:
    """Return why a pod may not go to a node, None if it may."""
    server = snapshot.servers.get(name)
    if server is None:
        return None  # a node the watch has not shown yet is kube-scheduler's to judge
    planned = snapshot.planned(pod)
    hard = checks.reason(planned.subtask, server) if planned is not None else None
    if hard is not None:
        return hard
    if not fits(pod.demand, server.plannable):
        return Reason.INSUFFICIENT_RESOURCE
    return None if fits(pod.demand, free) else Reason.BUSY


def refusals(
    snapshot: Snapshot, pod: Pod, candidates: Sequence[str], assumed: Iterable[Assumption]
) -> dict[str, Reason]:
    """Return the candidates that may not take the pod, and why."""
    others = around(snapshot, pod, assumed, candidates)
    asked = ((name, refusal(snapshot, pod, name, others.free[name])) for name in candidates)
    return {name: reason for name, reason in asked if reason is not None}


def utilities(
    snapshot: Snapshot, pod: Pod, candidates: Sequence[str], assumed: Iterable[Assumption]
) -> list[Terms] | None:
    """Return the utility's terms on each candidate, None where the pod's plan is not known."""
    planned = snapshot.planned(pod)
    if planned is None:
        return None
    others = around(snapshot, pod, assumed, candidates)
    parts = game.terms(
        np.array([planned.costs.get(name, np.inf) for name in candidates]),
        edge_seconds(snapshot, pod.job, planned, candidates),
        float(planned.subtask.work),
        np.array([others.loads[name] for name in candidates]),
        # A server the plan did not know has no cost there either.
        np.array([planned.rates.get(name, 1.0) for name in candidates]),
        balance=planned.plan.balance,
        scale=planned.plan.scale,
    )
    return [Terms(float(a), float(b), float(c)) for a, b, c in zip(*parts, strict=True)]


def edge_seconds(
    snapshot: Snapshot, job: str, planned: Planned, candidates: Sequence[str]
) -> Floats:
    """Return Σ_e d_e of a subtask on each candidate: to where its neighbours are or should be.

    d_e is that of `evenkeel_core.problems.transfer`. O(neighbours + candidates · their servers).
    """
    seconds = np.zeros(len(candidates))
    here = [snapshot.servers.get(name) for name in candidates]
    for there, (count, moved) in _neighbours(snapshot, job, planned).items():
        server = snapshot.servers.get(there)
        if server is None:
            continue
        for index, candidate in enumerate(here):
            if candidate is not None and candidate.name != there:
                seconds[index] += _apart(candidate, server, count, moved)
    return seconds


def _neighbours(snapshot: Snapshot, job: str, planned: Planned) -> dict[str, tuple[int, int]]:
    """Return the number of edges to each server and the bytes along them."""
    found: dict[str, tuple[int, int]] = {}
    subtasks = snapshot.plans[job].subtasks
    for other, data in planned.neighbours:
        there = snapshot.places.get((job, other)) or subtasks[other].assignment.server
        count, moved = found.get(there, (0, 0))
        found[there] = (count + 1, moved + data)
    return found


def _apart(left: Server, right: Server, count: int, moved: int) -> float:
    """Return the seconds that some bytes take between two servers in so many transfers."""
    bandwidth = min(left.link_bandwidth, right.link_bandwidth)
    return count * (left.link_latency + right.link_latency) + moved / bandwidth


def prioritized(
    snapshot: Snapshot, pod: Pod, candidates: Sequence[str], assumed: Iterable[Assumption]
) -> list[HostPriority]:
    """Return 10 for exactly one candidate and at most 9 for the rest, ties by name.

    kube-scheduler breaks ties at random; the values' order is kept and their distances are shown
    as far as ten steps can. A value is the utility, and where no plan is known the negative of
    what the pod strands. There is no opinion, and every candidate gets 0, on a pod without a plan
    that asks for nothing or that no candidate is known to hold.
    """
    assumed = tuple(assumed)
    terms = utilities(snapshot, pod, candidates, assumed)
    if terms is not None:
        value = {name: term.utility for name, term in zip(candidates, terms, strict=True)}
    else:
        cost = strandings(snapshot, pod, candidates, assumed)
        value = {name: -amount for name, amount in cost.items()}
        if not any(np.isfinite(amount) for amount in value.values()):
            return [HostPriority(name, 0) for name in candidates]
    chosen = _chosen(snapshot, pod, value, assumed) if value else ""
    finite = [amount for amount in value.values() if np.isfinite(amount)]
    worst = min(finite, default=0.0)
    span = max(finite, default=0.0) - worst

    def score(name: str) -> int:
        if name == chosen:
            return MOST
        if not np.isfinite(value[name]):
            return 0
        return int((MOST - 1) * (value[name] - worst) / span) if span > 0 else MOST - 1

    return [HostPriority(name, score(name)) for name in candidates]


def strandings(
    snapshot: Snapshot, pod: Pod, candidates: Sequence[str], assumed: Iterable[Assumption]
) -> dict[str, float]:
    """Return what a pod would strand on each candidate; inf where it asks for nothing."""
    if not any(amount for name, amount in pod.demand.items() if name != PODS):
        return dict.fromkeys(candidates, np.inf)
    return snapshot.census.stranded(pod, around(snapshot, pod, assumed, candidates).free)


def _chosen(
    snapshot: Snapshot, pod: Pod, value: Mapping[str, float], assumed: Iterable[Assumption]
) -> str:
    """Return the one node that is to be best.

    The planned server stays first while another is better by no more than `INERTIA`: a plan is
    left for a reason, not for the noise of what just ended. Else the least is stranded among the
    servers that are as good as the best within `INERTIA`; a larger difference is never overridden.
    """
    planned = snapshot.planned(pod)
    if planned is None:
        # A pod of ours whose plan has not been seen yet still has its room reserved somewhere.
        return pod.planned if pod.planned in value else min(value, key=lambda n: (-value[n], n))
    wanted = planned.assignment.server
    # What the plan gave up knowingly, for the end of the whole job, is no reason to leave it.
    held = INERTIA + max(0.0, -planned.assignment.regret)
    if wanted in value and value[wanted] >= max(value.values()) - held:
        return wanted
    least = max(value.values()) - INERTIA
    near = [name for name, utility in value.items() if utility >= least]
    cost = strandings(snapshot, pod, near, assumed) if len(near) > 1 else {}
    return min(near, key=lambda name: (cost.get(name, 0.0), -value[name], name))


def best(priorities: Sequence[HostPriority]) -> str | None:
    """Return the one node with the highest score, None where there is no opinion."""
    return next((item.Host for item in priorities if item.Score == MOST), None)


def explained(snapshot: Snapshot, pod: Pod, assumed: Sequence[Assumption]) -> list[dict[str, Any]]:
    """Return every term for every server, best first; refusals with their reason."""
    servers = sorted(snapshot.servers)
    refused = refusals(snapshot, pod, servers, assumed)
    left = [name for name in servers if name not in refused]
    scores = {item.Host: item.Score for item in prioritized(snapshot, pod, left, assumed)}
    terms = dict(zip(servers, utilities(snapshot, pod, servers, assumed) or (), strict=False))
    cost = strandings(snapshot, pod, servers, assumed)
    planned = snapshot.planned(pod)
    wanted = planned.assignment.server if planned is not None else pod.planned
    rows = []
    for name in servers:
        term = terms.get(name)
        known = term if term is not None and np.isfinite(term.utility) else None
        rows.append(
            {
                "server": name,
                "planned": name == wanted,
                "refused": str(refused[name]) if name in refused else None,
                "score": scores.get(name),
                "utility": known.utility if known else None,
                "cost": known.cost if known else None,
                "edges": known.edges if known else None,
                "load": known.load if known else None,
                "stranded": cost[name] if np.isfinite(cost[name]) else None,
            }
        )
    return sorted(rows, key=_order)


def _order(row: Mapping[str, Any]) -> tuple[bool, int, float, str]:
    """Order rows as they are to be read: what may be taken first, the best before the rest."""
    utility = row["utility"] if row["utility"] is not None else float("-inf")
    return row["refused"] is not None, -(row["score"] or 0), -utility, row["server"]
