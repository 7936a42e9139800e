import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import baselines
from evenkeel_core.problems import NOWHERE
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify_assignment

EVERY = pytest.mark.parametrize("name", sorted(baselines.ALL))


@EVERY
@given(
    seed=st.integers(0, 2**32 - 1),
    tasks=st.integers(1, 20),
    servers=st.integers(1, 6),
    sets=st.integers(0, 2),
)
@settings(max_examples=15, deadline=None)
def test_every_baseline_gives_a_good_assignment(make_problem, name, seed, tasks, servers, sets):
    problem = make_problem(
        seed, tasks=tasks, servers=servers, edges=0.2, pins=0.1, sets=min(sets, tasks // 2)
    )

    places = baselines.ALL[name](problem)

    assert verify_assignment(problem, places, timetable(problem, places)) == ()


@EVERY
def test_every_baseline_is_deterministic_and_leaves_out_what_runs_nowhere(problem_of, name):
    problem = problem_of([[2, 3], [np.inf, np.inf], [3, 2]])

    places = baselines.ALL[name](problem)

    assert places.tolist() == baselines.ALL[name](problem).tolist()
    assert (places == NOWHERE).tolist() == [False, True, False]


def paper_example(problem_of):
    """Topcuoglu, Hariri and Wu 2002, figure 2 and table 1."""
    cost = [
        [14, 16, 9], [13, 19, 18], [11, 13, 19], [13, 8, 17], [12, 13, 10],
        [13, 16, 9], [7, 15, 11], [5, 11, 14], [18, 12, 20], [21, 7, 16],
    ]  # fmt: skip
    edges = [
        (1, 2, 18), (1, 3, 12), (1, 4, 9), (1, 5, 11), (1, 6, 14), (2, 8, 19), (2, 9, 16),
        (3, 7, 23), (4, 8, 27), (4, 9, 23), (5, 9, 13), (6, 8, 15), (7, 10, 17), (8, 10, 11),
        (9, 10, 13),
    ]  # fmt: skip
    return problem_of(cost, edges=[(one - 1, other - 1, data) for one, other, data in edges])


def test_heft_schedules_the_example_of_its_paper(problem_of):
    problem = paper_example(problem_of)

    places = baselines.heft(problem)

    assert (places + 1).tolist() == [3, 1, 3, 2, 3, 2, 3, 1, 2, 2]
    assert timetable(problem, places).makespan == 80


def test_heft_fills_a_gap_before_what_it_has_placed(problem_of):
    """t1 waits for t0's output; the short t2 fits before it on the same server."""
    problem = problem_of([[9, np.inf], [np.inf, 20], [np.inf, 2]], edges=[(0, 1, 1.0)])

    places = baselines.heft(problem)

    assert places.tolist() == [0, 1, 1]
    assert timetable(problem, places).start.tolist() == [0, 10, 0]


def test_heft_refuses_a_circle(problem_of):
    with pytest.raises(ValueError, match="circle"):
        baselines.heft(problem_of([[1], [1]], edges=[(0, 1, 0), (1, 0, 0)]))


def test_round_robin_goes_round_and_skips(problem_of):
    problem = problem_of([[1, 1, 1], [1, np.inf, 1], [1, 1, 1], [1, 1, 1]])

    assert baselines.round_robin(problem).tolist() == [0, 2, 0, 1]


def test_best_fit_fills_one_server_before_the_next(problem_of):
    problem = problem_of([[1, 1]] * 3, capacity=2)

    assert baselines.best_fit(problem).tolist() == [0, 0, 1]


def test_the_default_scheduler_spreads(problem_of):
    problem = problem_of([[1, 1]] * 4, capacity=2)

    assert baselines.default_scheduler(problem).tolist() == [0, 1, 0, 1]


def test_the_head_of_the_queue_waits_for_the_first_room(problem_of):
    """Both servers are full; s1 is done first, though s0 would be the first by name."""
    problem = problem_of([[9, np.inf], [np.inf, 4], [1, 1]])

    assert baselines.default_scheduler(problem).tolist() == [0, 1, 1]


def test_water_filling_levels_the_relative_load(problem_of):
    problem = problem_of([[1, 1]] * 4, rate=[1.0, 3.0])

    assert np.bincount(baselines.water_filling(problem)).tolist() == [1, 3]


def test_a_fast_server_pulls_more_from_the_shared_queue(problem_of):
    problem = problem_of([[8, 2]] * 5)

    assert np.bincount(baselines.pull_queue(problem)).tolist() == [1, 4]


def test_work_in_proportion_to_memory_needs_memory(make_problem, problem_of):
    assert baselines.memory_proportional(problem_of([[1, 1]] * 2)).tolist() == [0, 1]
    problem = make_problem(3, tasks=200, servers=4, infeasible=0.0)

    given_ = np.bincount(baselines.memory_proportional(problem), weights=problem.work)

    share = problem.capacity[:, 1] / problem.capacity[:, 1].sum()
    np.testing.assert_allclose(given_ / given_.sum(), share, atol=0.03)


def test_another_seed_gives_another_random_assignment(make_problem):
    problem = make_problem(1, tasks=30)

    assert baselines.random(problem, 0).tolist() != baselines.random(problem, 1).tolist()
