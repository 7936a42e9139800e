"""One leads: a Lease is taken when free or expired by our own clock, and exits follow its loss."""

import asyncio
import time
from typing import Any

import pytest

from evenkeel_kube.client import AlreadyExists, Client, Conflict, NotFound, Unavailable
from evenkeel_operator import leading
from evenkeel_operator.leading import Election, LeadershipLostError

Object = dict[str, Any]


class OneLease(Client):
    """An API server with one Lease and optimistic locking."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.version = 0
        self.down = False

    def _answer(self) -> None:
        if self.down:
            raise Unavailable(0, "NoAnswer", "")

    async def get(self, where: str, params: Any = None) -> Object:
        self._answer()
        if self.lease is None:
            raise NotFound(404, "NotFound", where)
        return {**self.lease, "spec": dict(self.lease["spec"])}

    def _store(self, obj: Any) -> Object:
        self.version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**obj, "metadata": metadata}
        return self.lease

    async def create(self, where: str, obj: Any) -> Object:
        self._answer()
        if self.lease is not None:
            raise AlreadyExists(409, "AlreadyExists", where)
        return self._store(obj)

    async def replace(self, where: str, obj: Any) -> Object:
        self._answer()
        if obj["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict(409, "Conflict", where)
        return self._store(obj)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def election(api: OneLease, identity: str, clock: Clock) -> Election:
    return Election(api, "ns", "lease", identity, clock=clock)


async def test_the_first_leads_and_the_second_waits_until_the_lease_stands_still() -> None:
    api, clock = OneLease(), Clock()
    first, second = election(api, "first", clock), election(api, "second", clock)
    assert await first._try()
    assert not await second._try()
    clock.now += leading.DURATION - 1
    assert not await second._try()
    clock.now += 2
    assert await second._try(), "unchanged for longer than it holds"


async def test_a_renewed_lease_does_not_expire() -> None:
    api, clock = OneLease(), Clock()
    first, second = election(api, "first", clock), election(api, "second", clock)
    assert await first._try()
    for _ in range(5):
        assert not await second._try()
        clock.now += leading.DURATION - 1
        assert await first._try()


async def test_a_lease_given_back_is_taken_at_once() -> None:
    api, clock = OneLease(), Clock()
    first, second = election(api, "first", clock), election(api, "second", clock)
    assert await first._try()
    await first.resign()
    assert await second._try()
    assert api.lease is not None
    assert api.lease["spec"]["leaseTransitions"] >= 1


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let time pass only where the election sleeps."""
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return clock


async def test_a_leader_exits_when_another_holds_the_lease(fast: Clock) -> None:
    api = OneLease()
    first = election(api, "first", fast)
    assert await first._try()
    assert api.lease is not None
    api.lease["spec"]["holderIdentity"] = "other"
    with pytest.raises(LeadershipLostError, match="another"):
        await first.keep()


async def test_a_leader_exits_before_its_lease_ends_when_nobody_answers(fast: Clock) -> None:
    api = OneLease()
    first = election(api, "first", fast)
    assert await first._try()
    api.down = True
    with pytest.raises(LeadershipLostError, match="renewed"):
        await first.keep()
    assert fast.now < leading.DURATION


async def test_a_leader_exits_before_its_lease_ends_when_the_answer_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leading, "RENEW", 0.01)
    monkeypatch.setattr(leading, "EXIT_AFTER", 0.2)
    api = OneLease()
    first = Election(api, "ns", "lease", "first")
    assert await first._try()

    async def hang(where: str, params: Any = None) -> Object:
        await asyncio.sleep(60)
        raise Unavailable(0, "NoAnswer", "")

    monkeypatch.setattr(api, "get", hang)
    async with asyncio.timeout(5):
        with pytest.raises(LeadershipLostError, match="renewed"):
            await first.keep()


async def test_who_was_stopped_for_longer_than_the_lease_may_not_write() -> None:
    api, clock = OneLease(), Clock()
    first = election(api, "first", clock)
    with pytest.raises(LeadershipLostError):
        first.confirm()
    assert await first._try()
    first.confirm()
    clock.now += leading.EXIT_AFTER
    with pytest.raises(LeadershipLostError):
        first.confirm()


async def test_the_lease_is_renewed_while_the_leader_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leading, "RENEW", 0.02)
    api = OneLease()
    first = Election(api, "ns", "lease", "first")
    assert await first._try()

    class Renewing(OneLease):
        """The same Lease by another connection, as the thread opens one."""

        def __init__(self, _: object) -> None:
            self.__dict__ = api.__dict__

        async def __aenter__(self) -> "Renewing":
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(leading, "Client", Renewing)
    lost = first.keep_apart(None)  # type: ignore[arg-type] - nothing is connected to
    before = api.version
    time.sleep(0.5)  # this loop does nothing else meanwhile
    assert api.version >= before + 3
    assert not lost.done()
    assert api.lease is not None
    api.lease["spec"]["holderIdentity"] = "other"
    async with asyncio.timeout(5):
        with pytest.raises(LeadershipLostError, match="another"):
            await lost
