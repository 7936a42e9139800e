"""Placements that kube-scheduler was advised and that no snapshot shows yet.

Several pods are placed before the first is bound, and nobody reports a failed cycle. So the
advice is remembered: from when one name is left or the best was named, until a snapshot shows
that the pod is bound or gone, the same pod is asked about anew, or 30 seconds have passed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from evenkeel_extender.pods import Pod

TTL = 30.0
"""Seconds an assumption lives: longer than any bind, shorter than a person waits."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One pod that should be bound soon."""

    pod: Pod
    server: str
    until: float


class Assumptions:
    """The assumptions that hold, by the pod's uid."""

    def __init__(self, clock: Callable[[], float], ttl: float = TTL) -> None:
        self._clock = clock
        self._ttl = ttl
        self._held: dict[str, Assumption] = {}

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._held)

    def assume(self, pod: Pod, server: str) -> None:
        """Remember that a pod was advised to go to a server."""
        self._held[pod.uid] = Assumption(pod, server, self._clock() + self._ttl)

    def drop(self, uid: str) -> None:
        """Forget a pod that is asked about anew."""
        self._held.pop(uid, None)

    def settle(self, ended: Iterable[str]) -> None:
        """Forget what a new snapshot shows to be bound or gone, and what has run out."""
        for uid in ended:
            self.drop(uid)
        now = self._clock()
        self._held = {uid: found for uid, found in self._held.items() if found.until > now}

    def others(self, uid: str) -> Iterator[Assumption]:
        """Yield what holds of other pods."""
        now = self._clock()
        for key, assumption in self._held.items():
            if key != uid and assumption.until > now:
                yield assumption
