"""Watches into snapshots: swapped whole, gathered in bursts, never taken down by one object."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from evenkeel_extender import state as states
from evenkeel_extender.snapshots import Servers
from evenkeel_extender.state import State, Watches
from evenkeel_kube.client import Page


class Api:
    """An API server in memory: what `Client` offers to reflectors."""

    def __init__(self, world: Any, make: Any) -> None:
        self.lists = {
            "nodes": world.nodes,
            "pods": world.pods,
            "configmaps": [make.config_map(record) for record in world.records],
            "serverprofiles": world.profiles,
        }
        self.events: dict[str, asyncio.Queue[bytes]] = {
            name: asyncio.Queue() for name in self.lists
        }
        self.version = 1
        for obj in (item for found in self.lists.values() for item in found):
            obj["metadata"]["resourceVersion"] = "1"

    def tell(self, kind: str, resource: str, obj: Any) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        event = {"type": kind, "object": obj}
        self.events[resource].put_nowait(json.dumps(event).encode())

    async def pages(self, where: str, _: object) -> AsyncIterator[Page]:
        found = self.lists[where.rsplit("/", 1)[1]]
        yield Page(tuple(json.dumps(obj).encode() for obj in found), "1")

    async def watch(self, where: str, *_: object, **__: object) -> AsyncIterator[bytes]:
        while True:
            yield await self.events[where.rsplit("/", 1)[1]].get()


@pytest.fixture
async def watched(world: Any, make: Any) -> AsyncIterator[tuple[State, Api]]:
    state, api = State(), Api(world, make)
    task = asyncio.create_task(Watches(api, state).run())  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while not state.ready:
            await asyncio.sleep(0.005)
    yield state, api
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not ready():
            await asyncio.sleep(0.005)


async def test_ready_means_that_every_watch_was_read(watched: tuple[State, Api]) -> None:
    state, _ = watched
    assert sorted(state.snapshot.servers) == ["n1", "n2", "n3"]
    assert sorted(state.snapshot.keys) == ["default/a", "default/b", "default/c"]
    assert list(state.snapshot.plans) == ["default/job-uid"]
    assert state.silence() < 5


async def test_a_burst_makes_one_snapshot(watched: tuple[State, Api], make: Any) -> None:
    state, api = watched
    before, swaps = state.snapshot, []
    swap = state.swap
    state.swap = lambda *args: (swaps.append(1), swap(*args))[1]  # type: ignore[method-assign]
    for number in range(50):
        api.tell("ADDED", "pods", make.pod("x", uid=f"uid-x{number}", node="n1", cpu="10m"))
    await until(lambda: len(state.snapshot.pods) == 53)
    assert len(swaps) <= 3
    assert len(before.pods) == 3, "a snapshot never changes"


async def test_an_assumption_ends_with_the_snapshot_that_shows_the_bind(
    watched: tuple[State, Api], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, api = watched
    pod = make.read(make.pod("a", server="n1"))
    state.assumptions.assume(pod, "n2")
    api.tell("MODIFIED", "pods", make.pod("a", server="n1", phase="Pending"))
    await until(lambda: api.events["pods"].empty())
    await asyncio.sleep(2 * states.SETTLE)
    assert len(state.assumptions) == 1, "any other change does not end it"
    api.tell("MODIFIED", "pods", make.pod("a", server="n1", node="n2"))
    await until(lambda: not len(state.assumptions))
    assert state.snapshot.pods["uid-a"].node == "n2"


@pytest.mark.parametrize("kind", ["deleted", "replaced", "stranger"])
async def test_an_assumption_ends_when_its_pod_is_gone(
    watched: tuple[State, Api], make: Any, kind: str
) -> None:
    state, api = watched
    if kind == "stranger":
        api.tell("ADDED", "pods", make.pod(uid="uid-s"))
        state.assumptions.assume(make.read(make.pod(uid="uid-s")), "n1")
        api.tell("MODIFIED", "pods", make.pod(uid="uid-s", node="n1"))
    else:
        state.assumptions.assume(make.read(make.pod("a")), "n2")
        pod = make.pod("a", server="n1")
        if kind == "replaced":
            pod["metadata"]["uid"] = "uid-new"
        api.tell("DELETED" if kind == "deleted" else "MODIFIED", "pods", pod)
    await until(lambda: not len(state.assumptions))


async def test_what_can_not_be_read_is_left_out(
    watched: tuple[State, Api], make: Any, garbled: str
) -> None:
    state, api = watched
    node = make.node("n2")
    node["status"]["allocatable"]["cpu"] = "lots"
    api.tell("MODIFIED", "nodes", node)
    api.tell("ADDED", "nodes", make.node("n4"))
    config_map = make.config_map(make.record({"a": {"n1": 1.0}}, {"a": "n1"}), "other")
    config_map["metadata"]["name"] = "other"
    config_map["binaryData"] = {"plan": garbled}
    api.tell("ADDED", "configmaps", config_map)
    await until(lambda: "n4" in state.snapshot.servers)
    assert sorted(state.snapshot.servers) == ["n1", "n3", "n4"]
    assert list(state.snapshot.plans) == ["default/job-uid"]


def test_servers_are_made_anew_only_when_something_of_them_changed(make: Any) -> None:
    servers = Servers()
    nodes = [make.node("n1"), make.node("n2")]
    first = servers.update(nodes, {}, {})
    again = servers.update(list(nodes), {}, {})
    assert all(first[name] is again[name] for name in first)
    taken = servers.update(nodes, {}, {"n1": {"cpu": 1000}})
    assert taken["n1"].allocatable["cpu"] == 7000
    assert taken["n2"] is first["n2"]
    profile = {"metadata": {"name": "n2"}, "spec": {"excluded": True}}
    assert not servers.update(nodes, {"n2": profile}, {})["n2"].schedulable
    assert list(servers.update(nodes[:1], {}, {})) == ["n1"]


def test_a_node_is_kept_without_what_is_never_looked_at() -> None:
    node = {
        "metadata": {"name": "n", "managedFields": [1]},
        "status": {"images": [1], "capacity": {}},
    }
    found = states.decode_object(json.dumps(node).encode())
    assert found == {"metadata": {"name": "n"}, "status": {"capacity": {}}}
