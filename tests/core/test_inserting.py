"""List schedules: HEFT as published, with its own times, and where it goes further."""

from dataclasses import replace

import numpy as np
import pytest

from evenkeel_core import baselines, inserting
from evenkeel_core.verifying import verify_assignment


def test_heft_has_its_own_times(problem_of):
    """With one subtask at a time, in gaps, as published: its timetable could be longer."""
    problem = problem_of([[9, np.inf], [np.inf, 20], [np.inf, 2]], edges=[(0, 1, 1.0)])

    found = inserting.heft(problem)

    assert found.assignment.tolist() == baselines.heft(problem).tolist() == [0, 1, 1]
    assert found.times.start.tolist() == [0, 10, 0]
    assert verify_assignment(problem, found.assignment, found.times) == ()


def test_heft_starts_the_members_of_a_set_together(problem_of):
    problem = problem_of([[5, 9], [1, 1], [2, 3], [2, 3]], group=[0, 1, 2, 2])
    problem = replace(problem, pinned=np.array([0, 1, 0, 1]))

    found = inserting.heft(problem)

    assert found.times.start.tolist() in ([0, 0, 5, 5], [3, 3, 0, 0])
    assert verify_assignment(problem, found.assignment, found.times) == ()


def test_what_takes_no_time_still_comes_after_what_it_waits_for(problem_of):
    """Equal ranks: the order of the edge decides, not that of the numbers."""
    problem = problem_of([[0], [3], [0]], edges=[(1, 2, 0), (2, 0, 0)])

    found = inserting.heft(problem)

    assert found.times.start.tolist() == [3, 0, 3]


def test_what_runs_nowhere_has_no_time(problem_of):
    found = inserting.heft(problem_of([[2, 3], [np.inf, np.inf]]))

    assert found.assignment.tolist() == [0, -1]
    assert np.isnan(found.times.start).tolist() == [False, True]
    assert found.times.makespan == 2


def test_a_circle_is_a_wrong_call(problem_of):
    with pytest.raises(ValueError, match="circle"):
        inserting.heft(problem_of([[1], [1]], edges=[(0, 1, 0), (1, 0, 0)]))
