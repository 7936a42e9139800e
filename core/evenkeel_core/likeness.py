"""Which subtasks and which servers are alike: what holds for one of them is asked once for all.

A rack has thousands of servers of a few kinds, a job thousands of subtasks of a few tasks. Hard
checks, demands and seconds are evaluated by classes; `evenkeel_core.problems` holds them so.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evenkeel_core.problems import Ints
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import Subtask, Variant


@dataclass(frozen=True, slots=True)
class Classes:
    """Things numbered alike, in the order of the first of each class."""

    number: Ints
    """Class of each thing."""
    firsts: Ints
    """The first thing of each class."""


class Numbering:
    """Gives equal keys equal numbers, one thing after the other."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._firsts: list[int] = []
        self._found: list[int] = []

    def add(self, key: Hashable) -> None:
        """Give the next thing the number of its key."""
        number = self._numbers.setdefault(key, len(self._firsts))
        if number == len(self._firsts):
            self._firsts.append(len(self._found))
        self._found.append(number)

    def classes(self) -> Classes:
        """Return the classes of all things added."""
        return Classes(
            np.array(self._found, dtype=np.int64), np.array(self._firsts, dtype=np.int64)
        )


@dataclass(frozen=True, slots=True)
class Rack:
    """Servers by kind, and kinds by what only some of the questions about them depend on."""

    examples: tuple[Server, ...]
    """One server of each kind."""
    kind: Ints
    """(S,) kind of each server, indexing `examples`."""
    outfit: Classes
    """The kinds by the devices and room they have, whatever the figures of the devices: what
    decides which variant of a subtask fits."""
    standing: Classes
    """The kinds by state, taints and labels asked for: what the other hard checks look at."""


def rack(subtasks: Sequence[Subtask], servers: Sequence[Server]) -> Rack:
    """Return the servers by what the checks and costs of some subtasks can tell apart.

    Servers of one kind have the same hardware, links, models, taints and state, and the same
    values of the labels that any of the subtasks asks for; a server that one of them names is a
    kind of its own. O(S) beside the classes of subtasks.
    """
    names, keys, anywhere = _asked(subtasks)

    def standing(server: Server) -> tuple[Hashable, ...]:
        return (
            server.ready,
            server.schedulable,
            server.taints,
            tuple(server.labels.get(key) for key in keys),
            server.name if anywhere or server.name in names else None,
        )

    found = Numbering()
    for server in servers:
        hard = hardware(server)
        link = server.link_bandwidth, server.load_bandwidth
        found.add((hard, link, server.models, standing(server)))
    classes = found.classes()
    examples = tuple(servers[first] for first in classes.firsts.tolist())
    return Rack(
        examples,
        classes.number,
        numbered(map(_outfit, examples)),
        numbered(map(standing, examples)),
    )


def numbered(keys: Iterable[Hashable]) -> Classes:
    """Return the classes of things with these keys."""
    found = Numbering()
    for key in keys:
        found.add(key)
    return found.classes()


def _outfit(server: Server) -> Hashable:
    devices = tuple((device.resource, device.name) for device in server.devices)
    return devices, tuple(sorted(server.plannable.items()))


def hardware(server: Server) -> tuple[Hashable, ...]:
    """Return what decides which variant of a subtask a server can hold."""
    return (
        server.accelerators,
        server.processors,
        tuple(sorted(server.allocatable.items())),
        tuple(sorted(server.reserve.items())),
    )


def _asked(subtasks: Sequence[Subtask]) -> tuple[set[str], list[str], bool]:
    """Return the servers and label keys that subtasks name, and whether any orders the names."""
    names = {subtask.server for subtask in subtasks if subtask.server is not None}
    keys: set[str] = set()
    anywhere = False
    constraints = {id(subtask.constraints): subtask.constraints for subtask in subtasks}
    for asked in constraints.values():
        keys.update(asked.node_selector)
        for expression in (expression for term in asked.required for expression in term):
            if not expression.field:
                keys.add(expression.key)
            elif expression.operator in ("In", "NotIn"):
                names.update(expression.values)
            else:
                anywhere = True
    return names, sorted(keys), anywhere


def needs(subtasks: Sequence[Subtask]) -> Classes:
    """Return the subtasks by where they may run and what they ask for there."""
    # The shards of a task share one tuple of variants: it is read once, not once a shard.
    known: dict[int, Hashable] = {}
    found = Numbering()
    for subtask in subtasks:
        shape = known.get(id(subtask.variants))
        if shape is None:
            shape = known[id(subtask.variants)] = tuple(map(_shape, subtask.variants))
        found.add((shape, subtask.task, subtask.server))
    return found.classes()


def _shape(variant: Variant) -> Hashable:
    return variant.resource, variant.device, tuple(sorted(variant.demand.items()))
