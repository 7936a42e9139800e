"""Schedules that see who waits for whom: valid, never longer than HEFT's, often the shortest."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import inserting, scheduling
from evenkeel_core.problems import transfer
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify_assignment


def dag(problem_of, seed, *, tasks, servers, density=0.3, data=20.0, capacity=1):
    """Return a random DAG on servers that run `capacity` subtasks at a time."""
    draw = np.random.default_rng(seed)
    cost = draw.uniform(1, 20, (tasks, servers)).round(1)
    cost[draw.random((tasks, servers)) < 0.1] = np.inf
    cost[np.arange(tasks), draw.integers(0, servers, tasks)] = draw.integers(0, 9, tasks)
    pairs = [pair for pair in itertools.combinations(range(tasks), 2) if draw.random() < density]
    edges = [(one, other, float(draw.integers(0, data + 1))) for one, other in pairs]
    return problem_of(cost, edges=edges, capacity=capacity)


def check(problem, found):
    """Refuse a schedule that breaks a rule or is longer than HEFT's."""
    assert verify_assignment(problem, found.assignment, found.times) == ()
    begin = inserting.heft(problem)
    timed = timetable(problem, begin.assignment)
    assert found.times.makespan <= min(begin.times.makespan, timed.makespan) * (1 + 1e-9)
    assert found.bound <= found.times.makespan * (1 + 1e-9)


@given(
    seed=st.integers(0, 2**32 - 1),
    tasks=st.integers(1, 25),
    servers=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.1, 0.4]),
    capacity=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_schedule_is_valid_and_never_longer_than_heft(
    problem_of, seed, tasks, servers, density, capacity
):
    problem = dag(
        problem_of, seed, tasks=tasks, servers=servers, density=density, capacity=capacity
    )

    found = scheduling.schedule(problem, effort=20_000)

    check(problem, found)


@given(
    seed=st.integers(0, 2**32 - 1),
    tasks=st.integers(1, 25),
    servers=st.integers(1, 6),
    edges=st.sampled_from([0.0, 0.1, 0.4]),
    sets=st.integers(0, 3),
    pinned_sets=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_pins_sets_and_capacities_of_several_resources_hold(
    make_problem, seed, tasks, servers, edges, sets, pinned_sets
):
    problem = make_problem(
        seed,
        tasks=tasks,
        servers=servers,
        edges=edges,
        pins=0.2,
        sets=min(sets, tasks // 2),
        pinned_sets=pinned_sets,
    )

    found = scheduling.schedule(problem, effort=20_000)

    check(problem, found)


@given(seed=st.integers(0, 2**32 - 1), sets=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_sets_span_servers_that_run_one_subtask_at_a_time(problem_of, seed, sets):
    problem = dag(problem_of, seed, tasks=14, servers=4, density=0.0)
    draw = np.random.default_rng(seed)
    group = np.arange(14)
    group[1 : 2 * sets : 2] = group[0 : 2 * sets : 2]
    order = draw.permutation(14)
    pairs = [(a, b) for a, b in itertools.combinations(range(14), 2) if group[a] < group[b]]
    edge = np.array([pair for pair in pairs if draw.random() < 0.2], dtype=np.int64).reshape(-1, 2)
    cost = np.where(np.isfinite(problem.cost), problem.cost, 5.0)
    problem = replace(
        problem.with_pairs(cost=cost[order]),
        group=group,
        edge=edge,
        edge_bytes=draw.uniform(0, 20, len(edge)),
        dependency=np.ones(len(edge), dtype=bool),
    )

    check(problem, scheduling.schedule(problem, effort=4000))


@given(seed=st.integers(0, 2**32 - 1), capacity=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_the_same_problem_has_the_same_schedule(problem_of, seed, capacity):
    problem = dag(problem_of, seed, tasks=15, servers=3, capacity=capacity)

    one, other = (scheduling.schedule(problem, effort=3000, seed=4) for _ in range(2))

    assert one.assignment.tolist() == other.assignment.tolist()
    assert one.times.start.tolist() == other.times.start.tolist()


def shortest(problem):
    """Return the least makespan over all assignments and orders, one subtask at a time."""
    tasks, servers = problem.cost.shape
    before = [[] for _ in range(tasks)]
    for edge, (source, target) in enumerate(problem.edge.tolist()):
        before[target].append((source, edge))
    orders = [
        order
        for order in itertools.permutations(range(tasks))
        if all(order.index(one) < order.index(other) for one, other in problem.edge.tolist())
    ]
    every = np.arange(servers)
    least = np.inf
    for places in itertools.product(range(servers), repeat=tasks):
        cost = problem.cost[np.arange(tasks), places]
        if not np.isfinite(cost).all():
            continue
        moved = [
            float(transfer(problem, every[places[a]], every[places[b]], problem.edge_bytes[edge]))
            for edge, (a, b) in enumerate(problem.edge.tolist())
        ]
        for order in orders:
            free, end = [0.0] * servers, [0.0] * tasks
            for task in order:
                start = free[places[task]]
                for source, edge in before[task]:
                    start = max(start, end[source] + moved[edge])
                free[places[task]] = end[task] = start + cost[task]
            least = min(least, max(end))
    return least


def test_tiny_jobs_get_a_shortest_schedule(problem_of):
    reached = 0
    for seed in range(30):
        problem = dag(problem_of, seed, tasks=5, servers=2, density=0.4)
        least = shortest(problem)

        found = scheduling.schedule(problem, effort=20_000)

        assert found.bound <= least + 1e-9 <= found.times.makespan + 2e-9
        reached += found.times.makespan <= least + 1e-9
    assert reached == 30


def test_heavy_edges_keep_their_ends_together(problem_of):
    """Two chains whose links cost more than all the work: one server each, and no transfer."""
    edges = [(0, 2, 99.0), (2, 4, 99.0), (1, 3, 99.0), (3, 5, 99.0)]

    found = scheduling.schedule(problem_of([[2, 3]] * 6, edges=edges), effort=2000)

    assert found.times.makespan == 9
    assert {tuple(found.assignment[chain].tolist()) for chain in ([0, 2, 4], [1, 3, 5])} == {
        (0, 0, 0),
        (1, 1, 1),
    }


def test_a_schedule_that_meets_the_bound_is_proven(problem_of):
    found = scheduling.schedule(problem_of([[3, 3]] * 4), effort=1000)

    assert (found.times.makespan, found.bound, found.proven) == (6, 6, True)


def test_what_is_too_small_for_a_subtask_is_left_alone(problem_of):
    problem = problem_of([[9, 1]] * 3, edges=[(0, 1, 5.0)])
    problem = replace(problem, capacity=np.array([[1], [0]]))

    assert scheduling.schedule(problem, effort=500).assignment.tolist() == [0, 0, 0]


def test_a_clock_ends_the_search(problem_of):
    problem = dag(problem_of, 5, tasks=20, servers=3)
    ticks = itertools.count()

    found = scheduling.schedule(problem, time_limit=50, clock=lambda: float(next(ticks)))

    check(problem, found)
    assert next(ticks) < 100


def test_without_effort_it_is_as_long_as_by_heft(problem_of):
    problem = dag(problem_of, 7, tasks=20, servers=3)

    found = scheduling.schedule(problem, effort=0)

    check(problem, found)
    assert found.times.makespan == inserting.heft(problem).times.makespan


def test_more_servers_than_are_looked_at(monkeypatch, make_problem):
    problem = make_problem(3, tasks=12, servers=40, kinds=4, edges=0.2, pins=0.2)
    monkeypatch.setattr(scheduling, "CELLS", 60)

    found = scheduling.schedule(problem, effort=2000)

    assert verify_assignment(problem, found.assignment, found.times) == ()


def test_what_runs_nowhere_has_no_schedule(problem_of):
    assert scheduling.schedule(problem_of([[1, 2], [np.inf, np.inf]])) is None
    assert scheduling.schedule(problem_of([[1], [1]], group=[0, 0])) is None


def test_an_empty_job_takes_no_time(make_problem):
    found = scheduling.schedule(make_problem(0, tasks=0, servers=2))

    assert (found.times.makespan, found.proven) == (0.0, True)


def test_a_circle_is_a_wrong_call(problem_of):
    with pytest.raises(ValueError, match="circle"):
        scheduling.schedule(problem_of([[1], [1]], edges=[(0, 1, 0), (1, 0, 0)]))


def test_subtasks_that_take_no_time_keep_their_order(problem_of):
    problem = problem_of([[0, 0]] * 6, edges=[(5, 4, 0), (4, 3, 0), (3, 0, 1.0)])

    found = scheduling.schedule(problem, effort=500)

    check(problem, found)
    assert found.times.makespan == 0
