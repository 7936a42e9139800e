"""Makes the world match a decision.

Every write is a create with a deterministic name or carries a precondition, so doing it twice,
or after a crash, does no harm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from evenkeel_kube import client, names, plans, pods
from evenkeel_kube.client import (
    AlreadyExists,
    ApiError,
    Client,
    Conflict,
    Invalid,
    NotFound,
)
from evenkeel_operator.gathering import Caches
from evenkeel_operator.reporting import stamp

log = logging.getLogger(__name__)

Object = dict[str, Any]
JOBS = "inferencejobs"


class Actor:
    """Writes for the operator, some at a time."""

    def __init__(
        self,
        api: Client,
        caches: Caches,
        concurrency: int,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._caches = caches
        self._slots = asyncio.Semaphore(concurrency)
        self._confirm = confirm
        """Raises where this process may not lead any more: asked before every write."""

    async def _each(
        self, items: Iterable[Any], write: Callable[[Any], Awaitable[None]]
    ) -> list[ApiError]:
        """Write all, some at a time; return what failed and may be tried again."""

        async def one(item: Any) -> ApiError | None:
            async with self._slots:
                self._confirm()
                try:
                    await write(item)
                except ApiError as error:
                    return error
            return None

        done = await asyncio.gather(*(one(item) for item in items))
        return [error for error in done if error is not None]

    async def create(self, manifests: Iterable[Object]) -> list[ApiError]:
        """Create pods; one that exists is as wanted: its name is of this job and attempt alone."""

        async def write(manifest: Object) -> None:
            namespace = manifest["metadata"]["namespace"]
            try:
                created = await self._api.create(client.path("v1", "pods", namespace), manifest)
            except AlreadyExists:
                return
            self._observe(created)

        return await self._each(manifests, write)

    async def open(self, opened: Iterable[tuple[Object, list[Object]]]) -> list[ApiError]:
        """Open gates; a pod that changed meanwhile is looked at again."""

        async def write(item: tuple[Object, list[Object]]) -> None:
            pod, operations = item
            try:
                self._observe(await self._api.patch(_where(pod), operations))
            except (Invalid, Conflict, NotFound) as error:
                # A failed `test` is answered as Invalid: the next pass looks again.
                log.info("gate of %s not opened: %s", pod["metadata"]["name"], error)

        return await self._each(opened, write)

    async def delete(self, found: Iterable[Object]) -> list[ApiError]:
        """Delete pods, only those with the uid that was looked at."""

        async def write(pod: Object) -> None:
            try:
                await self._api.delete(_where(pod), uid=pod["metadata"]["uid"])
            except (NotFound, Conflict):
                return

        return await self._each(found, write)

    async def strip(self, found: Iterable[Object]) -> list[ApiError]:
        """Let pods go whose outcome is on record."""

        async def write(pod: Object) -> None:
            try:
                self._observe(await self._api.patch(_where(pod), pods.without_finalizer(pod)))
            except (NotFound, Conflict, Invalid):
                return

        return await self._each(found, write)

    def _observe(self, pod: Object) -> None:
        pod.get("metadata", {}).pop("managedFields", None)
        metadata = pod["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return  # gone with this very write
        self._caches.pods.observe(key, metadata["resourceVersion"], pod)

    async def record(
        self, job: Object, record: plans.Record, before: Object | None
    ) -> Object | None:
        """Write the plan on record; None if somebody wrote in between."""
        manifest = plans.manifest(job, record)
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        self._confirm()
        try:
            if before is None:
                written = await self._api.create(
                    client.path("v1", "configmaps", namespace), manifest
                )
            else:
                manifest["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
                written = await self._api.replace(
                    client.path("v1", "configmaps", namespace, name), manifest
                )
        except (Conflict, NotFound) as error:
            log.info("plan of %s/%s not written: %s", namespace, job["metadata"]["name"], error)
            return None
        version = written["metadata"]["resourceVersion"]
        self._caches.plans.observe(f"{namespace}/{name}", version, written)
        return written

    async def status(self, job: Object, status: Object) -> Object | None:
        """Write a job's status; None if the job is gone.

        Only if it is still the job that was looked at, as it was then: a namesake must not inherit
        what became of another, and what a later leader wrote must not be taken back.

        Raises
        ------
        Conflict
            If somebody wrote in between.
        """
        self._confirm()
        seen = {key: job["metadata"][key] for key in ("uid", "resourceVersion")}
        try:
            return await self._api.merge(
                f"{job_path(job)}/status", {"metadata": seen, "status": status}
            )
        except NotFound:
            return None

    async def remove(self, job: Object) -> None:
        """Delete a job whose time has come."""
        self._confirm()
        try:
            await self._api.delete(job_path(job), uid=job["metadata"]["uid"])
        except (NotFound, Conflict):
            return

    async def exists(self, pod: Object) -> bool:
        """Tell whether the job that owns a pod is still there, and to stay."""
        owners = pod["metadata"].get("ownerReferences") or ()
        owner = next((item for item in owners if item["kind"] == "InferenceJob"), None)
        if owner is None:
            return False
        namespace = pod["metadata"]["namespace"]
        try:
            job = await self._api.get(
                client.path(names.API_VERSION, JOBS, namespace, owner["name"])
            )
        except NotFound:
            return False
        metadata = job["metadata"]
        return metadata["uid"] == owner["uid"] and not metadata.get("deletionTimestamp")

    async def event(self, job: Object, kind: str, reason: str, message: str, now: float) -> None:
        """Post an event about a job; one that can't be posted is only logged."""
        metadata = job["metadata"]
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "generateName": f"{metadata['name']}.",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": "InferenceJob",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:1000],
            "source": {"component": "evenkeel-operator"},
            "firstTimestamp": stamp(now),
            "lastTimestamp": stamp(now),
            "count": 1,
        }
        try:
            await self._api.create(client.path("v1", "events", metadata["namespace"]), event)
        except ApiError as error:
            log.info("event not posted: %s", error)

    async def config_map(self, namespace: str, name: str) -> Object | None:
        """Return a ConfigMap, None where there is none."""
        try:
            return await self._api.get(client.path("v1", "configmaps", namespace, name))
        except NotFound:
            return None


def _where(pod: Object) -> str:
    return client.path("v1", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"])


def job_path(job: Object) -> str:
    """Return the path of a job."""
    metadata = job["metadata"]
    return client.path(names.API_VERSION, JOBS, metadata["namespace"], metadata["name"])
