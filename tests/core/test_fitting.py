from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import fitting
from evenkeel_core.fitting import Fitting, Room, Shape, prices, stranded, typical, usable

KINDS = 2
FREE = np.zeros(KINDS)


def room(*servers):
    """Return the room of servers given as ((processors, memory), devices, kind)."""
    width = max(len(devices) for _, devices, _ in servers)
    return Room(
        np.array([free for free, _, _ in servers], dtype=float),
        np.array([[*d, *[0] * (width - len(d))] for _, d, _ in servers], dtype=float),
        np.array([kind for _, _, kind in servers]),
    )


def whole(count=1, processors=8, kinds=None):
    return Shape((processors, 8), count, 1000, kinds)


def part(milli, processors=8):
    return Shape((processors, 8), 1, milli)


# What is usable


def test_free_devices_are_usable_as_far_as_processors_and_memory_go():
    pods = typical({whole(): 1}, KINDS)
    servers = room(
        ((64, 64), (1000,) * 4, 0),
        ((7, 64), (1000,) * 4, 0),  # not one pod can start
        ((64, 7), (1000,) * 4, 0),
        ((8, 64), (1000,) * 4, 0),  # one copy, counted LENIENCE times
        ((64, 64), (1000, 999, 999), 0),  # what is not whole serves no whole pod
        ((64, 64), (), 0),
    )
    bound = 1000 * fitting.LENIENCE
    assert usable(pods, servers).tolist() == [4000, 0, 0, bound, 1000, 0]


def test_several_devices_are_usable_together_or_not_at_all():
    pods = typical({whole(4): 1}, KINDS)
    servers = room(((64, 64), (1000,) * 4, 0), ((64, 64), (1000,) * 3 + (999,), 0))
    assert usable(pods, servers).tolist() == [4000, 0]


def test_each_pod_counts_where_it_may_run():
    pods = typical({whole(kinds=(True, False)): 3, part(500): 2}, KINDS)
    servers = room(((64, 64), (1000,), 0), ((64, 64), (1000,), 1), ((64, 64), (600,), 0))
    assert usable(pods, servers).tolist() == [5000, 2000, 1200]


def test_processors_are_what_counts_where_no_pod_has_a_device():
    pods = typical({Shape((4, 8)): 1}, KINDS)
    servers = room(((64, 64), (), 0), ((64, 8), (), 0), ((3, 64), (), 0))
    assert usable(pods, servers).tolist() == [64, 4 * fitting.LENIENCE, 0]


def test_only_the_most_frequent_demands_are_kept_and_ties_go_to_the_smaller():
    counted = {whole(processors=n): 1 for n in (5, 3, 4)} | {whole(2): 9}
    pods = typical(counted, KINDS, most=2)
    assert pods.amounts.tolist() == [[8, 8], [3, 8]]
    assert pods.total == 10


def test_without_any_pod_seen_no_server_is_better_than_another():
    pods = typical({}, KINDS)
    cost, _ = stranded(pods, room(((8, 8), (1000,), 0), ((9, 9), (500,), 1)), part(500), FREE)
    assert cost[0] == cost[1]
    pods = typical({Shape((0, 0)): 5}, KINDS)
    assert not usable(pods, room(((8, 8), (1000,), 0))).any()


# What is stranded


def test_a_pod_strands_what_it_takes_the_processors_from():
    pods = typical({whole(): 1}, KINDS)
    servers = room(((16, 64), (1000,) * 2, 0), ((16, 64), (), 0), ((32, 64), (1000,) * 2, 0))
    cost, _ = stranded(pods, servers, Shape((12, 1)), FREE)
    assert cost.tolist() == [2000, 0, 0]


def test_a_part_goes_where_a_part_is_left():
    pods = typical({whole(): 1, part(500): 1}, KINDS)
    servers = room(((64, 64), (1000, 500, 400), 0))
    cost, first = stranded(pods, servers, part(500), FREE)
    assert first.tolist() == [1]  # the devices by what is free: 400, 500, 1000
    assert cost.tolist() == [-250]  # the whole ones never could use it
    _, first = stranded(pods, servers, part(300), FREE)
    assert first.tolist() == [0]


def test_it_does_not_fit_where_anything_is_missing():
    pods = typical({whole(): 1}, KINDS)
    servers = room(
        ((64, 64), (1000, 999), 0),
        ((64, 64), (), 0),
        ((7, 64), (1000,) * 2, 0),
        ((64, 64), (1000,) * 2, 1),
        ((8, 8), (1000,) * 2, 0),
    )
    cost, _ = stranded(pods, servers, whole(2, kinds=(True, False)), FREE)
    assert np.isfinite(cost).tolist() == [False] * 4 + [True]
    assert not np.isfinite(stranded(pods, servers, whole(3), FREE)[0]).any()


def test_what_is_not_asked_for_may_be_overdrawn():
    pods = typical({whole(): 1}, KINDS)
    servers = room(((8, -5), (1000,), 0))
    assert np.isfinite(stranded(pods, servers, Shape((8, 0), 1), FREE)[0]).all()


def test_a_pod_that_asks_for_more_than_there_can_be_troubles_no_other():
    huge = Shape((10**30, 8), 10**30, 1000, (True, False))
    there = room(((64, 64), (1000, 1000), 0), ((64, 64), (1000,), 0))
    fitted = Fitting(there, *aimed([huge, whole(), whole(2)], there))
    assert fitted.choose(huge) is None
    assert fitted.choose(whole()) == 1


# What kinds cost


def test_kinds_that_others_name_are_left_alone():
    counted = {whole(kinds=(False, True)): 5, whole(): 5}
    price = prices(counted, np.array([8000.0, 2000.0]))
    # Were all devices asked for, 5 of 10 would name the second kind, which has 2.
    assert price.tolist() == pytest.approx([0, fitting.SCARCITY * 2.5])
    servers = room(((64, 64), (1000,), 1), ((64, 64), (1000,), 0))
    cost, _ = stranded(typical(counted, KINDS), servers, whole(), price)
    assert cost.argmin() == 1


def test_claims_are_spread_so_that_the_most_claimed_kind_is_claimed_least():
    counted = {
        Shape((1, 1), 1, 1000, (True, False, False, False)): 6,
        Shape((1, 1), 1, 1000, (True, True, True, False)): 6,
        Shape((1, 1), 1, 1000, None): 12,
    }
    price = prices(counted, np.array([6000.0, 4000.0, 8000.0, 6000.0]))
    assert price / fitting.SCARCITY == pytest.approx([1.0, 0.5, 0.5, 0.0], abs=1e-6)


@pytest.mark.parametrize("counted", [{}, {Shape((1, 1)): 3}, {whole(): 3}])
def test_where_nobody_names_a_kind_none_costs_more(counted):
    assert prices(counted, np.array([5.0, 0.0, 3.0])).tolist() == [0, 0, 0]


def test_kinds_without_devices_and_claims_on_nothing_are_no_trouble():
    counted = {whole(kinds=(True, False)): 1, whole(kinds=(False, False)): 1}
    assert np.isfinite(prices(counted, np.array([0.0, 5000.0]))).all()
    assert prices({}, np.zeros(0)).size == 0


# Many pods


shapes = st.one_of(
    st.builds(
        lambda amounts, milli, kinds: Shape(amounts, 1, milli, kinds),
        st.tuples(st.integers(0, 20), st.integers(0, 20)),
        st.integers(1, 1000),
        st.none() | st.tuples(st.booleans(), st.booleans()),
    ),
    st.builds(
        lambda amounts, devices: Shape(amounts, devices),
        st.tuples(st.integers(0, 20), st.integers(0, 20)),
        st.integers(0, 4),
    ),
)
servers = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 60), st.integers(0, 60)),
        st.lists(st.sampled_from([0, 200, 500, 1000]), max_size=4),
        st.integers(0, KINDS - 1),
    ),
    min_size=1,
    max_size=6,
)


def aimed(pods, there):
    counted = Counter(pods)
    devices = np.bincount(there.kind, weights=there.devices.sum(axis=1), minlength=KINDS)
    return typical(counted, KINDS), prices(counted, devices)


def placed(there, pods, target):
    """Place pod after pod and yield what is asked about each placement."""
    fitted = Fitting(there, *target)
    for shape in pods:
        before = fitted.room
        before = Room(before.free.copy(), before.devices.copy(), before.kind)
        cost, server = fitted.cost(shape), fitted.choose(shape)
        devices = fitted.take(server, shape) if server is not None else ()
        yield shape, before, cost, server, devices, fitted


@given(servers, st.lists(shapes, max_size=30))
@settings(deadline=None)
def test_no_server_ever_takes_more_than_it_has(made, pods):
    there = room(*made)
    for shape, before, _, server, devices, fitted in placed(there, pods, aimed(pods, there)):
        if server is None:
            assert not any(holds(before, index, shape) for index in range(len(made)))
            continue
        assert holds(before, server, shape)
        after = fitted.room
        assert (before.free - after.free)[server].tolist() == list(shape.amounts)
        taken = before.devices - after.devices
        assert len(devices) == shape.devices
        assert taken[server, list(devices)].tolist() == [shape.milli] * shape.devices
        assert taken.sum() == shape.asked
        assert (after.devices >= 0).all()


def holds(there, server, shape):
    """Say by itself whether a server has room for a pod."""
    amounts = zip(there.free[server], shape.amounts, strict=True)
    return (
        all(asked == 0 or left >= asked for left, asked in amounts)
        and sum(left >= shape.milli for left in there.devices[server]) >= shape.devices
        and (shape.kinds is None or shape.kinds[there.kind[server]])
    )


@given(servers, st.lists(shapes, max_size=30))
@settings(deadline=None)
def test_remembered_scores_are_those_of_the_servers_as_they_are(made, pods):
    there = room(*made)
    target = aimed(pods, there)
    for shape, before, cost, *_ in placed(there, pods, target):
        fresh, _ = stranded(target[0], before, shape, target[1])
        assert cost.tolist() == fresh.tolist()


@given(servers, st.lists(shapes, max_size=12), shapes)
@settings(deadline=None)
def test_the_company_it_is_scored_in_changes_no_digit_of_a_server(made, pods, shape):
    there = room(*made)
    target, price = aimed(pods, there)
    together, _ = stranded(target, there, shape, price)
    for server in range(len(made)):
        alone, _ = stranded(target, there.at(np.array([server])), shape, price)
        assert alone[0] == together[server]


@given(servers, st.lists(shapes, max_size=12), shapes)
@settings(deadline=None)
def test_the_devices_it_takes_are_the_best_there_are(made, pods, shape):
    """Against every set of devices with enough left, by `usable` alone."""
    there = room(*made)
    target, price = aimed(pods, there)
    shape = replace(shape, kinds=None)
    cost, _ = stranded(target, there, shape, price)
    asked = shape.asked if target.on_devices else shape.amounts[0]
    for server in range(len(made)):
        here = there.at(np.array([server]))
        found = min(
            (loss(target, here, shape, devices) for devices in runs(here.devices[0], shape)),
            default=np.inf,
        )
        if not holds(there, server, shape):
            found = np.inf
        paid = price[there.kind[server]] * shape.asked
        assert cost[server] == pytest.approx(found - asked + paid)


def runs(devices, shape):
    """Yield the devices with neighbouring amounts free that could hold a pod."""
    order = [d for d in np.argsort(devices, kind="stable") if devices[d] >= shape.milli]
    for first in range(len(order) - shape.devices + 1):
        yield order[first : first + shape.devices]


def loss(target, here, shape, devices):
    left = here.devices.copy()
    left[0, list(devices)] -= shape.milli
    after = Room(here.free - shape.amounts, left, here.kind)
    return float((usable(target, here) - usable(target, after))[0] / target.total)


def test_of_servers_alike_the_first_is_chosen():
    there = room(*[((64, 64), (1000,), 0)] * 3)
    fitted = Fitting(there, *aimed([whole()], there))
    assert fitted.choose(whole()) == 0
    fitted.take(0, whole())
    assert fitted.choose(whole()) == 1


def test_a_pod_is_not_forced_in():
    there = room(((64, 64), (1000,), 0))
    fitted = Fitting(there, *aimed([whole()], there))
    with pytest.raises(ValueError, match="does not fit on server 0"):
        fitted.take(0, whole(2))
    assert there.devices.tolist() == [[1000]]


def test_a_new_aim_changes_what_is_kept_free():
    there = room(((64, 64), (1000, 1000), 0), ((64, 64), (1000,), 0))
    fitted = Fitting(there, *aimed([whole(2)], there))
    assert fitted.choose(whole()) == 1
    fitted.aim(*aimed([whole(kinds=None)], there))
    assert fitted.choose(whole()) == 0
