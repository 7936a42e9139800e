"""Several disjoint pipelines of one model over unlike servers: the most requests a second.

A set of pipelines is as fast as the sum of their rates. Up to `EXACT` servers every way to share
them out is compared. Above, sets are begun in several plain ways for each number of pipelines
and improved by the best of all moves and swaps of servers: what a pipeline would take with one
server exchanged is read from the least seconds of it *without* that server, so that all
exchanges there are are compared exactly, as arrays.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from evenkeel_core.jobs import MAX_STAGES, Overlap
from evenkeel_core.pipelines import (
    JOIN,
    Candidate,
    Cut,
    Join,
    Role,
    cut,
    extended,
    nothing,
    offered,
    order,
)
from evenkeel_core.problems import Floats, Ints

EXACT = 8
"""Servers up to which all sets are compared: 3^8 ways."""
SEARCHED = 64
"""Servers up to which sets are improved by exchanges; of more the best pipelines are cut one
after the other."""
CUTS = 16
"""Unlike pipelines that are each the best of all servers left; later ones are the best of the
`SEARCHED` fastest left, or of more where those do not hold the model."""
NUMBERS = 8
"""Numbers of pipelines that are tried, spread over those there could be."""
WORK = 10_000_000
"""Servers x layers x layers held x exchanges: what bounds the time, and not a clock, so that the
result is the same everywhere."""
PATIENCE = 16
"""Exchanges a set is worth beginning for."""
LEAST = 1e-12
"""Seconds below which a pipeline is not believed."""

Set = tuple[Cut, ...]


def rate(chosen: Sequence[Cut]) -> float:
    """Return how often a second a set of pipelines does what each alone takes its seconds for."""
    return sum(1 / max(one.seconds, LEAST) for one in chosen)


def share_out(
    layers: int,
    candidates: Sequence[Candidate],
    *,
    overlap: Overlap,
    stages: int | None = None,
    most: int = MAX_STAGES,
    count: int | None = None,
) -> tuple[Set, ...]:
    """Return the fastest sets of disjoint pipelines found, by number of pipelines.

    Parameters
    ----------
    layers : int
        Of the model.
    candidates : sequence of Candidate
        With different names.
    overlap : Overlap
        Whether stages take turns or work at the same time. For the least time of one request
        whatever the engine: `Overlap.SUM`.
    stages : int, optional
        Of every pipeline exactly so many; by default as many as are best.
    most : int, default=16
        Stages of a pipeline at most.
    count : int, optional
        Only sets of so many pipelines; by default of every number that was tried, of more than
        `SEARCHED` so many of them, the largest included.

    Returns
    -------
    tuple of tuple of Cut
        Sets in rising number of pipelines, each by rising seconds; empty where the servers do
        not hold the model once (or `count` times).

    Notes
    -----
    Exact for at most `EXACT` servers: O(3^C) for the sets, O(2^C · layers²) for the pipelines.
    Above it is a search of a fixed number of steps, never worse than the sets it begins with:
    the best pipelines one after the other, servers dealt out in turn, servers dealt out by
    what they hold, and whole models wherever they fit.
    """
    if count is not None and count < 1:
        raise ValueError(f"`count` must be positive, not {count}")
    wanted = _Wanted(layers, overlap, stages, most, count)
    usable = [candidates[n] for n in order(candidates) if np.isfinite(candidates[n].seconds).any()]
    sets = _exact(usable, wanted) if len(usable) <= EXACT else _searched(usable, wanted)
    return tuple(
        tuple(sorted(sets[number], key=lambda one: (one.seconds, one.stages)))
        for number in sorted(sets)
        if count in (None, number)
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    layers: int
    overlap: Overlap
    stages: int | None
    most: int
    count: int | None

    @property
    def join(self) -> Join:
        return JOIN[self.overlap]

    @property
    def largest(self) -> int:
        """Servers of a pipeline at most."""
        return min(self.most, self.layers) if self.stages is None else self.stages

    def cut(self, candidates: Sequence[Candidate]) -> Cut | None:
        return cut(
            self.layers, candidates, overlap=self.overlap, stages=self.stages, most=self.most
        )


# Every set there is


def _exact(usable: Sequence[Candidate], wanted: _Wanted) -> dict[int, Set]:
    """Compare all ways to share out the servers: a subset is a number, a server one of its bits."""
    seconds = _every_pipeline(usable, wanted)
    rates = np.where(np.isfinite(seconds), 1 / np.maximum(seconds, LEAST), -np.inf)
    subsets, servers = len(rates), len(usable)
    # most[m, n]: the highest rate of n pipelines on the servers of m; first[m, n]: one of them.
    most = np.full((subsets, servers + 1), -np.inf)
    first = np.zeros((subsets, servers + 1), dtype=np.int64)
    most[:, 0] = 0.0
    for subset in range(1, subsets):
        lowest = subset & -subset
        most[subset], first[subset] = most[subset ^ lowest], first[subset ^ lowest]
        part = subset
        while part:
            if part & lowest and rates[part] > 0:
                offer = np.roll(most[subset ^ part], 1) + rates[part]
                better = offer > most[subset]
                better[0] = False
                most[subset][better] = offer[better]
                first[subset][better] = part
            part = (part - 1) & subset
    return {
        number: tuple(_members(first, subsets - 1, number, usable, wanted))
        for number in range(1, servers + 1)
        if np.isfinite(most[-1, number])
    }


def _every_pipeline(usable: Sequence[Candidate], wanted: _Wanted) -> Floats:
    """Return the least seconds of a pipeline over each subset of the servers, all of it if asked.

    The subsets with a server are those without it, extended.
    """
    states = nothing(wanted.layers)[None]
    for offer in offered(wanted.layers, usable):
        more = extended(states, offer, wanted.join)
        if wanted.stages is None:
            more = np.minimum(more, states)
        states = np.concatenate([states, more])
    seconds: Floats = states[:, Role.WHOLE, wanted.layers].copy()
    sizes = np.array([subset.bit_count() for subset in range(len(seconds))])
    allowed = sizes <= wanted.most if wanted.stages is None else sizes == wanted.stages
    seconds[~allowed] = np.inf
    return seconds


def _members(
    first: Ints, subset: int, number: int, usable: Sequence[Candidate], wanted: _Wanted
) -> list[Cut]:
    found = []
    while number:
        part = int(first[subset, number])
        made = wanted.cut([one for bit, one in enumerate(usable) if part >> bit & 1])
        assert made is not None, "a subset with a rate has a cut"  # noqa: S101
        found.append(made)
        # What was passed over on the way to `part` is in none of the pipelines.
        subset, number = (subset & -(part & -part)) ^ part, number - 1
    return found


# Search


def _searched(usable: Sequence[Candidate], wanted: _Wanted) -> dict[int, Set]:
    cuts = _one_after_the_other(usable, wanted)
    numbers: Sequence[int] = range(1, len(cuts) + 1)
    if len(cuts) > SEARCHED:
        numbers = sorted({round(number) for number in np.geomspace(1, len(cuts), SEARCHED)})
    sets: dict[int, Set] = {number: tuple(cuts[:number]) for number in numbers}
    if len(usable) > SEARCHED:
        return sets
    search = _Search(usable, wanted)
    begun = {}
    for number in _numbers(usable, wanted, len(sets)):
        begins = search.begins(number)
        if number in sets:
            begins.append(search.places(sets[number]))
        values = [search.value(place, number) for place in begins]
        begun[number] = max(zip(values, begins, strict=True), key=lambda pair: pair[0])
    tries = max(1, min(len(begun), search.exchanges // PATIENCE))
    for number in sorted(begun, key=lambda number: -begun[number][0])[:tries]:
        place = search.improved(begun[number][1], number, search.exchanges // tries)
        members = [
            [usable[n] for n in np.flatnonzero(place == one).tolist()] for one in range(number)
        ]
        found = [made for part in members if (made := wanted.cut(part)) is not None]
        if len(found) == number and rate(found) > rate(sets.get(number, ())):
            sets[number] = tuple(found)
    return sets


def _one_after_the_other(usable: Sequence[Candidate], wanted: _Wanted) -> list[Cut]:
    """Cut the best pipeline of what is left until nothing more can be cut.

    A cut is repeated as long as servers alike are left: no other could be better.
    """
    made: list[Cut] = []
    kinds: dict[bytes, list[Candidate]] = {}
    for candidate in reversed(usable):
        kinds.setdefault(candidate.seconds.tobytes(), []).append(candidate)
    kind = {one.server: alike for alike in kinds.values() for one in alike}
    cuts, free, looked = 0, list(usable), len(usable)
    while free and len(made) != wanted.count:
        found = wanted.cut(free[:looked])
        if found is None and looked >= len(free):
            break
        if found is None:
            looked *= 2
            continue
        needed = Counter(id(kind[server]) for server, _ in found.stages)
        times = min(len(kind[server]) // needed[id(kind[server])] for server, _ in found.stages)
        for _ in range(min(times, (wanted.count or len(usable)) - len(made))):
            stages = tuple((kind[server].pop().server, held) for server, held in found.stages)
            made.append(Cut(stages, found.seconds))
        left = {id(one) for alike in kinds.values() for one in alike}
        free = [candidate for candidate in free if id(candidate) in left]
        cuts += 1
        if cuts == CUTS:
            looked = min(looked, SEARCHED)
    return made


def _numbers(usable: Sequence[Candidate], wanted: _Wanted, least: int) -> list[int]:
    if wanted.count is not None:
        return [wanted.count]
    held = sum(max(candidate.fits(role) for role in Role) for candidate in usable)
    most = max(1, min(held // wanted.layers, len(usable) // (wanted.stages or 1)))
    spread = np.unique(np.linspace(1, most, NUMBERS).round().astype(int)).tolist()
    return sorted({*spread, max(1, least)})


NOWHERE = -1
"""Place of a server that is in no pipeline."""


class _Search:
    """Sets of pipelines as the number of its pipeline for each server, and their exchange."""

    def __init__(self, usable: Sequence[Candidate], wanted: _Wanted) -> None:
        self._names = {candidate.server: n for n, candidate in enumerate(usable)}
        self._wanted = wanted
        table = offered(wanted.layers, usable)
        # NOWHERE, the last row, is a server that holds nothing.
        self._offers = np.concatenate([table, np.full((1, *table.shape[1:]), np.inf)])
        held = [candidate.fits(role) for candidate in usable for role in Role]
        self._held: Floats = np.array(held, dtype=float).reshape(-1, 4)
        self._optional = wanted.stages is None
        # What a place offers a pipeline: a stage, or where that is allowed nothing at all.
        width = int(self._held.max()) + 1
        self._choices = table[:, :, :width].copy()
        if self._optional:
            self._choices[:, Role.INNER, 0] = 0.0
        pace = np.array([candidate.pace for candidate in usable])
        self.exchanges = WORK // self._choices[:, 0].size // wanted.layers
        self._scale = float((1 / np.maximum(pace, LEAST)).sum())

    # Begins

    def places(self, chosen: Set) -> Ints:
        """Return a set of pipelines as a place for each server."""
        place = np.full(len(self._names), NOWHERE)
        for number, one in enumerate(chosen):
            for server, _ in one.stages:
                place[self._names[server]] = number
        return place

    def begins(self, number: int) -> list[Ints]:
        """Return plain ways to share the servers out: in turn, by what they hold, whole first."""
        whole = np.flatnonzero(self._held[:, Role.WHOLE] > 0)[:number]
        ways = [np.arange(len(self._names)) % number, self._levelled(number, np.empty(0, int))]
        if whole.size and self._optional:
            ways.append(self._levelled(number, whole))
        return [self._limited(place, number) for place in ways]

    def _levelled(self, number: int, alone: Ints) -> Ints:
        """Give the servers that hold most first, each to the pipeline that holds least."""
        place = np.full(len(self._names), NOWHERE)
        place[alone] = np.arange(alone.size)
        if alone.size == number:
            return place
        held, size = np.zeros(number), np.zeros(number)
        held[: alone.size] = np.inf
        rooms = self._held[:, Role.INNER]
        for server in np.argsort(-rooms, kind="stable").tolist():
            if place[server] == NOWHERE:
                open_to = np.where(size < self._wanted.largest, held, np.inf)
                least = int(np.argmin(open_to))
                if not np.isfinite(open_to[least]):
                    break
                place[server] = least
                held[least] += rooms[server]
                size[least] += 1
        return place

    def _limited(self, place: Ints, number: int) -> Ints:
        """Take the last servers out of pipelines that have too many."""
        for one in range(number):
            place[np.flatnonzero(place == one)[self._wanted.largest :]] = NOWHERE
        return place

    # Values

    def value(self, place: Ints, number: int) -> float:
        """Return the rate of a set; below nothing for each pipeline that is none."""
        groups = [np.flatnonzero(place == one) for one in range(number)]
        states = self._grown(self._nothing(number), groups)
        rooms = np.array([self._room(members) for members in groups])
        return float(self._worth(self._whole(states), rooms).sum())

    def _nothing(self, number: int) -> Floats:
        return np.broadcast_to(nothing(self._wanted.layers), (number, 4, self._wanted.layers + 1))

    def _whole(self, states: Floats) -> Floats:
        whole: Floats = states[..., Role.WHOLE, self._wanted.layers]
        return whole

    def _room(self, members: Ints) -> float:
        return float(self._held[members, Role.INNER].sum())

    def _worth(self, seconds: Floats, room: Floats) -> Floats:
        """Return the rate of a pipeline, or how far from one its servers are."""
        missing = np.maximum(self._wanted.layers - room, 0) / self._wanted.layers
        worth = 1 / np.maximum(seconds, LEAST)
        return np.where(np.isfinite(seconds), worth, -self._scale * (1 + missing))

    def _grown(self, states: Floats, groups: Sequence[Ints]) -> Floats:
        """Return each state with the servers of its group as well, (groups, 4, L + 1)."""
        longest = max((group.size for group in groups), default=0)
        padded = np.full((longest, len(groups)), NOWHERE)
        for number, group in enumerate(groups):
            padded[: group.size, number] = group
        for servers in padded:
            more = extended(states, self._offers[servers], self._wanted.join)
            if self._optional:
                states = np.minimum(states, more)
            else:
                states = np.where((servers == NOWHERE)[:, None, None], states, more)
        return states

    def _without(self, groups: Sequence[Ints]) -> Floats:
        """Return the state of each group without a member, for each: halving and halving."""
        parts = [group for group in groups if group.size]
        states = self._nothing(len(parts))
        while any(part.size > 1 for part in parts):
            halves = [np.array_split(part, min(2, part.size)) for part in parts]
            others = [half[::-1] if len(half) == 2 else [half[0][:0]] for half in halves]
            states = np.repeat(states, [len(half) for half in halves], axis=0)
            states = self._grown(states, list(chain.from_iterable(others)))
            parts = list(chain.from_iterable(halves))
        return states

    def _seconds(self, states: Floats) -> Floats:
        """Return what each state takes with each server beside it, (states, C)."""
        width = self._choices.shape[-1]
        # A stage takes what the state leaves: the other ends, the other layers.
        rest = states[:, ::-1, self._wanted.layers - width + 1 :][:, :, ::-1]
        found = [self._wanted.join(one, self._choices).min(axis=(1, 2)) for one in rest]
        return np.array(found).reshape(len(states), len(self._names))

    # Exchange

    def improved(self, place: Ints, number: int, moves: int) -> Ints:
        """Make the best exchange of all until none is left that gains anything."""
        place = place.copy()
        exchange = _Exchange(self, place, number)
        for _ in range(moves):
            if not exchange.step():
                break
        return place

    def states(self, groups: Sequence[Ints]) -> "list[_State]":
        """Return all there is to know of some pipelines."""
        without = self._without(groups)
        parts = np.split(without, np.cumsum([group.size for group in groups])[:-1])
        firsts = [part[0] if len(part) else nothing(self._wanted.layers) for part in parts]
        whole = self._grown(np.stack(firsts), [group[:1] for group in groups])
        return [
            self._state(members, state, part)
            for members, state, part in zip(groups, whole, parts, strict=True)
        ]

    def _state(self, members: Ints, whole: Floats, without: Floats) -> "_State":
        rooms = self._held[:, Role.INNER]
        room = self._room(members)
        left = room - rooms[members]
        full = members.size >= self._wanted.largest
        added = self._worth(self._seconds(whole[None])[0], room + rooms)
        return _State(
            float(self._worth(self._whole(whole), np.array(room))),
            self._worth(self._seconds(without), left[:, None] + rooms),
            self._worth(self._whole(without), left)
            if self._optional
            else np.full(members.size, -np.inf),
            np.full(len(added), -np.inf) if full else added,
        )


@dataclass(frozen=True, slots=True)
class _State:
    """What a pipeline is worth as it is and after every exchange."""

    worth: float
    exchanged: Floats
    """(members, C): with a server in the place of a member."""
    without: Floats
    """(members,): without a member."""
    added: Floats
    """(C,): with a server more."""


class _Exchange:
    """The gain of every move and swap in a set; those of unchanged pipelines are kept."""

    def __init__(self, search: _Search, place: Ints, number: int) -> None:
        self._search = search
        self._place = place
        servers = place.size
        self._worth = np.zeros(number + 1)
        self._exchanged = np.zeros((servers, servers))
        self._without = np.zeros(servers)
        self._added = np.full((number + 1, servers), -np.inf)
        # The last row stands for no pipeline: worth nothing, takes and gives everything.
        self._added[number] = 0.0
        self._look(range(number))

    def _look(self, changed: Iterable[int]) -> None:
        groups = {one: np.flatnonzero(self._place == one) for one in changed}
        for one, state in zip(groups, self._search.states(list(groups.values())), strict=True):
            self._worth[one] = state.worth
            self._exchanged[groups[one]] = state.exchanged
            self._without[groups[one]] = state.without
            self._added[one] = state.added

    def step(self) -> bool:
        """Make the best exchange; tell whether there was one."""
        place, worth = self._place, self._worth
        idle = np.flatnonzero(place == NOWHERE)
        self._exchanged[idle] = 0.0
        self._without[idle] = 0.0
        now = worth[place]
        gain = self._exchanged - now[:, None]
        swaps = gain + gain.T
        swaps[place[:, None] == place] = -np.inf
        moves = (self._without - now)[:, None] + (self._added - worth[:, None]).T
        moves[np.arange(place.size), place] = -np.inf
        swap, move = int(np.argmax(swaps)), int(np.argmax(moves))
        enough = 1e-9 * max(1e-300, float(np.abs(worth).sum()))
        if max(swaps.flat[swap], moves.flat[move]) <= enough:
            return False
        if swaps.flat[swap] >= moves.flat[move]:
            one, other = divmod(swap, place.size)
            changed = {int(place[one]), int(place[other])}
            place[one], place[other] = place[other], place[one]
        else:
            one, target = divmod(move, len(worth))
            goal = NOWHERE if target == len(worth) - 1 else target
            changed = {int(place[one]), goal}
            place[one] = goal
        self._look(sorted(changed - {NOWHERE}))
        return True
