"""Placements that kube-scheduler was advised and that no watch event shows yet.

Several pods are placed before the first is bound, and nobody reports a failed cycle. So the
advice is remembered: from when one name is left or the best was named, until a bind or a
deletion is seen, the same pod is asked about anew, or 30 seconds have passed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from evenkeel_core.quantities import Vector

TTL = 30.0
"""Seconds an assumption lives: longer than any bind, shorter than a person waits."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One pod that should be bound soon."""

    uid: str
    server: str
    demand: Vector
    work: float
    until: float


class Assumptions:
    """The assumptions that hold, by the pod's uid."""

    def __init__(self, clock: Callable[[], float], ttl: float = TTL) -> None:
        self._clock = clock
        self._ttl = ttl
        self._held: dict[str, Assumption] = {}

    def assume(self, uid: str, server: str, demand: Vector, work: float) -> None:
        """Remember that a pod was advised to go to a server."""
        self._held[uid] = Assumption(uid, server, demand, work, self._clock() + self._ttl)

    def drop(self, uid: str) -> None:
        """Forget a pod: it is bound, gone, or asked about anew."""
        self._held.pop(uid, None)

    def others(self, uid: str) -> Iterator[Assumption]:
        """Yield what holds of other pods."""
        now = self._clock()
        for key, assumption in self._held.items():
            if key != uid and assumption.until > now:
                yield assumption

    def expire(self) -> None:
        """Forget what has run out."""
        now = self._clock()
        self._held = {uid: found for uid, found in self._held.items() if found.until > now}

    def held(self) -> Mapping[str, Assumption]:
        """Return what is remembered."""
        return self._held
