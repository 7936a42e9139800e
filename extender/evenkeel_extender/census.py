"""The pods that usually come, as the watches show them, and what others strand for them.

Devices are whole here: kube-scheduler hands out no parts of one. A server counts with its first
kind of accelerator; what it has of others is a plain amount.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from evenkeel_core import fitting
from evenkeel_core.fitting import WHOLE, Room, Shape, Typical
from evenkeel_core.problems import Floats, Ints
from evenkeel_core.quantities import CPU, Vector
from evenkeel_core.servers import Server
from evenkeel_extender.pods import Pod

Label = tuple[str, str]
Kind = tuple[str, frozenset[Label]]
"""Resource of the devices, and which of the labels that pods select by a server has."""
HOSTNAME = "kubernetes.io/hostname"
"""Selecting one server names no kind of them."""


class Census:
    """What pods ask for and kinds of servers; worked out when it is first asked for."""

    def __init__(self, servers: Mapping[str, Server], pods: Iterable[Pod]) -> None:
        self._servers = servers
        self._pods = tuple(pods)

    @cached_property
    def _asked(self) -> Counter[tuple[tuple[tuple[str, int], ...], tuple[Label, ...]]]:
        """Count the pods by what they ask for and select."""
        return Counter((pod.amounts, pod.selects) for pod in self._pods)

    @cached_property
    def _devices(self) -> frozenset[str]:
        """The resources that are devices of some server."""
        return frozenset(_device(server) for server in self._servers.values()) - {""}

    @cached_property
    def _plain(self) -> tuple[str, ...]:
        """The other resources that pods ask for, the processors first."""
        names = {name for amounts, _ in self._asked for name, _ in amounts}
        return (CPU, *sorted(names - self._devices - {CPU}))

    @cached_property
    def _labels(self) -> frozenset[Label]:
        """The labels that pods select by."""
        named = (label for _, selects in self._asked for label in selects)
        return frozenset(label for label in named if label[0] != HOSTNAME)

    @cached_property
    def _kind(self) -> dict[str, Kind]:
        """The kind of each server."""
        return {
            name: (_device(server), self._labels.intersection(server.labels.items()))
            for name, server in self._servers.items()
        }

    @cached_property
    def _kinds(self) -> dict[Kind, int]:
        """The kinds there are, numbered."""
        return {kind: n for n, kind in enumerate(sorted(set(self._kind.values()), key=_readable))}

    @cached_property
    def _aim(self) -> tuple[Typical, Floats]:
        """The typical pods and the prices of the kinds."""
        counted: Counter[Shape] = Counter()
        naming: Counter[Shape] = Counter()
        for (amounts, selects), count in self._asked.items():
            shape = self._shape(dict(amounts), selects)
            counted[shape] += count
            # Who takes any device of a resource names no kind of them.
            named = self._labels.intersection(selects)
            naming[shape if named else replace(shape, kinds=None)] += count
        devices = np.zeros(len(self._kinds))
        for name, server in self._servers.items():
            count = server.allocatable.get(_device(server), 0)
            devices[self._kinds[self._kind[name]]] += WHOLE * count
        return fitting.typical(counted, len(self._kinds)), fitting.prices(naming, devices)

    def _shape(self, demand: Vector, selects: Iterable[Label]) -> Shape:
        """Return what is asked for as the core counts it."""
        resource = min((name for name in self._devices if demand.get(name, 0) > 0), default="")
        wanted = self._labels.intersection(selects)
        kinds = tuple(
            (not resource or has == resource) and wanted <= labels for has, labels in self._kinds
        )
        amounts = tuple(demand.get(name, 0) for name in self._plain)
        return Shape(amounts, demand.get(resource, 0), WHOLE, kinds)

    def stranded(self, pod: Pod, free: Mapping[str, Vector]) -> dict[str, float]:
        """Return what a pod strands on each server, thousandths of a device; inf if unknown.

        Where no server has devices that pods ask for, thousandths of processors.
        """
        known = [name for name in free if name in self._kind]
        found = dict.fromkeys(free, float("inf"))
        if known:
            typical, price = self._aim
            shape = self._shape(pod.demand, pod.selects)
            cost, _ = fitting.stranded(typical, self._room(known, free), shape, price)
            found.update(zip(known, cost.tolist(), strict=True))
        return found

    def _room(self, names: Sequence[str], free: Mapping[str, Vector]) -> Room:
        count = [free[name].get(self._kind[name][0], 0) for name in names]
        slots = np.arange(max(count, default=0))
        kind: Ints = np.array([self._kinds[self._kind[name]] for name in names], dtype=np.int64)
        return Room(
            np.array([[free[n].get(r, 0) for r in self._plain] for n in names], dtype=float),
            np.where(slots < np.array(count)[:, None], float(WHOLE), 0.0),
            kind,
        )


def _device(server: Server) -> str:
    """Return the resource of a server's devices, empty where it has none."""
    return server.accelerators[0].resource if server.accelerators else ""


def _readable(kind: Kind) -> tuple[str, list[Label]]:
    return kind[0], sorted(kind[1])
