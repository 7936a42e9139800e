"""The watches behind the snapshot: one writer swaps it, the verbs read it."""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from evenkeel_extender import planned, pods, snapshots
from evenkeel_extender.assuming import Assumptions
from evenkeel_extender.pods import Pod
from evenkeel_extender.snapshots import Servers, Snapshot
from evenkeel_kube import client, names
from evenkeel_kube.client import Client
from evenkeel_kube.reflecting import Reflector

SETTLE = 0.02
"""Seconds changes are gathered before a new snapshot: a burst of binds is one."""


class State:
    """The current snapshot and the assumptions on top of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.snapshot = Snapshot()
        self.assumptions = Assumptions(clock)
        self.ready = False
        self.watched: Mapping[str, Reflector[Any]] = {}
        """By resource, for readiness and metrics."""
        self._clock = clock
        self._swapped = clock()

    def swap(self, snapshot: Snapshot, ended: set[str]) -> None:
        """Make a snapshot the current one; `ended` are pods it shows to be bound or gone."""
        self.snapshot = snapshot
        self.assumptions.settle(ended)
        self.ready = True
        self._swapped = self._clock()

    def age(self) -> float:
        """Return the seconds since the snapshot was built."""
        return self._clock() - self._swapped

    def silence(self) -> float:
        """Return the seconds since the watch heard least of was heard."""
        return max((reflector.age() for reflector in self.watched.values()), default=0.0)


def decode_object(data: bytes) -> dict[str, Any]:
    """Decode a node or a profile, without what is large and never looked at."""
    found = msgspec.json.decode(data, type=dict[str, Any])
    found["metadata"].pop("managedFields", None)
    if isinstance(found.get("status"), dict):
        found["status"].pop("images", None)
    return found


class Watches:
    """Keeps a `State` current."""

    def __init__(self, api: Client, state: State) -> None:
        self._state = state
        self._changed = asyncio.Event()
        self._ended: set[str] = set()
        self._servers = Servers()

        def touched(*_: object) -> None:
            self._changed.set()

        selected = {"labelSelector": f"{names.LABEL_PLAN}=true"}
        where = client.path
        self.nodes = Reflector(api, where("v1", "nodes"), decode_object, on_change=touched)
        self.profiles = Reflector(
            api, where(names.API_VERSION, "serverprofiles"), decode_object, on_change=touched
        )
        self.plans = Reflector(
            api, where("v1", "configmaps"), planned.decode, params=selected, on_change=touched
        )
        self.pods = Reflector(api, where("v1", "pods"), pods.decode, on_change=self._pod)
        state.watched = {
            "nodes": self.nodes,
            "serverprofiles": self.profiles,
            "plans": self.plans,
            "pods": self.pods,
        }

    def _pod(self, _: str, old: Pod | None, new: Pod | None) -> None:
        """Note which assumption the next snapshot ends."""
        if old is not None and (new is None or new.uid != old.uid):
            self._ended.add(old.uid)  # gone, or followed by a namesake
        if new is not None and new.node:
            self._ended.add(new.uid)
        self._changed.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._state.watched.values():
                tasks.create_task(reflector.run())
            for reflector in self._state.watched.values():
                await reflector.synced.wait()
            self._build()
            # What was just read stays: no collection need ever walk over it.
            gc.collect()
            gc.freeze()
            while True:
                await self._changed.wait()
                await asyncio.sleep(SETTLE)
                self._build()

    def _build(self) -> None:
        self._changed.clear()
        snapshot = snapshots.build(
            self._servers,
            self.nodes.items.values(),
            self.profiles.items.values(),
            self.pods.items.values(),
            self.plans.items.values(),
        )
        ended, self._ended = self._ended, set()
        self._state.swap(snapshot, ended)
