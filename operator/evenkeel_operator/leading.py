"""Leader election by a Lease: one operator acts, the others stand by, a lost one exits.

Expiry is judged by when we last saw the Lease change, on our own clock: the times in it were
written by another machine's clock and are never compared with ours.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable

from evenkeel_kube.client import ApiError, Client, Conflict, NotFound, Object, path
from evenkeel_kube.configuration import Configuration
from evenkeel_operator.reporting import stamp

log = logging.getLogger(__name__)

DURATION = 15.0
"""Seconds a Lease holds without renewal."""
RENEW = 5.0
"""Seconds between renewals."""
EXIT_AFTER = 10.0
"""Seconds without a successful renewal after which the leader stops: before the Lease ends."""
RETRY = 1.0


class LeadershipLostError(Exception):
    """Another may lead now: this process must exit at once."""


class Election:
    """One candidate for one Lease."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._collection = path("coordination.k8s.io/v1", "leases", namespace)
        self._where = path("coordination.k8s.io/v1", "leases", namespace, name)
        self._name, self._namespace, self._identity = name, namespace, identity
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        self._renewed = -math.inf

    def confirm(self) -> None:
        """Make sure that this process still leads: to be asked before every write.

        Raises
        ------
        LeadershipLostError
            If the Lease was not renewed for so long that another may lead: the process was
            stopped, or the API server did not answer.
        """
        if self._clock() - self._renewed >= EXIT_AFTER:
            raise LeadershipLostError(f"the Lease could not be renewed for {EXIT_AFTER:.0f} s")

    async def acquire(self) -> None:
        """Wait until this process leads."""
        while True:
            try:
                if await self._try():
                    log.info("leading as %s", self._identity)
                    return
            except ApiError as error:
                log.warning("lease: %s", error)
            await asyncio.sleep(RETRY)

    async def _try(self) -> bool:
        began = self._clock()  # the Lease holds from when it was written: at the latest from here
        taken = await self._claim()
        if taken:
            self._renewed = began
        return taken

    async def _claim(self) -> bool:
        try:
            lease = await self._client.get(self._where)
        except NotFound:
            try:
                await self._client.create(self._collection, self._lease({}))
            except Conflict:
                return False
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        duration = float(spec.get("leaseDurationSeconds") or DURATION)
        expired = self._clock() - self._seen[1] > duration
        if holder and holder != self._identity and not expired:
            return False
        return await self._take(lease, self._client)

    async def _take(self, lease: Object, client: Client) -> bool:
        try:
            await client.replace(self._where, self._lease(lease))
        except Conflict:
            return False
        return True

    def _lease(self, lease: Object) -> Object:
        spec = lease.get("spec") or {}
        changes = int(spec.get("leaseTransitions") or 0)
        changed = spec.get("holderIdentity") != self._identity
        now = stamp(time.time()).replace("Z", ".000000Z")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata") or {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION),
                "acquireTime": now if changed else spec.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": changes + 1 if changed and spec else changes,
            },
        }

    def keep_apart(self, configuration: Configuration) -> "asyncio.Future[None]":
        """Renew in a thread of its own; return a future that fails when the Lease is lost.

        The work of a leader takes seconds of its event loop, and a renewal must not wait for it.
        """
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()

        async def renew() -> None:
            async with Client(configuration) as client:
                await self.keep(client)

        def tell(error: BaseException) -> None:
            if not lost.done():
                lost.set_exception(error)

        def run() -> None:
            try:
                asyncio.run(renew())
            except BaseException as error:  # noqa: BLE001 - whatever ended it, we lead no more
                with contextlib.suppress(RuntimeError):  # the loop is closed: so is the work
                    loop.call_soon_threadsafe(tell, error)

        threading.Thread(target=run, name="lease", daemon=True).start()
        return lost

    async def keep(self, client: Client | None = None) -> None:
        """Renew until the Lease is lost.

        Raises
        ------
        LeadershipLostError
            If another holds the Lease, or it could not be renewed for too long.
        """
        while True:
            fresh = self._clock() - self._renewed < RENEW * 1.5
            await asyncio.sleep(RENEW if fresh else RETRY)
            left = EXIT_AFTER - (self._clock() - self._renewed)
            try:
                began = self._clock()
                async with asyncio.timeout(max(0.0, left)):
                    if await self._renew(client or self._client):
                        self._renewed = began
            except ApiError as error:
                log.warning("lease: %s", error)
            except TimeoutError:
                log.warning("lease: no answer in %.0f s", left)
            self.confirm()

    async def _renew(self, client: Client) -> bool:
        lease = await client.get(self._where)
        if (lease.get("spec") or {}).get("holderIdentity") != self._identity:
            raise LeadershipLostError("another operator holds the Lease")
        return await self._take(lease, client)

    async def resign(self) -> None:
        """Give the Lease back, so that the next need not wait for its end."""
        try:
            lease = await self._client.get(self._where)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.replace(self._where, lease)
        except ApiError as error:
            log.info("lease not given back: %s", error)
