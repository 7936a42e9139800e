"""The HTTP surface: what kube-scheduler sends and gets, and what anybody else may send."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings

from evenkeel_extender import app
from evenkeel_extender.state import State

Object = dict[str, Any]
Args = Callable[..., Object]
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
"""Requests of kube-scheduler 1.36.3, recorded; only uids were made the tests' own."""


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_recorded_requests_get_the_recorded_replies(world: Any, path: Path) -> None:
    golden = json.loads(path.read_text())
    reply = world.client().post(golden["path"], json=golden["request"])
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == golden["reply"]


def test_there_are_recordings() -> None:
    assert len(GOLDEN) == 5


def test_scores_are_whole_numbers_in_the_bytes(world: Any, make: Any, args: Args) -> None:
    reply = world.client().post("/prioritize", json=args(world.pods[0], "n1", "n2"))
    assert reply.content == b'[{"Host":"n1","Score":10},{"Host":"n2","Score":0}]'


def test_a_name_sent_twice_is_answered_once(world: Any, args: Args) -> None:
    client = world.client()
    sent = args(world.pods[0], "n1", "n2", "n1")
    assert client.post("/filter", json=sent).json()["NodeNames"] == ["n1", "n2"]
    assert [item["Host"] for item in client.post("/prioritize", json=sent).json()] == ["n1", "n2"]


def test_what_is_advised_is_assumed_and_counted(world: Any, args: Args) -> None:
    state = world.state()
    client = world.client(state)
    client.post("/prioritize", json=args(world.pods[0], "n1", "n2"))
    assert [a.server for a in state.assumptions.others("")] == ["n1"]
    text = client.get("/metrics").text
    assert "evenkeel_extender_assumed_pods 1.0" in text
    assert 'evenkeel_extender_advised_pods_total{where="planned"}' in text
    assert 'evenkeel_extender_request_duration_seconds_count{result="ok",verb="prioritize"}' in text


POD: Object = {"metadata": {"uid": "u"}, "spec": {}}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is no ExtenderArgs: Input data was truncated"),
        (b"not json", "the body is no ExtenderArgs: JSON is malformed"),
        (b"[]", "the body is no ExtenderArgs: Expected `object`, got `array`"),
        (b"{}", "the body is no ExtenderArgs: Object missing required field `Pod`"),
        (b'{"Pod": null, "NodeNames": []}', "Pod can not be read: Expected `object`, got `null`"),
        (
            b'{"Pod": {"metadata": {}, "spec": {}}}',
            "missing required field `uid` - at `$.metadata`",
        ),
        (b'{"Pod": {"spec": {}}}', "Pod can not be read: Object missing required field `metadata`"),
        (json.dumps({"Pod": POD}).encode(), "nodeCacheCapable: true"),
        (
            json.dumps({"Pod": POD, "NodeNames": [1]}).encode(),
            "Expected `str`, got `int` - at `$.NodeNames[0]`",
        ),
        (b"\xff\xfe", "the body is no ExtenderArgs"),
        (b"[" * 100_000, "the body is no ExtenderArgs"),
        (b'{"Pod": ' + b'{"a": ' * 100_000, "the body is no ExtenderArgs"),
    ],
)
@pytest.mark.parametrize("verb", ["filter", "prioritize"])
def test_what_is_malformed_is_refused_in_a_sentence(
    world: Any, verb: str, body: bytes, says: str
) -> None:
    reply = world.client().post(f"/{verb}", content=body)
    assert reply.status_code == 400
    assert says in reply.json()["detail"]
    assert "Traceback" not in reply.text


def test_a_quantity_that_is_none_is_refused_in_a_sentence(
    world: Any, make: Any, args: Args
) -> None:
    reply = world.client().post("/filter", json=args(make.pod(cpu="lots"), "n1"))
    assert reply.status_code == 400
    assert reply.json()["detail"].startswith("Pod can not be read: `lots` is not a quantity")


def test_a_body_is_bounded(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_BODY", 1000)
    assert world.client().post("/filter", content=b" " * 1001).status_code == 413
    assert world.client().post("/filter", content=b" " * 1000).status_code == 400


def test_before_the_first_snapshot_nothing_is_answered(world: Any, args: Args) -> None:
    client = world.client(State())
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/servers").json() == []
    for verb in ("filter", "prioritize"):
        assert client.post(f"/{verb}", json=args(world.pods[0], "n1")).status_code == 503


def test_readiness_says_how_many_servers(world: Any) -> None:
    assert world.client().get("/readyz").json() == {"status": "ok", "servers": 3, "silence": 0.0}


def test_a_pod_is_explained(world: Any) -> None:
    found = world.client().get("/explain/default/a").json()
    assert (found["pod"], found["subtask"], found["bound"], found["planned"]) == (
        "default/a",
        "a",
        None,
        "n1",
    )
    assert [(row["server"], row["score"]) for row in found["servers"]] == [
        ("n1", 10),
        ("n2", 4),
        ("n3", 0),
    ]
    assert sorted(found["servers"][0]) == sorted(
        ["server", "planned", "refused", "score", "utility", "cost", "edges", "load", "stranded"]
    )


def test_an_ended_pod_is_explained_too(world: Any, make: Any) -> None:
    world.pods[0] = make.pod("a", server="n1", node="n2", phase="Succeeded")
    found = world.client().get("/explain/default/a").json()
    assert (found["bound"], found["planned"]) == ("n2", "n1")


@pytest.mark.parametrize("name", ["nobody", "stranger", "%00", "x" * 3000])
def test_nobody_is_not_explained(world: Any, make: Any, name: str) -> None:
    world.pods.append(make.pod())
    reply = world.client().get(f"/explain/default/{name}")
    assert reply.status_code == 404
    assert reply.json()["detail"].endswith("of a job")


def test_the_servers_are_shown(world: Any) -> None:
    rows = world.client().get("/servers").json()
    assert [row["name"] for row in rows] == ["n1", "n2", "n3"]
    assert rows[0]["load"] == 10.0
    assert rows[0]["free"]["cpu"] == 8000 - 800 - 1000
    assert rows[0]["ready"]
    assert rows[0]["schedulable"]


def test_a_fault_of_ours_shows_no_traceback(
    world: Any, args: Args, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app.scoring, "refusals", broken)
    reply = world.client().post("/filter", json=args(world.pods[0], "n1"))
    assert (reply.status_code, reply.text) == (500, "Internal Server Error")


@pytest.mark.parametrize("path", ["/filter", "/prioritize", "/explain/{namespace}/{pod}"])
def test_the_surface_keeps_its_description(world: Any, path: str) -> None:
    surface = schemathesis.openapi.from_asgi("/openapi.json", app.create(world.state()))
    (operation,) = (op for op in (r.ok() for r in surface.get_all_operations()) if op.path == path)

    @given(case=operation.as_strategy())
    @settings(max_examples=40, deadline=None)
    def holds(case: Any) -> None:
        case.call_and_validate()

    holds()
