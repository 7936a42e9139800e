"""Which subtasks and which servers are alike: what holds for one of them is asked once for all.

A rack has thousands of servers of a few kinds, a job thousands of subtasks of a few tasks. Hard
checks, demands and seconds are evaluated by classes; `evenkeel_core.problems` holds them so.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evenkeel_core.problems import Ints
from evenkeel_core.quantities import CPU
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
    """The kinds by their devices, whatever the figures, and by which demands fit: what decides
    the variant of a subtask."""
    standing: Classes
    """The kinds by state, taints and labels asked for: what the other hard checks look at."""


def rack(subtasks: Sequence[Subtask], servers: Sequence[Server], *, exactly: bool = False) -> Rack:
    """Return the servers by what the checks and costs of some subtasks can tell apart.

    Servers of one kind have the same devices, cores, links, models, calibration, taints and state,
    hold the same of all demands, and have the same values of the labels that any of the subtasks
    asks for; a server that one of them names is a kind of its own. With `exactly` they have the
    same room.
    O(S) beside the classes of subtasks.

    No two machines report the same memory to the last page: what they have of it makes a
    difference only where something fits on one and not on the other.
    """
    names, keys, anywhere = _asked(subtasks)
    held = _held(subtasks, servers)
    if exactly:
        held = [(some, *sorted(s.plannable.items())) for some, s in zip(held, servers, strict=True)]

    def standing(server: Server) -> tuple[Hashable, ...]:
        return (
            server.ready,
            server.schedulable,
            server.taints,
            tuple(server.labels.get(key) for key in keys),
            server.name if anywhere or server.name in names else None,
        )

    found = Numbering()
    for server, some in zip(servers, held, strict=True):
        hard = server.accelerators, server.processors, server.allocatable.get(CPU), some
        link = server.link_bandwidth, server.load_bandwidth
        learnt = frozenset(server.calibration.items())
        found.add((hard, link, server.models, learnt, standing(server)))
    classes = found.classes()
    firsts = classes.firsts.tolist()
    examples = tuple(servers[first] for first in firsts)
    return Rack(
        examples,
        classes.number,
        numbered((_devices(servers[first]), held[first]) for first in firsts),
        numbered(map(standing, examples)),
    )


def numbered(keys: Iterable[Hashable]) -> Classes:
    """Return the classes of things with these keys."""
    found = Numbering()
    for key in keys:
        found.add(key)
    return found.classes()


def outfits(subtasks: Sequence[Subtask], servers: Sequence[Server]) -> Classes:
    """Return the servers by what decides the variant of each of some subtasks there."""
    return numbered(zip(map(_devices, servers), _held(subtasks, servers), strict=True))


def _devices(server: Server) -> Hashable:
    return tuple((device.resource, device.name) for device in server.devices)


def _held(subtasks: Sequence[Subtask], servers: Sequence[Server]) -> list[Hashable]:
    """Return for each server which of all demands it holds when it is empty."""
    variants = {id(subtask.variants): subtask.variants for subtask in subtasks}
    demands = {
        tuple(sorted(variant.demand.items())) for each in variants.values() for variant in each
    }
    names = sorted({name for demand in demands for name, _ in demand})
    rooms = [server.plannable for server in servers]
    room = np.array([[have.get(name, 0) for name in names] for have in rooms], dtype=np.int64)
    held = np.ones((len(servers), len(demands)), dtype=bool)
    for position, demand in enumerate(sorted(demands)):
        for name, amount in demand:
            held[:, position] &= room[:, names.index(name)] >= amount
    return [line.tobytes() for line in np.packbits(held, axis=1)]


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
