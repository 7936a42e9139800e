"""Step 3, second half: one feasible set of subtasks a server.

The factors give the start: every subtask goes to the server whose factors suit it at the load
it would find there. Shifts and swaps on the potential of the game improve that start; they
never replace it. What exceeds a server at one time becomes later waves of its queue.
"""

from dataclasses import replace

import numpy as np

from evenkeel_core.factorising import Factors
from evenkeel_core.game import State, gains, play, players, seated
from evenkeel_core.problems import NOWHERE, Array, Floats, Ints, Problem, allowed, units

ITERATIONS = 4
"""Rounds of shifts and swaps: a later one rarely finds what three did not."""
TRIES = 3
"""Swaps of one subtask whose edges are looked at; the others are judged without edges."""
ALIKE = 0.02
"""Two potentials this close count as the same, and the smaller span decides."""


def partition(
    problem: Problem,
    factors: Factors,
    *,
    balance: float,
    scale: float,
    iterations: int = ITERATIONS,
) -> Ints:
    """Return one set of subtasks a server, as the server of each subtask, shape (T,).

    Parameters
    ----------
    problem : Problem
    factors : Factors
        From `factorising.factorise` of the same problem.
    balance, scale : float
        λ and ĉ of the utility.
    iterations : int
        Rounds of shifts and swaps at most; 0 returns the start.

    Returns
    -------
    ndarray, shape (T,)
        Pins and coupled sets honoured; NOWHERE for a subtask that may run on no server.

    Notes
    -----
    Two starts are improved: from the factors, and level in the time that resources are busy.
    The one with the lower potential is taken or, where both are alike in it, the one that is
    done sooner. O(iterations · T · (S + T)), vectorised; deterministic.
    """
    found = [
        improve(problem, begin, balance=balance, scale=scale, iterations=iterations)
        for begin in (
            start(problem, factors, balance=balance, scale=scale),
            level(problem),
        )[: 2 if iterations else 1]
    ]
    least = min(value for _, value in found)
    alike = [assignment for assignment, value in found if value <= least + ALIKE * abs(least)]
    return min(alike, key=lambda assignment: float(spans(problem, assignment).max(initial=0.0)))


def start(problem: Problem, factors: Factors, *, balance: float, scale: float) -> Ints:
    """Return the starting partition by the factors' costs, shape (T,).

    Heaviest first, each unit to the server whose factors suit it best at the load found there;
    O(T · S).
    """
    guess = replace(problem, cost=estimated(problem, factors))
    nowhere = np.full(len(problem.subtasks), NOWHERE, dtype=np.int64)
    state = State(guess, seated(problem, nowhere), balance=balance, scale=scale)
    play(state, players(problem))
    for unit in players(problem):
        if (state.assignment[unit] == NOWHERE).any():
            _spread(state, unit)
    return state.assignment


def estimated(problem: Problem, factors: Factors) -> Floats:
    """Return the cost matrix with unmeasured compute from the factors, shape (T, S).

    Load times stay as they are; inf stays inf.
    """
    finite = np.isfinite(problem.cost)
    cost, compute = np.where(finite, problem.cost, 0.0), np.where(finite, problem.compute, 0.0)
    return np.where(finite, cost - compute + factors.completed, np.inf)


def _spread(state: State, unit: Ints) -> None:
    """Seat a coupled set that no single server holds, member by member where the rest fits."""
    problem = state.problem
    state.lift(unit)
    room = problem.capacity.copy()
    for position in range(unit.size):
        member = unit[position : position + 1]
        needed = problem.demand[member[0]][problem.kind]
        prices = np.where((needed <= room).all(axis=1), state.prices(member), np.inf)
        best = int(np.argmin(prices))
        if not np.isfinite(prices[best]):
            state.lift(unit)  # a set is never seated in part
            return
        state.drop(member, best)
        room[best] -= needed[best]


def level(problem: Problem) -> Ints:
    """Return a partition that keeps the servers busy for equally long, shape (T,).

    Longest first, each to the server that is then done first, counting how long its resources
    are busy. The yardstick of `partition`: it looks at capacity, which the potential does not.
    """
    cost = np.where(allowed(problem), problem.cost, np.inf)
    assignment = np.full(len(problem.subtasks), NOWHERE, dtype=np.int64)
    size = np.maximum(problem.capacity, 1)
    busy = np.zeros(problem.capacity.shape)
    single = {int(unit[0]) for unit in units(problem) if unit.size == 1}
    for subtask in np.argsort(-cost.min(axis=1), kind="stable").tolist():
        if subtask not in single or not np.isfinite(cost[subtask]).any():
            continue
        seconds = cost[subtask]
        reachable = np.flatnonzero(np.isfinite(seconds))
        share = problem.demand[subtask][problem.kind[reachable]] / size[reachable]
        after = busy[reachable] + seconds[reachable, None] * share
        done = np.maximum(after.max(axis=1), seconds[reachable])
        best = int(np.argmin(done))
        assignment[subtask] = reachable[best]
        busy[reachable[best]] = after[best]
    return seated(problem, assignment)


def spans(problem: Problem, assignment: Ints) -> Floats:
    """Return how long each server needs for its set at least, seconds, shape (S,).

    The busiest resource's time, were it always full, or the longest subtask.
    """
    placed = np.flatnonzero(assignment != NOWHERE)
    where = assignment[placed]
    seconds = problem.cost[placed, where]
    taken = problem.demand[placed, problem.kind[where]] * seconds[:, None]
    busy = np.zeros(problem.capacity.shape)
    np.add.at(busy, where, taken)
    longest = np.zeros(len(problem.servers))
    np.maximum.at(longest, where, seconds)
    full = (busy / np.maximum(problem.capacity, 1)).max(axis=1, initial=0.0)
    least: Floats = np.maximum(full, longest)
    return least


def improve(
    problem: Problem, assignment: Ints, *, balance: float, scale: float, iterations: int
) -> tuple[Ints, float]:
    """Return a partition that no shift or swap found improves, and its potential."""
    state = State(problem, seated(problem, assignment), balance=balance, scale=scale)
    turn = players(problem)
    alone = np.array([unit[0] for unit in turn if unit.size == 1], dtype=np.int64)
    for _ in range(iterations):
        moved = play(state, turn)
        if not moved + swap(state, alone):
            break
    for unit in turn:
        if unit.size > 1 and (state.assignment[unit] == NOWHERE).any():
            _spread(state, unit)
    return state.assignment, state.potential()


def swap(state: State, alone: Ints) -> int:
    """Exchange two single subtasks wherever that lowers the potential; return how often."""
    made = 0
    alone = alone[state.assignment[alone] != NOWHERE]
    for subtask in alone.tolist():
        change = changes(state, subtask, alone)
        for other in alone[np.argsort(change, kind="stable")[:TRIES]].tolist():
            if state.assignment[other] == state.assignment[subtask]:
                break
            if _exchange(state, np.array([subtask, other])):
                made += 1
                break
            if not state.problem.edge.size:
                break
    return made


def changes(state: State, subtask: int, others: Ints) -> Floats:
    """Return the change of P without edges if a subtask changed places with each of others.

    0 for those on the same server, inf where one may not run in the place of the other.
    """
    problem, cost = state.problem, state.weighted
    here, there = state.assignment[subtask], state.assignment[others]
    own, theirs = problem.work[subtask], problem.work[others]
    seconds = cost[subtask, there] + cost[others, here] - cost[subtask, here] - cost[others, there]
    more = theirs - own
    left = ((2 * state.load[here] + more) * more + theirs**2 - own**2) / problem.rate[here]
    right = ((2 * state.load[there] - more) * more + theirs**2 - own**2) / problem.rate[there]
    change: Array = seconds + state.balance / 2 * (left - right)
    return np.where(there == here, 0.0, change)


def _exchange(state: State, pair: Ints) -> bool:
    """Let two subtasks change places if that lowers P."""
    places = state.lift(pair)
    before = state.seat(pair, places)
    state.lift(pair)
    after = state.seat(pair, places[::-1])
    if gains(before, after):
        return True
    state.lift(pair)
    state.drop(pair, places)
    return False


def total_cost(problem: Problem, assignment: Ints) -> float:
    """Return Σ c_{t,a(t)} in seconds over the subtasks that have a server."""
    placed = np.flatnonzero(assignment != NOWHERE)
    return float(problem.cost[placed, assignment[placed]].sum())
