"""Assignments of least cost: bounds, exchanges and the search, against enumeration."""

import itertools
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import packings
from evenkeel_core.assigning import assign
from evenkeel_core.diving import dive
from evenkeel_core.exchanging import Board
from evenkeel_core.packings import Dual, Packing
from evenkeel_core.problems import Floats, Ints

SEEDS = st.integers(0, 2**32 - 1)


def random_packing(
    seed: int, tasks: int, servers: int, resources: int = 1, room: float = 0.9
) -> Packing:
    """Return a packing whose costs fall with the demands, with some pairs barred."""
    random = np.random.default_rng(seed)
    demand = random.integers(1, 20, (tasks, servers, resources)).astype(float)
    cost = 25.0 - demand.mean(axis=2) + random.integers(-3, 4, (tasks, servers))
    cost[random.random(cost.shape) < 0.1] = np.inf
    capacity = np.floor(room * demand.sum(axis=0) / servers) + 5
    return Packing(cost, demand, capacity)


def enumerated(packing: Packing) -> float:
    """Return the least cost of any feasible assignment, inf if there is none."""
    tasks, servers = packing.cost.shape
    found = [
        packings.total(packing, np.array(places))
        for places in itertools.product(range(servers), repeat=tasks)
        if packings.feasible(packing, np.array(places))
    ]
    return min(found, default=np.inf)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 3), st.integers(1, 2))
def test_small_ones_are_solved_and_proven(
    seed: int, tasks: int, servers: int, resources: int
) -> None:
    packing = random_packing(seed, tasks, servers, resources)
    least = enumerated(packing)
    found = assign(packing, rounds=5)
    if found is None:
        assert least == np.inf
        return
    assert packings.feasible(packing, found.assignment)
    assert found.cost == packings.total(packing, found.assignment)
    assert found.proven
    assert found.cost == pytest.approx(least)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(7, 20), st.integers(2, 5), st.integers(1, 3))
def test_an_assignment_is_feasible_and_not_below_its_bound(
    seed: int, tasks: int, servers: int, resources: int
) -> None:
    packing = random_packing(seed, tasks, servers, resources)
    found = assign(packing, rounds=10)
    if found is not None:
        assert packings.feasible(packing, found.assignment)
        assert found.linear <= found.bound + 1e-6
        assert found.bound <= found.cost + 1e-6


@given(SEEDS, st.integers(1, 9), st.integers(1, 3))
def test_knapsacks_are_packed_best(seed: int, tasks: int, servers: int) -> None:
    random = np.random.default_rng(seed)
    profit = random.integers(-5, 30, (servers, tasks)).astype(float)
    weight = random.integers(0, 12, (servers, tasks))
    capacity = random.integers(0, 40, servers)
    packed, value = packings.knapsacks(profit, weight, capacity)
    sets = np.array(list(itertools.product((False, True), repeat=tasks)))
    for server in range(servers):
        fits = sets[(sets @ weight[server]) <= capacity[server]]
        assert value[server] == pytest.approx((fits @ profit[server]).max())
        assert value[server] == pytest.approx(profit[server][packed[server]].sum())
        assert weight[server][packed[server]].sum() <= capacity[server]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 6), st.integers(2, 3), st.integers(1, 2), st.booleans())
def test_no_step_of_the_dual_bounds_above_the_optimum(
    seed: int, tasks: int, servers: int, resources: int, whole: bool
) -> None:
    """Fractions and several resources are rounded and priced, never overstated."""
    packing = random_packing(seed, tasks, servers, resources)
    if not whole:
        packing = Packing(packing.cost, packing.demand * 0.37, packing.capacity * 0.37)
    least, relaxation = enumerated(packing), packings.relax(packing)
    if relaxation is None:
        assert least == np.inf
        return
    dual = Dual(packing, relaxation)
    for _ in range(20):
        dual.advance(relaxation.bound * 1.1)
        assert dual.bound <= least + 1e-6 * abs(dual.bound)


def test_the_knapsacks_bound_better_than_the_line() -> None:
    packing = random_packing(3, 40, 8)
    relaxation = packings.relax(packing)
    assert relaxation is not None
    dual = Dual(packing, relaxation)
    for _ in range(60):
        dual.advance(relaxation.bound * 1.02)
    assert dual.bound > relaxation.bound


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 30), st.integers(2, 5), st.integers(1, 2))
def test_a_dive_places_every_subtask_where_it_may_go(
    seed: int, tasks: int, servers: int, resources: int
) -> None:
    packing = random_packing(seed, tasks, servers, resources, room=1.5)
    relaxation = packings.relax(packing)
    if relaxation is None:
        return
    dual = Dual(packing, relaxation)
    for _ in range(10):
        dual.advance(relaxation.bound * 1.1)
    mean, worth = dual.mean.copy(), dual.worth.copy()
    place = dive(dual, np.random.default_rng(seed), 0.1)
    assert np.isfinite(packing.cost[np.arange(tasks), place]).all()
    assert (dual.mean == mean).all()
    assert (dual.worth == worth).all()
    assert (place == dive(dual, np.random.default_rng(seed), 0.1)).all()


def test_a_dive_overloads_less_than_rounding_at_once() -> None:
    """Each to the server that packs it most often is too much; the dive minds what is left."""
    packing = random_packing(7, 60, 6)
    relaxation = packings.relax(packing)
    assert relaxation is not None
    dual = Dual(packing, relaxation)
    for _ in range(60):
        dual.advance(relaxation.bound * 1.02)
    place = dive(dual, np.random.default_rng(0), 0.0)

    def excess(places: Ints) -> float:
        return float(np.maximum(packings.loads(packing, places) - packing.capacity, 0.0).sum())

    assert excess(place) < excess(dual.mean.argmax(axis=0))


def priced(packing: Packing, place: Ints, price: Floats) -> float:
    """Return the cost of an assignment with what is too much."""
    over = np.maximum(packings.loads(packing, place) - packing.capacity, 0.0)
    return packings.total(packing, place) + float((price * over).sum())


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 12), st.integers(2, 4), st.integers(1, 2))
def test_a_descent_ends_where_no_shift_or_swap_improves(
    seed: int, tasks: int, servers: int, resources: int
) -> None:
    """From any start and after any way back: what is kept up to date is what would be computed."""
    random = np.random.default_rng(seed)
    packing = random_packing(seed, tasks, servers, resources)
    packing = Packing(np.where(np.isfinite(packing.cost), packing.cost, 60.0), packing.demand,
                      packing.capacity + packing.demand.max())  # fmt: skip
    price = random.uniform(0.1, 3.0, packing.capacity.shape)
    board = Board(packing, random.integers(0, servers, tasks), price)
    for _ in range(3):
        before = priced(packing, board.place, price)
        board.descend()
        here = priced(packing, board.place, price)
        assert here <= before + 1e-9
        for subtask, server in itertools.product(range(tasks), range(servers)):
            other = board.place.copy()
            other[subtask] = server
            assert priced(packing, other, price) >= here - 1e-6
        for pair in itertools.combinations(range(tasks), 2):
            other = board.place.copy()
            other[list(pair)] = other[list(pair)[::-1]]
            assert priced(packing, other, price) >= here - 1e-6
        board.reset(random.integers(0, servers, tasks))


def test_a_chain_is_found_where_no_shift_or_swap_helps() -> None:
    """The first two can only change places if the third, which nobody wants, moves on."""
    cost = np.array([[9.0, 1.0, 9.0], [9.0, 1.0, 1.5], [5.0, 5.0, 5.0]])
    demand = np.ones((3, 3, 1))
    packing = Packing(cost, demand, np.array([[1.0], [1.0], [2.0]]))
    board = Board(packing, np.array([0, 1, 2]), np.full((3, 1), 100.0))
    board.descend()
    assert board.place[0] == 1
    assert board.place[1] == 2


def test_equal_input_gives_equal_output() -> None:
    packing = random_packing(11, 30, 4)
    first, second = assign(packing, rounds=20), assign(packing, rounds=20)
    assert first is not None
    assert second is not None
    assert first.assignment.tolist() == second.assignment.tolist()


def test_the_time_limit_ends_the_search() -> None:
    """The clock ticks once a look: far fewer looks than rounds."""
    ticks = count()
    packing = random_packing(5, 320, 20, room=0.8)
    found = assign(packing, clock=lambda: float(next(ticks)), time_limit=30)
    assert found is not None
    assert next(ticks) < 60


@pytest.mark.parametrize("tasks", [0, 3])
def test_nothing_to_assign_or_nowhere_to(tasks: int) -> None:
    packing = Packing(np.zeros((tasks, 0)), np.zeros((tasks, 0, 1)), np.zeros((0, 1)))
    found = assign(packing)
    assert (found is None) == (tasks > 0)


def test_what_fits_nowhere_is_no_assignment() -> None:
    packing = Packing(np.ones((2, 1)), np.full((2, 1, 1), 2.0), np.array([[3.0]]))
    assert assign(packing) is None


@pytest.mark.parametrize(
    ("demand", "capacity", "message"),
    [
        ((2, 3, 1), (3, 2), "`demand` has shape"),
        ((2, 3, 1), (2, 1), "`capacity` is of 2 servers"),
        ((2, 3, 0), (3, 0), "no resource"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    demand: tuple[int, ...], capacity: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Packing(np.ones((2, 3)), np.ones(demand), np.ones(capacity))
