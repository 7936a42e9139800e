"""A reflector: the objects of one resource, kept current by list and watch.

Lists in pages, watches with bookmarks from where the list ended. A watch that breaks goes on
from the last event; one that can't is listed again, and the difference is reported, deletions
included: what vanished while nobody looked is reported as deleted, never forgotten. Every
failure backs off with jitter, an instant clean close of the stream too, so that a broken server
is not hammered.

Staleness is judged by the local clock at receipt, never by another machine's. resourceVersions
are compared as numbers, which the API server guarantees since 1.35 (KEP-5504) and etcd has
always made true; one that is no number is taken as it comes.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from evenkeel_kube.client import ApiError, Client, Gone, TooManyRequests, failure

Item = TypeVar("Item")

SILENCE = 70.0
"""Seconds without a byte after which a watch is taken for dead; bookmarks come each minute."""
SERVER_TIMEOUT = 300
"""Seconds after which the server is asked to end a watch, spread by up to as many again."""
BACKOFF_LEAST, BACKOFF_MOST = 0.1, 30.0
HEALTHY = 5.0
"""Seconds a watch must have lived to count as a success."""

log = logging.getLogger(__name__)

OnChange = Callable[[str, Item | None, Item | None], None]


class _Metadata(msgspec.Struct, gc=False):
    name: str = ""
    namespace: str = ""
    resourceVersion: str = ""  # noqa: N815 - as the API spells it


class _Head(msgspec.Struct, gc=False):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _Event(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct, gc=False):
    code: int = 500


_head = msgspec.json.Decoder(_Head)
_event = msgspec.json.Decoder(_Event)
_status = msgspec.json.Decoder(_Status)


class StreamError(ApiError):
    """The server reported an error inside a watch."""


@dataclass(slots=True)
class Statistics:
    """What a reflector has seen, for metrics."""

    events: int = 0
    relists: dict[str, int] = field(default_factory=dict)
    """Lists by why they were needed: start, gone, error."""
    failures: int = 0
    undecodable: int = 0
    last: float = 0.0
    """Monotonic time of the last list, event or bookmark."""


class Backoff:
    """The pauses between attempts: doubling while they fail, short again after a good one."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._wait = BACKOFF_LEAST / 2

    def pause(self, *, healthy: bool, asked: float = 0.0) -> float:
        """Return the seconds to wait now: half to one and a half of the wait, or what was asked."""
        self._wait = BACKOFF_LEAST if healthy else min(BACKOFF_MOST, 2 * self._wait)
        return max(asked, self._wait * (0.5 + self._jitter()))


def raw(data: bytes) -> dict[str, Any]:
    """Decode an object as it is."""
    found: dict[str, Any] = msgspec.json.decode(data)
    return found


class Reflector(Generic[Item]):
    """The current objects of one resource, by ``namespace/name`` or ``name``.

    Parameters
    ----------
    client : Client
    where : str
        Path of the collection.
    decode : callable
        Makes an item of an object's JSON. An object it refuses (with ValueError or a msgspec
        error) is logged and left out; the others stay current.
    params : mapping, optional
        labelSelector, fieldSelector, limit (objects a page).
    on_change : callable, optional
        Called with key, old and new item after each change; None for one that is not there.
    silence : float
        Seconds without a byte after which a watch is dead.
    jitter : callable
        Returns numbers in [0, 1).
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        client: Client,
        where: str,
        decode: Callable[[bytes], Item],
        *,
        params: Mapping[str, str] | None = None,
        on_change: OnChange[Item] | None = None,
        silence: float = SILENCE,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.items: dict[str, Item] = {}
        self.synced = asyncio.Event()
        self.statistics = Statistics()
        self._client = client
        self._where = where
        self._decode = decode
        self._params = dict(params or {})
        self._on_change = on_change
        self._silence = silence
        self._jitter = jitter
        self._clock = clock
        self._versions: dict[str, str] = {}
        self._position = ""
        """resourceVersion of the last thing seen."""

    def age(self) -> float:
        """Return the seconds since the server was last heard; infinite before the first list."""
        last = self.statistics.last
        return self._clock() - last if last else float("inf")

    def observe(self, key: str, version: str, item: Item) -> None:
        """Take over the answer to an own write, so that the next look is not older than it.

        Ignored where the watch has already shown something newer: another's write, or that the
        object is gone.
        """
        passed = key not in self._versions and _newer(self._position, version)
        if not passed and not self._known(key, version):
            self._put(key, version, item)

    async def run(self) -> None:
        """Keep the objects current until cancelled."""
        backoff = Backoff(self._jitter)
        why: str | None = "start"
        while True:
            began, asked = self._clock(), 0.0
            try:
                if why is not None:
                    await self._list(why)
                    began, why = self._clock(), None
                await self._watch()
            except Gone as error:
                log.info("%s: watch expired (%s), listing again", self._where, error.message)
                why = "gone"
            except (ApiError, msgspec.MsgspecError) as error:
                log.warning("%s: %s", self._where, error)
                self.statistics.failures += 1
                asked = getattr(error, "retry_after", 0.0)
                why = why or (None if _resumable(error) else "error")
            healthy = self._clock() - began > HEALTHY
            await asyncio.sleep(backoff.pause(healthy=healthy, asked=asked))

    async def _list(self, why: str) -> None:
        """Read everything and report the difference."""
        found: dict[str, tuple[str, bytes]] = {}
        version = ""
        async with aclosing(self._client.pages(self._where, self._params)) as pages:
            async for page in pages:
                version = page.version
                for data in page.items:
                    key, own = _identity(data)
                    found[key] = (own, data)
        # Where versions go backwards the store was restored: what it has is all there is.
        # Otherwise what is newer than the list is an own write that the list came before.
        rewound = _newer(self._position, version)
        for key in [key for key in self._versions if key not in found]:
            if rewound or not _newer(self._versions[key], version):
                self._remove(key)
        for key, (own, data) in found.items():
            if self._versions.get(key) != own and (rewound or not self._known(key, own)):
                self._take(key, own, data)
        self._position = version
        self.statistics.relists[why] = self.statistics.relists.get(why, 0) + 1
        self.statistics.last = self._clock()
        self.synced.set()

    async def _watch(self) -> None:
        params = {key: value for key, value in self._params.items() if key != "limit"}
        params["resourceVersion"] = self._position
        params["timeoutSeconds"] = str(int(SERVER_TIMEOUT * (1 + self._jitter())))
        watch = self._client.watch(self._where, params, silence=self._silence)
        async with aclosing(watch) as lines:
            async for line in lines:
                event = _event.decode(line)
                self.statistics.last = self._clock()
                if event.type == "ERROR":
                    raise _stream_error(bytes(event.object))
                self._apply(event.type, bytes(event.object))

    def _apply(self, kind: str, data: bytes) -> None:
        """Take over one event of the watch."""
        key, version = _identity(data)
        if kind != "BOOKMARK":
            self.statistics.events += 1
            if not self._known(key, version):
                if kind == "DELETED":
                    self._remove(key)
                else:
                    self._take(key, version, data)
        self._position = version

    def _known(self, key: str, version: str) -> bool:
        """Tell whether this or something newer of the object was already seen."""
        held = self._versions.get(key, "")
        return held == version or _newer(held, version)

    def _take(self, key: str, version: str, data: bytes) -> None:
        try:
            item = self._decode(data)
        except Exception as error:  # noqa: BLE001 - whoever wrote it must not stop the others
            log.error("%s: %s is left out: %r", self._where, key, error)
            self.statistics.undecodable += 1
            self._remove(key)
            return
        self._put(key, version, item)

    def _put(self, key: str, version: str, item: Item) -> None:
        old = self.items.get(key)
        self.items[key] = item
        self._versions[key] = version
        if self._on_change is not None:
            self._on_change(key, old, item)

    def _remove(self, key: str) -> None:
        old = self.items.pop(key, None)
        self._versions.pop(key, None)
        if old is not None and self._on_change is not None:
            self._on_change(key, old, None)


def _newer(left: str, right: str) -> bool:
    """Tell whether one resourceVersion is newer than another; False where no numbers tell."""
    return left.isdigit() and right.isdigit() and int(left) > int(right)


def _identity(data: bytes) -> tuple[str, str]:
    metadata = _head.decode(data).metadata
    key = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
    return key, metadata.resourceVersion


def _resumable(error: Exception) -> bool:
    """Tell whether a watch may go on where it was: no answer came, or it was just too busy."""
    return isinstance(error, TooManyRequests) or getattr(error, "status", None) == 0


def _stream_error(data: bytes) -> ApiError:
    found = failure(_status.decode(data).code, data)
    if isinstance(found, Gone):
        return found
    return StreamError(found.status, found.reason, found.message, found.retry_after)
