"""When each subtask starts: waves of subtasks through servers that hold a few at a time.

A job may need many times what its servers hold, so each server works through a queue. The
timetable is a list schedule: whenever room falls free, the waiting unit with the highest upward
rank that fits starts. It is what `Assignment.start` and the predicted makespan come from, and
what the order of release follows.
"""

import heapq
from dataclasses import dataclass

import numpy as np

from evenkeel_core import queueing
from evenkeel_core.problems import (
    NOWHERE,
    Floats,
    Ints,
    Problem,
    coupled,
    demands,
    transfer,
    units,
)

END, READY = 0, 1
"""Kinds of events; what ends at a moment makes room for what starts at it."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """Predicted start and end of every subtask, in seconds from the start of the job."""

    start: Floats
    end: Floats
    makespan: float


def timetable(problem: Problem, assignment: Ints, *, priority: Floats | None = None) -> Timetable:
    """Schedule an assignment: which wave of its server each subtask runs in.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        A server for every subtask, one that may run it.
    priority : ndarray, shape (T,), optional
        Who goes first of those that wait for a server; the upward rank unless given. A coupled
        set has that of its first member.

    Returns
    -------
    Timetable
        Members of a coupled set start together and hold their servers until the last of them
        has ended. A subtask starts after the ends of all it depends on plus the transfers.

    Raises
    ------
    ValueError
        If `assignment` leaves a subtask out, puts one where it may not or can not run, or the
        dependencies form a circle.

    Notes
    -----
    Event simulation with a heap: O((T + E) log T) plus one vectorised look at a server's queue
    for each start and each end. Deterministic: ties go to the lower number.
    Graham's bound for list schedules [1]_ applies to each server alone.

    References
    ----------
    .. [1] R. L. Graham, "Bounds on multiprocessing timing anomalies", SIAM Journal on Applied
       Mathematics 17 (1969), 416-429, :doi:`10.1137/0117039`.
    """
    _check(problem, assignment)
    if priority is None and not problem.dependency.any() and not coupled(problem)[0]:
        duration = durations(problem, assignment)
        start = queueing.starts(problem, assignment, duration)
        return Timetable(start, start + duration, float((start + duration).max(initial=0.0)))
    run = _Run(problem, assignment, priority)
    run.simulate()
    if np.isnan(run.start).any():
        raise ValueError("`assignment` can not be timed: its dependencies form a circle")
    makespan = float(run.end.max()) if run.end.size else 0.0
    return Timetable(run.start, run.end, makespan)


def durations(problem: Problem, assignment: Ints) -> Floats:
    """Return how long each subtask holds its server, seconds, shape (T,).

    Members of a coupled set hold theirs until the slowest has ended.
    """
    own = problem.cost_at(np.arange(len(problem.subtasks)), assignment)
    _, number = np.unique(problem.group, return_inverse=True)
    longest = np.zeros(int(number.max()) + 1 if number.size else 0)
    np.maximum.at(longest, number, own)
    held: Floats = longest[number]
    return held


def upward_rank(problem: Problem, duration: Floats, seconds: Floats) -> Floats:
    """Return each subtask's longest way to the end of the job, itself included, shape (T,).

    Parameters
    ----------
    problem : Problem
    duration : ndarray, shape (T,)
        Seconds of each subtask.
    seconds : ndarray, shape (E,)
        Seconds of each edge; those of couplings are ignored.

    Returns
    -------
    ndarray, shape (T,)
        rank(t) = duration_t + max over dependents s of (d_(t,s) + rank(s)); the members of a
        coupled set share the largest of theirs. nan on and before a circle.

    Notes
    -----
    O(T + E), one vectorised step for each level of the DAG.
    """
    number, source, target, seconds = _between_units(problem, seconds)
    size = int(number.max()) + 1 if number.size else 0
    longest = np.zeros(size)
    np.maximum.at(longest, number, duration)
    rank = longest.copy()
    waiting = np.bincount(source, minlength=size)
    order = np.argsort(target, kind="stable")
    first = np.searchsorted(target[order], np.arange(size + 1))
    done = np.flatnonzero(waiting == 0)
    settled = np.zeros(size, dtype=bool)
    while done.size:
        settled[done] = True
        into = order[_spans(first[done], first[done + 1])]
        above = source[into]
        np.maximum.at(rank, above, longest[above] + seconds[into] + rank[target[into]])
        np.subtract.at(waiting, above, 1)
        above = np.unique(above)
        done = above[waiting[above] == 0]
    rank[~settled] = np.nan
    shared: Floats = rank[number]
    return shared


def _between_units(problem: Problem, seconds: Floats) -> tuple[Ints, Ints, Ints, Floats]:
    """Return each subtask's unit number, and the dependencies as edges between units."""
    _, number = np.unique(problem.group, return_inverse=True)
    edges = problem.edge[problem.dependency]
    return number, number[edges[:, 0]], number[edges[:, 1]], seconds[problem.dependency]


def _spans(first: Ints, last: Ints) -> Ints:
    """Return the concatenated ranges first[k] … last[k] - 1."""
    size = last - first
    offset = np.repeat(first - np.concatenate([[0], np.cumsum(size)[:-1]]), size)
    spans: Ints = offset + np.arange(offset.size)
    return spans


def _check(problem: Problem, assignment: Ints) -> None:
    count = len(problem.subtasks)
    if assignment.shape != (count,):
        raise ValueError(f"`assignment` must have shape ({count},)")
    if (assignment == NOWHERE).any():
        raise ValueError("`assignment` leaves subtasks without a server")
    if not np.isfinite(problem.cost_at(np.arange(count), assignment)).all():
        raise ValueError("`assignment` puts a subtask on a server that may not run it")
    if overfull(problem, assignment).size:
        raise ValueError("`assignment` puts on a server what it can not hold even when empty")


def overfull(problem: Problem, assignment: Ints) -> Ints:
    """Return the subtasks whose unit asks more of their server than it has when empty."""
    _, number = np.unique(problem.group, return_inverse=True)
    size = len(problem.servers)
    key = number * size + assignment
    pairs, row = np.unique(key, return_inverse=True)
    taken = np.zeros((pairs.size, len(problem.resources)), dtype=np.int64)
    np.add.at(taken, row, demands(problem, assignment))
    over = (taken > problem.capacity[pairs % size]).any(axis=1)
    return np.flatnonzero(over[row])


class _Run:
    """One simulated run of the job; units are numbered in the order in which they are asked."""

    def __init__(self, problem: Problem, assignment: Ints, priority: Floats | None) -> None:
        count = len(problem.subtasks)
        self.assignment = assignment
        self.start = np.full(count, np.nan)
        self.end = np.full(count, np.nan)
        self.duration = durations(problem, assignment)
        self.demand = demands(problem, assignment)
        self.free = problem.capacity.copy()

        seconds = np.zeros(problem.dependency.size)
        self.edge = problem.edge[problem.dependency]
        source, target = assignment[self.edge[:, 0]], assignment[self.edge[:, 1]]
        self.seconds = transfer(problem, source, target, problem.edge_bytes[problem.dependency])
        seconds[problem.dependency] = self.seconds
        rank = priority
        if rank is None:
            rank = np.nan_to_num(upward_rank(problem, self.duration, seconds))

        self.units = sorted(units(problem), key=lambda unit: (-rank[unit[0]], int(unit[0])))
        self.unit_of = np.empty(count, dtype=np.int64)
        for number, unit in enumerate(self.units):
            self.unit_of[unit] = number
        # What a unit takes of the one server it is on. Zero for sets: they are looked at apart.
        self.need = np.zeros((len(self.units), len(problem.resources)), dtype=np.int64)
        for number, unit in enumerate(self.units):
            if unit.size == 1:
                self.need[number] = self.demand[unit[0]]

        self.by_source = np.argsort(self.edge[:, 0], kind="stable")
        self.first = np.searchsorted(self.edge[self.by_source, 0], np.arange(count + 1))
        self.left = np.bincount(self.unit_of[self.edge[:, 1]], minlength=len(self.units))
        self.ready = np.zeros(len(self.units))
        self.started = np.zeros(len(self.units), dtype=bool)
        self.queues: list[Ints] = [np.empty(0, dtype=np.int64) for _ in problem.servers]
        self.events: list[tuple[float, int, int]] = []

    def simulate(self) -> None:
        """Work through the events: at each moment first what ends, then what may start."""
        for number in np.flatnonzero(self.left == 0).tolist():
            heapq.heappush(self.events, (0.0, READY, number))
        while self.events:
            now = self.events[0][0]
            touched: set[int] = set()
            while self.events and self.events[0][0] == now:
                _, kind, number = heapq.heappop(self.events)
                places = self._finish(number) if kind == END else self._arrive(number)
                touched.update(places.tolist())
            for server in sorted(touched):
                self._serve(server, now)

    def _arrive(self, number: int) -> Ints:
        """Queue a unit on its servers."""
        places: Ints = np.unique(self.assignment[self.units[number]])
        for server in places:
            queue = self.queues[server]
            self.queues[server] = np.insert(queue, np.searchsorted(queue, number), number)
        return places

    def _finish(self, number: int) -> Ints:
        """Give back what a unit held and tell its dependents."""
        unit = self.units[number]
        np.add.at(self.free, self.assignment[unit], self.demand[unit])
        rows = self.by_source[_spans(self.first[unit], self.first[unit + 1])]
        targets = self.unit_of[self.edge[rows, 1]]
        np.maximum.at(self.ready, targets, self.end[self.edge[rows, 0]] + self.seconds[rows])
        np.subtract.at(self.left, targets, 1)
        for target in np.unique(targets[self.left[targets] == 0]).tolist():
            heapq.heappush(self.events, (float(self.ready[target]), READY, target))
        places: Ints = np.unique(self.assignment[unit])
        return places

    def _serve(self, server: int, now: float) -> None:
        """Start what fits, in the order of the queue."""
        queue = self.queues[server] = self.queues[server][~self.started[self.queues[server]]]
        while queue.size:
            queue = queue[(self.need[queue] <= self.free[server]).all(axis=1)]
            if queue.size:
                self._start(int(queue[0]), now)
                queue = queue[1:]

    def _start(self, number: int, now: float) -> None:
        """Start a unit, unless it is a set that does not fit as a whole."""
        unit = self.units[number]
        free = self.free.copy() if unit.size > 1 else self.free
        np.subtract.at(free, self.assignment[unit], self.demand[unit])
        if unit.size > 1:
            if (free < 0).any():
                return
            self.free = free
        self.started[number] = True
        self.start[unit] = now
        self.end[unit] = now + self.duration[unit]
        heapq.heappush(self.events, (float(self.end[unit[0]]), END, number))
