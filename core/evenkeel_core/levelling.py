"""Assignments that end early, where no subtask waits for another.

The game weighs each subtask's own cost against the load it finds; the end of the job is decided
by one server, the last, and by how whole subtasks fit its capacity in waves. So this search looks
at that server alone: it gives one of its subtasks away, or changes it for another's, wherever that
ends both servers before the last does now. It starts from where the game ended and from subtasks
dealt out anew, and when nothing helps any more, a few subtasks of the late servers are moved at
random and it goes on; the best is kept. `pricing` makes what it finds an equilibrium.

Sources: the neighbourhood is that of local search for unrelated parallel machines (Piersma and
van Dijk, Mathematical and Computer Modelling 24 (1996), 11-19); iterating it from small
disturbances is as in Lourenço, Martin and Stützle (Handbook of Metaheuristics, 2003).
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evenkeel_core.problems import NOWHERE, Floats, Ints, Problem, allowed

KICKS = 30
"""Disturbances without a better end, after which the search stops."""
PAIRS = 200_000
"""Subtasks x servers above which the search is left out: it looks at subtasks one by one."""
DEALS = 10_000
"""Classes of subtasks x servers up to which all are dealt out anew: each is timed everywhere."""
LOOKS = 12
"""Exchanges that are timed exactly in a step: the likeliest by their sums."""
STEPS = 4
"""Steps of one descent at most, for each subtask."""
EFFORT = 300_000
"""Subtasks that are looked at in timing sets, in one search: about half a second."""
OVERHEAD = 30
"""What timing a set takes beside, in subtasks."""
TOGETHER = 5_000
"""Subtasks x servers up to which the least cost without waves is looked for: 0.1 s at most."""
ROUNDS = 5
"""Of that search: what is left to be solved exactly is small at that size."""
LESS = 1e-9
"""Share of the end by which an earlier one must be earlier: rounding."""


def end_early(problem: Problem, assignment: Ints, *, kicks: int = KICKS, seed: int = 0) -> Ints:
    """Return an assignment whose last server ends no later, and mostly earlier.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        A server for every subtask, one that may run it; not changed.
    kicks : int
        Disturbances in a row that may fail.
    seed : int
        Of the disturbances.

    Returns
    -------
    ndarray, shape (T,)
        Pinned subtasks and members of coupled sets stay where they are. The assignment as it is
        where it leaves one out, where one waits for another, or where the problem is too large.

    Notes
    -----
    A step is O(S · log T + T) and times a few servers; deterministic for a given seed.
    """
    large = assignment.size * len(problem.servers) > PAIRS
    if large or not assignment.size or problem.dependency.any() or (assignment == NOWHERE).any():
        return assignment.copy()
    draw = np.random.default_rng(seed)
    board = _Board(problem, assignment)
    board.descend()
    best, end = board.place.copy(), board.profile()
    if board.deal():
        board.descend()
        if _earlier(board.profile(), end):
            best, end = board.place.copy(), board.profile()
        board.reset(best)
    failed = 0
    while failed < kicks and not board.spent and board.kick(draw):
        board.descend()
        now = board.profile()
        if _earlier(now, end):
            best, end, failed = board.place.copy(), now, 0
        else:
            failed += 1
            board.reset(best)
    return best


def run_together(problem: Problem, *, rounds: int = ROUNDS) -> Ints | None:
    """Return the assignment of least total cost in which nothing waits; None if none was found.

    Parameters
    ----------
    problem : Problem
    rounds : int
        Of the search for it, before what is left is solved exactly.

    Returns
    -------
    ndarray, shape (T,), or None
        None too where one subtask waits for another, where members of a set are to move as one,
        or where the problem is too large.

    Notes
    -----
    Where all run at once the mean end is the mean cost, so this is the least there is without
    waves: the generalised assignment problem, as `assigning` solves it.
    """
    sizes = np.bincount(problem.group)[problem.group]
    if len(problem.subtasks) * len(problem.servers) > TOGETHER or problem.dependency.any():
        return None
    if ((sizes > 1) & (problem.pinned == NOWHERE)).any():
        return None
    # Loading the solvers takes as long as most plans: only the few that need them wait for it.
    from evenkeel_core.assigning import assign
    from evenkeel_core.packings import Packing

    waiting = problem.load / problem.rate
    packing = Packing(
        cost=np.where(allowed(problem), problem.cost + waiting, np.inf),
        demand=problem.demand[:, problem.kind].astype(float),
        capacity=problem.capacity.astype(float),
    )
    found = assign(packing, rounds=rounds)
    return None if found is None else found.assignment


def _earlier(one: Floats, other: Floats) -> bool:
    """Tell whether one list of ends, the last first, is before another."""
    differ = np.flatnonzero(np.abs(one - other) > LESS * np.abs(other))
    return bool(differ.size and one[differ[0]] < other[differ[0]])


@dataclass(frozen=True, slots=True)
class _Offer:
    """An exchange between the late server and another."""

    leaves: int
    comes: int
    server: int


class _Board:
    """An assignment with the exact end of every server, kept up to date move by move."""

    def __init__(self, problem: Problem, assignment: Ints) -> None:
        self._problem = problem
        self._may = allowed(problem)
        single = np.bincount(problem.group)[problem.group] == 1
        self._free = single & (problem.pinned == NOWHERE)
        size = np.maximum(problem.capacity, 1)
        self._cost, self._demand = problem.cost, problem.demand
        seconds = np.where(self._may, self._cost, 0.0)
        self._area = self._demand[:, problem.kind] / size * seconds[:, :, None]
        """(T, S, R) seconds of the whole server that a subtask takes of each resource."""
        self._class = _classes(problem, self._cost, self._demand)
        self._queue = problem.load / problem.rate
        """(S,) seconds until a server is done with the load of others."""
        self.place = assignment.copy()
        self._sets = [np.flatnonzero(assignment == i).tolist() for i in range(len(problem.servers))]
        self._known: dict[tuple[int, tuple[int, ...]], float] = {}
        self._effort = 0
        self.end = np.array([self._timed(i, own) for i, own in enumerate(self._sets)])

    @property
    def spent(self) -> bool:
        """Tell whether the search has timed as much as it may."""
        return self._effort >= EFFORT

    def profile(self) -> Floats:
        """Return the ends of the servers, the last first."""
        return np.sort(self.end)[::-1]

    def descend(self) -> None:
        """Make the last server end earlier until no change of two sets does."""
        for _ in range(STEPS * self.place.size):
            last = int(np.argmax(self.end))
            if self.spent or not (self._give(last) or self._trade(last)):
                return

    def deal(self) -> bool:
        """Hand all subtasks out anew, the longest first, each to where it ends first.

        False, and nothing done, where that would be too much.
        """
        free = np.flatnonzero(self._free)
        kinds = self._class[free]
        if np.unique(kinds).size * self.end.size > DEALS:
            return False
        for subtask in free.tolist():
            self._sets[int(self.place[subtask])].remove(subtask)
        length = np.where(self._may, self._cost, 0.0).sum(axis=1) / self._may.sum(axis=1)
        servers = ends = np.empty(0, dtype=np.int64)
        dealt = NOWHERE
        for subtask in free[np.lexsort((free, kinds, -length[free]))].tolist():
            # Alike subtasks follow one another: what has changed since is one server's end.
            if int(self._class[subtask]) != dealt:
                dealt = int(self._class[subtask])
                servers = np.flatnonzero(self._may[subtask])
                ends = np.array([self._with(s, subtask) for s in servers.tolist()])
            first = int(np.argmin(ends))
            server = int(servers[first])
            self.place[subtask] = server
            self._sets[server].append(subtask)
            ends[first] = self._with(server, subtask)
        self.end = np.array([self._timed(i, own) for i, own in enumerate(self._sets)])
        return True

    def kick(self, draw: np.random.Generator) -> bool:
        """Move a few subtasks of the later half of the servers elsewhere; False if none may."""
        busy = np.flatnonzero(self.end > 0)
        late = busy[np.argsort(-self.end[busy], kind="stable")][: max(1, busy.size // 2)]
        mine = np.flatnonzero(np.isin(self.place, late) & self._free & (self._may.sum(axis=1) > 1))
        if not mine.size:
            return False
        for subtask in draw.choice(mine, min(mine.size, int(draw.integers(1, 4))), replace=False):
            open_to = self._may[subtask].copy()
            open_to[self.place[subtask]] = False
            servers = np.flatnonzero(open_to)
            # Where it would end early, likelier.
            ends = self.end[servers] + self._cost[subtask, servers]
            odds = 1.0 / np.maximum(ends, LESS) ** 2
            self._put(int(subtask), int(draw.choice(servers, p=odds / odds.sum())))
        return True

    def reset(self, place: Ints) -> None:
        """Go back to another assignment."""
        for subtask in np.flatnonzero(self.place != place).tolist():
            self._put(subtask, int(place[subtask]))

    def _put(self, subtask: int, server: int) -> None:
        old = int(self.place[subtask])
        self._sets[old].remove(subtask)
        self._sets[server].append(subtask)
        self.place[subtask] = server
        for changed in (old, server):
            self.end[changed] = self._timed(changed, self._sets[changed])

    def _give(self, last: int) -> bool:
        """Give the subtask away whose leaving helps most, if another server has it in time.

        Where many run side by side, the end stays until the last of them has gone.
        """
        bound = self.end[last] * (1 - LESS)
        best: tuple[float, int, int] | None = None
        for subtask in self._distinct(last):
            left = self._timed(last, [t for t in self._sets[last] if t != subtask])
            if left > self.end[last]:
                continue
            for server in self._hosts(subtask, last, bound):
                there = self._with(server, subtask)
                if there < bound and (best is None or (max(left, there), subtask) < best[:2]):
                    best = (max(left, there), subtask, server)
        if best is not None:
            self._put(best[1], best[2])
        return best is not None

    def _hosts(self, subtask: int, last: int, bound: float) -> list[int]:
        """Return the servers where a subtask could end in time, by its sums."""
        sums = self._sums()
        after = np.maximum((sums + self._area[subtask]).max(axis=1), self._cost[subtask])
        after += self._queue
        possible = self._may[subtask] & (after < bound)
        possible[last] = False
        servers = np.flatnonzero(possible)
        nearest: list[int] = servers[np.argsort(after[servers], kind="stable")][:LOOKS].tolist()
        return nearest

    def _sums(self) -> Floats:
        """Return the seconds each server needs of each resource, were it always full, (S, R)."""
        sums = np.zeros(self._problem.capacity.shape)
        np.add.at(sums, self.place, self._area[np.arange(self.place.size), self.place])
        return sums

    def _trade(self, last: int) -> bool:
        """Change a subtask of the last server for another's, if both then end earlier."""
        bound = self.end[last] * (1 - LESS)
        for offer in self._offers(last, bound):
            mine = [t for t in self._sets[last] if t != offer.leaves] + [offer.comes]
            theirs = [t for t in self._sets[offer.server] if t != offer.comes] + [offer.leaves]
            if self._timed(last, mine) < bound and self._timed(offer.server, theirs) < bound:
                self._put(offer.leaves, offer.server)
                self._put(offer.comes, last)
                return True
        return False

    def _offers(self, last: int, bound: float) -> Iterator[_Offer]:
        """Yield the likeliest exchanges, by the sums of both servers."""
        mine = np.array(self._distinct(last), dtype=np.int64)
        others = np.flatnonzero(self._free & (self.place != last) & self._may[:, last])
        if not (mine.size and others.size):
            return
        place, sums = self.place[others], self._sums()
        held = sums.max(axis=1)
        # Servers end later than their sums say, by what does not fit together: as much as now.
        loss = np.where(held > 0, (self.end - self._queue) / np.where(held > 0, held, 1.0), 1.0)
        own = sums[last] - self._area[mine, last][:, None] + self._area[others, last]
        here = own.max(axis=2) * loss[last] + self._queue[last]
        rest = sums[place] - self._area[others, place]
        there = (rest + self._area[np.ix_(mine, place)]).max(axis=2) * loss[place]
        there += self._queue[place]
        worst = np.where(self._may[np.ix_(mine, place)], np.maximum(here, there), np.inf)
        count = min(LOOKS, worst.size)
        flat = np.argpartition(worst, count - 1, axis=None)[:count]
        for pair in flat[np.argsort(worst.ravel()[flat], kind="stable")].tolist():
            row, column = divmod(pair, others.size)
            if worst[row, column] < bound:
                other = int(others[column])
                yield _Offer(int(mine[row]), other, int(self.place[other]))

    def _distinct(self, server: int) -> list[int]:
        """Return the subtasks of a server that may go, one of each class."""
        found = {int(self._class[t]): t for t in sorted(self._sets[server], reverse=True)}
        return sorted(t for t in found.values() if self._free[t])

    def _with(self, server: int, subtask: int) -> float:
        """Return when a server has done its set and one like this subtask more."""
        return self._timed(server, [*self._sets[server], subtask])

    def _timed(self, server: int, subtasks: list[int]) -> float:
        """Return when a server has done a set, as the timetable would run it after its load."""
        if not subtasks:
            return 0.0
        key = (server, tuple(sorted(self._class[subtasks].tolist())))
        if key not in self._known:
            own = np.array(subtasks)
            demand = self._demand[own, self._problem.kind[server]]
            seconds = self._cost[own, server]
            order = np.argsort(-seconds, kind="stable")
            span, effort = _span(seconds[order], demand[order], self._problem.capacity[server])
            self._effort += OVERHEAD + effort
            self._known[key] = float(self._queue[server]) + span
        return self._known[key]


def _classes(problem: Problem, cost: Floats, demand: Ints) -> Ints:
    """Give subtasks that are alike to every server the same number."""
    numbers: dict[tuple[object, ...], int] = {}
    keys = zip(
        cost,
        demand,
        problem.pinned.tolist(),
        np.bincount(problem.group)[problem.group].tolist(),
        strict=True,
    )
    return np.array(
        [
            numbers.setdefault((c.tobytes(), d.tobytes(), pin, size), len(numbers))
            for c, d, pin, size in keys
        ],
        dtype=np.int64,
    )


def _span(seconds: Floats, demand: Ints, capacity: Ints) -> tuple[float, int]:
    """Return when a list schedule of one server's set ends, the longest first, and the effort."""
    binding = np.flatnonzero(demand.sum(axis=0) > capacity)
    if not binding.size:
        return float(seconds[0]), 1
    demand, room = demand[:, binding], capacity[binding]
    if (demand == demand[0]).all():
        places = int((room // np.maximum(demand[0], 1)).min())
        return _same(seconds.tolist(), places), seconds.size
    return _unlike(seconds.tolist(), demand, room)


def _same(seconds: list[float], places: int) -> float:
    """Return the end where all take the same: so many run at a time."""
    ends = seconds[:places]
    heapq.heapify(ends)
    for length in seconds[places:]:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def _unlike(seconds: list[float], demand: Ints, room: Ints) -> tuple[float, int]:
    """Return the end where each takes its own: whatever fits starts, in order."""
    free = room.tolist()
    waiting = list(zip(seconds, demand.tolist(), strict=True))
    running: list[tuple[float, int, list[int]]] = []
    now, looks = 0.0, 0
    while True:
        left = []
        for length, row in waiting:
            looks += 1
            if all(need <= has for need, has in zip(row, free, strict=True)):
                free = [has - need for need, has in zip(row, free, strict=True)]
                heapq.heappush(running, (now + length, looks, row))
            else:
                left.append((length, row))
        waiting = left
        if not waiting:
            return max(end for end, _, _ in running), looks
        now = running[0][0]
        while running and running[0][0] == now:
            _, _, row = heapq.heappop(running)
            free = [has + need for need, has in zip(row, free, strict=True)]
