"""One planning round as arrays: what the solvers of steps 3 and 4 see.

`evenkeel_core.costs` builds a `Problem` from a `TaskGraph` and servers; factorising,
partitioning, game, baselines and verifying take nothing else. Axes, by name, everywhere:
T subtasks, S servers, R resources, E edges; and what keeps thousands of them small: A rows, the
subtasks that take the same seconds everywhere; D demands; K kinds, the servers on which every
subtask takes the same seconds and asks for the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Array = NDArray[Any]
Mask = NDArray[np.bool_]

NOWHERE = -1
"""Stands for 'no server' in assignments and 'not pinned' in `Problem.pinned`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Subtasks, servers and what it costs to bring them together. Arrays are read-only.

    A problem is for one job; what other jobs and strangers take is in `available` and `load`.
    Equal rows and equal columns are held once: a rack has thousands of servers, of a few kinds.
    `cost`, `compute`, `measured` and `demand` write them out, pair by pair, for those to whom
    T x S is little; `Problem.of_pairs` takes them written out.
    """

    subtasks: tuple[str, ...]
    servers: tuple[str, ...]
    resources: tuple[str, ...]
    row: Ints
    """(T,) row of each subtask, indexing A."""
    need: Ints
    """(T,) demand of each subtask, indexing D."""
    kind: Ints
    """(S,) kind of each server, indexing K."""
    seconds: Floats
    """(A, K) of a subtask of the row on a server of the kind; inf where a hard check fails."""
    computing: Floats
    """(A, K) the part of `seconds` that is compute: what is factorised. inf where they are."""
    believed: Mask
    """(A, K) true where `computing` is believed (known device or calibrated), false where the
    factorisation may fill it; infeasible pairs are false."""
    needs: Ints
    """(D, K, R) what the demand takes of a server of each kind."""
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
    dependency: Mask
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

    @classmethod
    def of_pairs(
        cls,
        *,
        cost: Floats,
        compute: Floats,
        measured: Mask,
        demand: Ints,
        kind: Ints,
        **others: Any,
    ) -> Self:
        """Return the problem of matrices written out pair by pair.

        Parameters
        ----------
        cost, compute, measured : ndarray, shape (T, S)
            What `seconds`, `computing` and `believed` say by classes.
        demand : ndarray, shape (T, J, R)
            What each subtask takes of a server of each of J sorts.
        kind : ndarray, shape (S,)
            Sort of each server, indexing J.
        others
            The other fields as they are.
        """
        row, rows = alike(cost, compute, measured)
        need, wanted = alike(demand.reshape(len(demand), demand.shape[1] * demand.shape[2]))
        column, kinds = alike(cost.T, compute.T, measured.T, kind[:, None])
        some = np.ix_(rows, kinds)
        return cls(
            row=row,
            need=need,
            kind=column,
            seconds=cost[some],
            computing=compute[some],
            believed=measured[some],
            needs=demand[wanted][:, kind[kinds]],
            **others,
        )

    def with_pairs(self, **changed: Any) -> Self:
        """Return the problem with some of the matrices that `of_pairs` takes replaced."""
        names = ("cost", "compute", "measured", "demand", "kind")
        if not changed.keys() <= {*names}:
            raise ValueError(f"`changed` has {sorted(changed.keys() - {*names})}")
        kept = {name: getattr(self, name) for name in self.__slots__ if name not in BY_CLASS}
        return type(self).of_pairs(
            **{name: changed.get(name, getattr(self, name)) for name in names}, **kept
        )

    @property
    def cost(self) -> Floats:
        """(T, S) seconds of each subtask on each server; inf where a hard check fails."""
        return self._written_out(self.seconds)

    @property
    def compute(self) -> Floats:
        """(T, S) the part of `cost` that is compute."""
        return self._written_out(self.computing)

    @property
    def measured(self) -> Mask:
        """(T, S) true where compute is believed."""
        return self._written_out(self.believed)

    @property
    def demand(self) -> Ints:
        """(T, K, R) what the subtask takes of a server of each kind."""
        return self.needs[self.need]

    def _written_out(self, matrix: Array) -> Array:
        return matrix[self.row[:, None], self.kind]

    def cost_at(self, subtask: Array | int, server: Array | int | slice) -> Floats:
        """Return the seconds of subtasks on servers, by numbers that broadcast."""
        found: Floats = self.seconds[self.row[subtask], self.kind[server]]
        return found


BY_CLASS = ("row", "need", "kind", "seconds", "computing", "believed", "needs")
"""Fields of a problem that `Problem.of_pairs` makes of matrices written out."""


def alike(*parts: Array) -> tuple[Ints, Ints]:
    """Give equal rows the same number, in the order of their first.

    Parameters
    ----------
    *parts : ndarray, shape (N, ...)
        Two rows are equal when they are in every part.

    Returns
    -------
    tuple of ndarray
        The number of each row, shape (N,), and the first row of each number.
    """
    # Zero has two signs, and adding zero leaves one.
    lines = [np.ascontiguousarray(part + 0 if part.dtype == float else part) for part in parts]
    numbers: dict[int, list[int]] = {}
    firsts: list[int] = []
    found = np.empty(len(parts[0]), dtype=np.int64)
    for index, key in enumerate(zip(*(map(bytes, line) for line in lines), strict=True)):
        # By hash and not by key: the keys of an unlike world are as large as the world.
        likely = numbers.setdefault(hash(key), [])
        for number in likely:
            first = firsts[number]
            if all(line[index].tobytes() == line[first].tobytes() for line in lines):
                found[index] = number
                break
        else:
            found[index] = len(firsts)
            likely.append(len(firsts))
            firsts.append(index)
    return found, np.array(firsts, dtype=np.int64)


def sort_of(problem: Problem, *figures: Floats) -> tuple[Ints, Ints]:
    """Give servers of one kind with the same figures the same number, in the order of their first.

    Returns
    -------
    tuple of ndarray
        The number of each server, shape (S,), and the first server of each number.
    """
    keys = [problem.kind, *figures]
    order = np.lexsort(keys[::-1])
    new = np.zeros(order.size, dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[order[1:]] != key[order[:-1]]
    at = np.cumsum(new) - 1
    # In the order of the first of each, so that ties between kinds break by name as well.
    first = order[new]
    place = np.empty(first.size, dtype=np.int64)
    place[np.argsort(first, kind="stable")] = np.arange(first.size)
    number = np.empty(order.size, dtype=np.int64)
    number[order] = place[at]
    return number, np.sort(first)


BLOCK = 1 << 20
"""Pairs that are looked at together: what a processor's cache holds of them."""


def blocks(count: int, width: int) -> Iterator[slice]:
    """Cut rows of a width into runs of about `BLOCK` pairs: no temporary of all of them."""
    step = max(1, BLOCK // max(1, width))
    return (slice(at, min(count, at + step)) for at in range(0, count, step))


def allowed(problem: Problem, subtasks: Ints | None = None) -> Mask:
    """Return which server may run which subtask: cost finite, pin honoured; shape (T, S).

    Of some subtasks where they are named.
    """
    chosen = np.arange(len(problem.subtasks)) if subtasks is None else subtasks
    open_to = np.isfinite(problem.cost_at(chosen[:, None], slice(None)))
    pins = problem.pinned[chosen]
    pinned = np.flatnonzero(pins != NOWHERE)
    only = np.zeros((pinned.size, len(problem.servers)), dtype=bool)
    only[np.arange(pinned.size), pins[pinned]] = True
    open_to[pinned] &= only
    return open_to


def usable(problem: Problem) -> Mask:
    """Return which servers may run any subtask, pins honoured, shape (S,)."""
    free = problem.pinned == NOWHERE
    some = np.zeros(problem.seconds.shape[1], dtype=bool)
    rows = np.unique(problem.row[free])
    for block in blocks(rows.size, some.size):
        some |= np.isfinite(problem.seconds[rows[block]]).any(axis=0)
    found: Mask = some[problem.kind]
    fixed = np.flatnonzero(~free)
    where = problem.pinned[fixed]
    found[where[np.isfinite(problem.cost_at(fixed, where))]] = True
    return found


def demands(problem: Problem, assignment: Ints) -> Ints:
    """Return what each subtask takes of the server it is on, shape (T, R); NOWHERE takes 0."""
    taken: Ints = problem.needs[problem.need, problem.kind[assignment]]
    return np.where((assignment == NOWHERE)[:, None], 0, taken)


def units(problem: Problem) -> tuple[Ints, ...]:
    """Return the subtasks that start and move together, one array a unit, in index order.

    A subtask that stands alone is a unit of one; the members of a coupled set are one unit.
    """
    order = np.argsort(problem.group, kind="stable")
    cuts = np.flatnonzero(np.diff(problem.group[order])) + 1
    return tuple(sorted(np.split(order, cuts), key=lambda unit: int(unit[0]))) if order.size else ()


def coupled(problem: Problem) -> tuple[tuple[Ints, ...], Ints]:
    """Return the coupled sets, in index order, and the subtasks that stand alone."""
    order = np.argsort(problem.group, kind="stable")
    group = problem.group[order]
    joined = group[1:] == group[:-1]
    inside = np.append(joined, False) | np.append(False, joined)
    if not inside.any():
        return (), np.arange(order.size)
    members, of = order[inside], group[inside]
    sets = np.split(members, np.flatnonzero(np.diff(of)) + 1)
    return tuple(sorted(sets, key=lambda unit: int(unit[0]))), np.sort(order[~inside])


def room_for(problem: Problem, unit: Ints) -> Mask:
    """Return which empty server holds all members of a unit at the same time, shape (S,)."""
    together = problem.needs[problem.need[unit]].sum(axis=0)[problem.kind]
    room: Mask = np.all(together <= problem.capacity, axis=1)
    return room


def transfer(problem: Problem, source: Ints, target: Ints, data: Floats) -> Floats:
    """Return d_e: seconds that `data` bytes take from each source server to each target server.

    The arguments broadcast against one another; nothing is moved within one server.
    """
    bandwidth = np.minimum(problem.link_bandwidth[source], problem.link_bandwidth[target])
    latency = problem.link_latency[source] + problem.link_latency[target]
    return np.where(source == target, 0.0, latency + data / bandwidth)


ALIKE_ROOM = 0.01
"""Share by which the room of two servers of one kind may differ for the same throughput."""


def throughput(problem: Problem) -> Floats:
    """Return the work a server does per second for these subtasks when it is kept full, (S,).

    R_i of one job: a server that lends it one of its devices, or whose memory ends before its
    processors do, has less for it than all its hardware adds up to. The mean is over the
    subtasks it may run; `problem.rate` stays where it may run none. O(A · K).
    """
    # What room differs by less than a percent makes no difference to an estimate like this.
    room = np.round(np.log(np.maximum(problem.capacity, 1)) / ALIKE_ROOM)
    number, first = sort_of(problem, *room.T)
    kind, size = problem.kind[first], np.maximum(problem.capacity[first], 1)
    share = (problem.needs[:, kind] / size).max(axis=2, initial=0.0)
    busy, work = np.zeros(first.size), np.zeros(first.size)
    for need in range(len(problem.needs)):
        members = problem.need == need
        rows, of = np.unique(problem.row[members], return_inverse=True)
        count, total = np.bincount(of), np.bincount(of, weights=problem.work[members])
        for block in blocks(rows.size, kind.size):
            seconds = problem.seconds[rows[block]][:, kind]
            may = np.isfinite(seconds)
            busy += share[need] * (count[block] @ np.where(may, seconds, 0.0))
            work += total[block] @ may
    rate = np.where(busy > 0, work / np.where(busy > 0, busy, 1.0), problem.rate[first])
    return np.where((busy > 0)[number], rate[number], problem.rate)


def part(problem: Problem, chosen: Mask) -> Problem:
    """Return the problem of some subtasks alone, with the edges between them."""
    position = np.cumsum(chosen) - 1
    within = chosen[problem.edge].all(axis=1)
    rows, row = np.unique(problem.row[chosen], return_inverse=True)
    return replace(
        problem,
        subtasks=tuple(compress(problem.subtasks, chosen)),
        row=row,
        need=problem.need[chosen],
        seconds=problem.seconds[rows],
        computing=problem.computing[rows],
        believed=problem.believed[rows],
        work=problem.work[chosen],
        group=problem.group[chosen],
        pinned=problem.pinned[chosen],
        edge=position[problem.edge[within]].astype(np.int64),
        edge_bytes=problem.edge_bytes[within],
        dependency=problem.dependency[within],
    )
