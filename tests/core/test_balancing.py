from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from evenkeel_core.balancing import (
    Dynamics,
    components,
    conductances,
    derivative,
    integrate,
    mean_load,
)

seeds = st.integers(0, 2**32 - 1)


def random_dynamics(seed, servers=6, parts=2, *, decay=0.0, pull=0.0, arrivals=False):
    """Return a system of so many components, each a ring with some chords."""
    draw = np.random.default_rng(seed)
    conductance = np.zeros((servers, servers))
    for part in range(parts):
        members = np.arange(part, servers, parts)
        for one, other in zip(members, np.roll(members, 1), strict=True):
            if one != other:
                conductance[one, other] = conductance[other, one] = draw.uniform(0.01, 0.5)
    system = Dynamics(
        rate=draw.uniform(0.2, 5, servers),
        conductance=conductance,
        decay=decay,
        pull=pull,
        arrivals=draw.uniform(0, 2, servers) if arrivals else None,
    )
    return system, draw.uniform(0, 100, servers)


@given(
    seed=seeds,
    decay=st.sampled_from([0.0, 0.05]),
    pull=st.sampled_from([0.0, 0.02]),
    arrivals=st.booleans(),
    horizon=st.sampled_from([0.1, 10.0, 120.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_closed_form_equals_the_numerical_solution(seed, decay, pull, arrivals, horizon):
    system, x = random_dynamics(seed, decay=decay, pull=pull, arrivals=arrivals)

    def both(_, state):
        # The flows are the integrals of κ_ij (x_i - x_j); here they are integrated as a state.
        now = state[:6]
        moved = system.conductance * (now[:, None] - now)
        return np.concatenate([derivative(system, now), moved.ravel()])

    begin = np.concatenate([x, np.zeros(36)])
    solved = solve_ivp(both, (0, horizon), begin, method="DOP853", rtol=1e-11, atol=1e-11)
    flows = integrate(system, x, horizon)

    np.testing.assert_allclose(flows.final, solved.y[:6, -1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(flows.moved.ravel(), solved.y[6:, -1], rtol=1e-6, atol=1e-6)


@given(seed=seeds, pull=st.sampled_from([0.0, 0.1]))
@settings(max_examples=25, deadline=None)
def test_balancing_conserves_the_work_of_each_component(seed, pull):
    system, x = random_dynamics(seed, servers=8, parts=3, pull=pull)
    component = components(system.conductance)

    flows = integrate(system, x, 50.0)

    before = np.bincount(component, weights=system.rate * x)
    after = np.bincount(component, weights=system.rate * flows.final)
    np.testing.assert_allclose(after, before, rtol=1e-9)
    change = np.bincount(component, weights=system.rate * derivative(system, x))
    np.testing.assert_allclose(change, 0, atol=1e-9)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_the_flows_account_for_every_change_of_load(seed):
    system, x = random_dynamics(seed)

    flows = integrate(system, x, 30.0)

    np.testing.assert_allclose(flows.moved, -flows.moved.T, atol=1e-9)
    left = system.rate * (x - flows.final)
    np.testing.assert_allclose(flows.moved.sum(axis=1), left, rtol=1e-8, atol=1e-8)


@given(seed=seeds, parts=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_all_loads_tend_to_the_weighted_mean_of_their_component(seed, parts):
    system, x = random_dynamics(seed, servers=9, parts=parts)
    mean = mean_load(system.rate, x, components(system.conductance))

    np.testing.assert_allclose(integrate(system, x, 1e5).final, mean, rtol=1e-6)


def test_servers_that_can_not_exchange_work_stay_apart():
    system = Dynamics(rate=np.ones(3), conductance=np.zeros((3, 3)), pull=1.0)

    assert components(system.conductance).tolist() == [0, 1, 2]
    np.testing.assert_allclose(integrate(system, np.array([1.0, 2, 3]), 9.0).final, [1, 2, 3])


def test_decay_alone_drains_exponentially():
    system = Dynamics(rate=np.ones(2), conductance=np.zeros((2, 2)), decay=0.1)

    final = integrate(system, np.array([10.0, 20.0]), 10.0).final

    np.testing.assert_allclose(final, np.array([10.0, 20.0]) / np.e)


def test_the_faster_server_takes_more_of_the_work():
    joined = np.array([[0.0, 1.0], [1.0, 0.0]])
    system = Dynamics(rate=np.array([1.0, 3.0]), conductance=joined)

    flows = integrate(system, np.array([8.0, 0.0]), 1e4)

    np.testing.assert_allclose(flows.final, [2, 2], rtol=1e-9)
    np.testing.assert_allclose(flows.moved, [[0, 6], [-6, 0]], atol=1e-6)


def test_pulling_from_a_shared_queue_migrates_nothing_by_itself():
    """β levels the loads; only what is left for κ to move is a migration."""
    joined = np.array([[0.0, 1e-9], [1e-9, 0.0]])
    system = Dynamics(rate=np.ones(2), conductance=joined, pull=1.0)

    flows = integrate(system, np.array([10.0, 0.0]), 100.0)

    np.testing.assert_allclose(flows.final, [5, 5])
    assert np.abs(flows.moved).max() < 1e-7


def test_conductance_is_one_over_the_larger_cost_of_both_ways():
    seconds = np.array([[0.0, 2.0, np.inf], [4.0, 0.0, 5.0], [1.0, 5.0, 0.0]])

    expected = [[0, 0.25, 0], [0.25, 0, 0.2], [0, 0.2, 0]]
    np.testing.assert_allclose(conductances(seconds), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", np.array([1.0, 0.0])),
        ("conductance", np.array([[0.0, 1.0], [2.0, 0.0]])),
        ("conductance", np.array([[0.0, -1.0], [-1.0, 0.0]])),
        ("conductance", np.zeros((3, 3))),
        ("decay", -1.0),
        ("pull", -1.0),
    ],
)
def test_what_is_no_such_system_names_the_argument(name, value):
    system = Dynamics(rate=np.ones(2), conductance=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=f"`{name}`"):
        replace(system, **{name: value})


def test_a_wrong_horizon_and_wrong_loads_name_the_argument():
    system = Dynamics(rate=np.ones(2), conductance=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="`horizon`"):
        integrate(system, np.ones(2), 0.0)
    with pytest.raises(ValueError, match="`x`"):
        integrate(system, np.ones(3), 1.0)
    with pytest.raises(ValueError, match="`seconds`"):
        conductances(np.zeros((2, 2)))


def test_the_system_of_five_hundred_servers_is_solved():
    system, x = random_dynamics(1, servers=500, parts=1, decay=0.01)

    assert integrate(system, x, 60.0).final.max() < x.max()
