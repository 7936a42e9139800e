"""Step 3, second half: one feasible set of subtasks a server.

The factors give the start: every subtask goes to the server whose factors suit it at the load
it would find there. Shifts and swaps on the potential of the game improve that start; they
never replace it. What exceeds a server at one time becomes later waves of its queue.
"""

from dataclasses import replace

import numpy as np

from evenkeel_core.factorising import Factors
from evenkeel_core.game import State, play, seated
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
    O(iterations · T · (K + partners of a swap)), vectorised over both; deterministic.
    """
    begin = start(problem, factors, balance=balance, scale=scale)
    return improve(problem, begin, balance=balance, scale=scale, iterations=iterations)


def start(problem: Problem, factors: Factors, *, balance: float, scale: float) -> Ints:
    """Return the starting partition by the factors' costs, shape (T,).

    Heaviest first, each unit to the server whose factors suit it best at the load found there;
    O(T · K).
    """
    guess = estimated(problem, factors)
    nowhere = np.full(len(problem.subtasks), NOWHERE, dtype=np.int64)
    state = State(guess, seated(problem, nowhere), balance=balance, scale=scale)
    play(state)
    _spread_lost(state)
    return state.assignment


def estimated(problem: Problem, factors: Factors) -> Problem:
    """Return the problem with unmeasured compute from the factors.

    Load times stay as they are; inf stays inf.
    """
    if factors.computing is problem.computing:
        return problem
    seconds = problem.seconds.copy()
    filled = np.flatnonzero(factors.computing != problem.computing)
    seconds.flat[filled] += factors.computing.flat[filled] - problem.computing.flat[filled]
    return replace(problem, seconds=seconds, computing=factors.computing)


def _spread_lost(state: State) -> None:
    """Spread the coupled sets that have no server: no single one holds them."""
    for unit in state.sets:
        if (state.assignment[unit] == NOWHERE).any():
            _spread(state, unit)


def _spread(state: State, unit: Ints) -> None:
    """Seat a coupled set that no single server holds, member by member where the rest fits."""
    problem = state.problem
    state.lift(unit)
    room = problem.capacity.copy()
    for position in range(unit.size):
        member = unit[position : position + 1]
        needed = problem.needs[problem.need[member[0]]][problem.kind]
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
    seconds = problem.cost_at(placed, where)
    taken = problem.needs[problem.need[placed], problem.kind[where]] * seconds[:, None]
    busy = np.zeros(problem.capacity.shape)
    np.add.at(busy, where, taken)
    longest = np.zeros(len(problem.servers))
    np.maximum.at(longest, where, seconds)
    full = (busy / np.maximum(problem.capacity, 1)).max(axis=1, initial=0.0)
    least: Floats = np.maximum(full, longest)
    return least


def improve(
    problem: Problem,
    assignment: Ints,
    *,
    balance: float,
    scale: float,
    iterations: int = ITERATIONS,
) -> Ints:
    """Return the assignment after rounds of shifts and swaps, until none improves."""
    state = State(problem, seated(problem, assignment), balance=balance, scale=scale)
    for number in range(iterations):
        moved = play(state)
        if not moved + swap(state, number):
            break
    _spread_lost(state)
    return state.assignment


TOGETHER = 32
"""Subtasks whose swaps are looked at together."""
PAIRS = 1 << 18
"""Pairs that are looked at in one round: all of five hundred subtasks. Of more, each looks at a
part of the others, another part in each round: with all pairs of thousands the makespans of
random racks were no shorter."""


def swap(state: State, number: int = 0) -> int:
    """Exchange two single subtasks wherever that lowers the potential; return how often.

    Parameters
    ----------
    state : State
    number : int
        Of the round: each looks at other partners where there are too many for all.
    """
    made = 0
    alone = state.alone[state.assignment[state.alone] != NOWHERE]
    tries = TRIES if state.problem.edge.size else 1
    stride = -(-alone.size * alone.size // PAIRS)
    for at in range(0, alone.size, TOGETHER):
        chosen = alone[at : at + TOGETHER]
        partners = alone[(at // TOGETHER + number) % stride :: stride]
        change = changes(state, chosen[:, None], partners)
        few = min(tries, partners.size)
        best = np.argpartition(change, few - 1, axis=1)[:, :few]
        worth = np.take_along_axis(change, best, axis=1) < 0
        for position in np.flatnonzero(worth.any(axis=1)).tolist():
            others = partners[np.sort(best[position, worth[position]])]
            for other in others.tolist():
                if state.exchange(int(chosen[position]), other):
                    made += 1
                    break
    return made


def changes(state: State, subtask: Ints | int, others: Ints) -> Floats:
    """Return the change of P without edges if subtasks changed places with others.

    The arguments broadcast. 0 for those on the same server, inf where one may not run in the
    place of the other.
    """
    problem = state.problem
    work, rate, load = problem.work, problem.rate, state.load
    here, there = state.assignment[subtask], state.assignment[others]
    own, theirs = problem.cost_at(subtask, here), problem.cost_at(others, there)
    gone, come = problem.cost_at(subtask, there), problem.cost_at(others, here)
    cost = (work[subtask] * (gone - own) + work[others] * (come - theirs)) / state.scale
    more = work[others] - work[subtask]
    # λ/2 of the changes of L² + w² on both servers, factored.
    queue = (load[here] + work[others]) / rate[here] - (load[there] + work[subtask]) / rate[there]
    change: Array = cost + state.balance * more * queue
    return np.where(there == here, 0.0, change)


def total_cost(problem: Problem, assignment: Ints) -> float:
    """Return Σ c_{t,a(t)} in seconds over the subtasks that have a server."""
    placed = np.flatnonzero(assignment != NOWHERE)
    return float(problem.cost_at(placed, assignment[placed]).sum())
