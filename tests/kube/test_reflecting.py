"""The reflector against the faults that real watches have."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from evenkeel_kube import reflecting
from evenkeel_kube.client import Client, Page
from evenkeel_kube.reflecting import Backoff, Reflector

PODS = "/api/v1/pods"
Run = Callable[..., contextlib.AbstractAsyncContextManager[Any]]


class Seen:
    """A reflector that runs, and the changes it told."""

    def __init__(self, reflector: Reflector[Any], changes: list[tuple[str, Any, Any]]) -> None:
        self.reflector = reflector
        self.changes = changes

    @property
    def items(self) -> dict[str, Any]:
        return self.reflector.items


@pytest.fixture
def run(api: Client, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(reflecting, "BACKOFF_LEAST", 0.002)
    monkeypatch.setattr(reflecting, "BACKOFF_MOST", 0.02)

    @contextlib.asynccontextmanager
    async def running(**options: Any) -> AsyncIterator[Seen]:
        changes: list[tuple[str, Any, Any]] = []

        def value(item: Any) -> Any:
            return item["metadata"]["resourceVersion"] if isinstance(item, dict) else item

        def changed(key: str, old: Any, new: Any) -> None:
            changes.append((key, value(old), value(new)))

        decode = options.pop("decode", reflecting.raw)
        reflector = Reflector(api, PODS, decode, on_change=changed, jitter=lambda: 0.5, **options)
        task = asyncio.create_task(reflector.run())
        try:
            async with asyncio.timeout(5):
                await reflector.synced.wait()
            yield Seen(reflector, changes)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return running


async def test_lists_then_watches(run: Run, fake: Any, make: Any, until: Any) -> None:
    fake.lists.clear()
    fake.lists += [make.listed(7, make.pod("a", 1), more="t"), make.listed(7, make.pod("b", 2))]
    fake.watches[0] = [
        make.event("ADDED", make.pod("c", 8)),
        make.event("MODIFIED", make.pod("a", 9)),
        make.event("DELETED", make.pod("b", 10)),
        make.HANG,
    ]
    async with run(params={"labelSelector": "x=y", "limit": "10"}) as seen:
        await until(lambda: len(seen.changes) == 5)
        assert seen.changes == [
            ("ns/a", None, "1"),
            ("ns/b", None, "2"),
            ("ns/c", None, "8"),
            ("ns/a", "1", "9"),
            ("ns/b", "2", None),
        ]
        assert sorted(seen.items) == ["ns/a", "ns/c"]
        (query,) = fake.queries(watch=True)
        assert query == {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": "x=y",
            "resourceVersion": "7",
            "timeoutSeconds": "450",
        }
        assert seen.reflector.statistics.events == 3


async def test_objects_without_namespace_have_their_name_as_key(
    run: Run, fake: Any, make: Any
) -> None:
    fake.lists[0] = make.listed(1, {"metadata": {"name": "n", "resourceVersion": "1"}})
    async with run() as seen:
        assert list(seen.items) == ["n"]


async def test_a_bookmark_moves_the_position_on(run: Run, fake: Any, make: Any, until: Any) -> None:
    fake.watches.clear()
    fake.watches += [[make.event("BOOKMARK", make.pod("", 50))], [make.HANG]]
    async with run() as seen:
        await until(lambda: len(fake.queries(watch=True)) == 2)
        assert fake.queries(watch=True)[1]["resourceVersion"] == "50"
        assert seen.changes == []
        assert seen.reflector.statistics.relists == {"start": 1}


async def test_a_break_goes_on_from_the_last_event(
    run: Run, fake: Any, make: Any, until: Any
) -> None:
    fake.watches.clear()
    fake.watches += [
        [make.event("ADDED", make.pod("a", 5)), b'{"type": "ADDED", "obj'],
        [make.event("MODIFIED", make.pod("a", 6)), make.HANG],
    ]
    async with run() as seen:
        await until(lambda: len(seen.changes) == 2)
        assert seen.changes == [("ns/a", None, "5"), ("ns/a", "5", "6")]
        assert fake.queries(watch=True)[1]["resourceVersion"] == "5"


async def test_silence_is_a_break(run: Run, fake: Any, make: Any, until: Any) -> None:
    fake.watches.clear()
    fake.watches += [
        [make.event("ADDED", make.pod("a", 5)), make.HANG],
        [make.event("DELETED", make.pod("a", 6)), make.HANG],
    ]
    async with run(silence=0.05) as seen:
        await until(lambda: len(seen.changes) == 2)
        assert seen.items == {}


@pytest.mark.parametrize("where", ["http", "stream"])
async def test_what_vanished_while_nobody_looked_is_reported(
    run: Run, fake: Any, make: Any, until: Any, where: str
) -> None:
    fake.lists.clear()
    fake.lists += [
        make.listed(5, make.pod("a", 1), make.pod("b", 2), make.pod("c", 3)),
        make.listed(20, make.pod("a", 1), make.pod("b", 12)),
    ]
    expired = make.event("ERROR", {"code": 410, "reason": "Expired", "message": "too old"})
    fake.watches.clear()
    fake.watches += [make.Refusal(410) if where == "http" else [expired], [make.HANG]]
    async with run() as seen:
        await until(lambda: len(seen.changes) == 5)
        assert seen.changes[3:] == [("ns/c", "3", None), ("ns/b", "2", "12")]
        assert seen.reflector.statistics.relists == {"start": 1, "gone": 1}
        await until(lambda: len(fake.queries(watch=True)) == 2)
        assert fake.queries(watch=True)[1]["resourceVersion"] == "20"


@pytest.mark.parametrize(
    "broken",
    [
        b'{"type": "ERROR", "object": {"code": 500, "message": "etcd"}}\n',
        b'{"type": "ERROR", "object": {"code": "x"}}\n',
        b'{"type": "ERROR", "object": null}\n',
        b"<html>\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "ADDED", "object": 5}\n',
    ],
)
async def test_an_error_in_the_stream_is_listed_over(
    run: Run, fake: Any, make: Any, until: Any, broken: bytes
) -> None:
    fake.lists.clear()
    fake.lists += [make.listed(5, make.pod("a", 1)), make.listed(6, make.pod("b", 6))]
    fake.watches.clear()
    fake.watches += [[broken], [make.HANG]]
    async with run() as seen:
        await until(lambda: list(seen.items) == ["ns/b"])
        assert seen.reflector.statistics.relists == {"start": 1, "error": 1}
        assert seen.reflector.statistics.failures == 1


async def test_too_busy_is_waited_for_and_not_listed_over(
    run: Run, fake: Any, make: Any, until: Any
) -> None:
    fake.watches.clear()
    fake.watches += [make.Refusal(429, "", {"Retry-After": "0.2"}), [make.HANG]]
    async with run() as seen:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: len(fake.queries(watch=True)) == 2)
        assert loop.time() - began > 0.15
        assert seen.reflector.statistics.relists == {"start": 1}


async def test_an_instant_clean_close_backs_off(
    run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflecting, "BACKOFF_LEAST", 0.05)
    monkeypatch.setattr(reflecting, "BACKOFF_MOST", 10)
    fake.watches[0] = []
    async with run():
        await asyncio.sleep(0.5)
        assert 2 <= len(fake.queries(watch=True)) <= 5


async def test_one_object_that_can_not_be_read_does_not_hide_the_others(
    run: Run, fake: Any, make: Any, until: Any
) -> None:
    class Strict(msgspec.Struct):
        size: int

    fake.lists[0] = make.listed(5, make.pod("bad", 1, size="x"), make.pod("good", 2, size=1))
    fake.watches[0] = [make.event("MODIFIED", make.pod("good", 6, size=[])), make.HANG]
    async with run(decode=msgspec.json.Decoder(Strict).decode) as seen:
        await until(lambda: len(seen.changes) == 2)
        assert seen.changes == [("ns/good", None, Strict(1)), ("ns/good", Strict(1), None)]
        assert seen.items == {}
        assert seen.reflector.statistics.undecodable == 2


async def test_age_is_by_the_local_clock(run: Run) -> None:
    now = [100.0]
    async with run(clock=lambda: now[0]) as seen:
        assert seen.reflector.age() == 0
        now[0] = 130.0
        assert seen.reflector.age() == 30


def test_nothing_heard_is_infinitely_old(api: Client) -> None:
    assert Reflector(api, PODS, reflecting.raw).age() == float("inf")


async def test_an_own_write_is_seen_at_once_and_only_once(
    run: Run, fake: Any, make: Any, until: Any
) -> None:
    fake.watches[0] = [
        0.1,
        make.event("ADDED", make.pod("a", 10)),
        make.event("MODIFIED", make.pod("a", 11)),
        make.event("MODIFIED", make.pod("a", 13)),
        make.HANG,
    ]
    async with run() as seen:
        seen.reflector.observe("ns/a", "11", make.pod("a", 11))
        await until(lambda: len(seen.changes) == 2)
        assert seen.changes == [("ns/a", None, "11"), ("ns/a", "11", "13")]
        seen.reflector.observe("ns/a", "12", make.pod("a", 12))
        assert seen.items["ns/a"]["metadata"]["resourceVersion"] == "13"


async def test_a_late_answer_does_not_bring_the_deleted_back(
    run: Run, fake: Any, make: Any, until: Any
) -> None:
    fake.watches[0] = [
        make.event("ADDED", make.pod("a", 10)),
        make.event("DELETED", make.pod("a", 12)),
        make.HANG,
    ]
    async with run() as seen:
        await until(lambda: len(seen.changes) == 2)
        seen.reflector.observe("ns/a", "11", make.pod("a", 11))
        assert seen.items == {}


async def test_a_list_older_than_an_own_write_does_not_undo_it(
    run: Run, fake: Any, make: Any, until: Any
) -> None:
    fake.lists.clear()
    fake.lists += [make.listed(5, make.pod("a", 1)), make.listed(9, make.pod("a", 1))]
    fake.watches.clear()
    fake.watches += [[0.1, b"<html>\n"], [make.HANG]]
    async with run() as seen:
        seen.reflector.observe("ns/a", "10", make.pod("a", 10))
        seen.reflector.observe("ns/b", "11", make.pod("b", 11))
        await until(lambda: "error" in seen.reflector.statistics.relists)
        held = {key: item["metadata"]["resourceVersion"] for key, item in seen.items.items()}
        assert held == {"ns/a": "10", "ns/b": "11"}


async def test_a_restored_store_is_believed(run: Run, fake: Any, make: Any, until: Any) -> None:
    fake.lists.clear()
    fake.lists += [
        make.listed(500, make.pod("a", 400), make.pod("b", 450)),
        make.listed(90, make.pod("a", 80)),
    ]
    fake.watches.clear()
    fake.watches += [make.Refusal(504, "Timeout"), [make.HANG]]
    async with run() as seen:
        await until(lambda: "error" in seen.reflector.statistics.relists)
        assert list(seen.items) == ["ns/a"]
        assert seen.items["ns/a"]["metadata"]["resourceVersion"] == "80"


def test_the_pause_doubles_up_to_a_bound_and_is_short_again_after_health() -> None:
    backoff = Backoff(lambda: 0.5)
    found = [backoff.pause(healthy=False) for _ in range(12)]
    assert found[:4] == [0.1, 0.2, 0.4, 0.8]
    assert found[-1] == 30.0
    assert backoff.pause(healthy=True) == 0.1
    assert backoff.pause(healthy=True, asked=5.0) == 5.0


@given(st.floats(0, 1, exclude_max=True), st.lists(st.booleans(), max_size=30))
@settings(max_examples=50)
def test_no_pause_is_shorter_than_half_the_least(jitter: float, health: list[bool]) -> None:
    backoff = Backoff(lambda: jitter)
    for healthy in health:
        assert 0.05 <= backoff.pause(healthy=healthy) <= 45.0


class Follows(RuleBasedStateMachine):
    """A server that changes; events come late, lists come in between, own writes are answered."""

    names = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.server: dict[str, int] = {}
        self.version = 1
        self.log: list[tuple[str, str, int]] = []
        self.shown = 0
        self.answers: list[tuple[str, int]] = []
        self.told: dict[str, Any] = {}
        self.reflector = Reflector(self, PODS, reflecting.raw, on_change=self.changed)  # type: ignore[arg-type]

    def changed(self, key: str, old: Any, new: Any) -> None:
        assert self.told.get(key) == old, "what was told before is what is told to have been"
        if new is None:
            del self.told[key]
        else:
            self.told[key] = new

    async def pages(self, *_: object) -> AsyncIterator[Page]:
        items = (self.item(*pair) for pair in self.server.items())
        yield Page(tuple(map(msgspec.json.encode, items)), str(self.version))

    @staticmethod
    def item(name: str, version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "resourceVersion": str(version)}}

    @rule(name=names, own=st.booleans())
    def put(self, name: str, own: bool) -> None:
        self.version += 1
        self.server[name] = self.version
        self.log.append(("ADDED", name, self.version))
        if own:
            self.answers.append((name, self.version))

    @rule(name=names)
    def delete(self, name: str) -> None:
        if name in self.server:
            self.version += 1
            del self.server[name]
            self.log.append(("DELETED", name, self.version))

    @rule(which=st.integers(0, 9))
    def answer(self, which: int) -> None:
        if self.answers:
            name, version = self.answers.pop(which % len(self.answers))
            self.reflector.observe(name, str(version), self.item(name, version))

    @rule(count=st.integers(1, 3))
    def show(self, count: int) -> None:
        for kind, name, version in self.log[self.shown : self.shown + count]:
            self.reflector._apply(kind, msgspec.json.encode(self.item(name, version)))
        self.shown = min(len(self.log), self.shown + count)

    @rule()
    def relist(self) -> None:
        asyncio.run(self.reflector._list("error"))
        self.shown = len(self.log)

    def teardown(self) -> None:
        self.show(len(self.log))
        while self.answers:
            self.answer(0)
        held = {k: int(v["metadata"]["resourceVersion"]) for k, v in self.reflector.items.items()}
        assert held == self.server
        assert self.told == self.reflector.items


TestFollows = Follows.TestCase
TestFollows.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
