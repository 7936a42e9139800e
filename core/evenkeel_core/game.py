"""Step 4: servers play for subtasks until no server could claim one that would be better off.

The players are the servers, a server's action is the set it claims. An assignment is stable
when no feasible claim raises a claimed subtask's utility by more than a tolerance: the Nash
equilibrium of the subtasks' best responses. With the load of other jobs held fixed the game has
an exact weighted potential (design, section 4), so best response ends.

`terms` is the one definition of the utility: the planner and the extender both call it.

A server's load is all that tells it from others of its kind, so a best response asks the least
loaded server of each kind, and those that hold a neighbour: O(kinds), not O(servers).
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from evenkeel_core.problems import (
    NOWHERE,
    Floats,
    Ints,
    Mask,
    Problem,
    allowed,
    blocks,
    coupled,
    room_for,
    sort_of,
    transfer,
    usable,
)

TOLERANCE = 1e-9
"""Relative gain in utility that counts as none: far below any difference in seconds that could
matter, far above the rounding of the sums."""
ROUNDS = 100
"""Passes over all subtasks; random plans of thousands of subtasks were stable after ten."""
DOUBLINGS = 10
"""Of λ at most: beyond a thousandfold, cost no longer counts and nothing more changes."""


@dataclass(frozen=True, slots=True)
class Equilibrium:
    """Where best response ended."""

    assignment: Ints
    """(T,) server of each subtask; NOWHERE where no server may run it."""
    potential: float
    """P at the end."""
    stable: bool
    """No claim improves any more; false only when the rounds ran out."""
    moves: int
    """Improving moves made."""
    history: tuple[float, ...]
    """P at the start and after each round; never rises once every subtask has a server."""


def terms(
    cost: Floats,
    edges: Floats,
    work: float | Floats,
    load: Floats,
    rate: Floats,
    *,
    balance: float,
    scale: float,
) -> tuple[Floats, Floats, Floats]:
    """Return the three terms of the utility of one subtask on each server; each is <= 0.

    Elementwise: with `work` of shape (T, 1) and the others (T, S), for all subtasks at once.

    Parameters
    ----------
    cost : ndarray, shape (S,)
        Seconds of the subtask on each server; inf where it may not run.
    edges : ndarray, shape (S,)
        Seconds its edges take to the places of its neighbours.
    work : float
        w_t, reference seconds, > 0.
    load : ndarray, shape (S,)
        L_i without the subtask, reference seconds.
    rate : ndarray, shape (S,)
        R_i, reference seconds per second.
    balance : float
        λ, per second: what a second of queue counts.
    scale : float
        ĉ, seconds.

    Returns
    -------
    tuple of ndarray
        The cost, edge and load terms, each of shape (S,), without unit.
    """
    return -cost / scale, -edges / (scale * work), -balance * (load + work) / rate


def scale_of(problem: Problem) -> float:
    """Return ĉ: the median over subtasks of the cost on their best server, in seconds.

    With λ = 1/ĉ a second of queue counts as much as a second of cost, and the utility is the
    negative of the predicted completion in units of ĉ.
    """
    best = problem.seconds.min(axis=1, initial=np.inf)[problem.row]
    best = best[np.isfinite(best) & (best > 0)]
    return float(np.median(best)) if best.size else 1.0


def loads(problem: Problem, assignment: Ints) -> Floats:
    """Return L_i with the assigned subtasks, reference seconds, shape (S,)."""
    placed = assignment != NOWHERE
    own = np.bincount(
        assignment[placed], weights=problem.work[placed], minlength=len(problem.servers)
    )
    return problem.load + own


def edge_seconds(problem: Problem, assignment: Ints) -> Floats:
    """Return d_e of every edge, shape (E,); 0 where an end has no server yet."""
    source, target = assignment[problem.edge[:, 0]], assignment[problem.edge[:, 1]]
    seconds = transfer(problem, source, target, problem.edge_bytes)
    return np.where((source == NOWHERE) | (target == NOWHERE), 0.0, seconds)


def potential(problem: Problem, assignment: Ints, *, balance: float, scale: float) -> float:
    """Return P, the exact weighted potential of the game (design, section 4).

    A move that raises a subtask's utility by g lowers P by w_t·g.
    """
    placed = np.flatnonzero(assignment != NOWHERE)
    where, work = assignment[placed], problem.work[placed]
    cost = float(np.sum(work * problem.cost_at(placed, where)))
    edges = float(np.sum(edge_seconds(problem, assignment)))
    square = float(np.sum(loads(problem, assignment) ** 2 / problem.rate))
    square += float(np.sum(work**2 / problem.rate[where]))
    return (cost + edges) / scale + balance / 2 * square


class Neighbours:
    """The edges of a problem by subtask, and the seconds they take to every server."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        ends = np.concatenate([problem.edge, problem.edge[:, ::-1]])
        order = np.argsort(ends[:, 0], kind="stable")
        self._other = ends[order, 1]
        self._bytes = np.concatenate([problem.edge_bytes, problem.edge_bytes])[order]
        self._start = np.searchsorted(ends[order, 0], np.arange(len(problem.subtasks) + 1))
        # Two servers talk at the smaller bandwidth of both: with the servers in order of
        # bandwidth the sum over all places is a cumulative sum, not a table of pairs.
        self._order = np.argsort(problem.link_bandwidth, kind="stable")

    def of(self, unit: Ints) -> Ints:
        """Return the subtasks a unit has edges with, one entry an edge."""
        found: Ints = self._other[self._edges(unit)]
        return found

    def has_edges(self, unit: Ints) -> bool:
        """Tell whether any edge ends at a unit."""
        return bool((self._start[unit + 1] > self._start[unit]).any())

    def _edges(self, unit: Ints) -> Ints:
        if unit.size == 1:
            return np.arange(self._start[unit[0]], self._start[unit[0] + 1])
        return np.concatenate([np.arange(self._start[t], self._start[t + 1]) for t in unit])

    def seconds(self, unit: Ints, assignment: Ints, servers: Ints | None = None) -> Floats:
        """Return Σ_e d_e of the edges between a unit and the placed rest, per server.

        Of every server, (S,), in O(edges of the unit + S), or of some in O(edges x servers) where
        that is less. Members of the unit must be NOWHERE: what they say to one another is not
        counted.
        """
        problem = self._problem
        rows = self._edges(unit)
        place = assignment[self._other[rows]]
        rows, place = rows[place != NOWHERE], place[place != NOWHERE]
        size = len(problem.servers)
        asked = size if servers is None else servers.size
        if not rows.size:
            return np.zeros(asked)
        if servers is not None and rows.size * asked <= size:
            each = transfer(problem, place[:, None], servers, self._bytes[rows, None])
            summed: Floats = each.sum(axis=0)
            return summed
        moved = np.bincount(place, weights=self._bytes[rows], minlength=size)
        count = np.bincount(place, minlength=size)
        latency = problem.link_latency
        seconds = (rows.size - count) * latency + (count @ latency - count * latency)
        bandwidth, moved = problem.link_bandwidth[self._order], moved[self._order]
        slower = np.cumsum(moved / bandwidth)
        faster = np.cumsum(moved[::-1])[::-1]
        # Both sums without the server itself, which would talk to nobody over the wire.
        seconds[self._order[1:]] += slower[:-1]
        seconds[self._order[:-1]] += faster[1:] / bandwidth[:-1]
        total: Floats = seconds if servers is None else seconds[servers]
        return total


class State:
    """An assignment that changes move by move, with all a move needs kept up to date.

    A unit is lifted, priced, and put down again. Prices are shares of P, so the difference of two
    prices is the change of P, and over w_t the gain in utility.
    """

    def __init__(self, problem: Problem, assignment: Ints, *, balance: float, scale: float) -> None:
        self.problem = problem
        self.assignment = np.array(assignment, dtype=np.int64)
        self.load = loads(problem, assignment)
        self.balance = balance
        self.scale = scale
        sets, alone = coupled(problem)
        self.sets = tuple(unit for unit in sets if (problem.pinned[unit] == NOWHERE).all())
        free = alone[problem.pinned[alone] == NOWHERE]
        self.alone = free[np.argsort(-problem.work[free], kind="stable")]
        self._room = {int(unit[0]): room_for(problem, unit) for unit in self.sets}
        self._neighbours = Neighbours(problem) if problem.edge.size else None
        self.turn = _turn(problem, self.alone, self.sets)

        # Servers that differ in nothing but their load.
        figures = [problem.rate]
        if self._neighbours is not None:
            figures += [problem.link_bandwidth, problem.link_latency]
        if sets:
            figures += list(problem.capacity.T)
        self._sort, first = sort_of(problem, *figures)
        kinds = problem.kind[first]
        every = np.arange(problem.seconds.shape[1])
        self._columns = None if np.array_equal(kinds, every) else kinds
        # λ·ĉ/R: the seconds of cost that a unit of queue is worth.
        self._slope = balance * scale / problem.rate[first]
        self._queues: list[list[tuple[float, int]]] = [[] for _ in first]
        order = np.argsort(self.load, kind="stable")
        for sort, *entry in zip(
            self._sort[order].tolist(), self.load[order].tolist(), order.tolist(), strict=True
        ):
            self._queues[sort].append((entry[0], entry[1]))
        self._head = np.array([queue[0][1] for queue in self._queues], dtype=np.int64)
        self._wait = self._slope * self.load[self._head]

    def _changed(self, server: int) -> None:
        """Find the least loaded server of a kind anew after the load of one has changed."""
        sort, load = self._sort[server], self.load
        queue = self._queues[sort]
        entry = float(load[server]), server
        if queue[0][1] == server:
            heapq.heapreplace(queue, entry)
        else:
            heapq.heappush(queue, entry)
        least, head = queue[0]
        while load[head] != least:
            heapq.heappop(queue)
            least, head = queue[0]
        self._head[sort] = head
        self._wait[sort] = self._slope[sort] * least

    def lift(self, unit: Ints) -> Ints:
        """Take a unit off its servers and return where it was."""
        places: Ints = self.assignment[unit]
        for member, place in zip(unit.tolist(), places.tolist(), strict=True):
            if place != NOWHERE:
                self.load[place] -= self.problem.work[member]
                self._changed(place)
        self.assignment[unit] = NOWHERE
        return places

    def drop(self, unit: Ints, places: Ints | int) -> None:
        """Put a lifted unit on one server, or each member on its own."""
        self.assignment[unit] = places
        for member, place in zip(unit.tolist(), self.assignment[unit].tolist(), strict=True):
            if place != NOWHERE:
                self.load[place] += self.problem.work[member]
                self._changed(place)

    def prices(self, unit: Ints, servers: Ints | None = None) -> Floats:
        """Return the share of P of a lifted unit if all of it were on each of some servers.

        Of every server, (S,), where none are named.
        """
        problem = self.problem
        servers = np.arange(len(problem.servers)) if servers is None else servers
        own = problem.work[unit]
        work = float(own.sum())
        cost = own @ problem.seconds[problem.row[unit][:, None], problem.kind[servers]]
        square = work * work + float(own @ own)
        queue = (2.0 * work * self.load[servers] + square) / problem.rate[servers]
        price: Floats = cost / self.scale + self.balance / 2 * queue
        if unit.size > 1:
            price[~self._room[int(unit[0])][servers]] = np.inf
        if self._neighbours is not None:
            edges = self._neighbours.seconds(unit, self.assignment, servers)
            price += edges / self.scale
        return price

    def _best(self, unit: Ints) -> tuple[int, float]:
        """Return the server that can do best by a lifted unit, the first of equals, and the price.

        The least loaded of each kind stands for its kind, but for servers that hold a neighbour:
        to those less is moved.
        """
        servers = self._head
        if self._neighbours is not None and self._neighbours.has_edges(unit):
            hosts = self.assignment[self._neighbours.of(unit)]
            servers = np.unique(np.concatenate([servers, hosts[hosts != NOWHERE]]))
        prices = self.prices(unit, servers)
        least = prices.min()
        return int(servers[prices == least].min()), float(least)

    def seat(self, unit: Ints, places: Ints) -> float:
        """Put lifted subtasks down, each on its own server, and return the share of P they have."""
        share = 0.0
        for position in range(unit.size):
            member = unit[position : position + 1]
            share += float(self.prices(member, places[position : position + 1])[0])
            self.drop(member, int(places[position]))
        return share

    def respond(self, unit: Ints, tolerance: float = TOLERANCE) -> bool:
        """Give a unit to the server that can do best by it; tell whether it moved.

        Ties go to the lowest number, that is the first server by name.
        """
        places = self.lift(unit)
        best, least = self._best(unit)
        if (places == NOWHERE).any():
            claimed = bool(np.isfinite(least))
            self.drop(unit, best if claimed else places)
            return claimed
        if unit.size == 1:
            share = float(self.prices(unit, places)[0])
            self.drop(unit, places)
        else:
            share = self.seat(unit, places)
        if not gains(share, least, tolerance):
            return False
        self.lift(unit)
        self.drop(unit, best)
        return True

    def gain(self, unit: Ints) -> tuple[float, float]:
        """Return the share of P a unit has and the least it could have on one server.

        Asks every server, not the heads of kinds: this is what an equilibrium is checked by.
        """
        places = self.lift(unit)
        least = float(self.prices(unit).min())
        if (places == NOWHERE).any():
            self.drop(unit, places)
            return np.inf, least
        return self.seat(unit, places), least

    def adopt(self, problem: Problem, assignment: Ints) -> None:
        """Go on with other subtasks on the same servers, none of them coupled or with edges."""
        before = self.load
        self.problem = problem
        self.assignment = np.array(assignment, dtype=np.int64)
        self.load = loads(problem, assignment)
        self.alone = np.flatnonzero(problem.pinned == NOWHERE)
        self.alone = self.alone[np.argsort(-problem.work[self.alone], kind="stable")]
        self.turn = _turn(problem, self.alone, ())
        for server in np.flatnonzero(self.load != before).tolist():
            self._changed(server)

    def settle(self, rose: Iterable[int], fell: Iterable[int], tolerance: float = TOLERANCE) -> int:
        """Go from an equilibrium to the next after a small change; return how many moved.

        What is nowhere is claimed. Of the others, those are asked that could want to move: where
        load has risen, and to where it fell. O(T) a move.

        Parameters
        ----------
        rose, fell : iterable of int
            Servers whose load rose or fell since the equilibrium.
        """
        rising, falling = set(rose), set(fell)
        keen = self.alone[self.assignment[self.alone] == NOWHERE]
        moved = 0
        again: set[int] = set()
        while True:
            for subtask in keen:
                place = int(self.assignment[subtask])
                if self.answer(subtask[None], tolerance):
                    moved += 1
                    rising.add(int(self.assignment[subtask]))
                    falling |= ({place} - {NOWHERE}) | again
            again = set()
            if rising:
                server = min(rising)
                rising.remove(server)
                keen = self.eager(self.alone[self.assignment[self.alone] == server], tolerance)
            elif falling:
                # One at a time: whoever takes the place leaves less of it to the others.
                server = min(falling)
                falling.remove(server)
                keen, again = self._drawn(server, tolerance), {server}
            else:
                return moved

    def _drawn(self, server: int, tolerance: float) -> Ints:
        """Return the subtask alone that gains most by moving to a server, if any gains at all."""
        alone, place = self.alone, self.assignment[self.alone]
        here = self.problem.cost_at(alone, place)
        here += self._slope[self._sort[place]] * self.load[place]
        slope = self._slope[self._sort[server]]
        there = self.problem.cost_at(alone, server)
        there += slope * (self.load[server] + self.problem.work[alone])
        drawn: Mask = (place != NOWHERE) & (place != server) & gains(here, there, tolerance)
        chosen = np.flatnonzero(drawn)
        fall = self.problem.work[alone[chosen]] * (here[chosen] - there[chosen])
        most: Ints = alone[chosen[np.argsort(-fall, kind="stable")[:1]]]
        return most

    def exchange(self, one: int, other: int) -> bool:
        """Let two subtasks that stand alone change places if that lowers P; tell whether."""
        if self._neighbours is None:
            return self._exchange_plain(one, other)
        pair = np.array([one, other])
        places = self.lift(pair)
        before = self.seat(pair, places)
        self.lift(pair)
        after = self.seat(pair, places[::-1])
        if gains(before, after):
            return True
        self.lift(pair)
        self.drop(pair, places)
        return False

    def _exchange_plain(self, one: int, other: int) -> bool:
        """Do what `exchange` does where there are no edges."""
        work, load = self.problem.work, self.load
        here, there = int(self.assignment[one]), int(self.assignment[other])
        own, theirs = float(work[one]), float(work[other])
        cost = self.problem.cost_at(np.array([[one], [other]]), np.array([here, there]))
        slope, slope_there = self._slope[self._sort[[here, there]]].tolist()
        queue, queue_there = slope * float(load[here]), slope_there * float(load[there])
        # In seconds of cost times work, without what is the same before and after.
        before = own * (cost[0, 0] + queue) + theirs * (cost[1, 1] + queue_there)
        after = own * (cost[0, 1] + queue_there) + theirs * (cost[1, 0] + queue)
        more = theirs - own
        after += more * (slope * theirs - slope_there * own)
        if here == there or not gains(before, after):
            return False
        self.assignment[one], self.assignment[other] = there, here
        load[here] += more
        load[there] -= more
        self._changed(here)
        self._changed(there)
        return True

    def potential(self) -> float:
        """Return P."""
        return potential(self.problem, self.assignment, balance=self.balance, scale=self.scale)

    # Subtasks that stand alone and have no edges, many at a time

    def _costs(self, subtasks: Ints) -> Floats:
        """Return the seconds of subtasks on each sort of server, (subtasks, sorts)."""
        seconds = self.problem.seconds[self.problem.row[subtasks]]
        return seconds if self._columns is None else seconds[:, self._columns]

    def eager(self, subtasks: Ints, tolerance: float = TOLERANCE) -> Ints:
        """Return which of some subtasks without edges would be better off elsewhere, or anywhere.

        O(subtasks x kinds), all of them at once.
        """
        work, place = self.problem.work[subtasks], self.assignment[subtasks]
        lost = place == NOWHERE
        offers = self._costs(subtasks)
        offers += self._wait
        offers += work[:, None] * self._slope
        least = offers.min(axis=1)
        here = np.where(lost, 0.0, self.problem.cost_at(subtasks, place))
        here += self._slope[self._sort[place]] * self.load[place]
        keen: Mask = np.where(lost, least < np.inf, gains(here, least, tolerance))
        return subtasks[keen]

    def answer(self, subtasks: Ints, tolerance: float = TOLERANCE) -> int:
        """Let each of some subtasks without edges be claimed, in turn; return how many moved.

        What `respond` does for each, in O(K) with little beside.
        """
        made = 0
        for block in blocks(subtasks.size, self._slope.size):
            chosen = subtasks[block]
            work, place = self.problem.work[chosen], self.assignment[chosen]
            offers = self._costs(chosen) + work[:, None] * self._slope
            cost, slope = self.problem.cost_at(chosen, place), self._slope[self._sort[place]]
            for subtask, own, here, fixed, steep, offer in zip(
                chosen.tolist(),
                work.tolist(),
                place.tolist(),
                cost.tolist(),
                slope.tolist(),
                offers,
                strict=True,
            ):
                offer += self._wait
                sort = int(offer.argmin())
                least = float(offer[sort])
                if here == NOWHERE:
                    if least == np.inf:
                        continue
                elif not gains(fixed + steep * float(self.load[here]), least, tolerance):
                    continue
                else:
                    self.load[here] -= own
                    self._changed(here)
                best = int(self._head[sort])
                if offer.size - 1 - int(offer[::-1].argmin()) != sort:
                    best = int(self._head[offer == least].min())
                self.assignment[subtask] = best
                self.load[best] += own
                self._changed(best)
                made += 1
        return made


def utilities(
    problem: Problem,
    assignment: Ints,
    *,
    balance: float,
    scale: float,
    subtasks: Ints | None = None,
) -> tuple[Floats, Floats, Floats]:
    """Return the terms of subtasks' utility on every server, all others staying put.

    Of all subtasks where none are named. Each of the three has shape (subtasks, S); -inf in the
    first where a subtask may not run.
    """
    chosen = np.arange(len(problem.subtasks)) if subtasks is None else subtasks
    edges = np.zeros((chosen.size, len(problem.servers)))
    if problem.edge.size:
        neighbours, place = Neighbours(problem), assignment.copy()
        for position, subtask in enumerate(chosen.tolist()):
            place[subtask] = NOWHERE
            edges[position] = neighbours.seconds(chosen[position : position + 1], place)
            place[subtask] = assignment[subtask]
    load = np.tile(loads(problem, assignment), (chosen.size, 1))
    placed = np.flatnonzero(assignment[chosen] != NOWHERE)
    load[placed, assignment[chosen[placed]]] -= problem.work[chosen[placed]]
    cost = np.where(allowed(problem, chosen), problem.cost_at(chosen[:, None], slice(None)), np.inf)
    work = problem.work[chosen][:, None]
    return terms(cost, edges, work, load, problem.rate, balance=balance, scale=scale)


def gains(share: Any, other: Any, tolerance: float = TOLERANCE) -> Any:
    """Tell whether a fall of a share of P from `share` to `other` is more than rounding."""
    return other < share - tolerance * abs(share)


def players(problem: Problem) -> tuple[Ints, ...]:
    """Return the units that may change their server, the heaviest first.

    The heavy ones choose first because they have the fewest places left once the light ones
    sit. A unit with a pinned member stays: it was sized for its servers.
    """
    sets, alone = coupled(problem)
    free = [unit for unit in sets if (problem.pinned[unit] == NOWHERE).all()]
    free += list(alone[problem.pinned[alone] == NOWHERE][:, None])
    return tuple(sorted(free, key=lambda unit: (-float(problem.work[unit].sum()), int(unit[0]))))


Stretch = tuple[bool, Ints]
"""True and many subtasks of one turn, each alone and without edges; or false and one unit."""


def _turn(problem: Problem, alone: Ints, sets: Sequence[Ints]) -> tuple[Stretch, ...]:
    """Return the players in their order, the plain ones together as far as that goes."""
    if not sets and not problem.edge.size:
        return ((True, alone),) if alone.size else ()
    edged = np.zeros(len(problem.subtasks), dtype=bool)
    edged[problem.edge] = True
    stretches: list[Stretch] = []
    for plain, run in groupby(players(problem), lambda u: u.size == 1 and not edged[u[0]]):
        found = list(run)
        stretches += [(True, np.concatenate(found))] if plain else [(False, u) for u in found]
    return tuple(stretches)


def seated(problem: Problem, assignment: Ints) -> Ints:
    """Return a copy of the assignment with every pinned subtask on its server."""
    return np.where(problem.pinned == NOWHERE, assignment, problem.pinned)


def equilibrium(
    problem: Problem,
    assignment: Ints,
    *,
    balance: float,
    scale: float,
    rounds: int = ROUNDS,
    tolerance: float = TOLERANCE,
) -> Equilibrium:
    """Let the servers claim subtasks, one best response after the other, until none improves.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        Where to start; not changed. What is NOWHERE is claimed in the first round.
    balance, scale : float
        λ and ĉ of the utility, both > 0 (λ may be 0).
    rounds : int
        Passes over all subtasks at most.
    tolerance : float
        ε: a gain in utility up to this fraction of it is none.

    Returns
    -------
    Equilibrium

    Raises
    ------
    ValueError
        If an argument has the wrong shape or sign.

    Notes
    -----
    O(rounds · (T · K + E)) and O(log S) a move, K the sorts of servers that differ in more than
    load. Deterministic: heaviest first, ties to the lowest number. Each move lowers P by w_t
    times the gain, so P never rises and the rounds end (Monderer & Shapley [1]_).

    References
    ----------
    .. [1] D. Monderer and L. S. Shapley, "Potential games", Games and Economic Behavior 14
       (1996), 124-143, :doi:`10.1006/game.1996.0044`.
    """
    _check(problem, assignment, balance, scale)
    state = State(problem, seated(problem, assignment), balance=balance, scale=scale)
    history = [state.potential()]
    moves, stable = 0, False
    for _ in range(rounds):
        made = play(state, tolerance)
        moves += made
        history.append(state.potential())
        if not made:
            stable = True
            break
    return Equilibrium(state.assignment, history[-1], stable, moves, tuple(history))


TOGETHER = 256
"""Plain subtasks that are asked together whether they would be better off elsewhere: one that
only the moves of these make so is asked again in the next round."""


def play(state: State, tolerance: float = TOLERANCE) -> int:
    """Let every unit be claimed once, in turn, and return how many moved."""
    moved = 0
    for plain, unit in state.turn:
        if not plain:
            moved += state.respond(unit, tolerance)
            continue
        for at in range(0, unit.size, TOGETHER):
            together = unit[at : at + TOGETHER]
            if (state.assignment[together] != NOWHERE).any():
                together = state.eager(together, tolerance)
            moved += state.answer(together, tolerance)
    return moved


def is_stable(
    problem: Problem,
    assignment: Ints,
    *,
    balance: float,
    scale: float,
    tolerance: float = TOLERANCE,
) -> bool:
    """Tell whether no feasible claim raises a unit's utility by more than the tolerance."""
    state = State(problem, assignment, balance=balance, scale=scale)
    return not any(gains(*state.gain(unit), tolerance) for unit in players(problem))


def imbalance(problem: Problem, assignment: Ints) -> float:
    """Return the largest relative load over the capacity-weighted mean; 1 is level.

    Only servers that may run some subtask count: nothing can level the others.
    """
    some = usable(problem)
    load, rate = loads(problem, assignment)[some], problem.rate[some]
    total = float(load.sum())
    return float((load / rate).max()) * float(rate.sum()) / total if total > 0 else 1.0


def adjust(
    problem: Problem,
    start: Equilibrium,
    *,
    balance: float,
    scale: float,
    band: float,
    doublings: int = DOUBLINGS,
) -> tuple[Equilibrium, float]:
    """Double λ until the largest relative load is within the band, or no doubling is left.

    Parameters
    ----------
    problem : Problem
    start : Equilibrium
        The state reached with `balance`.
    balance, scale : float
        λ to start from, > 0, and ĉ.
    band : float
        Largest relative load over the mean that is wanted, >= 1, for instance 1.5.
    doublings : int
        At most.

    Returns
    -------
    tuple of Equilibrium and float
        The first state within the band and its λ; where none is (`imbalance` tells), the most
        level state found.
    """
    if band < 1:
        raise ValueError("`band` must be at least 1")
    best, chosen, current = start, balance, start
    level = imbalance(problem, best.assignment)
    for _ in range(doublings):
        if level <= band:
            break
        balance *= 2
        current = equilibrium(problem, current.assignment, balance=balance, scale=scale)
        now = imbalance(problem, current.assignment)
        if now < level:
            best, chosen, level = current, balance, now
    return best, chosen


def _check(problem: Problem, assignment: Ints, balance: float, scale: float) -> None:
    if assignment.shape != (len(problem.subtasks),):
        raise ValueError(f"`assignment` must have shape ({len(problem.subtasks)},)")
    if not balance >= 0:
        raise ValueError("`balance` must be at least 0")
    if not scale > 0:
        raise ValueError("`scale` must be positive")
