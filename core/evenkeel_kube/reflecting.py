"""A reflector: the objects of one resource, kept current by list and watch.

Lists in pages, watches with bookmarks from where the list ended, and after whatever goes wrong
lists again and reports the difference, deletions included: what vanished while nobody looked is
reported as deleted, never forgotten. Every failure backs off with jitter, an instant clean
close of the stream too, so that a broken server is not hammered.

Staleness is judged by the local clock at receipt, never by another machine's.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from evenkeel_kube.client import ApiError, Client, Gone

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


class StreamError(ApiError):
    """The server reported an error inside a watch."""


@dataclass(slots=True)
class Statistics:
    """What a reflector has seen, for metrics."""

    events: int = 0
    relists: dict[str, int] = field(default_factory=dict)
    last: float = 0.0
    """Monotonic time of the last list, event or bookmark."""


def raw(data: bytes) -> dict[str, Any]:
    """Decode an object as it is."""
    found: dict[str, Any] = msgspec.json.decode(data)
    return found


class Reflector(Generic[Item]):
    """The current objects of one resource, by ``namespace/name`` or ``name``."""

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

    def age(self) -> float:
        """Return the seconds since the server was last heard; infinite before the first list."""
        last = self.statistics.last
        return self._clock() - last if last else float("inf")

    def observe(self, key: str, version: str, item: Item) -> None:
        """Take over the answer to an own write, so that the next look is not older than it.

        An older version than the one held is ignored: resourceVersions of one resource are
        numbers that grow (KEP-5504).
        """
        held = self._versions.get(key, "")
        if not held or (held.isdigit() and version.isdigit() and int(version) > int(held)):
            self._put(key, version, item)

    async def run(self) -> None:
        """Keep the objects current until cancelled."""
        wait, version, why = BACKOFF_LEAST, "", "start"
        while True:
            began = self._clock()
            try:
                if not version:
                    version = await self._list(why)
                version = await self._watch(version)
                why = "closed"
            except Gone as error:
                version, why = "", "gone"
                log.info("%s: watch expired (%s), listing again", self._where, error.message)
            except (ApiError, msgspec.MsgspecError) as error:
                # Where the stream broke is where it goes on, unless the server refused it.
                version = version if getattr(error, "status", 0) == 0 else ""
                why = "error"
                log.warning("%s: %s", self._where, error)
                wait = max(wait, getattr(error, "retry_after", 0.0))
            healthy = self._clock() - began > HEALTHY
            wait = BACKOFF_LEAST if healthy else min(BACKOFF_MOST, wait * 2)
            await asyncio.sleep(wait * (0.5 + self._jitter()))

    async def _list(self, why: str) -> str:
        """Read everything, report the difference, return the version to watch from."""
        found, version = await self._client.list(self._where, self._params)
        self.statistics.relists[why] = self.statistics.relists.get(why, 0) + 1
        fresh: dict[str, tuple[str, Item]] = {}
        for obj in found:
            data = msgspec.json.encode(obj)
            key, own = _identity(data)
            fresh[key] = (own, self._decode(data))
        for key in [key for key in self.items if key not in fresh]:
            self._remove(key)
        for key, (own, item) in fresh.items():
            if self._versions.get(key) != own:
                self._put(key, own, item)
        self.statistics.last = self._clock()
        self.synced.set()
        return version

    async def _watch(self, version: str) -> str:
        spread = int(SERVER_TIMEOUT * (1 + self._jitter()))
        params = {
            **self._params,
            "resourceVersion": version,
            "timeoutSeconds": str(spread),
        }
        async for line in self._client.watch(self._where, params, silence=self._silence):
            event = msgspec.json.decode(line, type=_Event)
            self.statistics.last = self._clock()
            if event.type == "ERROR":
                raise _stream_error(bytes(event.object))
            data = bytes(event.object)
            key, version = _identity(data)
            if event.type == "BOOKMARK":
                continue
            self.statistics.events += 1
            if event.type == "DELETED":
                self._remove(key)
            elif not self._older(key, version):
                self._put(key, version, self._decode(data))
        return version

    def _older(self, key: str, version: str) -> bool:
        """Tell whether an own write was already seen that this event comes before."""
        held = self._versions.get(key, "")
        return held.isdigit() and version.isdigit() and int(version) < int(held)

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


def _identity(data: bytes) -> tuple[str, str]:
    metadata = msgspec.json.decode(data, type=_Head).metadata
    key = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
    return key, metadata.resourceVersion


def _stream_error(data: bytes) -> ApiError:
    status = raw(data)
    code = int(status.get("code") or 500)
    kind = Gone if code == 410 else StreamError
    return kind(code, str(status.get("reason", "")), str(status.get("message", "")))
