"""A small API server that does what it is told, faults included."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from evenkeel_kube.client import Client
from evenkeel_kube.configuration import Configuration

Object = dict[str, Any]
HANG = object()
"""Step of a watch: say nothing more."""


@dataclass
class Refusal:
    """An answer that is no success."""

    status: int
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


def pod(name: str, version: int, **more: Any) -> Object:
    metadata = {"name": name, "namespace": "ns", "resourceVersion": str(version)}
    return {"metadata": metadata, **more}


def event(kind: str, obj: Object) -> Object:
    return {"type": kind, "object": obj}


def listed(version: int, *items: Object, more: str = "") -> Object:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}


class FakeApi:
    """Answers with scripts, one after the other; the last is repeated."""

    def __init__(self) -> None:
        self.lists: deque[Object | Refusal | bytes] = deque([listed(1)])
        self.watches: deque[list[Any] | Refusal] = deque([[HANG]])
        self.others: deque[Object | Refusal | bytes] = deque([{}])
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.url = ""

    def queries(self, watch: bool) -> list[dict[str, str]]:
        found = [dict(r.query) for r in self.seen if r.method == "GET"]
        return [query for query in found if ("watch" in query) is watch]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        if "watch" in request.query:
            return await self._watch(request)
        collection = request.method == "GET" and request.path.endswith("s")
        script = self.lists if collection else self.others
        return self._plain(_next(script))

    @staticmethod
    def _plain(said: Any) -> web.Response:
        if isinstance(said, Refusal):
            text = {"kind": "Status", "code": said.status, "reason": said.reason, "message": "no"}
            body = said.body if said.body is not None else json.dumps(text).encode()
            return web.Response(status=said.status, headers=said.headers, body=body)
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        script = _next(self.watches)
        if isinstance(script, Refusal):
            return self._plain(script)
        response = web.StreamResponse()
        await response.prepare(request)
        for step in script:
            if step is HANG:
                await asyncio.sleep(60)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                line = step if isinstance(step, bytes) else json.dumps(step).encode() + b"\n"
                await response.write(line)
        return response


def _next(script: deque[Any]) -> Any:
    return script.popleft() if len(script) > 1 else script[0]


@pytest.fixture
async def fake() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", api.answer)
    server = TestServer(app, shutdown_timeout=0.01)
    await server.start_server()
    api.url = f"http://127.0.0.1:{server.port}"
    yield api
    await server.close()


@pytest.fixture
async def api(fake: FakeApi) -> AsyncIterator[Client]:
    configuration = Configuration(fake.url, None, token="secret")  # noqa: S106 - of a fake
    async with Client(configuration) as client:
        yield client


@pytest.fixture
def until() -> Callable[..., Any]:
    """Return a waiter for something that becomes true soon."""

    async def wait(ready: Callable[[], object], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not ready():
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def make() -> Any:
    """Return the makers of what the API server says."""

    class Makers:
        Refusal = Refusal
        HANG = HANG
        pod = staticmethod(pod)
        event = staticmethod(event)
        listed = staticmethod(listed)

    return Makers
