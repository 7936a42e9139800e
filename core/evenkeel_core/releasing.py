"""Which gates fall now: in order, with room for every member, and nobody starves.

A group is released when all its members fit beside what is bound and reserved. The first that
must wait on a server reserves its turn there: a later one may pass only if it is predicted to
end before the earlier one could start. So coupled sets are never half released, and a stream of
small jobs does not keep a large one waiting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evenkeel_core.quantities import Vector, fits, minus, plus


@dataclass(frozen=True, slots=True)
class Waiting:
    """A group whose dependencies are done, in the order of the queue."""

    key: str
    members: tuple[tuple[str, Vector], ...]
    """Planned server and demand of each."""
    seconds: float
    """Predicted real seconds from start to end."""


@dataclass(frozen=True, slots=True)
class Occupied:
    """What one of our pods takes of a server until its predicted end."""

    server: str
    demand: Vector
    ends: float
    """Seconds from now; 0 if it should have ended already."""


@dataclass(frozen=True, slots=True)
class Released:
    """What may start, and when the rest is predicted to."""

    now: tuple[str, ...]
    starts: Mapping[str, float]
    """Seconds until each group that waits could start; absent where it never fits."""


def release(
    waiting: Sequence[Waiting], room: Mapping[str, Vector], occupied: Sequence[Occupied]
) -> Released:
    """Decide which groups are released.

    Parameters
    ----------
    waiting : sequence of Waiting
        In the order in which they may start.
    room : mapping
        What our pods may use of each server when none of them runs.
    occupied : sequence of Occupied
        Our pods that are bound or released.

    Notes
    -----
    O(waiting x members + waits x occupied). Deterministic.
    """
    by_server: dict[str, list[Occupied]] = {}
    for pod in occupied:
        by_server.setdefault(pod.server, []).append(pod)
    free = {server: dict(vector) for server, vector in room.items()}
    for server, pods in by_server.items():
        for pod in pods:
            free[server] = minus(free.get(server, {}), pod.demand)
    held: dict[str, float] = {}
    released: list[str] = []
    starts: dict[str, float] = {}
    for group in waiting:
        servers = {server for server, _ in group.members}
        turn = min((held[server] for server in servers if server in held), default=float("inf"))
        if group.seconds <= turn and _take(group, free):
            released.append(group.key)
            continue
        start = _earliest(group, room, by_server)
        if start is None:
            continue  # never fits: planned anew, reserves nothing
        starts[group.key] = start
        for server in servers:
            # The first that waits has the turn; who waits behind it has no say.
            held.setdefault(server, start)
    return Released(tuple(released), starts)


def _take(group: Waiting, free: dict[str, dict[str, int]]) -> bool:
    """Take the room of all members, or of none."""
    taken: list[tuple[str, Vector]] = []
    for server, demand in group.members:
        if not fits(demand, free.get(server, {})):
            for where, back in taken:
                free[where] = plus(free[where], back)
            return False
        free[server] = minus(free[server], demand)
        taken.append((server, demand))
    return True


def _earliest(
    group: Waiting, room: Mapping[str, Vector], occupied: Mapping[str, Sequence[Occupied]]
) -> float | None:
    """Return the seconds until all members fit, if what runs ends as predicted."""
    wanted: dict[str, Vector] = {}
    for server, demand in group.members:
        wanted[server] = plus(wanted.get(server, {}), demand)
    latest = 0.0
    for server, demand in wanted.items():
        if not fits(demand, room.get(server, {})):
            return None
        left = dict(room[server])
        pods = sorted(occupied.get(server, ()), key=lambda pod: pod.ends)
        for pod in pods:
            left = minus(left, pod.demand)
        for pod in pods:
            if fits(demand, left):
                break
            left = plus(left, pod.demand)
            latest = max(latest, pod.ends)
    return latest
