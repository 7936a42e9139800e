from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import factorising, game, partitioning
from evenkeel_core.problems import NOWHERE, transfer, units
from evenkeel_core.verifying import verify_assignment

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 14)


def nowhere(problem):
    return np.full(len(problem.subtasks), NOWHERE)


def settle(problem, balance=0.1, scale=10.0, start=None):
    begin = nowhere(problem) if start is None else start
    return game.equilibrium(problem, begin, balance=balance, scale=scale)


@given(seed=seeds, tasks=sizes, servers=st.integers(1, 7), edges=st.sampled_from([0.0, 0.4]))
@settings(max_examples=40, deadline=None)
def test_the_potential_never_rises_and_the_end_is_stable(make_problem, seed, tasks, servers, edges):
    problem = make_problem(seed, tasks=tasks, servers=servers, edges=edges, pins=0.1)

    end = settle(problem)

    falls = np.diff(end.history[1:])
    assert (falls <= 1e-9 * abs(end.potential)).all()
    assert end.stable
    assert verify_assignment(problem, end.assignment) == ()
    assert no_single_move_improves(problem, end.assignment, balance=0.1, scale=10.0)


def no_single_move_improves(problem, assignment, *, balance, scale):
    """Try every move of every unit against P itself: shares nothing with the solver."""
    best = game.potential(problem, assignment, balance=balance, scale=scale)
    for unit in units(problem):
        for server in range(len(problem.servers)):
            moved = assignment.copy()
            moved[unit] = server
            if verify_assignment(problem, moved):
                continue
            if game.potential(problem, moved, balance=balance, scale=scale) < best * (1 - 1e-8):
                return False
    return True


@given(seed=seeds, subtask=st.integers(0, 9), server=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_a_move_lowers_the_potential_by_the_work_times_the_gain(
    make_problem, seed, subtask, server
):
    problem = make_problem(seed, tasks=10, servers=5, edges=0.4, infeasible=0.0)
    assignment = np.random.default_rng(seed).integers(0, 5, 10)
    weights = {"balance": 0.3, "scale": 7.0}
    utility = sum(game.utilities(problem, assignment, **weights))[subtask]
    moved = assignment.copy()
    moved[subtask] = server

    gain = utility[server] - utility[assignment[subtask]]
    fall = game.potential(problem, assignment, **weights) - game.potential(
        problem, moved, **weights
    )

    assert fall == pytest.approx(problem.work[subtask] * gain, rel=1e-9, abs=1e-7)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_coupled_sets_move_as_one_and_only_where_all_members_fit(make_problem, seed):
    problem = make_problem(seed, tasks=10, servers=4, sets=2, edges=0.2)

    end = settle(problem)

    for unit in units(problem):
        assert len(set(end.assignment[unit].tolist())) == 1
    assert no_single_move_improves(problem, end.assignment, balance=0.1, scale=10.0)


def test_a_pinned_set_stays_where_its_members_were_sized_for(make_problem):
    problem = make_problem(3, tasks=8, servers=4, sets=2, pinned_sets=True)

    end = settle(problem)

    assert end.assignment[:4].tolist() == [0, 1, 2, 3]


def test_a_set_that_no_server_holds_stays_as_it_is(problem_of):
    problem = problem_of([[1, 1], [1, 1]], group=[0, 0])

    end = settle(problem, start=np.array([0, 1]))

    assert end.assignment.tolist() == [0, 1]
    assert settle(problem).assignment.tolist() == [NOWHERE, NOWHERE]


def test_ties_go_to_the_first_server(problem_of):
    assert settle(problem_of([[2, 2, 2]])).assignment.tolist() == [0]


def test_what_may_run_nowhere_stays_nowhere(problem_of):
    end = settle(problem_of([[np.inf, np.inf], [1, 2]]))

    assert end.assignment.tolist() == [NOWHERE, 0]
    assert end.stable


def test_an_assignment_that_can_be_bettered_is_not_stable(problem_of):
    problem = problem_of([[1, 9], [1, 9]])

    assert not game.is_stable(problem, np.array([1, 1]), balance=0.1, scale=1.0)
    assert game.is_stable(problem, np.array([0, 0]), balance=0.1, scale=1.0)


def test_load_of_others_drives_a_subtask_away(problem_of):
    problem = replace(problem_of([[1, 1]]), load=np.array([100.0, 0.0]))

    assert settle(problem).assignment.tolist() == [1]


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_edge_seconds_to_every_server_equal_their_plain_sum(make_problem, seed):
    problem = make_problem(seed, tasks=8, servers=5, edges=0.6)
    assignment = np.random.default_rng(seed).integers(NOWHERE, 5, 8)
    neighbours = game.Neighbours(problem)
    for subtask in range(8):
        place = assignment.copy()
        place[subtask] = NOWHERE
        expected = np.zeros(5)
        for (one, other), data in zip(problem.edge, problem.edge_bytes, strict=True):
            if subtask in (one, other):
                there = place[other if subtask == one else one]
                if there != NOWHERE:
                    expected += transfer(problem, np.arange(5), there, data)
        np.testing.assert_allclose(neighbours.seconds(np.array([subtask]), place), expected)


def test_the_equilibrium_is_close_to_the_optimum_on_small_cases(make_problem, record_property):
    """Compare with all assignments of 6 subtasks to 3 servers: 25 problems, 729 each."""
    ratios = []
    for seed in range(25):
        problem = make_problem(seed, tasks=6, servers=3, edges=0.3 if seed % 2 else 0.0)
        scale = game.scale_of(problem)
        weights = {"balance": 1 / scale, "scale": scale}
        begin = partitioning.partition(problem, factorising.factorise(problem), **weights)
        end = game.equilibrium(problem, begin, **weights)
        everything = (np.array(places) for places in product(range(3), repeat=6))
        least = min(
            game.potential(problem, places, **weights)
            for places in everything
            if not verify_assignment(problem, places)
        )
        ratios.append(end.potential / least)
    record_property("mean", float(np.mean(ratios)))
    record_property("worst", float(np.max(ratios)))
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) <= 1.01
    assert max(ratios) <= 1.10


def test_doubling_the_weight_of_balance_brings_the_loads_into_the_band(problem_of):
    problem = problem_of([[1, 2]] * 8)
    begin = settle(problem, balance=1e-3, scale=1.0)
    assert game.imbalance(problem, begin.assignment) == 2.0

    level, balance = game.adjust(problem, begin, balance=1e-3, scale=1.0, band=1.1, doublings=20)

    assert game.imbalance(problem, level.assignment) <= 1.1
    assert balance > 1e-3
    assert level.stable


def test_a_band_that_can_not_be_reached_gives_the_most_level_state(problem_of):
    problem = problem_of([[1, 1, 1]], work=[3.0])
    begin = settle(problem)

    level, _ = game.adjust(problem, begin, balance=0.1, scale=1.0, band=1.5)

    assert game.imbalance(problem, level.assignment) == 3.0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("assignment", {"assignment": np.zeros(3, dtype=np.int64)}),
        ("balance", {"balance": -1.0}),
        ("scale", {"scale": 0.0}),
    ],
)
def test_a_wrong_call_names_the_argument(problem_of, name, arguments):
    given_ = {"assignment": np.zeros(1, dtype=np.int64), "balance": 1.0, "scale": 1.0} | arguments
    with pytest.raises(ValueError, match=f"`{name}`"):
        game.equilibrium(problem_of([[1, 2]]), given_.pop("assignment"), **given_)


def test_the_same_problem_gives_the_same_equilibrium(make_problem):
    problem = make_problem(5, tasks=40, servers=10, edges=0.1)

    assert settle(problem).assignment.tolist() == settle(problem).assignment.tolist()


@given(
    seed=seeds,
    servers=st.integers(1, 20),
    kinds=st.integers(1, 4),
    edges=st.sampled_from([0.0, 0.3]),
    sets=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_the_best_of_each_kind_and_the_neighbours_have_the_best_of_all(
    make_problem, seed, servers, kinds, edges, sets
):
    problem = make_problem(
        seed, tasks=12, servers=servers, kinds=kinds, edges=edges, sets=sets, infeasible=0.0
    )
    draw = np.random.default_rng(seed)
    state = game.State(problem, draw.integers(0, servers, 12), balance=0.1, scale=10.0)
    for unit in game.players(problem):
        places = state.lift(unit)
        prices = state.prices(unit)
        server, least = state._best(unit)
        assert least == prices.min()
        if np.isfinite(least):
            assert server == np.argmin(prices)
        state.drop(unit, draw.permutation(places))


@given(seed=seeds, servers=st.integers(1, 20), kinds=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_many_at_once_are_eager_where_each_alone_would_move(make_problem, seed, servers, kinds):
    problem = make_problem(seed, tasks=15, servers=servers, kinds=kinds)
    places = np.random.default_rng(seed).integers(NOWHERE, servers, 15)
    places = np.where(np.isfinite(problem.cost[np.arange(15), places]), places, NOWHERE)
    state = game.State(problem, places, balance=0.1, scale=10.0)

    eager = set(state.eager(np.arange(15)).tolist())

    for subtask in range(15):
        alone = game.State(problem, places, balance=0.1, scale=10.0)
        other = game.State(problem, places, balance=0.1, scale=10.0)
        assert alone.respond(np.array([subtask])) == (subtask in eager)
        assert bool(other.answer(np.array([subtask]))) == (subtask in eager)
        assert other.assignment.tolist() == alone.assignment.tolist()


def test_an_exchange_lowers_the_potential_or_is_not_made(make_problem):
    problem = make_problem(9, tasks=30, servers=6, kinds=2, infeasible=0.0)
    state = game.State(problem, np.arange(30) % 6, balance=0.1, scale=10.0)
    made = 0
    for one, other in np.random.default_rng(9).integers(0, 30, (200, 2)).tolist():
        before, places = state.potential(), state.assignment.copy()
        places[[one, other]] = places[[other, one]]
        after = game.potential(problem, places, balance=0.1, scale=10.0)
        if state.exchange(one, other):
            made += 1
            assert state.potential() == pytest.approx(after)
            assert after < before
        else:
            assert after >= before * (1 - 1e-9)
    assert 0 < made < 200
