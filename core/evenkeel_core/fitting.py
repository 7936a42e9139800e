"""How well a pod fits a server: what it strands there for the pods that usually come.

A server's free devices are worth what typical pods could use of them. A pod that takes the last
processors beside free accelerators, or leaves a piece of one that nobody asks for, strands more
than it takes. The score of a server is this loss, in thousandths of a device, plus a price for
kinds of devices that other pods name: where a pod may go anywhere, it should leave those alone.

Sources: Weng et al., Beware of Fragmentation (USENIX ATC 2023), for the loss as a gradient over
typical pods; they count all that one more pod could start on, here no more counts than several
pods find processors and memory for. Fujishige, Lexicographically Optimal Base of a Polymatroid
(Mathematics of Operations Research 1980), for the even spread as a quadratic minimum.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evenkeel_core.problems import Floats, Ints

Mask = NDArray[np.bool_]
WHOLE = 1000
"""Thousandths of a device."""
TYPICAL = 64
"""Demands that are looked at, the most frequent first: 19 of 20 pods of the published workloads,
and a bound on the work of a score."""
LENIENCE = 2.0
"""Times the copies that fit: pods that need less beside their devices come too. Of 1, 1.5, 2, 3 and
no bound, 1.5 and 2 kept most in use over the published workloads default, gpuspec25, multigpu40."""
SCARCITY = 0.3
"""Devices that a device of a kind wholly claimed by those who name it counts more than one that
nobody names. With 0.1 and less it was taken by others early on gpuspec25, with 1 more was stranded
elsewhere."""
SWEEPS = 100
"""Times the claims are poured anew at most; those of the published workloads were even after 2."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pod asks for, and on which kinds of servers it may run."""

    amounts: tuple[int, ...]
    """Of each resource but devices, the processors first."""
    devices: int = 0
    """Different devices, each with as much free as `milli`."""
    milli: int = WHOLE
    """Thousandths of each device."""
    kinds: tuple[bool, ...] | None = None
    """Whether it may run on each kind of server; None where it may on all."""

    @property
    def asked(self) -> int:
        """Thousandths of devices in all."""
        return self.devices * self.milli


@dataclass(frozen=True, slots=True)
class Room:
    """What is free. Axes: S servers, R resources, D devices."""

    free: Floats
    """(S, R) whole numbers."""
    devices: Floats
    """(S, D) free thousandths of each device; 0 where a server has fewer devices."""
    kind: Ints
    """(S,) servers of one kind are open to the same pods."""

    def at(self, servers: Ints) -> "Room":
        """Return the room of some servers."""
        return Room(self.free[servers], self.devices[servers], self.kind[servers])


@dataclass(frozen=True, slots=True)
class Typical:
    """The pods that usually come. Axes: H demands, K kinds of servers, C classes of devices."""

    amounts: Floats
    """(H, R)"""
    asked: Floats
    """(H,) thousandths of devices; of processors where no typical pod asks for a device."""
    weight: Floats
    """(H, K) pods of the demand that may run on the kind: whole numbers, so that sums are exact."""
    total: float
    """Pods in all."""
    level: Floats
    """(L,) the different thousandths asked of one device."""
    classes: tuple[Ints, Floats]
    """(C,) each: index of the level and number of devices."""
    member: Ints
    """(H,) class of each demand; empty where no typical pod asks for a device."""

    @property
    def on_devices(self) -> bool:
        """Tell whether devices are what counts, or processors."""
        return self.member.size > 0


def typical(counted: Mapping[Shape, int], kinds: int, most: int = TYPICAL) -> Typical:
    """Return the most frequent demands with their weights on each kind of server.

    Pods without a device count only where no pod has one: they never use what is scarce.

    Parameters
    ----------
    counted : mapping
        Pods of each shape; all with as many amounts.
    kinds : int
        K.
    most : int
        Demands kept; ties go to the smaller one.
    """
    some = any(shape.devices for shape in counted)
    pods: Counter[Shape] = Counter()
    weights: dict[Shape, Floats] = {}
    for shape, count in counted.items():
        if bool(shape.devices) == some and (shape.asked or shape.amounts[0]):
            demand = Shape(shape.amounts, shape.devices, shape.milli)
            pods[demand] += count
            open_to = np.array(shape.kinds or (True,) * kinds, dtype=float)
            weights[demand] = weights.get(demand, 0.0) + count * open_to
    order = sorted(pods, key=lambda d: (-pods[d], d.amounts, d.devices, d.milli))[:most]
    width = len(next(iter(counted)).amounts) if counted else 0
    milli, member = np.unique([d.milli for d in order], return_inverse=True)
    # As floats: what one pod asks for may be more than an integer of the machine.
    pairs = np.array([*zip(member, (d.devices for d in order), strict=True)], dtype=float)
    classes, member = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    return Typical(
        amounts=np.array([d.amounts for d in order], dtype=float).reshape(len(order), width),
        asked=np.array([d.asked if some else d.amounts[0] for d in order], dtype=float),
        weight=np.array([weights[d] for d in order], dtype=float).reshape(len(order), kinds),
        total=float(max(1, sum(pods[d] for d in order))),
        level=milli.astype(float),
        classes=(classes[:, 0].astype(np.int64), classes[:, 1]),
        member=member.ravel() if some else np.zeros(0, dtype=np.int64),
    )


def usable(typical: Typical, room: Room) -> Floats:
    """Return what typical pods could use of each server's free devices, shape (S,).

    For each demand the free thousandths of devices with enough left of each, but not more than
    `LENIENCE` times the copies of the pod that processors and memory allow; then the mean over the
    typical pods, times their number.

    Parameters
    ----------
    typical : Typical
    room : Room

    Returns
    -------
    ndarray, shape (S,)
        Thousandths of devices, or of processors where no typical pod asks for a device, times
        pods. Whole numbers: neither the order of the servers nor which of them are asked for
        together changes a digit.

    Notes
    -----
    O(S · (D · L + H · (R + K))).
    """
    copies = np.full((room.kind.size, typical.asked.size), np.inf)
    for resource, amount in enumerate(typical.amounts.T):
        ratio = room.free[:, resource, None] / np.maximum(amount, 1e-9)
        np.minimum(copies, ratio, out=copies, where=amount > 0)
    bound = np.where(copies >= 1, np.floor(np.minimum(LENIENCE * copies, 1e9) * typical.asked), 0.0)
    there = (
        _on_devices(typical, room.devices)
        if typical.on_devices
        else np.maximum(room.free[:, :1], 0.0)
    )
    value = np.minimum(bound, there) @ typical.weight
    found: Floats = value[np.arange(room.kind.size), room.kind]
    return found


def _on_devices(typical: Typical, devices: Floats) -> Floats:
    """Return the thousandths of devices that have enough left for each demand, shape (S, H)."""
    enough = devices[:, :, None] >= typical.level
    count = enough.sum(axis=1)
    left = (enough * devices[:, :, None]).sum(axis=1)
    level, needed = typical.classes
    found: Floats = np.where(count[:, level] >= needed, left[:, level], 0.0)[:, typical.member]
    return found


def stranded(
    typical: Typical, room: Room, shape: Shape, price: Floats, before: Floats | None = None
) -> tuple[Floats, Ints]:
    """Return what a pod strands on each server, and the first of the devices it should take.

    Parameters
    ----------
    typical : Typical
    room : Room
    shape : Shape
    price : ndarray, shape (K,)
        Of `prices`.
    before : ndarray, shape (S,), optional
        `usable` of the room, where it is known.

    Returns
    -------
    ndarray, shape (S,)
        Thousandths of a device that the typical pod can use less, beyond what the pod takes, and
        the price of what it takes; inf where it does not fit. Less is better.
    ndarray, shape (S,)
        The place of the first device, counted by what is free, least first: a pod of several
        devices takes neighbours in this order. 0 where it takes none.
    """
    order = np.sort(room.devices, axis=1)
    server, first = _ways(room.free, order, shape)
    amounts = np.array(shape.amounts, dtype=float)
    taken = Room(room.free[server] - amounts, order[server], room.kind[server])
    for step in range(shape.devices if server.size else 0):
        taken.devices[np.arange(server.size), first + step] -= shape.milli
    left = usable(typical, taken)
    best = np.full(room.kind.size, -np.inf)
    np.maximum.at(best, server, left)
    if before is None:
        before = usable(typical, room)
    asked = float(shape.asked if typical.on_devices else shape.amounts[0])
    cost = (before - best) / typical.total - asked + price[room.kind] * float(shape.asked)
    if shape.kinds is not None:
        cost = np.where(np.array(shape.kinds)[room.kind], cost, np.inf)
    where = np.zeros(room.kind.size, dtype=np.int64)
    kept = (left == best[server])[::-1]
    where[server[::-1][kept]] = first[::-1][kept]  # of ways alike, the tightest devices
    return cost, where


def _ways(free: Floats, order: Floats, shape: Shape) -> tuple[Ints, Ints]:
    """Return the servers that hold the pod and the first devices it could take there.

    Devices with as much free are alike, so each set of amounts is listed once. A server that does
    not hold the pod is not listed.
    """
    asked = np.array(shape.amounts, dtype=float)
    missing: Mask = (free < asked) & (asked > 0)
    server = np.flatnonzero(~missing.any(axis=1))
    if not shape.devices:
        return server, np.zeros_like(server)
    order = order[server]
    last = max(order.shape[1] - shape.devices, -1)
    enough: Mask = order[:, : last + 1] >= shape.milli
    fresh: Mask = np.ones_like(enough)
    if last > 0:
        fresh[:, 1:] = ~enough[:, :-1] | (order[:, :last] < order[:, shape.devices :])
    index, first = np.nonzero(enough & fresh)
    return server[index], first


def prices(counted: Mapping[Shape, int], devices: Floats) -> Floats:
    """Return what a thousandth of a device of each kind counts more than it is, shape (K,).

    The pods that name kinds are spread over these so that the most claimed kind is claimed least,
    then the next, and so on. A kind's price is `SCARCITY` times the share of it that is claimed,
    were all devices asked for; less the least share, since only differences matter.

    Parameters
    ----------
    counted : mapping
        Pods of each shape.
    devices : ndarray, shape (K,)
        Thousandths of devices of each kind.
    """
    there = devices > 0
    claims: dict[tuple[bool, ...], int] = {}
    for shape, count in counted.items():
        if shape.kinds is not None and shape.asked:
            kinds = tuple((np.array(shape.kinds) & there).tolist())
            claims[kinds] = claims.get(kinds, 0) + count * shape.asked
    claims = {kinds: asked for kinds, asked in claims.items() if any(kinds)}
    everything = sum(count * shape.asked for shape, count in counted.items())
    share = _levels(tuple(sorted(claims.items())), tuple(devices.tolist()))
    share = share * devices.sum() / max(everything, 1)
    found: Floats = SCARCITY * (share - share.min(initial=np.inf))
    return found


@lru_cache(maxsize=16)
def _levels(claims: tuple[tuple[tuple[bool, ...], int], ...], devices: tuple[float, ...]) -> Floats:
    """Return the share of each kind that is claimed in the most even spread of the claims.

    Each claim in turn is poured anew where least is claimed, which minimises Σ share²·devices over
    it alone; repeated, over all, and there the shares are as even as they can be.
    """
    capacity = np.array(devices)
    poured = np.zeros((len(claims), len(devices)))
    for _ in range(SWEEPS):
        before = poured.sum(axis=0)
        for claim, (kinds, asked) in enumerate(claims):
            open_to = np.flatnonzero(kinds)
            poured[claim] = 0.0
            others = poured[:, open_to].sum(axis=0)
            poured[claim, open_to] = _pour(float(asked), others, capacity[open_to])
        if np.abs(poured.sum(axis=0) - before).max(initial=0.0) <= 1e-9 * capacity.max(initial=0.0):
            break
    share: Floats = poured.sum(axis=0) / np.maximum(capacity, 1.0)
    share.flags.writeable = False
    return share


def _pour(amount: float, held: Floats, capacity: Floats) -> Floats:
    """Return how an amount is spread so that what is held lowest, per capacity, rises evenly."""
    order = np.argsort(held / capacity, kind="stable")
    level = (amount + held[order].cumsum()) / capacity[order].cumsum()
    reached = level >= (held / capacity)[order]
    poured: Floats = np.maximum(level[reached][-1] * capacity - held, 0.0)
    return poured


class Fitting:
    """Scores that stay current while pods come: only servers that changed are scored anew."""

    def __init__(self, room: Room, typical: Typical, price: Floats) -> None:
        self._room = Room(room.free.copy(), room.devices.copy(), room.kind)
        self._changed: list[int] = []
        self.aim(typical, price)

    def aim(self, typical: Typical, price: Floats) -> None:
        """Take other pods to be typical from now on."""
        self._typical = typical
        self._price = price
        self._usable = usable(typical, self._room)
        self._scores: dict[Shape, tuple[int, Floats]] = {}

    @property
    def room(self) -> Room:
        """What is free now."""
        return self._room

    def cost(self, shape: Shape) -> Floats:
        """Return what `stranded` says of each server, shape (S,)."""
        demand = Shape(shape.amounts, shape.devices, shape.milli)
        seen, cost = self._scores.get(demand, (-1, np.zeros(0)))
        if seen < 0:
            cost = self._score(demand, np.arange(self._room.kind.size))
        elif seen < len(self._changed):
            changed = np.unique(self._changed[seen:])
            cost[changed] = self._score(demand, changed)
        self._scores[demand] = len(self._changed), cost
        if shape.kinds is None:
            return cost.copy()
        return np.where(np.array(shape.kinds)[self._room.kind], cost, np.inf)

    def _score(self, demand: Shape, servers: Ints) -> Floats:
        before = self._usable[servers]
        return stranded(self._typical, self._room.at(servers), demand, self._price, before)[0]

    def choose(self, shape: Shape) -> int | None:
        """Return the server on which least is stranded, the first of those alike; None if full."""
        cost = self.cost(shape)
        best = int(cost.argmin()) if cost.size else -1
        return best if best >= 0 and np.isfinite(cost[best]) else None

    def take(self, server: int, shape: Shape) -> tuple[int, ...]:
        """Place a pod and return the devices it gets.

        Raises
        ------
        ValueError
            If it does not fit there.
        """
        here = np.array([server])
        cost, first = stranded(self._typical, self._room.at(here), shape, self._price)
        if not np.isfinite(cost[0]):
            raise ValueError(f"{shape} does not fit on server {server}")
        order = np.argsort(self._room.devices[server], kind="stable")
        devices = order[first[0] : first[0] + shape.devices] if shape.devices else order[:0]
        self._room.free[server] -= shape.amounts
        self._room.devices[server, devices] -= shape.milli
        self._usable[server] = usable(self._typical, self._room.at(here))[0]
        self._changed.append(server)
        return tuple(sorted(devices.tolist()))
