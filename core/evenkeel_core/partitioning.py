"""Step 3, second half: one feasible set of subtasks a server.

The factors give the start: every subtask goes to the server whose factors suit it at the load
it would find there. Shifts and swaps on the potential of the game improve that start; they
never replace it. What exceeds a server at one time becomes later waves of its queue.
"""

from dataclasses import replace

import numpy as np

from evenkeel_core.factorising import Factors
from evenkeel_core.game import State, gains, play, players, seated
from evenkeel_core.problems import NOWHERE, Array, Floats, Ints, Problem

ITERATIONS = 3
"""Rounds of shifts and swaps: later ones lowered the potential of random problems by less than
0.3 percent."""
TRIES = 3
"""Swaps of one subtask whose edges are looked at; the others are judged without edges."""


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
    O(iterations · T · (S + T)), vectorised over servers and over partners of a swap;
    deterministic.
    """
    begin = start(problem, factors, balance=balance, scale=scale)
    return improve(problem, begin, balance=balance, scale=scale, iterations=iterations)


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
) -> Ints:
    """Return the assignment after rounds of shifts and swaps, until none improves."""
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
    return state.assignment


def swap(state: State, alone: Ints) -> int:
    """Exchange two single subtasks wherever that lowers the potential; return how often."""
    made = 0
    alone = alone[state.assignment[alone] != NOWHERE]
    tries = TRIES if state.problem.edge.size else 1
    for subtask in alone.tolist():
        change = changes(state, subtask, alone)
        best = np.argpartition(change, min(tries, alone.size) - 1)[:tries]
        for other in alone[np.sort(best[change[best] < 0])].tolist():
            if _exchange(state, np.array([subtask, other])):
                made += 1
                break
    return made


def changes(state: State, subtask: int, others: Ints) -> Floats:
    """Return the change of P without edges if a subtask changed places with each of others.

    0 for those on the same server, inf where one may not run in the place of the other.
    """
    work, rate, load = state.problem.work, state.problem.rate, state.load
    here, there = state.assignment[subtask], state.assignment[others]
    row, column = state.weighted[subtask], state.weighted[:, here]
    cost = row[there] - row[here] + column[others] - state.weighted[others, there]
    more = work[others] - work[subtask]
    # λ/2 of the changes of L² + w² on both servers, factored.
    queue = (load[here] + work[others]) / rate[here] - (load[there] + work[subtask]) / rate[there]
    change: Array = cost + state.balance * more * queue
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
