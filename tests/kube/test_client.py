"""The client against an API server that misbehaves."""

import json
from typing import Any

import pytest

from evenkeel_kube import client
from evenkeel_kube.client import (
    AlreadyExists,
    ApiError,
    Client,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from evenkeel_kube.configuration import Configuration

PODS = "/api/v1/namespaces/ns/pods"
POD = f"{PODS}/x"


def test_paths_are_those_of_the_api() -> None:
    assert client.path("v1", "pods") == "/api/v1/pods"
    assert client.path("v1", "pods", "ns", "x", "eviction") == f"{POD}/eviction"
    assert client.path("apps/v1", "jobs", None, "x") == "/apis/apps/v1/jobs/x"


async def test_a_read_names_who_asks(api: Client, fake: Any) -> None:
    fake.others[0] = {"kind": "Pod"}
    assert await api.get(POD) == {"kind": "Pod"}
    assert fake.seen[0].headers["Authorization"] == "Bearer secret"


async def test_a_token_file_is_read_again(fake: Any, tmp_path: Any) -> None:
    file = tmp_path / "token"
    async with Client(Configuration(fake.url, None, token_file=file)) as api:
        for token in ("first", "second"):
            file.write_text(f"{token}\n")
            await api.get(POD)
        assert [r.headers["Authorization"] for r in fake.seen] == ["Bearer first", "Bearer second"]
        file.unlink()
        with pytest.raises(Unavailable, match="FileNotFoundError"):
            await api.create(PODS, {})


async def test_lists_are_read_in_pages(api: Client, fake: Any, make: Any) -> None:
    fake.lists.clear()
    fake.lists += [
        make.listed(7, make.pod("a", 1), more="token"),
        make.listed(7, make.pod("b", 2)),
    ]
    found, version = await api.list(PODS, {"labelSelector": "a=b"})
    assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert version == "7"
    first, second = fake.queries(watch=False)
    assert first == {"limit": "200", "labelSelector": "a=b"}
    assert second == {**first, "continue": "token"}


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (307, "", ApiError),
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Gone),
        (418, "", ApiError),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
    ],
)
async def test_every_refusal_has_its_type(
    api: Client, fake: Any, make: Any, status: int, reason: str, kind: type[ApiError]
) -> None:
    fake.others[0] = make.Refusal(status, reason, {"Location": "/elsewhere", "Retry-After": "3"})
    with pytest.raises(ApiError) as caught:
        await api.create(PODS, {})
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason, caught.value.message) == (
        status,
        reason,
        "no",
    )
    assert caught.value.retry_after == 3.0
    assert len(fake.seen) == 1, "a write is never tried again"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>proxy</html>", "<html>proxy</html>"),
        (b"", ""),
        (b"[1]", "[1]"),
        (b"\xff", "\ufffd"),
    ],
)
def test_a_refusal_may_say_anything(body: bytes, message: str) -> None:
    assert client.failure(503, body).message == message


@pytest.mark.parametrize("said", ["soon", "-5", "nan", "1e99", None])
def test_what_a_server_asks_us_to_wait_is_bounded(said: str | None) -> None:
    assert 0 <= client.failure(429, b"{}", said).retry_after <= client.PATIENCE


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"a": "\xff"}'])
async def test_an_answer_that_is_no_object_is_an_api_error(
    api: Client, fake: Any, body: bytes
) -> None:
    fake.others[0] = body
    with pytest.raises(Unavailable):
        await api.create(PODS, {})
    fake.lists[0] = body
    with pytest.raises(Unavailable):
        await api.list(PODS)


async def test_reads_survive_a_short_absence(api: Client, fake: Any, make: Any) -> None:
    fake.others.clear()
    fake.others += [make.Refusal(503), make.Refusal(429, "", {"Retry-After": "0.01"}), {"ok": 1}]
    assert await api.get(POD) == {"ok": 1}


async def test_nobody_there_is_unavailable(fake: Any) -> None:
    async with Client(Configuration("http://127.0.0.1:9", None)) as api:
        with pytest.raises(Unavailable, match="ClientConnectorError"):
            await api.create(PODS, {})


async def test_answers_are_bounded(api: Client, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    fake.others[0] = b'"' + b"x" * 5000 + b'"'
    with pytest.raises(Unavailable, match="longer than 1000 bytes"):
        await api.create(PODS, {})


async def test_a_long_refusal_is_cut(api: Client, fake: Any, make: Any) -> None:
    fake.others[0] = make.Refusal(404, body=b"x" * 10**6)
    with pytest.raises(NotFound) as caught:
        await api.create(PODS, {})
    assert len(caught.value.message) == 500


async def test_writes_are_what_the_api_expects(api: Client, fake: Any) -> None:
    await api.create(PODS, {"a": 1})
    await api.replace(POD, {"a": 2})
    await api.merge(f"{POD}/status", {"a": 3})
    await api.patch(POD, [{"op": "test", "path": "/a", "value": 1}])
    await api.apply(POD, {"a": 5}, manager="us")
    await api.delete(POD, uid="u", grace=0)
    await api.evict("ns", "x", uid="u")
    sent = [
        (r.method, r.path, r.headers["Content-Type"], json.loads(body))
        for r, body in zip(fake.seen, fake.bodies, strict=True)
    ]
    plain = "application/json"
    assert sent == [
        ("POST", PODS, plain, {"a": 1}),
        ("PUT", POD, plain, {"a": 2}),
        ("PATCH", f"{POD}/status", "application/merge-patch+json", {"a": 3}),
        (
            "PATCH",
            POD,
            "application/json-patch+json",
            [{"op": "test", "path": "/a", "value": 1}],
        ),
        ("PATCH", POD, "application/apply-patch+yaml", {"a": 5}),
        (
            "DELETE",
            POD,
            plain,
            {
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "propagationPolicy": "Background",
                "preconditions": {"uid": "u"},
                "gracePeriodSeconds": 0,
            },
        ),
        (
            "POST",
            f"{POD}/eviction",
            plain,
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": "x", "namespace": "ns"},
                "deleteOptions": {"preconditions": {"uid": "u"}},
            },
        ),
    ]
    assert dict(fake.seen[4].query) == {"fieldManager": "us", "force": "true"}


async def test_a_watch_yields_lines_however_they_arrive(api: Client, fake: Any) -> None:
    fake.watches[0] = [b'{"a"', 0.01, b': 1}\n{"b": 2}\n\n', b'{"cut']
    found = [line async for line in api.watch(PODS, {"resourceVersion": "5"}, silence=5)]
    assert found == [b'{"a": 1}', b'{"b": 2}']
    (query,) = fake.queries(watch=True)
    assert query == {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "5"}


async def test_a_silent_watch_is_dead(api: Client, fake: Any, make: Any) -> None:
    fake.watches[0] = [b"{}\n", make.HANG]
    with pytest.raises(Unavailable):
        [line async for line in api.watch(PODS, {}, silence=0.05)]


async def test_a_line_is_bounded(api: Client, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_LINE", 1000)
    fake.watches[0] = [b"x" * 5000]
    with pytest.raises(Unavailable, match="larger than any object"):
        [line async for line in api.watch(PODS, {}, silence=5)]
