"""Prices under which a plan is an equilibrium of the game.

The game takes a server's load over its rate for the time a subtask waits there. With one rate a
server for everything this is rough: it knows neither that the set a server got suits it better
than the mean nor how the set's whole subtasks fit its capacity. So the rates are set from a plan:
first by the time each server takes for its set or for the mean subtask, whichever is less, then
lower, that is dearer, wherever a subtask would still rather go, until none would. These are the
competitive prices of the servers' time; they are fixed while the game is played, like every term
that depends on the whole plan.

Source: supporting prices and their least fixed point are as in the assignment game of Shapley and
Shubik (International Journal of Game Theory 1 (1971), 111-130) and Bertsekas' auction algorithm
(Annals of Operations Research 14 (1988), 105-123).
"""

from dataclasses import replace

import numpy as np

from evenkeel_core import game
from evenkeel_core.partitioning import spans
from evenkeel_core.problems import NOWHERE, Floats, Ints, Problem

DOUBLINGS = 10
"""Of λ at most, as in the game's adjustment."""
DEAREST = 2.0
"""Longest queue a price may pretend, over the longest there is; above, λ is doubled instead."""
PASSES = 200
"""Rises of the prices: each pass closes a part of the gap, and random plans took under fifty."""
ABOVE = 1e-7
"""Share by which a price is above what makes a move just not pay: the game's tolerance and
rounding are below it."""


def support(
    problem: Problem, assignment: Ints, *, balance: float, scale: float
) -> tuple[Floats, float] | None:
    """Return rates and λ with which an assignment is an equilibrium, None if none were found.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        A server for every subtask.
    balance, scale : float
        λ to start from, > 0, and ĉ.

    Returns
    -------
    tuple of ndarray and float, or None
        R_i, shape (S,), > 0, and the smallest λ of the doublings that needs no price above
        `DEAREST` times the longest queue.

    Notes
    -----
    O(passes · T · S), vectorised. Prices rise from the servers' own times to the least that
    support the assignment, so they end where they do in any order of rising.
    """
    if (assignment == NOWHERE).any():
        return None
    loads = game.loads(problem, assignment)
    own = _own_times(problem, assignment, loads)
    terms = game.utilities(problem, assignment, balance=balance, scale=scale)
    burden = -(terms[0] + terms[1])
    for doubling in range(DOUBLINGS + 1):
        weight = balance * 2.0**doubling
        price = _raised(problem, assignment, burden, loads, weight * own)
        if (price * loads).max(initial=0.0) > DEAREST * weight * (own * loads).max(initial=0.0):
            continue
        rated = replace(problem, rate=weight / price)
        if game.is_stable(rated, assignment, balance=weight, scale=scale):
            return rated.rate, weight
    return None


def _own_times(problem: Problem, assignment: Ints, loads: Floats) -> Floats:
    """Return the seconds each server takes a unit of its work, (S,): its queue over its load.

    No more than its rate says: a set of one long subtask leaves room for others beside it.
    """
    queue = problem.load / problem.rate + spans(problem, assignment)
    busy = np.bincount(assignment, minlength=loads.size) > 0
    own = np.where(busy, queue / np.where(busy, loads, 1.0), np.inf)
    return np.minimum(own, 1.0 / problem.rate)


def _raised(
    problem: Problem, assignment: Ints, burden: Floats, loads: Floats, price: Floats
) -> Floats:
    """Return the least prices of a unit of load, from `price` up, at which nobody would move.

    `burden` is what a subtask bears on a server beside its queue, (T, S).
    """
    single = np.bincount(problem.group)[problem.group] == 1
    movers = np.flatnonzero(single & (problem.pinned == NOWHERE))
    here, rows = assignment[movers], np.arange(movers.size)
    after = loads + problem.work[movers, None]
    more = burden[movers, here][:, None] - burden[movers]
    more[rows, here] = -np.inf
    for _ in range(PASSES):
        wanted = ((more + (price * loads)[here][:, None]) / after).max(axis=0, initial=0.0)
        if (wanted <= price).all():
            break
        price = np.where(wanted > price, wanted * (1 + ABOVE), price)
    return price
