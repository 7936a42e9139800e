"""The search for an early end: never later, never wrong, near the best where all can be tried."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import baselines, levelling
from evenkeel_core.problems import NOWHERE
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify_assignment

seeds = st.integers(0, 2**32 - 1)


def last(problem, places):
    """Return when the last subtask ends, each after the load of others on its server."""
    end = timetable(problem, places).end + (problem.load / problem.rate)[places]
    return float(end.max())


@given(seed=seeds, tasks=st.integers(1, 25), servers=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_the_end_is_never_later_and_the_assignment_is_good(make_problem, seed, tasks, servers):
    problem = make_problem(seed, tasks=tasks, servers=servers, pins=0.2)
    begin = baselines.random(problem, seed)

    found = levelling.end_early(problem, begin)

    assert verify_assignment(problem, found, timetable(problem, found)) == ()
    assert last(problem, found) <= last(problem, begin) * (1 + 1e-9)
    fixed = problem.pinned != NOWHERE
    assert (found[fixed] == begin[fixed]).all()


@given(seed=seeds, sets=st.integers(1, 3), pinned=st.booleans())
@settings(max_examples=30, deadline=None)
def test_members_of_a_set_stay_where_they_are(make_problem, seed, sets, pinned):
    problem = make_problem(seed, tasks=12, servers=4, sets=sets, pinned_sets=pinned)
    problem = replace(problem, dependency=np.zeros(len(problem.edge), dtype=bool))
    begin = baselines.random(problem, seed)

    found = levelling.end_early(problem, begin)

    assert verify_assignment(problem, found) == ()
    assert (found[: 2 * sets] == begin[: 2 * sets]).all()


def test_it_is_near_the_best_of_all_assignments(make_problem, record_property):
    """Compare with all assignments of 5 subtasks to 3 servers: 30 problems, 243 each."""
    ratios = []
    for seed in range(30):
        problem = make_problem(seed, tasks=5, servers=3)
        everything = (np.array(places) for places in product(range(3), repeat=5))
        least = min(last(problem, p) for p in everything if not verify_assignment(problem, p))
        found = levelling.end_early(problem, baselines.random(problem, seed))
        ratios.append(last(problem, found) / least)
    record_property("worst", max(ratios))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) <= 1.005
    assert max(ratios) <= 1.05


def test_many_side_by_side_all_leave_before_the_end_is_earlier(problem_of):
    """Three at a time end at 7 on s0; s1 holds them all and ends at 5."""
    problem = problem_of([[7, 5]] * 3, capacity=3)

    assert levelling.end_early(problem, np.zeros(3, dtype=np.int64)).tolist() == [1, 1, 1]


def test_two_change_places_where_neither_could_move_alone(problem_of):
    problem = problem_of([[9, 2], [2, 9]])

    assert levelling.end_early(problem, np.array([0, 1])).tolist() == [1, 0]


def test_unlike_demands_share_a_server_as_the_timetable_runs_them(problem_of):
    problem = problem_of([[4, 20], [3, 20], [3, 20]], capacity=2)
    kinds = problem.demand.shape[1]
    problem = problem.with_pairs(demand=np.repeat([[[1]], [[2]], [[1]]], kinds, axis=1))
    places = levelling.end_early(problem, np.zeros(3, dtype=np.int64))

    assert places.tolist() == [0, 0, 0]
    assert timetable(problem, places).makespan == 7


def test_the_load_of_others_counts(problem_of):
    problem = replace(problem_of([[1, 2]]), load=np.array([5.0, 0.0]))

    assert levelling.end_early(problem, np.array([0])).tolist() == [1]


@pytest.mark.parametrize("places", [[0, 1], [0, NOWHERE]])
def test_what_it_is_not_made_for_stays_as_it_is(problem_of, places):
    problem = problem_of([[9, 1], [9, 1]], edges=[(0, 1, 1.0)] if NOWHERE not in places else None)

    assert levelling.end_early(problem, np.array(places)).tolist() == places


def test_the_same_problem_gives_the_same_assignment(make_problem):
    problem = make_problem(7, tasks=30, servers=6)
    begin = baselines.random(problem)

    first, second = (levelling.end_early(problem, begin).tolist() for _ in range(2))

    assert first == second


@given(seed=seeds, tasks=st.integers(1, 5), servers=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_what_runs_together_costs_least(make_problem, seed, tasks, servers):
    problem = make_problem(seed, tasks=tasks, servers=servers, pins=0.2)
    waiting = problem.load / problem.rate

    def waits(places):
        return (timetable(problem, places).start > 0).any()

    every = (np.array(places) for places in product(range(servers), repeat=tasks))
    ways = [p for p in every if not verify_assignment(problem, p) and not waits(p)]
    cost = problem.cost + waiting
    least = min((cost[np.arange(tasks), way].sum() for way in ways), default=None)

    found = levelling.run_together(problem)

    if least is None:
        assert found is None
    else:
        assert found is not None
        assert not waits(found)
        assert cost[np.arange(tasks), found].sum() == pytest.approx(least)


def test_what_waits_or_moves_as_one_is_not_run_together(problem_of):
    assert levelling.run_together(problem_of([[1], [1]], edges=[(0, 1, 0.0)], capacity=2)) is None
    assert levelling.run_together(problem_of([[1], [1]], group=[0, 0], capacity=2)) is None
    assert levelling.run_together(problem_of([[1], [1]])) is None
