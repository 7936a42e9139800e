import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import game
from evenkeel_core.problems import NOWHERE
from evenkeel_core.timetabling import timetable, upward_rank
from evenkeel_core.verifying import verify_assignment


@given(
    seed=st.integers(0, 2**32 - 1),
    tasks=st.integers(1, 30),
    servers=st.integers(1, 5),
    edges=st.sampled_from([0.0, 0.1, 0.5]),
    sets=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_no_timetable_breaks_a_rule(make_problem, seed, tasks, servers, edges, sets):
    problem = make_problem(
        seed, tasks=tasks, servers=servers, edges=edges, sets=min(sets, tasks // 2)
    )
    begin = np.full(tasks, NOWHERE)
    places = game.equilibrium(problem, begin, balance=0.1, scale=10.0).assignment

    times = timetable(problem, places)

    assert verify_assignment(problem, places, times) == ()


def test_what_exceeds_a_server_runs_in_later_waves(problem_of):
    problem = problem_of([[10]] * 5, capacity=2)

    times = timetable(problem, np.zeros(5, dtype=np.int64))

    assert times.start.tolist() == [0, 0, 10, 10, 20]
    assert times.makespan == 30


def test_a_small_subtask_slips_in_where_a_large_one_waits(problem_of):
    problem = problem_of([[10], [9], [1]], capacity=3)
    problem = problem.with_pairs(demand=np.array([2, 2, 1]).reshape(3, 1, 1))

    assert timetable(problem, np.zeros(3, dtype=np.int64)).start.tolist() == [0, 10, 0]


def test_the_way_to_the_end_decides_who_goes_first(problem_of):
    """t0 is short, but t2 waits for it."""
    problem = problem_of([[2], [5], [9]], edges=[(0, 2, 0.0)])

    assert timetable(problem, np.zeros(3, dtype=np.int64)).start.tolist() == [0, 11, 2]


def test_a_priority_that_is_given_decides_instead(problem_of):
    problem = problem_of([[2], [5], [9]], edges=[(0, 2, 0.0)])

    times = timetable(problem, np.zeros(3, dtype=np.int64), priority=np.array([1.0, 2.0, 3.0]))

    assert times.start.tolist() == [5, 0, 7]


def test_outputs_take_time_to_move_between_servers_and_none_within_one(problem_of):
    problem = problem_of([[2, 2], [3, 3], [3, 3]], edges=[(0, 1, 7.0), (0, 2, 7.0)])

    assert timetable(problem, np.array([0, 0, 1])).start.tolist() == [0, 2, 9]


def test_a_coupled_set_starts_when_all_members_have_room_and_ends_together(problem_of):
    problem = problem_of([[5, 5], [1, 1], [2, 3], [2, 3]], group=[0, 1, 2, 2])

    times = timetable(problem, np.array([0, 1, 0, 1]))

    assert times.start.tolist() == [0, 0, 5, 5]
    assert times.end.tolist() == [5, 1, 8, 8]


def test_a_dependency_on_one_member_holds_the_whole_set(problem_of):
    problem = problem_of([[4, 4], [1, 1], [1, 1]], group=[0, 1, 1], edges=[(0, 2, 1.0)])

    assert timetable(problem, np.array([0, 0, 1])).start.tolist() == [0, 5, 5]


def test_the_upward_rank_is_the_longest_way_to_the_end(problem_of):
    problem = problem_of([[1]] * 4, edges=[(0, 1, 0), (0, 2, 0), (1, 3, 0), (2, 3, 0)])

    rank = upward_rank(problem, np.array([1.0, 5.0, 2.0, 1.0]), np.array([1.0, 1.0, 1.0, 9.0]))

    assert rank.tolist() == [14, 7, 12, 1]


@pytest.mark.parametrize(
    ("edges", "assignment", "words"),
    [
        ([], [0], "shape"),
        ([], [0, NOWHERE], "without a server"),
        ([], [0, 1], "may not run"),
        ([(0, 1, 0.0), (1, 0, 0.0)], [0, 0], "circle"),
    ],
)
def test_what_can_not_be_timed_is_a_wrong_call(problem_of, edges, assignment, words):
    problem = problem_of([[1, np.inf], [1, np.inf]], edges=edges)
    with pytest.raises(ValueError, match=f"`assignment`.*{words}"):
        timetable(problem, np.array(assignment))


def test_a_set_that_can_never_fit_is_a_wrong_call(problem_of):
    with pytest.raises(ValueError, match="when empty"):
        timetable(problem_of([[1], [1]], group=[0, 0]), np.zeros(2, dtype=np.int64))


def test_two_thousand_subtasks_on_few_and_on_many_servers(make_problem):
    """The event loop must not look at every waiting subtask one by one."""
    for servers in (10, 200):
        problem = make_problem(1, tasks=2000, servers=servers, kinds=10, edges=0.001)
        places = np.argmin(problem.cost, axis=1)
        times = timetable(problem, places)
        assert verify_assignment(problem, places, times) == ()


def test_an_empty_job_takes_no_time(make_problem):
    problem = make_problem(0, tasks=0, servers=2)

    assert timetable(problem, np.empty(0, dtype=np.int64)).makespan == 0.0
