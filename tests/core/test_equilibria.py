"""Two readings of stable, which must agree: servers that claim, and subtasks that move."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import baselines, factorising, game, partitioning
from evenkeel_core.problems import NOWHERE, allowed
from evenkeel_core.verifying import verify_assignment

seeds = st.integers(0, 2**32 - 1)
EPSILON = 1e-8
"""Share of the utility below which a gain is rounding."""


def dag(make_problem, seed, tasks, servers, density):
    return make_problem(seed, tasks=tasks, servers=servers, edges=density, pins=0.1)


def a_claim_helps(problem, assignment, *, balance, scale):
    """Tell whether any server's claim on a subtask it has not would raise that one's utility."""
    terms = game.utilities(problem, assignment, balance=balance, scale=scale)
    utility = terms[0] + terms[1] + terms[2]
    may = allowed(problem)
    for server in range(len(problem.servers)):
        for subtask in np.flatnonzero(may[:, server] & (problem.pinned == NOWHERE)):
            here = utility[subtask, assignment[subtask]]
            if utility[subtask, server] - here > EPSILON * abs(here):
                return True
    return False


def a_move_helps(problem, assignment, *, balance, scale):
    """Tell whether moving any subtask anywhere makes the potential fall by more than rounding.

    A fall of P is the gain times the work. Shares nothing with the utilities but P itself.
    """
    now = game.potential(problem, assignment, balance=balance, scale=scale)
    terms = game.utilities(problem, assignment, balance=balance, scale=scale)
    own = -(terms[0] + terms[1] + terms[2])[np.arange(assignment.size), assignment]
    for subtask in range(assignment.size):
        for server in range(len(problem.servers)):
            moved = assignment.copy()
            moved[subtask] = server
            if verify_assignment(problem, moved):
                continue
            fall = now - game.potential(problem, moved, balance=balance, scale=scale)
            if fall > EPSILON * own[subtask] * problem.work[subtask] + 1e-12 * now:
                return True
    return False


@given(
    seed=seeds,
    tasks=st.integers(1, 14),
    servers=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.2, 0.6]),
    balance=st.sampled_from([0.0, 0.01, 0.1, 3.0]),
    disturbed=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_claims_and_moves_agree_on_what_is_stable(
    make_problem, seed, tasks, servers, density, balance, disturbed
):
    problem = dag(make_problem, seed, tasks, servers, density)
    weights = {"balance": balance, "scale": 10.0}
    begin = baselines.random(problem, seed)
    state = game.equilibrium(problem, begin, **weights).assignment.copy()
    assert game.is_stable(problem, state, **weights)
    if disturbed:
        subtask = seed % tasks
        state[subtask] = begin[subtask]

    stable = game.is_stable(problem, state, **weights)

    assert stable != a_claim_helps(problem, state, **weights)
    assert stable != a_move_helps(problem, state, **weights)


@given(seed=seeds, tasks=st.integers(2, 30), servers=st.integers(1, 8), sets=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_potential_never_rises_on_a_random_dag(make_problem, seed, tasks, servers, sets):
    """From the partition, from random and from all on one server, coupled sets included."""
    problem = make_problem(
        seed, tasks=max(tasks, 2 * sets), servers=servers, edges=0.3, sets=sets, pins=0.1
    )
    scale = game.scale_of(problem)
    weights = {"balance": 1 / scale, "scale": scale}
    factors = factorising.factorise(problem)
    starts = [partitioning.start(problem, factors, **weights), baselines.random(problem, seed)]
    for begin in starts:
        end = game.equilibrium(problem, begin, **weights)
        # What had no server yet adds its own share when it is claimed in the first round.
        first = 1 if (begin == NOWHERE).any() else 0
        assert (np.diff(end.history[first:]) <= 1e-9 * abs(end.potential)).all()
        assert end.stable


@given(seed=seeds, tasks=st.integers(1, 30), servers=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_levelling_by_lambda_never_ends_less_level(make_problem, seed, tasks, servers):
    problem = make_problem(seed, tasks=tasks, servers=servers, edges=0.1)
    scale = game.scale_of(problem)
    begin = game.equilibrium(
        problem, baselines.random(problem, seed), balance=1 / scale, scale=scale
    )

    level, balance = game.adjust(problem, begin, balance=1 / scale, scale=scale, band=1.1)

    now = game.imbalance(problem, level.assignment)
    assert now <= game.imbalance(problem, begin.assignment)
    assert balance <= 2**game.DOUBLINGS / scale * (1 + 1e-12)
    assert game.is_stable(problem, level.assignment, balance=balance, scale=scale)
