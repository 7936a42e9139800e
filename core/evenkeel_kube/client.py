"""A small asynchronous client of the Kubernetes API: raw objects in and out.

Errors, one tree for the boundary:

    ApiError                    any answer that is no success; has status, reason, message
      ├── Invalid (400, 422)    the object breaks a rule
      ├── Unauthorized (401)
      ├── Forbidden (403)       the rights are missing
      ├── NotFound (404)
      ├── Conflict (409)        somebody wrote in between, or a precondition does not hold
      │     └── AlreadyExists
      ├── Gone (410)            the resourceVersion is too old: list again
      ├── TooManyRequests (429) throttled, or a PodDisruptionBudget; has retry_after
      └── Unavailable           5xx, or no answer at all: try again later
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from evenkeel_kube.configuration import Configuration

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
PAGE = 200
TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
MAX_LINE = 4 * 1024**2
"""Bytes of one watch event: larger than any object the API server stores."""
MAX_ANSWER = 320 * 1024**2
"""Bytes of one answer: a page of objects as large as etcd takes, 1.5 MiB."""
MAX_ERROR = 64 * 1024
ATTEMPTS = 4
"""Times a read is tried: it changes nothing, so trying again is safe. Writes never are."""
PATIENCE = 60.0
"""Seconds a server may ask us to wait at most."""


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Invalid(ApiError):
    """The object breaks a rule."""


class Unauthorized(ApiError):
    """Nobody we are known as."""


class Forbidden(ApiError):
    """The rights are missing."""


class NotFound(ApiError):
    """There is no such object."""


class Conflict(ApiError):
    """Somebody wrote in between, or a precondition does not hold."""


class AlreadyExists(Conflict):
    """There is such an object already."""


class Gone(ApiError):
    """The resourceVersion is too old."""


class TooManyRequests(ApiError):
    """Throttled, or held back by a PodDisruptionBudget."""


class Unavailable(ApiError):
    """The API server can't answer now."""


KINDS: Mapping[int, type[ApiError]] = {
    400: Invalid, 401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone,
    422: Invalid, 429: TooManyRequests,
}  # fmt: skip


def failure(
    status: int, body: bytes | Mapping[str, Any], retry_after: str | None = None
) -> ApiError:
    """Return the error that an answer stands for."""
    said: Mapping[str, Any]
    if isinstance(body, bytes):
        try:
            said = json.loads(body)
        except ValueError:
            said = {"message": body[:500].decode(errors="replace")}
    else:
        said = body
    said = said if isinstance(said, Mapping) else {"message": str(said)}
    reason = str(said.get("reason") or "")
    kind = KINDS.get(status, Unavailable if status >= 500 else ApiError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    wait = retry_after or (said.get("details") or {}).get("retryAfterSeconds") or 0
    try:
        seconds = min(max(0.0, float(wait)), PATIENCE)  # in this order NaN becomes 0
    except (TypeError, ValueError):
        seconds = 0.0
    return kind(status, reason, str(said.get("message") or ""), seconds)


class _ListMetadata(msgspec.Struct):
    version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMetadata = msgspec.field(default_factory=_ListMetadata)
    items: list[msgspec.Raw] | None = None


_list = msgspec.json.Decoder(_List)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the objects of a resource, as the API server wrote them."""

    items: tuple[bytes, ...]
    version: str
    """resourceVersion of the whole list."""


def path(
    group_version: str, plural: str, namespace: str | None = None, name: str = "", part: str = ""
) -> str:
    """Return the path of a resource, such as ``path("v1", "pods", "default", "x", "eviction")``."""
    root = f"/api/{group_version}" if "/" not in group_version else f"/apis/{group_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return "/".join(piece for piece in (f"{root}{scope}/{plural}", name, part) if piece)


class Client:
    """One connection pool to one API server. Use as an asynchronous context manager."""

    def __init__(self, configuration: Configuration, *, connections: int = 64) -> None:
        self.configuration = configuration
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the pool."""
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            ssl=self.configuration.tls if self.configuration.tls is not None else False,
        )
        self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _send(
        self, method: str, where: str, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "the client is not open"  # noqa: S101
        url = self.configuration.server + where
        try:
            headers = self.configuration.authorization() | dict(options.pop("headers", {}))
            async with self._session.request(
                method, url, headers=headers, allow_redirects=False, **options
            ) as answer:
                if answer.status >= 300:
                    body = await _read(answer, MAX_ERROR, cut=True)
                    raise failure(answer.status, body, answer.headers.get("Retry-After"))
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(0, "NoAnswer", f"{type(error).__name__}: {error}") from error

    async def _receive(self, method: str, where: str, **options: Any) -> bytes:
        async with self._send(method, where, **options) as answer:
            return await _read(answer, MAX_ANSWER)

    async def _ask(self, where: str, params: Mapping[str, str] | None) -> bytes:
        """Read; tried again while the API server is away for a moment."""
        for attempt in range(ATTEMPTS - 1):
            try:
                return await self._receive("GET", where, params=dict(params or {}))
            except (Unavailable, TooManyRequests) as error:
                pause = error.retry_after or 0.1 * 2**attempt
                await asyncio.sleep(pause * (1 + random.random()))  # noqa: S311 - only spreads
        return await self._receive("GET", where, params=dict(params or {}))

    async def request(self, method: str, where: str, **options: Any) -> Object:
        """Send one request and return the object of the answer."""
        return _object(await self._receive(method, where, **options))

    async def get(self, where: str, params: Mapping[str, str] | None = None) -> Object:
        """Read one object; tried again while the API server is away for a moment."""
        return _object(await self._ask(where, params))

    async def pages(
        self, where: str, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Page, None]:
        """Yield all objects of a resource in pages of one consistent list.

        Raises
        ------
        Gone
            If the list took so long that its rest can't be had any more: start anew.
        """
        query = {"limit": str(PAGE), **(params or {})}
        while True:
            try:
                found = _list.decode(await self._ask(where, query))
            except msgspec.MsgspecError as error:
                raise Unavailable(0, "NoList", f"the answer is no list: {error}") from error
            if not found.metadata.version:
                # Whoever said this is no API server: to believe it would delete everything.
                raise Unavailable(0, "NoList", "the answer has no resourceVersion")
            items = tuple(bytes(item) for item in found.items or ())
            yield Page(items, found.metadata.version)
            if not found.metadata.more:
                return
            query = {**query, "continue": found.metadata.more}
            query.pop("resourceVersion", None)

    async def list(
        self, where: str, params: Mapping[str, str] | None = None
    ) -> tuple[list[Object], str]:
        """Return all objects of a resource and the list's resourceVersion."""
        found: list[Object] = []
        version = ""
        async with aclosing(self.pages(where, params)) as pages:
            async for page in pages:
                found += [_object(item) for item in page.items]
                version = page.version
        return found, version

    async def create(self, where: str, obj: Mapping[str, Any]) -> Object:
        """Create an object below a collection."""
        return await self.request("POST", where, json=obj)

    async def replace(self, where: str, obj: Mapping[str, Any]) -> Object:
        """Replace an object; with its resourceVersion, only if nobody wrote in between."""
        return await self.request("PUT", where, json=obj)

    async def merge(self, where: str, change: Mapping[str, Any]) -> Object:
        """Merge a change into an object; with a resourceVersion in it, only if it is that."""
        return await self.request(
            "PATCH", where, data=json.dumps(change), headers={"Content-Type": MERGE}
        )

    async def patch(self, where: str, operations: Sequence[Object]) -> Object:
        """Apply JSON patch operations; a ``test`` that fails is `Invalid`."""
        return await self.request(
            "PATCH", where, data=json.dumps([*operations]), headers={"Content-Type": JSON}
        )

    async def apply(self, where: str, obj: Mapping[str, Any], *, manager: str) -> Object:
        """Apply an object server-side as a field manager."""
        return await self.request(
            "PATCH",
            where,
            data=json.dumps(obj),
            params={"fieldManager": manager, "force": "true"},
            headers={"Content-Type": APPLY},
        )

    async def delete(
        self,
        where: str,
        *,
        uid: str | None = None,
        grace: int | None = None,
        background: bool = True,
    ) -> None:
        """Delete an object, only the one with this uid if one is given."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if background:
            options["propagationPolicy"] = "Background"
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        async with self._send("DELETE", where, json=options) as answer:
            await _read(answer, MAX_ANSWER)

    async def evict(self, namespace: str, name: str, *, uid: str) -> None:
        """Evict a pod through the Eviction API, only the one with this uid."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        await self.create(path("v1", "pods", namespace, name, "eviction"), eviction)

    async def watch(
        self, where: str, params: Mapping[str, str], *, silence: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a watch until the server closes it.

        Parameters
        ----------
        where : str
        params : mapping
            Among them the resourceVersion to watch from.
        silence : float
            Seconds without a byte after which the connection is taken for dead.

        Raises
        ------
        ApiError
            If the watch can't be opened, breaks, or is silent for too long.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=10, sock_read=silence)
        query = {"watch": "true", "allowWatchBookmarks": "true", **params}
        async with self._send("GET", where, params=query, timeout=timeout) as answer:
            buffer = b""
            async for chunk in answer.content.iter_any():
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if line:
                        yield line
                if len(buffer) > MAX_LINE:
                    raise Unavailable(0, "TooLong", "a watch event is larger than any object")


async def _read(answer: aiohttp.ClientResponse, most: int, *, cut: bool = False) -> bytes:
    """Return the body; one that is too long is cut or refused before it fills the memory."""
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) > most:
            if cut:
                break
            raise Unavailable(0, "TooLong", f"the answer is longer than {most} bytes")
    return bytes(found[:most])


def _object(data: bytes) -> Object:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Unavailable(0, "NoJSON", f"the answer is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Unavailable(0, "NoObject", "the answer is no object")
    return found
