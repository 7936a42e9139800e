"""Step 3, second half: one feasible set of subtasks a server.

The factors give the start: every subtask goes to the server whose factors suit it at the load
it would find there. Shifts and swaps on the potential of the game improve that start; they
never replace it. What exceeds a server at one time becomes later waves of its queue.
"""

import numpy as np

from evenkeel_core import game
from evenkeel_core.factorising import Factors
from evenkeel_core.problems import NOWHERE, Floats, Ints, Problem

PASSES = 4
"""Times the swap search goes over all subtasks: a later pass rarely finds what three did not."""


def start(problem: Problem, factors: Factors, *, balance: float, scale: float) -> Ints:
    """Return the starting partition, by the factors' costs.

    Parameters
    ----------
    problem : Problem
    factors : Factors
        Their `completed` compute times stand in for the measured ones.
    balance, scale : float
        λ and ĉ of the utility.

    Returns
    -------
    ndarray of shape (n_subtasks,)
        NOWHERE for a subtask that may run on no server.

    Notes
    -----
    Heaviest first, each to the server with the best utility at the load found so far;
    O(n_subtasks · n_servers).
    """
    cost = estimated(problem, factors)
    assignment = np.full(len(problem.subtasks), NOWHERE, dtype=np.int64)
    load = problem.load.copy()
    for subtask in np.argsort(-problem.work, kind="stable"):
        pinned = int(problem.pinned[subtask])
        if pinned == NOWHERE:
            utility = cost[subtask] / scale
            utility = utility + balance * (load + problem.work[subtask]) / problem.rate
            pinned = int(np.argmin(utility))
        if np.isfinite(problem.cost[subtask, pinned]):
            assignment[subtask] = pinned
            load[pinned] += problem.work[subtask]
    return assignment


def estimated(problem: Problem, factors: Factors) -> Floats:
    """Return the cost matrix with compute from the factors; load times stay as they are."""
    finite = np.isfinite(problem.cost)
    fixed = np.where(finite, problem.cost, 0.0) - np.where(finite, problem.compute, 0.0)
    estimate: Floats = np.where(finite, factors.completed + fixed, np.inf)
    return estimate


def total_cost(problem: Problem, assignment: Ints) -> float:
    """Return Σ c_{t,a(t)} in seconds over the subtasks that have a server."""
    placed = np.flatnonzero(assignment != NOWHERE)
    return float(problem.cost[placed, assignment[placed]].sum())


def partition(
    problem: Problem,
    factors: Factors,
    *,
    balance: float,
    scale: float,
    passes: int = PASSES,
) -> Ints:
    """Return one set of subtasks a server, as the server number of each subtask.

    Parameters
    ----------
    problem : Problem
    factors : Factors
        From `evenkeel_core.factorising.factorise` of the same problem.
    balance, scale : float
        λ and ĉ of the utility.
    passes : int, default=4
        Rounds of the swap search at most; 0 gives the start improved by shifts alone.

    Returns
    -------
    ndarray of shape (n_subtasks,)
        NOWHERE for a subtask that may run on no server.
    """
    assignment = start(problem, factors, balance=balance, scale=scale)
    for _ in range(passes):
        shifted = game.equilibrium(problem, assignment, balance=balance, scale=scale)
        assignment = shifted.assignment
        if not _swap(problem, assignment, balance=balance, scale=scale):
            break
    return assignment


def _swap(problem: Problem, assignment: Ints, *, balance: float, scale: float) -> int:
    """Exchange the places of two subtasks wherever that lowers the potential; count them.

    Subtasks with edges stay out: their neighbours' terms would have to be evaluated for every
    pair, and shifts move them already.
    """
    neighbours = game.Neighbours(problem)
    free = game.movable(problem) & (assignment != NOWHERE)
    degree = np.array([neighbours.degree(t) for t in range(len(assignment))])
    candidates = np.flatnonzero(free & (degree == 0))
    load = game.loads(problem, assignment)
    weighted = problem.work[:, None] * problem.cost / scale
    made = 0
    for subtask in candidates:
        gain = _gains_of_swaps(problem, assignment, load, weighted, int(subtask), candidates, balance)
        best = int(np.argmin(gain))
        if gain[best] < -game.TOLERANCE:
            other = int(candidates[best])
            here, there = assignment[subtask], assignment[other]
            difference = problem.work[other] - problem.work[subtask]
            load[here] += difference
            load[there] -= difference
            assignment[subtask], assignment[other] = there, here
            made += 1
    return made


def _gains_of_swaps(
    problem: Problem,
    assignment: Ints,
    load: Floats,
    weighted: Floats,
    subtask: int,
    others: Ints,
    balance: float,
) -> Floats:
    """Return the change of the potential if one subtask changed places with each other one."""
    here, there = assignment[subtask], assignment[others]
    work, their = problem.work[subtask], problem.work[others]
    cost = weighted[subtask, there] - weighted[subtask, here]
    cost = cost + weighted[others, here] - weighted[others, there]
    rate = problem.rate
    # Loads change by the difference of both works; squares of single works change places.
    difference = their - work
    square = ((load[here] + difference) ** 2 - load[here] ** 2 + difference * (their + work))
    square = square / rate[here]
    other = (load[there] - difference) ** 2 - load[there] ** 2 - difference * (their + work)
    change: Floats = cost + balance / 2 * (square + other / rate[there])
    change[there == here] = 0.0
    return change
