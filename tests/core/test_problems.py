from dataclasses import replace

import numpy as np

from evenkeel_core import factorising, game, partitioning
from evenkeel_core.problems import NOWHERE, allowed, demands, room_for, throughput, transfer, units
from evenkeel_core.timetabling import timetable


def test_a_pin_leaves_one_server(problem_of):
    problem = problem_of([[1, 1], [1, np.inf]], pinned=[1, NOWHERE])

    assert allowed(problem).tolist() == [[False, True], [True, False]]


def test_a_pin_to_where_it_may_not_run_leaves_none(problem_of):
    assert allowed(problem_of([[1, np.inf]], pinned=[1])).tolist() == [[False, False]]


def test_units_are_singles_and_sets_in_the_order_of_their_first(problem_of):
    problem = problem_of([[1]] * 5, group=[9, 4, 9, 1, 4])

    assert [unit.tolist() for unit in units(problem)] == [[0, 2], [1, 4], [3]]


def test_what_is_nowhere_takes_nothing(problem_of):
    problem = problem_of([[1, 1]] * 2)

    assert demands(problem, np.array([NOWHERE, 1])).tolist() == [[0], [1]]


def test_a_set_needs_room_for_all_its_members(problem_of):
    problem = replace(problem_of([[1, 1]] * 2), capacity=np.array([[1], [2]]))

    assert room_for(problem, np.array([0, 1])).tolist() == [False, True]


def test_a_transfer_takes_both_latencies_and_the_smaller_bandwidth(problem_of):
    problem = replace(
        problem_of([[1, 1]]),
        link_bandwidth=np.array([10.0, 5.0]),
        link_latency=np.array([0.25, 0.5]),
    )

    moved = transfer(problem, np.array([0, 1]), np.array([1, 1]), np.array([20.0, 20.0]))

    assert moved.tolist() == [4.75, 0]


def test_the_throughput_is_that_of_a_full_server(problem_of):
    """Two at a time, 5 s and 10 s for one unit of work each; s1 may run nothing."""
    problem = problem_of([[5, np.inf], [10, np.inf]], capacity=2, rate=[9.0, 7.0])

    np.testing.assert_allclose(throughput(problem), [2 * 2 / 15, 7])


def test_balancing_by_throughput_shortens_the_job_where_hardware_is_idle(make_problem):
    """Random demands have nothing to do with the rates: the makespan falls by a tenth or more."""
    ratios = []
    for seed in range(5):
        problem = make_problem(seed, tasks=150, servers=12)
        makespans = []
        for rate in (problem.rate, throughput(problem)):
            case = replace(problem, rate=rate, load=np.zeros(12))
            scale = game.scale_of(case)
            weights = {"balance": 4 / scale, "scale": scale}
            places = partitioning.partition(case, factorising.factorise(case), **weights)
            makespans.append(timetable(case, places).makespan)
        ratios.append(makespans[1] / makespans[0])
    assert np.mean(ratios) < 0.9
