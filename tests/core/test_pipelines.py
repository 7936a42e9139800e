"""Cuts are the best there are: compared with trying everything."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import plain_cuts
from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import Candidate, Cut, Role, cut, linear


def check(found: Cut, layers: int, offered: list[Candidate], overlap: Overlap) -> None:
    """Recompute a cut from what the servers offer."""
    by_name = {c.server: c for c in offered}
    last = len(found.stages) - 1
    assert sum(count for _, count in found.stages) == layers
    assert len({server for server, _ in found.stages}) == len(found.stages)
    each = [
        by_name[server].seconds[(place == 0) + 2 * (place == last), count]
        for place, (server, count) in enumerate(found.stages)
    ]
    seconds = sum(each) if overlap is Overlap.SUM else max(each)
    assert seconds == pytest.approx(found.seconds)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 1 << 32), st.integers(1, 4), st.integers(1, 6), st.sampled_from(Overlap),
    st.none() | st.integers(1, 4), st.integers(1, 4),
)  # fmt: skip
def test_no_cut_is_better(
    make_candidates: Callable[..., list[Candidate]],
    enumerate_pipelines: Callable[..., list[tuple[int, float]]],
    seed: int,
    servers: int,
    layers: int,
    overlap: Overlap,
    stages: int | None,
    most: int,
) -> None:
    """Whatever seconds the servers take: not rising with layers, with gaps, other at the ends."""
    offered = make_candidates(seed, servers=servers)
    found = cut(layers, offered, overlap=overlap, stages=stages, most=most)
    best = min(
        (
            seconds
            for size in range(1, min(servers, layers) + 1)
            for some in itertools.combinations(offered, size)
            for used, seconds in enumerate_pipelines(layers, some, overlap)
            if (used <= most if stages is None else used == stages)
        ),
        default=math.inf,
    )
    if found is None:
        assert best == math.inf
        return
    check(found, layers, offered, overlap)
    assert found.seconds == best


def test_a_weak_server_is_left_out() -> None:
    strong = [linear("a", 20, 1.0, 0.1), linear("b", 20, 1.0, 0.1)]
    found = cut(32, [linear("weak", 32, 50.0, 0.1), *strong], overlap=Overlap.SUM)
    assert found is not None
    assert [server for server, _ in found.stages] == ["a", "b"]


def test_stages_that_overlap_are_levelled() -> None:
    offered = [linear("fast", 32, 1.0, 0.0), linear("slow", 32, 3.0, 0.0)]
    found = cut(32, offered, overlap=Overlap.SLOWEST)
    assert found is not None
    assert found.stages == (("fast", 24), ("slow", 8))


def test_more_stages_than_servers_are_no_cut() -> None:
    assert cut(8, [linear("a", 8, 1.0, 0.0)], overlap=Overlap.SUM, stages=2) is None


def test_a_slow_server_that_holds_much_is_used_where_many_fast_ones_hold_little() -> None:
    """Sixteen of the seventy fast servers hold 32 layers of 40: the slow one must help."""
    fast = [linear(f"fast-{number:02}", 2, 1.0, 0.1) for number in range(70)]
    slow = linear("slow", 40, 9.0, 0.1)
    for overlap in Overlap:
        found = cut(40, [*fast, slow], overlap=overlap)
        assert found is not None
        check(found, 40, [*fast, slow], overlap)
        assert "slow" in [server for server, _ in found.stages]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2)), min_size=5, max_size=7
    ),
    st.sampled_from(Overlap),
    st.integers(1, 3),
)
def test_servers_that_others_make_needless_are_left_out_without_loss(
    layers: int, rows: list[tuple[int, int, int]], overlap: Overlap, most: int
) -> None:
    """With few stages allowed most of a rack is not looked at; the best cut is the same."""
    offered = [linear(f"s{n}", fits, each, stage) for n, (fits, each, stage) in enumerate(rows)]
    found = cut(layers, offered, overlap=overlap, most=most)
    best = math.inf
    for counts in itertools.product(*(range(fits + 1) for fits, _, _ in rows)):
        each = [s + n * t for n, (_, t, s) in zip(counts, rows, strict=True) if n]
        if sum(counts) == layers and len(each) <= most:
            best = min(best, sum(each) if overlap is Overlap.SUM else max(each))
    assert (found.seconds if found else math.inf) == best


def test_the_ends_go_where_they_fit() -> None:
    """Only `head` has room for the output head, only `door` for the embedding."""
    head, door = linear("head", (4, 0, 4, 0), 1.0), linear("door", (4, 4, 0, 0), 1.0)
    found = cut(9, [head, linear("middle", (4, 0, 0, 0), 1.0), door], overlap=Overlap.SUM)
    assert found is not None
    assert [server for server, _ in found.stages] == ["door", "middle", "head"]
    assert cut(8, [head, linear("other", (8, 0, 8, 0), 1.0)], overlap=Overlap.SUM) is None


def test_among_equally_slow_cuts_the_one_that_takes_a_request_least() -> None:
    """The slow server has to hold two layers; the fast one could take as long for its eight."""
    offered = [linear("fast", 8, 1.0), linear("faster", 8, 0.5), linear("slow", 2, 4.0)]
    found = cut(18, offered, overlap=Overlap.SLOWEST)
    assert found is not None
    assert dict(found.stages) == {"fast": 8, "faster": 8, "slow": 2}
    found = cut(10, offered, overlap=Overlap.SLOWEST)
    assert found is not None
    assert dict(found.stages) == {"faster": 7, "fast": 3}


def test_seconds_that_are_none_are_refused() -> None:
    broken = Candidate("a", np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="candidates"):
        cut(2, [broken], overlap=Overlap.SUM)
    with pytest.raises(ValueError, match="layers"):
        cut(0, [linear("a", 1, 1.0)], overlap=Overlap.SUM)


def test_a_candidate_says_what_it_holds() -> None:
    offer = linear("a", (3, 2, 1, 0), 2.0, (0.0, 1.0, 0.0, 0.0))
    assert [offer.fits(role) for role in Role] == [3, 2, 1, 0]
    assert offer.pace == 2.0
    assert offer.seconds[Role.FIRST, 2] == 5.0


PLAIN = (
    plain_cuts.cut_evenly,
    plain_cuts.cut_by_memory,
    plain_cuts.cut_by_speed,
    plain_cuts.one_server,
)


@pytest.mark.parametrize("plain", PLAIN)
@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 8), seed=st.integers(0, 1 << 32), servers=st.integers(1, 6),
    overlap=st.sampled_from(Overlap),
)  # fmt: skip
def test_a_plain_cut_is_a_cut_and_never_better(
    make_candidates: Callable[..., list[Candidate]],
    plain: Callable[..., Cut | None],
    layers: int,
    seed: int,
    servers: int,
    overlap: Overlap,
) -> None:
    offered = make_candidates(seed, servers=servers)
    other = plain(layers, offered, overlap)
    found = cut(layers, offered, overlap=overlap)
    if other is not None:
        check(other, layers, offered, overlap)
        assert found is not None
        assert found.seconds <= other.seconds + 1e-9


def test_plain_cuts_do_what_they_are_named_after() -> None:
    offered = [linear("a", 12, 1.0, 0.0), linear("b", 4, 3.0, 0.0)]
    shares = [plain(8, offered, Overlap.SLOWEST) for plain in PLAIN]
    assert [cut.stages for cut in shares if cut] == [
        (("a", 4), ("b", 4)),
        (("a", 6), ("b", 2)),
        (("a", 6), ("b", 2)),
        (("a", 8),),
    ]
