"""Cuts are the best there are: compared with trying everything."""

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import plain_cuts
from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import Candidate, Cut, cut

candidates = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(0, 6)), min_size=1, max_size=4
).map(
    lambda rows: [
        Candidate(f"s{number}", layers, float(layer), float(stage))
        for number, (layers, layer, stage) in enumerate(rows)
    ]
)


def every_cut(layers: int, offered: list[Candidate]) -> Iterator[list[tuple[Candidate, int]]]:
    for counts in itertools.product(*(range(c.layers + 1) for c in offered)):
        if sum(counts) == layers:
            yield [(c, n) for c, n in zip(offered, counts, strict=True) if n]


def seconds(stages: list[tuple[Candidate, int]], overlap: Overlap) -> float:
    each = [c.stage_seconds + n * c.layer_seconds for c, n in stages]
    return sum(each) if overlap is Overlap.SUM else max(each)


def check(found: Cut, layers: int, offered: list[Candidate], overlap: Overlap) -> None:
    by_name = {c.server: c for c in offered}
    stages = [(by_name[server], count) for server, count in found.stages]
    assert sum(count for _, count in stages) == layers
    assert len({server for server, _ in found.stages}) == len(found.stages)
    assert all(0 < count <= c.layers for c, count in stages)
    assert seconds(stages, overlap) <= found.seconds + 1e-9


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 8), candidates, st.sampled_from(Overlap), st.none() | st.integers(1, 4))
def test_no_cut_is_better(
    layers: int, offered: list[Candidate], overlap: Overlap, stages: int | None
) -> None:
    found = cut(layers, offered, overlap=overlap, stages=stages)
    best = min(
        (
            seconds(option, overlap)
            for option in every_cut(layers, offered)
            if stages is None or len(option) == stages
        ),
        default=math.inf,
    )
    if found is None:
        assert best == math.inf
        return
    check(found, layers, offered, overlap)
    assert found.seconds == best


def test_a_weak_server_is_left_out() -> None:
    strong = [Candidate("a", 20, 1.0, 0.1), Candidate("b", 20, 1.0, 0.1)]
    found = cut(32, [Candidate("weak", 32, 50.0, 0.1), *strong], overlap=Overlap.SUM)
    assert found is not None
    assert [server for server, _ in found.stages] == ["a", "b"]


def test_stages_that_overlap_are_levelled() -> None:
    offered = [Candidate("fast", 32, 1.0, 0.0), Candidate("slow", 32, 3.0, 0.0)]
    found = cut(32, offered, overlap=Overlap.SLOWEST)
    assert found is not None
    assert found.stages == (("fast", 24), ("slow", 8))


def test_more_stages_than_servers_are_no_cut() -> None:
    assert cut(8, [Candidate("a", 8, 1.0, 0.0)], overlap=Overlap.SUM, stages=2) is None


def test_a_slow_server_that_holds_much_is_used_where_many_fast_ones_hold_little() -> None:
    """Sixteen of the seventy fast servers hold 32 layers of 40: the slow one must help."""
    fast = [Candidate(f"fast-{number:02}", 2, 1.0, 0.1) for number in range(70)]
    slow = Candidate("slow", 40, 9.0, 0.1)
    for overlap in Overlap:
        found = cut(40, [*fast, slow], overlap=overlap)
        assert found is not None
        check(found, 40, [*fast, slow], overlap)
        assert "slow" in [server for server, _ in found.stages]


racks = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2)), min_size=5, max_size=7
).map(
    lambda rows: [
        Candidate(f"s{number}", layers, float(layer), float(stage))
        for number, (layers, layer, stage) in enumerate(rows)
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), racks, st.sampled_from(Overlap), st.integers(1, 3))
def test_servers_that_others_make_needless_are_left_out_without_loss(
    layers: int, offered: list[Candidate], overlap: Overlap, most: int
) -> None:
    """With few stages allowed most of a rack is not looked at; the best cut is the same."""
    found = cut(layers, offered, overlap=overlap, most=most)
    best = min(
        (seconds(way, overlap) for way in every_cut(layers, offered) if len(way) <= most),
        default=math.inf,
    )
    assert (found.seconds if found else math.inf) == best


PLAIN = (
    plain_cuts.cut_evenly,
    plain_cuts.cut_by_memory,
    plain_cuts.cut_by_speed,
    plain_cuts.one_server,
)


@pytest.mark.parametrize("plain", PLAIN)
@settings(max_examples=60, deadline=None)
@given(layers=st.integers(1, 12), offered=racks, overlap=st.sampled_from(Overlap))
def test_a_plain_cut_is_a_cut_and_never_better(
    plain: Callable[..., Cut | None], layers: int, offered: list[Candidate], overlap: Overlap
) -> None:
    other = plain(layers, offered, overlap)
    found = cut(layers, offered, overlap=overlap)
    if other is not None:
        check(other, layers, offered, overlap)
        assert found is not None
        assert found.seconds <= other.seconds + 1e-9


def test_plain_cuts_do_what_they_are_named_after() -> None:
    offered = [Candidate("a", 12, 1.0, 0.0), Candidate("b", 4, 3.0, 0.0)]
    shares = [plain(8, offered, Overlap.SLOWEST) for plain in PLAIN]
    assert [cut.stages for cut in shares if cut] == [
        (("a", 4), ("b", 4)),
        (("a", 6), ("b", 2)),
        (("a", 6), ("b", 2)),
        (("a", 8),),
    ]
