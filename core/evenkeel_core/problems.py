"""One planning round as arrays: what the solvers of steps 3 and 4 see.

`evenkeel_core.costs` builds a `Problem` from a `TaskGraph` and servers; factorising,
partitioning, game, baselines and verifying take nothing else. Axes, by name, everywhere:
T subtasks, S servers, R resources, K server kinds, E edges.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[Any]

NOWHERE = -1
"""Stands for 'no server' in assignments and 'not pinned' in `Problem.pinned`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Subtasks, servers and what it costs to bring them together. Arrays are read-only.

    A problem is for one job; what other jobs and strangers take is in `available` and `load`.
    """

    subtasks: tuple[str, ...]
    servers: tuple[str, ...]
    resources: tuple[str, ...]
    cost: Floats
    """(T, S) seconds of each subtask on each server; inf where a hard check fails."""
    compute: Floats
    """(T, S) the part of `cost` that is compute: what is factorised. inf where cost is."""
    measured: NDArray[np.bool_]
    """(T, S) true where compute is believed (known device or calibrated), false where the
    factorisation may fill it; infeasible pairs are false."""
    demand: Ints
    """(T, K, R) what the subtask takes of a server of each kind."""
    kind: Ints
    """(S,) kind of each server, indexing K."""
    capacity: Ints
    """(S, R) what the job may use of each server when nothing of ours runs there."""
    work: Floats
    """(T,) w_t, server-independent, in reference seconds; > 0."""
    rate: Floats
    """(S,) R_i, reference work per second; > 0."""
    load: Floats
    """(S,) L_i, reference work already committed or observed there, not of this problem."""
    group: Ints
    """(T,) number of the coupled set; members run at the same time. Singles have their own."""
    pinned: Ints
    """(T,) the only server of the subtask, or NOWHERE."""
    edge: Ints
    """(E, 2) pairs of subtask numbers between which data moves (dependencies and couplings)."""
    edge_bytes: Floats
    """(E,) bytes moved along each."""
    dependency: NDArray[np.bool_]
    """(E,) true where the edge also orders: the second starts after the first has ended."""
    link_bandwidth: Floats
    """(S,) bytes/s; two servers talk at the smaller of both."""
    link_latency: Floats
    """(S,) seconds; two servers are the sum of both apart."""

    def __post_init__(self) -> None:
        """Make the arrays read-only: solvers share one problem."""
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False


def allowed(problem: Problem) -> NDArray[np.bool_]:
    """Return which server may run which subtask: cost finite, pin honoured; shape (T, S)."""
    open_to = np.isfinite(problem.cost)
    pinned = np.flatnonzero(problem.pinned != NOWHERE)
    only = np.zeros((pinned.size, len(problem.servers)), dtype=bool)
    only[np.arange(pinned.size), problem.pinned[pinned]] = True
    open_to[pinned] &= only
    return open_to


def demands(problem: Problem, assignment: Ints) -> Ints:
    """Return what each subtask takes of the server it is on, shape (T, R); NOWHERE takes 0."""
    taken: Ints = problem.demand[np.arange(len(problem.subtasks)), problem.kind[assignment]]
    return np.where((assignment == NOWHERE)[:, None], 0, taken)


def units(problem: Problem) -> tuple[Ints, ...]:
    """Return the subtasks that start and move together, one array a unit, in index order.

    A subtask that stands alone is a unit of one; the members of a coupled set are one unit.
    """
    order = np.argsort(problem.group, kind="stable")
    cuts = np.flatnonzero(np.diff(problem.group[order])) + 1
    return tuple(sorted(np.split(order, cuts), key=lambda unit: int(unit[0]))) if order.size else ()


def room_for(problem: Problem, unit: Ints) -> NDArray[np.bool_]:
    """Return which empty server holds all members of a unit at the same time, shape (S,)."""
    together = problem.demand[unit].sum(axis=0)[problem.kind]
    room: NDArray[np.bool_] = np.all(together <= problem.capacity, axis=1)
    return room


def transfer(problem: Problem, source: Ints, target: Ints, data: Floats) -> Floats:
    """Return d_e: seconds that `data` bytes take from each source server to each target server.

    The arguments broadcast against one another; nothing is moved within one server.
    """
    bandwidth = np.minimum(problem.link_bandwidth[source], problem.link_bandwidth[target])
    latency = problem.link_latency[source] + problem.link_latency[target]
    return np.where(source == target, 0.0, latency + data / bandwidth)


def throughput(problem: Problem) -> Floats:
    """Return the work a server does per second for these subtasks when it is kept full, (S,).

    R_i of one job: a server that lends it one of its devices, or whose memory ends before its
    processors do, has less for it than all its hardware adds up to. The mean is over the
    subtasks it may run; `problem.rate` stays where it may run none.
    """
    may = np.isfinite(problem.cost)
    size = np.maximum(problem.capacity, 1)
    # One resource after the other: (T, S, R) at once would be the largest array of all.
    share = np.zeros(problem.cost.shape)
    for resource in range(len(problem.resources)):
        taken = problem.demand[:, problem.kind, resource] / size[:, resource]
        np.maximum(share, taken, out=share)
    busy = np.sum(share * np.where(may, problem.cost, 0.0), axis=0)
    work = np.sum(np.where(may, problem.work[:, None], 0.0), axis=0)
    return np.where(busy > 0, work / np.where(busy > 0, busy, 1.0), problem.rate)
