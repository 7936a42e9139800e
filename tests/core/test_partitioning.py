from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import game, partitioning
from evenkeel_core.factorising import factorise
from evenkeel_core.problems import NOWHERE
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify_assignment

seeds = st.integers(0, 2**32 - 1)
WEIGHTS = {"balance": 0.1, "scale": 10.0}


@given(
    seed=seeds,
    tasks=st.integers(1, 25),
    servers=st.integers(1, 6),
    edges=st.sampled_from([0.0, 0.3]),
    sets=st.integers(0, 2),
)
@settings(max_examples=40, deadline=None)
def test_every_partition_is_good_and_search_only_improves_the_start(
    make_problem, seed, tasks, servers, edges, sets
):
    problem = make_problem(
        seed, tasks=tasks, servers=servers, edges=edges, sets=min(sets, tasks // 2), measured=0.8
    )
    factors = factorise(problem)

    begin = partitioning.start(problem, factors, **WEIGHTS)
    end = partitioning.partition(problem, factors, **WEIGHTS)

    for assignment in (begin, end):
        times = timetable(problem, assignment)
        assert verify_assignment(problem, assignment, times) == ()
    before = game.potential(problem, begin, **WEIGHTS)
    assert game.potential(problem, end, **WEIGHTS) <= before * (1 + 1e-9)


@given(seed=seeds, edges=st.sampled_from([0.0, 0.4]))
@settings(max_examples=20, deadline=None)
def test_the_change_of_a_swap_is_that_of_the_potential(make_problem, seed, edges):
    problem = make_problem(seed, tasks=10, servers=4, edges=edges, infeasible=0.0)
    without = replace(
        problem,
        edge=problem.edge[:0],
        edge_bytes=problem.edge_bytes[:0],
        dependency=problem.dependency[:0],
    )
    assignment = np.random.default_rng(seed).integers(0, 4, 10)
    state = game.State(without, assignment, **WEIGHTS)

    change = partitioning.changes(state, 3, np.arange(10))

    for other in range(10):
        swapped = assignment.copy()
        swapped[[3, other]] = assignment[[other, 3]]
        expected = game.potential(without, swapped, **WEIGHTS) - state.potential()
        np.testing.assert_allclose(change[other], expected, atol=1e-6)


def test_a_swap_is_found_where_no_shift_helps(problem_of):
    """Each server is good at what the other has, and either would be overloaded by a shift."""
    problem = problem_of([[6, 5], [5, 6]], work=[10.0, 10.0])
    weights = {"balance": 10.0, "scale": 1.0}
    stuck = np.array([0, 1])
    assert game.equilibrium(problem, stuck, **weights).assignment.tolist() == [0, 1]

    assert partitioning.improve(problem, stuck, **weights, iterations=1).tolist() == [1, 0]


def test_a_swap_looks_at_edges_too(problem_of):
    """The swap would save a second of cost and pay a hundred for the edge."""
    problem = problem_of(
        [[6, 5], [5, 6], [1, np.inf]], work=[10.0, 10.0, 1.0], edges=[(0, 2, 1000.0)]
    )
    weights = {"balance": 10.0, "scale": 1.0}

    kept = partitioning.improve(problem, np.array([0, 1, 0]), **weights, iterations=1)

    assert kept.tolist() == [0, 1, 0]


def test_no_iterations_return_the_start(make_problem):
    problem = make_problem(1, tasks=30)
    factors = factorise(problem)

    begin = partitioning.start(problem, factors, **WEIGHTS)
    assert (partitioning.partition(problem, factors, **WEIGHTS, iterations=0) == begin).all()


def test_the_start_follows_the_factors_where_nothing_was_measured(problem_of):
    """The given figure says that s2 is slow for t3; all that was measured says it is fast."""
    true = np.outer([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 1.0])
    given_ = true.copy()
    given_[3, 2] = 50.0
    measured = np.ones((4, 3), dtype=bool)
    measured[3, 2] = False
    problem = problem_of(given_).with_pairs(measured=measured)

    begin = partitioning.start(problem, factorise(problem), balance=0.0, scale=1.0)

    assert begin[3] == 2


def test_a_set_that_no_server_holds_is_spread(problem_of):
    problem = problem_of([[1, 2], [1, 2]], group=[0, 0])

    begin = partitioning.start(problem, factorise(problem), **WEIGHTS)

    assert begin.tolist() == [0, 1]


def test_a_set_that_does_not_fit_at_all_is_not_seated_in_part(problem_of):
    problem = problem_of([[1, 2]] * 3, group=[0, 0, 0])

    assert partitioning.start(problem, factorise(problem), **WEIGHTS).tolist() == [NOWHERE] * 3


def test_the_span_is_what_the_busiest_resource_needs(problem_of):
    problem = problem_of([[10, 1], [10, 1], [10, 1], [7, 9]], capacity=2)

    assert partitioning.spans(problem, np.array([0, 0, 0, 1])).tolist() == [15, 9]


def test_a_partition_of_two_thousand_subtasks(make_problem):
    problem = make_problem(8, tasks=2000, servers=60, kinds=12, measured=0.9)
    factors = factorise(problem)
    scale = game.scale_of(problem)

    end = partitioning.partition(problem, factors, balance=1 / scale, scale=scale)

    assert verify_assignment(problem, end, timetable(problem, end)) == ()
