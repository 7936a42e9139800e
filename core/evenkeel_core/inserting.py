"""List schedules: unit after unit in an order of priority, each into the first gap it fits.

HEFT is one of them; other priorities and other views of a server's worth give other schedules.
Quick, vectorised over servers, and where `scheduling` starts from.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evenkeel_core.problems import (
    NOWHERE,
    Floats,
    Ints,
    Mask,
    Problem,
    allowed,
    room_for,
    transfer,
    units,
)
from evenkeel_core.timetabling import Timetable, upward_rank


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where and when every subtask runs."""

    assignment: Ints
    """(T,) server of each subtask; NOWHERE where its unit fits nowhere."""
    times: Timetable
    """Start and end; nan where there is no server."""


def heft(problem: Problem) -> Schedule:
    """Schedule by Heterogeneous Earliest Finish Time [1]_.

    By falling upward rank over mean costs and mean transfers, each subtask goes to the server
    where it ends first, into a gap if one is long enough. A server runs as many subtasks at a
    time as its capacity holds; with one at a time this is the published algorithm. Members of a
    coupled set are given servers one after the other and start together.

    Raises
    ------
    ValueError
        If the dependencies of `problem` form a circle.

    References
    ----------
    .. [1] H. Topcuoglu, S. Hariri and M.-Y. Wu, "Performance-effective and low-complexity task
       scheduling for heterogeneous computing", IEEE TPDS 13 (2002), 260-274,
       :doi:`10.1109/71.993206`.
    """
    return insert(problem, upward_rank(problem, mean_cost(problem), mean_transfer(problem)))


def insert(
    problem: Problem,
    priority: Floats,
    *,
    ahead: Floats | None = None,
    among: Mask | None = None,
) -> Schedule:
    """Insert unit after unit, the one of highest priority among those whose sources are in.

    Parameters
    ----------
    problem : Problem
    priority : ndarray, shape (T,)
        Of each subtask; a coupled set has the highest of its members.
    ahead : ndarray, shape (T, S), optional
        Seconds added to the end of a subtask on a server when servers are compared: what choosing
        it costs later.
    among : ndarray of bool, shape (S,), optional
        Servers to use, where a subtask may run on one of them.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If `priority` has nan or the dependencies form a circle.

    Notes
    -----
    O(T · S · gaps + E · S), vectorised over servers and gaps. Ties go to the lower number.
    """
    if np.isnan(priority).any():
        raise ValueError("the dependencies of `problem` form a circle")
    inserting = _Inserting(problem, ahead, among)
    count = 0
    for unit in _by_priority(problem, priority):
        inserting.place(unit)
        count += unit.size
    if count < len(problem.subtasks):
        raise ValueError("the dependencies of `problem` form a circle")
    start, end = inserting.start, inserting.end
    return Schedule(
        inserting.assignment,
        Timetable(start, end, float(np.nanmax(end, initial=0.0)) if end.size else 0.0),
    )


def mean_cost(problem: Problem) -> Floats:
    """Return the mean seconds of each subtask over the servers it may run on, shape (T,)."""
    may = allowed(problem)
    total = np.where(may, problem.cost, 0.0).sum(axis=1)
    mean: Floats = total / np.maximum(may.sum(axis=1), 1)
    return mean


def mean_transfer(problem: Problem) -> Floats:
    """Return the mean seconds of each edge over all pairs of servers, shape (E,).

    Bandwidths are averaged, as HEFT does, not seconds.
    """
    count = len(problem.servers)
    if count < 2:
        return np.zeros(problem.edge_bytes.size)
    bandwidth = np.sort(problem.link_bandwidth)
    pairs = np.arange(count - 1, -1, -1)
    mean = float(bandwidth @ pairs) / (count * (count - 1) / 2)
    seconds: Floats = 2 * problem.link_latency.mean() + problem.edge_bytes / mean
    return seconds


def _by_priority(problem: Problem, priority: Floats) -> Iterator[Ints]:
    """Yield units in a topological order, by falling priority among those that may come."""
    all_units = units(problem)
    unit_of = np.zeros(len(problem.subtasks), dtype=np.int64)
    for number, unit in enumerate(all_units):
        unit_of[unit] = number
    edges = unit_of[problem.edge[problem.dependency]]
    after: list[list[int]] = [[] for _ in all_units]
    for source, target in edges.tolist():
        after[source].append(target)
    waiting = np.bincount(edges[:, 1], minlength=len(all_units)).tolist()
    key = [-float(priority[unit].max()) for unit in all_units]
    ready = [(key[number], number) for number, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    while ready:
        _, number = heapq.heappop(ready)
        yield all_units[number]
        for target in after[number]:
            waiting[target] -= 1
            if not waiting[target]:
                heapq.heappush(ready, (key[target], target))


class _Inserting:
    """A schedule that grows unit by unit."""

    def __init__(self, problem: Problem, ahead: Floats | None, among: Mask | None) -> None:
        count = len(problem.subtasks)
        self.assignment = np.full(count, NOWHERE, dtype=np.int64)
        self.start = np.full(count, np.nan)
        self.end = np.full(count, np.nan)
        self._problem = problem
        self._ahead = ahead
        self._may = allowed(problem)
        if among is not None:
            inside = self._may & among
            some = inside.any(axis=1)
            self._may[some] = inside[some]
        self._sources = _Sources(problem)
        self._gaps = _Gaps(problem.capacity)

    def place(self, unit: Ints) -> None:
        """Give a unit its servers and its time, if it has any."""
        if unit.size == 1:
            self._place_single(int(unit[0]))
        else:
            self._place_set(unit)

    def _ends(self, subtask: int, servers: Ints) -> tuple[Floats, Floats]:
        """Return the earliest start of a subtask on each server, and its end."""
        problem = self._problem
        ready = self._sources.arrival(subtask, servers, self.assignment, self.end)
        length = problem.cost_at(subtask, servers)
        demand = problem.needs[problem.need[subtask], problem.kind[servers]]
        start = self._gaps.earliest(servers, demand, ready, length)
        return start, start + length

    def _place_single(self, subtask: int) -> None:
        problem = self._problem
        room = room_for(problem, np.array([subtask]))
        servers = np.flatnonzero(self._may[subtask] & room)
        if not servers.size:
            return
        start, end = self._ends(subtask, servers)
        later = end if self._ahead is None else end + self._ahead[subtask, servers]
        best = int(np.argmin(later))
        self._take(subtask, int(servers[best]), float(start[best]), float(end[best]))

    def _place_set(self, unit: Ints) -> None:
        """Seat member by member where each would end first, then find a time for all."""
        problem = self._problem
        room = problem.capacity.copy()
        places = np.zeros(unit.size, dtype=np.int64)
        for position, subtask in enumerate(unit.tolist()):
            needed = problem.needs[problem.need[subtask]][problem.kind]
            servers = np.flatnonzero(self._may[subtask] & (needed <= room).all(axis=1))
            if not servers.size:
                return
            _, end = self._ends(subtask, servers)
            places[position] = server = servers[int(np.argmin(end))]
            room[server] -= needed[server]
        length = float(problem.cost_at(unit, places).max())
        start = self._together(unit, places, length)
        for subtask, server in zip(unit.tolist(), places.tolist(), strict=True):
            self._take(subtask, server, start, start + length)

    def _together(self, unit: Ints, places: Ints, length: float) -> float:
        """Return the first moment at which all members of a set have room."""
        problem = self._problem
        servers, row = np.unique(places, return_inverse=True)
        demand = np.zeros((servers.size, len(problem.resources)), dtype=np.int64)
        np.add.at(demand, row, problem.needs[problem.need[unit], problem.kind[places]])
        start = 0.0
        for subtask, server in zip(unit.tolist(), places.tolist(), strict=True):
            here = np.array([server])
            arrival = self._sources.arrival(subtask, here, self.assignment, self.end)
            start = max(start, float(arrival[0]))
        while True:
            ready, lengths = np.full(servers.size, start), np.full(servers.size, length)
            later = float(self._gaps.earliest(servers, demand, ready, lengths).max())
            if later <= start:
                return start
            start = later

    def _take(self, subtask: int, server: int, start: float, end: float) -> None:
        problem = self._problem
        self._gaps.take(
            server, start, end, problem.needs[problem.need[subtask], problem.kind[server]]
        )
        self.assignment[subtask] = server
        self.start[subtask], self.end[subtask] = start, end


class _Sources:
    """What each subtask waits for (compressed rows of the dependencies)."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        edges = problem.edge[problem.dependency]
        order = np.argsort(edges[:, 1], kind="stable")
        self._source = edges[order, 0]
        self._bytes = problem.edge_bytes[problem.dependency][order]
        self._first = np.searchsorted(edges[order, 1], np.arange(len(problem.subtasks) + 1))

    def arrival(self, subtask: int, servers: Ints, assignment: Ints, end: Floats) -> Floats:
        """Return when the last input of a subtask is on each of the servers."""
        rows = slice(self._first[subtask], self._first[subtask + 1])
        source = self._source[rows]
        seated = assignment[source] != NOWHERE
        source, data = source[seated], self._bytes[rows][seated]
        if not source.size:
            return np.zeros(servers.size)
        seconds = transfer(self._problem, assignment[source][:, None], servers, data[:, None])
        latest: Floats = (end[source][:, None] + seconds).max(axis=0)
        return latest


class _Gaps:
    """Free capacity of every server over time: constant between breakpoints, padded with inf."""

    def __init__(self, capacity: Ints) -> None:
        servers, resources = capacity.shape
        self._times = np.full((servers, 8), np.inf)
        self._times[:, 0] = 0.0
        self._free = np.zeros((servers, 8, resources), dtype=np.int64)
        self._free[:, 0] = capacity
        self._count = np.ones(servers, dtype=np.int64)

    def earliest(self, servers: Ints, demand: Ints, ready: Floats, length: Floats) -> Floats:
        """Return the earliest moment, not before `ready`, with room for `length` seconds."""
        width = int(self._count[servers].max()) + 1
        times = self._times[servers, :width]
        room = (self._free[servers, :width] >= demand[:, None]).all(axis=2) & np.isfinite(times)
        blocked = np.where(room | np.isinf(times), np.inf, times)
        until = np.minimum.accumulate(blocked[:, ::-1], axis=1)[:, ::-1]
        begin = np.maximum(times, ready[:, None])
        after = np.append(times[:, 1:], np.full((len(servers), 1), np.inf), axis=1)
        enough = room & (after > begin) & (begin + length[:, None] <= until)
        earliest: Floats = np.where(enough, begin, np.inf).min(axis=1)
        return earliest

    def take(self, server: int, start: float, end: float, demand: Ints) -> None:
        """Take capacity of one server between two moments."""
        first, last = self._cut(server, start), self._cut(server, end)
        self._free[server, first:last] -= demand

    def _cut(self, server: int, moment: float) -> int:
        """Make a breakpoint at a moment and return its position."""
        count = int(self._count[server])
        at = int(np.searchsorted(self._times[server, :count], moment))
        if at < count and self._times[server, at] == moment:
            return at
        if count + 2 > self._times.shape[1]:
            self._times = np.pad(self._times, ((0, 0), (0, count)), constant_values=np.inf)
            self._free = np.pad(self._free, ((0, 0), (0, count), (0, 0)))
        self._times[server, at + 1 : count + 1] = self._times[server, at:count]
        self._free[server, at + 1 : count + 1] = self._free[server, at:count]
        self._times[server, at] = moment
        self._free[server, at] = self._free[server, at - 1]
        self._count[server] = count + 1
        return at
