"""Step 4: servers play for subtasks until no server could claim one that would be better off.

The players are the servers, a server's action is the set it claims. An assignment is stable
when no feasible claim raises a claimed subtask's utility by more than a tolerance: the Nash
equilibrium of the subtasks' best responses. With the load of other jobs held fixed the game has
an exact weighted potential (design, section 4), so best response ends.

`terms` is the one definition of the utility: the planner and the extender both call it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from evenkeel_core.problems import (
    NOWHERE,
    Floats,
    Ints,
    Problem,
    allowed,
    room_for,
    transfer,
    units,
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
    best = problem.cost.min(axis=1, initial=np.inf)
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
    cost = float(np.sum(work * problem.cost[placed, where]))
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

    def seconds(self, unit: Ints, assignment: Ints) -> Floats:
        """Return Σ_e d_e of the edges between a unit and the placed rest, per server, (S,).

        O(edges of the unit + S). Members of the unit must be NOWHERE: what they say to one
        another is not counted.
        """
        problem = self._problem
        rows = np.concatenate([np.arange(self._start[t], self._start[t + 1]) for t in unit])
        place = assignment[self._other[rows]]
        rows, place = rows[place != NOWHERE], place[place != NOWHERE]
        if not rows.size:
            return np.zeros(len(problem.servers))
        size = len(problem.servers)
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
        total: Floats = seconds
        return total


class State:
    """An assignment that changes move by move, with all a move needs kept up to date.

    A unit is lifted, priced on every server, and put down again. Prices are shares of P, so
    the difference of two prices is the change of P, and over w_t the gain in utility.
    """

    def __init__(self, problem: Problem, assignment: Ints, *, balance: float, scale: float) -> None:
        self.problem = problem
        self.assignment = np.array(assignment, dtype=np.int64)
        self.load = loads(problem, assignment)
        self.balance = balance
        self.scale = scale
        self._neighbours = Neighbours(problem) if problem.edge.size else None
        cost = np.where(allowed(problem), problem.cost, np.inf)
        self.weighted: Floats = problem.work[:, None] * cost / scale
        self._room = {
            int(unit[0]): room_for(problem, unit) for unit in units(problem) if unit.size > 1
        }

    def lift(self, unit: Ints) -> Ints:
        """Take a unit off its servers and return where it was."""
        places: Ints = self.assignment[unit]
        for member, place in zip(unit.tolist(), places.tolist(), strict=True):
            if place != NOWHERE:
                self.load[place] -= self.problem.work[member]
        self.assignment[unit] = NOWHERE
        return places

    def drop(self, unit: Ints, places: Ints | int) -> None:
        """Put a lifted unit on one server, or each member on its own."""
        self.assignment[unit] = places
        for member, place in zip(unit.tolist(), self.assignment[unit].tolist(), strict=True):
            if place != NOWHERE:
                self.load[place] += self.problem.work[member]

    def prices(self, unit: Ints) -> Floats:
        """Return the share of P of a lifted unit if all of it were on each server, (S,)."""
        work = float(self.problem.work[unit].sum())
        square = work * work + float(np.sum(self.problem.work[unit] ** 2))
        queue = (2.0 * work * self.load + square) / self.problem.rate
        price: Floats = self.weighted[unit].sum(axis=0) + self.balance / 2 * queue
        if unit.size > 1:
            price[~self._room[int(unit[0])]] = np.inf
        if self._neighbours is not None:
            price += self._neighbours.seconds(unit, self.assignment) / self.scale
        return price

    def seat(self, unit: Ints, places: Ints) -> float:
        """Put lifted subtasks down, each on its own server, and return the share of P they have."""
        share = 0.0
        for position, place in enumerate(places.tolist()):
            member = unit[position : position + 1]
            share += float(self.prices(member)[place])
            self.drop(member, place)
        return share

    def respond(self, unit: Ints, tolerance: float = TOLERANCE) -> bool:
        """Give a unit to the server that can do best by it; tell whether it moved.

        Ties go to the lowest number, that is the first server by name.
        """
        places = self.lift(unit)
        prices = self.prices(unit)
        best = int(np.argmin(prices))
        if (places == NOWHERE).any():
            claimed = bool(np.isfinite(prices[best]))
            self.drop(unit, best if claimed else places)
            return claimed
        if unit.size == 1:
            share = float(prices[places[0]])
            self.drop(unit, places)
        else:
            share = self.seat(unit, places)
        if not gains(share, float(prices[best]), tolerance):
            return False
        self.lift(unit)
        self.drop(unit, best)
        return True

    def gain(self, unit: Ints) -> tuple[float, float]:
        """Return the share of P a unit has and the least it could have on one server."""
        places = self.lift(unit)
        least = float(self.prices(unit).min())
        if (places == NOWHERE).any():
            self.drop(unit, places)
            return np.inf, least
        return self.seat(unit, places), least

    def potential(self) -> float:
        """Return P."""
        return potential(self.problem, self.assignment, balance=self.balance, scale=self.scale)


def utilities(
    problem: Problem, assignment: Ints, *, balance: float, scale: float
) -> tuple[Floats, Floats, Floats]:
    """Return the terms of every subtask's utility on every server, all others staying put.

    Each of the three has shape (T, S); -inf in the first where a subtask may not run.
    """
    neighbours = Neighbours(problem)
    place = assignment.copy()
    edges = np.zeros(problem.cost.shape)
    for subtask in np.unique(problem.edge):
        place[subtask] = NOWHERE
        edges[subtask] = neighbours.seconds(subtask[None], place)
        place[subtask] = assignment[subtask]
    placed = np.flatnonzero(assignment != NOWHERE)
    load = np.tile(loads(problem, assignment), (len(problem.subtasks), 1))
    load[placed, assignment[placed]] -= problem.work[placed]
    cost = np.where(allowed(problem), problem.cost, np.inf)
    work = problem.work[:, None]
    return terms(cost, edges, work, load, problem.rate, balance=balance, scale=scale)


def gains(share: float, other: float, tolerance: float = TOLERANCE) -> bool:
    """Tell whether a fall of a share of P from `share` to `other` is more than rounding."""
    return other < share - tolerance * abs(share)


def players(problem: Problem) -> tuple[Ints, ...]:
    """Return the units that may change their server, the heaviest first.

    The heavy ones choose first because they have the fewest places left once the light ones
    sit. A unit with a pinned member stays: it was sized for its servers.
    """
    free = [unit for unit in units(problem) if (problem.pinned[unit] == NOWHERE).all()]
    return tuple(sorted(free, key=lambda unit: (-float(problem.work[unit].sum()), int(unit[0]))))


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
    O(rounds · (T · S + E)), vectorised over servers. Deterministic: heaviest first, ties to the
    lowest number. Each move lowers P by w_t times the gain, so P never rises and the rounds end
    (Monderer & Shapley [1]_).

    References
    ----------
    .. [1] D. Monderer and L. S. Shapley, "Potential games", Games and Economic Behavior 14
       (1996), 124-143, :doi:`10.1006/game.1996.0044`.
    """
    _check(problem, assignment, balance, scale)
    state = State(problem, seated(problem, assignment), balance=balance, scale=scale)
    turn = players(problem)
    history = [state.potential()]
    moves, stable = 0, False
    for _ in range(rounds):
        made = play(state, turn, tolerance)
        moves += made
        history.append(state.potential())
        if not made:
            stable = True
            break
    return Equilibrium(state.assignment, history[-1], stable, moves, tuple(history))


def play(state: State, turn: Iterable[Ints], tolerance: float = TOLERANCE) -> int:
    """Let every unit be claimed once, in turn, and return how many moved."""
    return sum(state.respond(unit, tolerance) for unit in turn)


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
    usable = allowed(problem).any(axis=0)
    load, rate = loads(problem, assignment)[usable], problem.rate[usable]
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
