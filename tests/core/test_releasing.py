"""Gates fall in order, for whole groups, within capacity, and nobody starves."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from evenkeel_core.admitting import Queued, admitted, queue
from evenkeel_core.quantities import Vector, fits, minus
from evenkeel_core.releasing import Occupied, Waiting, release

ROOM: Mapping[str, Vector] = {"a": {"cpu": 4}, "b": {"cpu": 4}}


def single(key: str, server: str = "a", cpu: int = 1, seconds: float = 10.0) -> Waiting:
    return Waiting(key, ((server, {"cpu": cpu}),), seconds)


def test_what_fits_starts_in_order() -> None:
    found = release([single("1", cpu=3), single("2", cpu=2), single("3", "b")], ROOM, [])
    assert found.now == ("1", "3")


def test_a_set_starts_whole_or_not_at_all() -> None:
    both = Waiting("set", (("a", {"cpu": 3}), ("b", {"cpu": 3})), 10.0)
    taken = [Occupied("b", {"cpu": 2}, 30.0)]
    found = release([both], ROOM, taken)
    assert found.now == ()
    assert found.starts == {"set": 30.0}


def test_two_members_on_one_server_count_together() -> None:
    both = Waiting("set", (("a", {"cpu": 3}), ("a", {"cpu": 3})), 10.0)
    assert release([both], ROOM, []).now == ()


def test_a_later_one_passes_only_if_it_ends_before_the_turn() -> None:
    waits = single("large", cpu=4)
    taken = [Occupied("a", {"cpu": 2}, 20.0)]
    short, long = single("short", seconds=15.0), single("long", seconds=25.0)
    assert release([waits, short, long], ROOM, taken).now == ("short",)


def test_a_stream_of_small_jobs_does_not_starve_a_set() -> None:
    """Small jobs arrive every second for ever; the set starts once what ran before has ended."""
    both = Waiting("set", (("a", {"cpu": 4}), ("b", {"cpu": 4})), 10.0)
    running = [(Occupied("a", {"cpu": 1}, 30.0)), (Occupied("b", {"cpu": 1}, 30.0))]
    for second in range(100):
        stream = [single(f"{second}-{n}", "ab"[n % 2], seconds=40.0) for n in range(4)]
        found = release([both, *stream], ROOM, running)
        if "set" in found.now:
            break
        running += [
            Occupied(item.members[0][0], {"cpu": 1}, item.seconds)
            for item in stream
            if item.key in found.now
        ]
        running = [Occupied(o.server, o.demand, o.ends - 1) for o in running if o.ends > 1]
    assert second <= 31


def test_what_never_fits_reserves_nothing() -> None:
    assert release([single("huge", cpu=9), single("small")], ROOM, []).now == ("small",)


servers = st.sampled_from(["a", "b"])
members = st.lists(st.tuples(servers, st.integers(1, 5)), min_size=1, max_size=3)


@given(
    st.lists(st.tuples(members, st.floats(0.1, 100.0)), max_size=8),
    st.lists(st.tuples(servers, st.integers(1, 2), st.floats(0, 50)), max_size=3),
)
def test_never_over_capacity_and_never_half(
    wanted: list[tuple[list[tuple[str, int]], float]], taken: list[tuple[str, int, float]]
) -> None:
    waiting = [
        Waiting(str(n), tuple((server, {"cpu": cpu}) for server, cpu in group), seconds)
        for n, (group, seconds) in enumerate(wanted)
    ]
    occupied = [Occupied(server, {"cpu": cpu}, ends) for server, cpu, ends in taken]
    found = release(waiting, ROOM, occupied)
    left = {server: dict(vector) for server, vector in ROOM.items()}
    for pod in occupied:
        left[pod.server] = minus(left[pod.server], pod.demand)
    over = {server for server, vector in left.items() if not fits({"cpu": 0}, vector)}
    for group in waiting:
        if group.key in found.now:
            for server, demand in group.members:
                left[server] = minus(left[server], demand)
                over.discard(server)
                assert left[server]["cpu"] >= 0


def test_the_queue_is_by_priority_then_age() -> None:
    jobs = [
        Queued("young", 0, "2026-01-02T00:00:00Z", 1),
        Queued("old", 0, "2026-01-01T00:00:00Z", 1),
        Queued("urgent", 5, "2026-01-03T00:00:00Z", 1),
        Queued("asleep", 9, "2026-01-01T00:00:00Z", 1, suspended=True),
    ]
    assert [job.key for job in queue(jobs)] == ["urgent", "old", "young"]


def test_nobody_passes_a_job_that_does_not_fit() -> None:
    jobs = [Queued(str(n), 0, f"2026-01-0{n}", size) for n, size in ((1, 5), (2, 9), (3, 1))]
    assert admitted(jobs, most=10) == {"1"}
    assert admitted(jobs[1:2], most=3) == {"2"}, "the first is never kept out"
