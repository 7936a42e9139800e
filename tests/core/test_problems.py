from dataclasses import replace

import numpy as np
import pytest

from evenkeel_core import factorising, game, partitioning
from evenkeel_core.problems import (
    NOWHERE,
    alike,
    allowed,
    coupled,
    demands,
    part,
    room_for,
    sort_of,
    throughput,
    transfer,
    units,
    usable,
)
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


def test_equal_rows_and_columns_are_held_once(problem_of):
    problem = problem_of([[1, 2, 1], [1, 2, 1], [np.inf, 2, np.inf]])

    assert problem.seconds.tolist() == [[1, 2], [np.inf, 2]]
    assert (problem.row.tolist(), problem.kind.tolist()) == ([0, 0, 1], [0, 1, 0])
    assert problem.cost.tolist() == [[1, 2, 1], [1, 2, 1], [np.inf, 2, np.inf]]


def test_what_is_written_out_is_what_was_given(make_problem):
    problem = make_problem(4, tasks=9, servers=7, kinds=3, measured=0.5)
    names = ("cost", "compute", "measured", "demand", "kind")
    given = {name: getattr(problem, name) for name in names}

    again = problem.with_pairs(**given)

    for name in ("cost", "compute", "measured"):
        np.testing.assert_array_equal(getattr(again, name), given[name])
    np.testing.assert_array_equal(again.demand[:, again.kind], given["demand"][:, given["kind"]])
    with pytest.raises(ValueError, match="`changed`"):
        problem.with_pairs(seconds=problem.seconds)


def test_negative_zero_is_zero():
    number, first = alike(np.array([[0.0], [-0.0], [1.0]]))

    assert (number.tolist(), first.tolist()) == ([0, 0, 1], [0, 2])


def test_servers_of_one_sort_differ_in_no_figure(problem_of):
    problem = problem_of([[1, 1, 1, 2]])

    number, first = sort_of(problem, np.array([5.0, 3.0, 5.0, 5.0]))

    assert (number.tolist(), first.tolist()) == ([0, 1, 0, 2], [0, 1, 3])


def test_sets_and_singles_are_told_apart(problem_of):
    sets, alone = coupled(problem_of([[1]] * 5, group=[9, 4, 9, 1, 4]))

    assert [unit.tolist() for unit in sets] == [[0, 2], [1, 4]]
    assert alone.tolist() == [3]


def test_a_part_has_its_own_edges_only(problem_of):
    problem = problem_of([[1, 2], [3, 4], [5, 6]], edges=[(0, 1, 7.0), (1, 2, 8.0)])

    left = part(problem, np.array([False, True, True]))

    assert left.subtasks == ("t1", "t2")
    assert left.cost.tolist() == [[3, 4], [5, 6]]
    assert (left.edge.tolist(), left.edge_bytes.tolist()) == ([[0, 1]], [8.0])


def test_a_server_is_usable_if_anything_may_run_there(problem_of):
    problem = problem_of([[1, np.inf, np.inf], [1, 1, np.inf]], pinned=[NOWHERE, 1])

    assert usable(problem).tolist() == [True, True, False]
    assert (usable(problem) == allowed(problem).any(axis=0)).all()


def test_room_that_differs_by_less_than_a_percent_gives_one_throughput(problem_of):
    problem = problem_of([[5.0, 5.0, 5.0]])
    problem = replace(problem, capacity=np.array([[100_000], [100_001], [200_000]]))

    one, other, larger = throughput(problem).tolist()

    assert one == other
    assert larger == pytest.approx(2 * one)
