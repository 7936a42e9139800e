"""Sets of disjoint pipelines are the fastest there are, and never slower than plain ones."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import plain_cuts
from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import Candidate, Cut, linear
from evenkeel_core.replicas import rate, share_out

MakeCandidates = Callable[..., list[Candidate]]


def check(found: tuple[Cut, ...], layers: int, offered: list[Candidate], overlap: Overlap) -> None:
    """Recompute a set from what the servers offer: each of them in one pipeline at most."""
    by_name = {candidate.server: candidate for candidate in offered}
    used = [server for one in found for server, _ in one.stages]
    assert len(used) == len(set(used))
    for one in found:
        last = len(one.stages) - 1
        each = [
            by_name[server].seconds[(place == 0) + 2 * (place == last), held]
            for place, (server, held) in enumerate(one.stages)
        ]
        assert sum(held for _, held in one.stages) == layers
        seconds = sum(each) if overlap is Overlap.SUM else max(each)
        assert seconds == pytest.approx(one.seconds)


def ways(servers: list[int]) -> Iterator[list[list[int]]]:
    """Yield every way to share servers out, some or all of them."""
    if not servers:
        yield []
        return
    first, *others = servers
    for way in ways(others):
        yield way
        yield [[first], *way]
        for number, part in enumerate(way):
            yield [*way[:number], [first, *part], *way[number + 1 :]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 32), st.integers(1, 5), st.integers(1, 5), st.sampled_from(Overlap),
    st.none() | st.integers(1, 2),
)  # fmt: skip
def test_no_set_is_faster(
    make_candidates: MakeCandidates,
    enumerate_pipelines: Callable[..., Iterator[tuple[int, float]]],
    seed: int,
    servers: int,
    layers: int,
    overlap: Overlap,
    stages: int | None,
) -> None:
    offered = make_candidates(seed, servers=servers)
    seconds = {
        some: min((s for _, s in enumerate_pipelines(layers, [offered[n] for n in some], overlap)),
                  default=math.inf)
        for size in range(1, servers + 1) if stages in (None, size)
        for some in itertools.combinations(range(servers), size)
    }  # fmt: skip
    best: dict[int, float] = {}
    for way in ways(list(range(servers))):
        rates = [1 / seconds.get(tuple(part), math.inf) for part in way]
        if way and all(rates):
            best[len(way)] = max(best.get(len(way), 0.0), sum(rates))
    sets = share_out(layers, offered, overlap=overlap, stages=stages)
    assert {len(found): pytest.approx(rate(found)) for found in sets} == best
    for found in sets:
        check(found, layers, offered, overlap)
        alone = share_out(layers, offered, overlap=overlap, stages=stages, count=len(found))
        assert alone == (found,)


PLAIN = (
    plain_cuts.cut_evenly,
    plain_cuts.cut_by_memory,
    plain_cuts.cut_by_speed,
    plain_cuts.one_server,
)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(9, 16), st.integers(4, 30), st.sampled_from(Overlap))
def test_searched_sets_are_sets_and_never_slower_than_plain_ones(
    seed: int, servers: int, layers: int, overlap: Overlap
) -> None:
    draw = np.random.default_rng(seed)
    offered = [
        linear(f"s{n}", int(draw.integers(0, layers)), float(4 ** draw.random()), 0.1)
        for n in range(servers)
    ]
    sets = share_out(layers, offered, overlap=overlap)
    for found in sets:
        check(found, layers, offered, overlap)
    fastest = max(map(rate, sets), default=0.0)
    for plain in PLAIN:
        other = plain_cuts.in_replicas(plain, layers, offered, overlap)
        check(other, layers, offered, overlap)
        assert fastest >= rate(other) * (1 - 1e-9)


@pytest.mark.parametrize("overlap", Overlap)
@pytest.mark.parametrize("servers", [3, 12])
def test_what_fits_each_server_runs_whole_on_each(servers: int, overlap: Overlap) -> None:
    """No layers to hand over: stages that take turns idle, stages that overlap only draw level."""
    offered = [linear(f"s{n}", 40, 1.0 + n / 3, 0.5) for n in range(servers)]
    fastest = max(share_out(32, offered, overlap=overlap), key=rate)
    assert sorted(one.stages for one in fastest) == sorted(((c.server, 32),) for c in offered)


def test_exchanges_find_pairs_that_cutting_the_best_first_breaks_up() -> None:
    """Each large server can carry a small one; the best pipeline alone takes two large ones."""
    large = [linear(f"large-{n}", 24, 1.0, 0.1) for n in range(5)]
    small = [linear(f"small-{n}", 8, 3.0, 0.1) for n in range(5)]
    sets = share_out(32, [*large, *small], overlap=Overlap.SLOWEST)
    assert len(sets[-1]) == 5
    check(sets[-1], 32, [*large, *small], Overlap.SLOWEST)


def test_thousands_of_servers_alike_are_cut_alike() -> None:
    offered = [linear(f"s{n:04}", 12, 1.0, 0.1) for n in range(2000)]
    sets = share_out(32, offered, overlap=Overlap.SUM)
    assert len(sets[-1]) == 666
    check(sets[-1], 32, offered, Overlap.SUM)


def test_nothing_is_shared_out_where_nothing_fits() -> None:
    assert share_out(8, [], overlap=Overlap.SUM) == ()
    assert share_out(8, [linear("a", 4, 1.0)], overlap=Overlap.SUM) == ()
    assert share_out(8, [linear("a", 8, 1.0)], overlap=Overlap.SUM, count=2) == ()
    with pytest.raises(ValueError, match="count"):
        share_out(8, [], overlap=Overlap.SUM, count=0)


def test_a_set_of_exactly_so_many_stages_uses_them_all() -> None:
    offered = [linear(f"s{n}", 20, 1.0 + n % 3, 0.1) for n in range(13)]
    for found in share_out(24, offered, overlap=Overlap.SLOWEST, stages=3):
        check(found, 24, offered, Overlap.SLOWEST)
        assert all(len(one.stages) == 3 for one in found)
    assert len(share_out(24, offered, overlap=Overlap.SLOWEST, stages=3)[-1]) == 4
