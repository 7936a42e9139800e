"""When each subtask starts: waves of subtasks through servers that hold a few at a time.

A job may need many times what its servers hold, so each server works through a queue. The
timetable is a list schedule: whenever room falls free, the waiting unit with the highest upward
rank that fits starts. It is what `Assignment.start` and the predicted makespan come from, and
what the order of release follows.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np

from evenkeel_core.problems import (
    NOWHERE,
    Floats,
    Ints,
    Problem,
    demands,
    transfer,
    units,
)


@dataclass(frozen=True, slots=True)
class Timetable:
    """Predicted start and end of every subtask, in seconds from the start of the job."""

    start: Floats
    end: Floats
    makespan: float


def timetable(problem: Problem, assignment: Ints) -> Timetable:
    """Schedule an assignment: which wave of its server each subtask runs in.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        A server for every subtask, one that may run it.

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
    run = _Run(problem, assignment)
    run.simulate()
    if np.isnan(run.start).any():
        raise ValueError("`assignment` can not be timed: its dependencies form a circle")
    makespan = float(run.end.max()) if run.end.size else 0.0
    return Timetable(run.start, run.end, makespan)


def durations(problem: Problem, assignment: Ints) -> Floats:
    """Return how long each subtask holds its server, seconds, shape (T,).

    Members of a coupled set hold theirs until the slowest has ended.
    """
    own = problem.cost[np.arange(len(problem.subtasks)), assignment]
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
    if not np.isfinite(problem.cost[np.arange(count), assignment]).all():
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


@dataclass(slots=True)
class _Queue:
    """What waits on one server, highest rank first."""

    waiting: list[int] = field(default_factory=list)
    """Positions in the order of rank."""


class _Run:
    """One simulated run of the job."""

    def __init__(self, problem: Problem, assignment: Ints) -> None:
        count = len(problem.subtasks)
        self.assignment = assignment
        self.start = np.full(count, np.nan)
        self.end = np.full(count, np.nan)
        self.demand = demands(problem, assignment)
        self.free = problem.capacity.copy()
        self.duration = durations(problem, assignment)
        dependency = problem.dependency
        self.edge = problem.edge[dependency]
        source, target = assignment[self.edge[:, 0]], assignment[self.edge[:, 1]]
        seconds = np.zeros(dependency.size)
        seconds[dependency] = transfer(problem, source, target, problem.edge_bytes[dependency])
        self.seconds = seconds[dependency]
        rank = upward_rank(problem, self.duration, seconds)
        # Units in the order in which they are asked: by rank, then by number.
        self.units = sorted(
            units(problem), key=lambda unit: (-np.nan_to_num(rank[unit[0]]), int(unit[0]))
        )
        self.unit_of = np.empty(count, dtype=np.int64)
        for number, unit in enumerate(self.units):
            self.unit_of[unit] = number
        self.order = np.argsort(self.edge[:, 0], kind="stable")
        self.first = np.searchsorted(self.edge[self.order, 0], np.arange(count + 1))
        self.left = np.bincount(self.unit_of[self.edge[:, 1]], minlength=len(self.units))
        self.ready = np.zeros(len(self.units))
        self.queues: list[list[int]] = [[] for _ in problem.servers]
