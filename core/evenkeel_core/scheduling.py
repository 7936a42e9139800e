"""Schedules of jobs whose subtasks wait for one another: which server, in which order, when.

The game of step 4 weighs costs, transfers and loads; it does not see who waits for whom. Here the
end of the job itself is made small. List schedules of several kinds are the starts. From each of
them the search anneals: a unit on a longest way through the job is taken out, priced at every
place of every server (`sequencing`), and put where the way through it is short.

Sources: Topcuoglu, Hariri and Wu (HEFT, 2002) and Arabnejad and Barbosa (PEFT, 2014) for the
starts; Kirkpatrick, Gelatt and Vecchi (1983) for annealing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from evenkeel_core import inserting
from evenkeel_core.inserting import Schedule, insert
from evenkeel_core.problems import NOWHERE, Floats, Ints, Mask, Problem, allowed
from evenkeel_core.sequencing import Network, Place, Sequences
from evenkeel_core.timetabling import Timetable, timetable, upward_rank

EFFORT = 1_000_000
"""Units looked at without a clock: about a second. To price one unit looks at all of them."""
CROWDED = 3
"""What a look costs where a server holds several subtasks at a time, against one at a time."""
INSERTED = 150
"""Looks that inserting one unit into a list schedule takes as long as."""
BEGINNING = 0.3
"""Part of the time after which no further list schedule is made."""
STARTS = 4
"""List schedules that are searched from, the best of those made, before the best found is."""
CYCLE = 50
"""Prices a unit in one cooling: a fifth of it left chains cut off, four times as much brought less
than another cooling from elsewhere."""
HEAT = (0.03, 0.1, 0.3)
"""Delay of the job that is at first accepted as often as not, as a part of its length, in turns:
jobs that hardly move data like little of it, those that move much like more."""
CELLS = 200_000
"""Pairs of subtask and server that are looked at; of more servers the most suitable are taken."""
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The best schedule found."""

    assignment: Ints
    """(T,) server of each subtask."""
    times: Timetable
    bound: float
    """No schedule is shorter, seconds."""
    proven: bool
    """No other schedule is shorter than this one."""


def schedule(
    problem: Problem,
    *,
    effort: int = EFFORT,
    seed: int = 0,
    time_limit: float = np.inf,
    clock: Callable[[], float] | None = None,
) -> Scheduled | None:
    """Return the shortest schedule found, None if some unit fits nowhere.

    Parameters
    ----------
    problem : Problem
    effort : int
        Units looked at when no clock is given: equal input then gives equal output. With 0 it is
        HEFT's schedule or the timetable of its assignment.
    seed : int
        Of the annealing.
    time_limit : float
        Seconds, with a clock.
    clock : callable, optional
        Returns seconds, e.g. ``time.perf_counter``; the search goes on until the time is over or
        the bound is met.

    Returns
    -------
    Scheduled or None
        Never longer than HEFT's schedule, nor than the timetable of HEFT's assignment, on the
        servers looked at (all of them up to 200,000 pairs of subtask and server).

    Raises
    ------
    ValueError
        If the dependencies form a circle.

    Notes
    -----
    Each price takes O(T + E) and gives the best place on every server; where servers run one
    subtask at a time it is exact. Coupled sets keep the servers their start gave them.
    """
    if not problem.subtasks:
        nothing = np.zeros(0)
        return Scheduled(
            np.zeros(0, dtype=np.int64), Timetable(nothing, nothing, 0.0), 0.0, proven=True
        )
    kept = _suitable(problem)
    part = _among(problem, kept)
    timer = _Timer(clock, time_limit, effort)
    begins = _starts(part, timer)
    if begins is None:
        return None
    least = bound(problem)
    search = _Search(part, begins, least, timer, seed)
    search.run()
    found = search.found()
    return Scheduled(kept[found.assignment], found.times, least, search.optimal())


def bound(problem: Problem) -> float:
    """Return a length in seconds that no schedule of the problem undercuts.

    The longer of the longest way at the least costs without transfers, and of the time all
    servers take together were they always full of what suits them best.
    """
    may = allowed(problem)
    least = np.where(may, problem.cost, np.inf).min(axis=1, initial=np.inf)
    least = np.where(np.isfinite(least), least, 0.0)
    ways = upward_rank(problem, least, np.zeros(len(problem.edge)))
    longest = float(ways.max(initial=0.0))
    seconds, demand = np.where(may, problem.cost, 0.0), problem.demand
    for resource in range(len(problem.resources)):
        room = np.maximum(problem.capacity[:, resource], 1)
        busy = seconds * (demand[:, problem.kind, resource] / room)
        busy = np.where(may, busy, np.inf).min(axis=1)
        longest = max(longest, float(busy[np.isfinite(busy)].sum()) / len(problem.servers))
    return longest


class _Timer:
    """How much of the time, or of the effort, is spent: 0 to 1."""

    def __init__(self, clock: Callable[[], float] | None, limit: float, effort: int) -> None:
        self._clock = clock
        self._limit = limit
        self._begin = clock() if clock else 0.0
        self._effort = effort
        self._done = 0

    def look(self, units: int) -> None:
        self._done += units

    def allows(self, units: int) -> bool:
        """Tell whether so many units may be looked at before the search."""
        return units <= self._effort if self._clock is None else self.spent() < BEGINNING

    def spent(self) -> float:
        if self._clock is None:
            return self._done / max(self._effort, 1)
        return (self._clock() - self._begin) / self._limit


class _Dice:
    """Random numbers one by one, drawn by the thousand."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._left: list[float] = []

    def throw(self) -> float:
        """Return a number from 0 up to 1."""
        if not self._left:
            self._left = self._generator.random(CHUNK).tolist()
        return self._left.pop()

    def below(self, count: int) -> int:
        """Return a whole number from 0 up to `count`."""
        return int(self.throw() * count)


class _Search:
    """Coolings from one start after the other, and from the best found after that."""

    def __init__(
        self, problem: Problem, starts: list[Schedule], least: float, timer: _Timer, seed: int
    ) -> None:
        self.network = Network(problem)
        self.starts = starts
        self.best = min(starts, key=lambda start: start.times.makespan)
        self._look = len(self.network.units) * (1 if all(self.network.alone) else CROWDED)
        self._least = least
        self._timer = timer
        self._dice = _Dice(seed)

    def found(self) -> Schedule:
        """Return the best schedule, every unit as early as its order lets it."""
        early = Sequences(self.network, self.best).schedule()
        longer = early.times.makespan > self.best.times.makespan * (1 + 1e-12)
        return self.best if longer else early

    def optimal(self) -> bool:
        """Tell whether the bound proves the best schedule to be one."""
        return self.best.times.makespan <= self._least * (1 + 1e-9)

    def run(self) -> None:
        """Cool until the time is over."""
        turn = 0
        while self._timer.spent() < 1.0 and not self.optimal():
            begin = self.starts[turn] if turn < len(self.starts) else self.best
            self._cool(Sequences(self.network, begin), HEAT[turn % len(HEAT)])
            turn += 1

    def _cool(self, state: Sequences, heat: float) -> None:
        """Anneal once; the temperature falls with the cooling and with the time left."""
        steps = CYCLE * len(self.network.units)
        self._keep(state)
        for step in range(steps):
            spent = max(step / steps, self._timer.spent())
            if spent >= 1.0 or self.optimal():
                return
            critical = state.critical()
            self._timer.look(self._look)
            if critical:
                unit = critical[self._dice.below(len(critical))]
                heated = heat * (1.0 - spent) ** 2 * self.best.times.makespan
                self._try(state, unit, max(heated, 1e-12))

    def _try(self, state: Sequences, unit: int, heat: float) -> None:
        """Move a unit to a place that makes the way through it short, if the job allows it."""
        places = state.prices(unit)
        if not places:
            return
        place = self._pick(places, heat)
        worse = place.span - state.span()
        accepted = worse <= 0 or self._dice.throw() < math.exp(-worse / heat)
        if accepted and state.move(unit, place.server, place.position):
            self._keep(state)

    def _pick(self, places: list[Place], heat: float) -> Place:
        """Draw a place, the likelier the shorter the way through the unit is there."""
        shortest = min(place.way for place in places)
        weights = [math.exp(max(shortest - place.way, -700.0 * heat) / heat) for place in places]
        left = self._dice.throw() * sum(weights)
        for place, weight in zip(places, weights, strict=True):
            left -= weight
            if left < 0:
                return place
        return places[-1]

    def _keep(self, state: Sequences) -> None:
        """Keep a shorter schedule."""
        if state.span() < self.best.times.makespan * (1 - 1e-12):
            self.best = state.schedule()


def _starts(problem: Problem, timer: _Timer) -> list[Schedule] | None:
    """Return the best list schedules, shortest first; None where a unit fits nowhere.

    HEFT always, the others as the time or the effort allows.
    """
    made: dict[bytes, Schedule] = {}
    for number, start in enumerate(_listed(problem)):
        if number > 1 and not timer.allows(number * INSERTED * len(problem.subtasks)):
            break
        # On few servers a set may find no room.
        if (start.assignment == NOWHERE).any():
            continue
        known = made.get(start.assignment.tobytes())
        if known is None or start.times.makespan < known.times.makespan:
            made[start.assignment.tobytes()] = start
    # The sort is stable and HEFT comes first.
    return sorted(made.values(), key=lambda start: start.times.makespan)[:STARTS] or None


def _listed(problem: Problem) -> Iterator[Schedule]:
    """Make list schedules: HEFT, with other ranks, backwards, looking ahead, on few servers."""
    mean, moved = inserting.mean_cost(problem), inserting.mean_transfer(problem)
    up = upward_rank(problem, mean, moved)
    first = insert(problem, up)
    yield first
    if (first.assignment == NOWHERE).any():
        return
    yield Schedule(first.assignment, timetable(problem, first.assignment))
    may = allowed(problem)
    least = np.where(may, problem.cost, np.inf).min(axis=1)
    yield insert(problem, upward_rank(problem, least, 0.0 * moved))
    yield insert(problem, upward_rank(problem, mean, 0.5 * moved))
    ahead = _ahead(problem, moved)
    yield insert(problem, up, ahead=ahead)
    total = np.where(may, ahead, 0.0).sum(axis=1) / np.maximum(may.sum(axis=1), 1)
    yield insert(problem, total, ahead=ahead)
    turned = replace(problem, edge=np.ascontiguousarray(problem.edge[:, ::-1]))
    down = upward_rank(turned, mean, moved)
    yield _mirrored(insert(turned, down))
    yield _mirrored(insert(turned, down, ahead=_ahead(turned, moved)))
    for few in _fewer(problem, may):
        yield insert(problem, up, ahead=ahead, among=few)


def _mirrored(backwards: Schedule) -> Schedule:
    """Return the schedule that runs from the end to the start."""
    times = backwards.times
    span = times.makespan
    return Schedule(backwards.assignment, Timetable(span - times.end, span - times.start, span))


def _ahead(problem: Problem, moved: Floats) -> Floats:
    """Return what the way after a subtask takes at best if it runs on a server, (T, S) seconds.

    The optimistic cost table of PEFT (Arabnejad and Barbosa, IEEE TPDS 2014): each subtask that
    follows goes where it and its own way after are shortest, with mean transfers. O(E · S).
    """
    may = allowed(problem)
    cost = problem.cost
    table = np.zeros(cost.shape)
    rows = np.flatnonzero(problem.dependency)
    # Nearest to the end first: what follows is known before it is asked for.
    depth = upward_rank(problem, np.ones(len(problem.subtasks)), 0.0 * moved)
    order = rows[np.argsort(depth[problem.edge[rows, 0]], kind="stable")]
    for source, target, seconds in zip(
        *problem.edge[order].T.tolist(), moved[order].tolist(), strict=True
    ):
        way = np.where(may[target], table[target] + cost[target], np.inf)
        np.maximum(table[source], np.minimum(way, way.min() + seconds), out=table[source])
    return table


def _fewer(problem: Problem, may: Mask) -> Iterator[Mask]:
    """Yield the 1, 2, 4, … most suitable servers: what moves much is best kept together."""
    order = np.argsort(-_suitability(problem, may), kind="stable")
    count = 1
    while count < len(problem.servers):
        chosen = np.zeros(len(problem.servers), dtype=bool)
        chosen[order[:count]] = True
        yield chosen
        count *= 2


def _suitability(problem: Problem, may: Mask) -> Floats:
    """Return the sum over subtasks of how near each server comes to the best, shape (S,)."""
    cost = np.where(may, problem.cost, np.inf)
    least = cost.min(axis=1, keepdims=True)
    near = np.where(cost > 0, least / np.where(cost > 0, cost, 1.0), 1.0)
    total: Floats = np.where(may, near, 0.0).sum(axis=0)
    return total


def _suitable(problem: Problem) -> Ints:
    """Return the servers to look at: all, or each subtask's best and the most suitable ones."""
    count = max(CELLS // len(problem.subtasks), 1)
    if len(problem.servers) <= count:
        return np.arange(len(problem.servers))
    may = allowed(problem)
    kept = np.argsort(-_suitability(problem, may), kind="stable")[:count]
    best = np.where(may, problem.cost, np.inf).argmin(axis=1)
    return np.union1d(kept, best)


def _among(problem: Problem, kept: Ints) -> Problem:
    """Return the problem with some of its servers only."""
    number = np.full(len(problem.servers) + 1, NOWHERE)
    number[kept] = np.arange(kept.size)
    return replace(
        problem,
        servers=tuple(problem.servers[server] for server in kept.tolist()),
        kind=problem.kind[kept],
        capacity=problem.capacity[kept],
        rate=problem.rate[kept],
        load=problem.load[kept],
        pinned=number[problem.pinned],
        link_bandwidth=problem.link_bandwidth[kept],
        link_latency=problem.link_latency[kept],
    )
