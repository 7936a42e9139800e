"""Prices make a given assignment the equilibrium of the game, and none that is better is lost."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import baselines, game, levelling, pricing
from evenkeel_core.problems import NOWHERE, throughput

seeds = st.integers(0, 2**32 - 1)


@given(
    seed=seeds,
    tasks=st.integers(1, 25),
    servers=st.integers(1, 7),
    edges=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_an_early_end_becomes_an_equilibrium(make_problem, seed, tasks, servers, edges):
    problem = make_problem(seed, tasks=tasks, servers=servers, pins=0.1, edges=edges)
    problem = replace(problem, rate=throughput(problem))
    scale = game.scale_of(problem)
    places = levelling.end_early(problem, baselines.heft(problem))

    found = pricing.support(problem, places, balance=1 / scale, scale=scale)

    assert found is not None
    rate, balance = found
    assert (rate > 0).all()
    assert balance >= 1 / scale
    end = game.equilibrium(replace(problem, rate=rate), places, balance=balance, scale=scale)
    assert end.stable
    assert end.moves == 0
    assert end.assignment.tolist() == places.tolist()


def test_a_server_nobody_rather_has_keeps_its_rate(problem_of):
    """Both are where they are best off: no price has to rise."""
    problem = problem_of([[1, 5], [5, 1]])

    found = pricing.support(problem, np.array([0, 1]), balance=1.0, scale=1.0)

    assert found is not None
    assert found[0].tolist() == [1.0, 1.0]
    assert found[1] == 1.0


def test_the_faster_server_is_dearer_where_both_are_full(problem_of):
    """All would rather have s0; one stays on s1 only if s0 looks as long."""
    problem = problem_of([[1, 9]] * 4)

    found = pricing.support(problem, np.array([0, 0, 0, 1]), balance=1.0, scale=1.0)

    assert found is not None
    rate, _ = found
    assert rate[0] < rate[1]


def test_what_leaves_a_subtask_out_has_no_price(problem_of):
    problem = problem_of([[1, 3]])

    assert pricing.support(problem, np.array([NOWHERE]), balance=1.0, scale=1.0) is None
