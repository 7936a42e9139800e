"""Subtasks come and go: the rest stays in equilibrium, and most of it where it was."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import game
from evenkeel_core.joining import WORTH, Live
from evenkeel_core.problems import NOWHERE, Problem, part
from evenkeel_core.verifying import verify_assignment

seeds = st.integers(0, 2**32 - 1)
WEIGHTS = {"balance": 0.1, "scale": 10.0}


def live(problem, tolerance=game.TOLERANCE):
    nowhere = np.full(len(problem.subtasks), NOWHERE)
    return Live(problem, nowhere, **WEIGHTS, tolerance=tolerance)


def split(problem: Problem, number: int) -> tuple[Problem, Problem]:
    """Return the problem of the first subtasks and that of the others."""
    first = np.arange(len(problem.subtasks)) < number
    return part(problem, first), part(problem, ~first)


def good(found: Live) -> bool:
    """Tell whether the state is an equilibrium by the definition, and what it says of itself."""
    assert verify_assignment(found.problem, found.assignment) == ()
    return game.is_stable(found.problem, found.assignment, **WEIGHTS)


@given(
    seed=seeds,
    tasks=st.integers(2, 30),
    servers=st.integers(1, 12),
    kinds=st.integers(1, 4),
    pins=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=60, deadline=None)
def test_joining_ends_in_an_equilibrium_of_the_larger_problem(
    make_problem, seed, tasks, servers, kinds, pins
):
    problem = make_problem(seed, tasks=tasks, servers=servers, kinds=kinds, pins=pins)
    old, new = split(problem, tasks // 2)
    found = live(old)
    before = dict(zip(old.subtasks, found.assignment.tolist(), strict=True))

    for number in range(len(new.subtasks)):
        moved = found.join(part(new, np.arange(len(new.subtasks)) == number))
        after = dict(zip(found.problem.subtasks, found.assignment.tolist(), strict=True))
        assert {name for name in after if before.get(name) != after[name]} == set(moved)
        assert good(found)
        before = after
    assert found.problem.subtasks == problem.subtasks
    np.testing.assert_array_equal(found.problem.cost, problem.cost)
    np.testing.assert_array_equal(found.problem.demand, problem.demand)


@given(seed=seeds, tasks=st.integers(2, 25), servers=st.integers(1, 10), kinds=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_leaving_ends_in_an_equilibrium_of_the_smaller_problem(
    make_problem, seed, tasks, servers, kinds
):
    found = live(make_problem(seed, tasks=tasks, servers=servers, kinds=kinds))
    for name in np.random.default_rng(seed).permutation(found.problem.subtasks)[:-1].tolist():
        found.leave(name)
        assert name not in found.problem.subtasks
        assert good(found)


@given(seed=seeds, sets=st.integers(0, 1), edges=st.sampled_from([0.0, 0.4]))
@settings(max_examples=25, deadline=None)
def test_sets_and_edges_come_and_go_as_well(make_problem, seed, sets, edges):
    found = live(make_problem(seed, tasks=6, servers=4, edges=edges))
    more = make_problem(seed, tasks=4, servers=4, sets=sets, edges=edges)
    more = replace(more, subtasks=("a", "b", "c", "d"), kind=found.problem.kind)
    found.join(more)
    assert good(found)
    found.leave("t0000")
    assert good(found)


@pytest.mark.parametrize(("tolerance", "most"), [(game.TOLERANCE, 0.03), (WORTH, 0.01)])
def test_a_small_change_moves_few(make_problem, tolerance, most):
    """The share of four hundred subtasks that move on average when one comes or goes."""
    problem = make_problem(3, tasks=440, servers=40, kinds=8)
    old, new = split(problem, 400)
    found = live(old, tolerance)
    joined = [len(found.join(part(new, np.arange(40) == number))) - 1 for number in range(40)]
    left = [len(found.leave(name)) for name in problem.subtasks[::11]]
    assert np.mean(joined) / 400 < most
    assert np.mean(left) / 400 < most
    assert game.is_stable(found.problem, found.assignment, **WEIGHTS, tolerance=tolerance)


def test_a_wrong_call_names_the_argument(make_problem):
    found = live(make_problem(1, servers=5))
    with pytest.raises(ValueError, match="`more`"):
        found.join(make_problem(1, servers=4))
    with pytest.raises(ValueError, match="`subtask`"):
        found.leave("nobody")
