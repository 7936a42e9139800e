"""The watches behind the snapshot: one writer swaps it, the verbs read it."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from evenkeel_extender import snapshots
from evenkeel_extender.assuming import Assumptions
from evenkeel_extender.snapshots import Plans, Pod, Snapshot
from evenkeel_kube import client, names
from evenkeel_kube.client import Client
from evenkeel_kube.reflecting import Reflector

SETTLE = 0.02
"""Seconds changes are gathered before a new snapshot: a burst of binds is one."""


class State:
    """The current snapshot and the assumptions on top of it."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.assumptions = Assumptions(time.monotonic)
        self.ready = False
        self.built = 0.0

    def age(self) -> float:
        """Return the seconds since the snapshot was built."""
        return time.monotonic() - self.built if self.built else float("inf")


class Watches:
    """Keeps a `State` current."""

    def __init__(self, api: Client, state: State) -> None:
        self._state = state
        self._changed = asyncio.Event()
        self._plans = Plans()

        def touched(*_: object) -> None:
            self._changed.set()

        def objects(
            where: str, params: Mapping[str, str] | None = None
        ) -> Reflector[dict[str, Any]]:
            return Reflector(api, where, snapshots.decode_object, params=params, on_change=touched)

        self.nodes = objects(client.path("v1", "nodes"))
        self.profiles = objects(client.path(names.API_VERSION, "serverprofiles"))
        self.plans = objects(
            client.path("v1", "configmaps"), {"labelSelector": f"{names.LABEL_PLAN}=true"}
        )
        self.pods = Reflector(
            api, client.path("v1", "pods"), snapshots.decode_pod, on_change=self._pod
        )

    def _pod(self, _: str, old: Pod | None, new: Pod | None) -> None:
        """End the assumption of a pod that is bound or gone."""
        if old is not None and (new is None or new.spec.get("nodeName")):
            self._state.assumptions.drop(old.metadata.uid)
        self._changed.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        reflectors = (self.nodes, self.profiles, self.plans, self.pods)
        async with asyncio.TaskGroup() as tasks:
            for reflector in reflectors:
                tasks.create_task(reflector.run())
            for reflector in reflectors:
                await reflector.synced.wait()
            while True:
                self._build()
                self._state.ready = True
                self._changed.clear()
                await self._changed.wait()
                await asyncio.sleep(SETTLE)

    def _build(self) -> None:
        planned = self._plans.subtasks(self.plans.items.values())
        self._state.snapshot = snapshots.build(
            self.nodes.items.values(),
            self.profiles.items.values(),
            self.pods.items.values(),
            planned,
        )
        self._state.built = time.monotonic()
        self._state.assumptions.expire()
