"""The units of the planner, as types.

Distinct quantities get distinct types so that a type checker refuses to add seconds to bytes.
Bytes and device counts are integers (a sum of floats may round to a fit that is none);
times and rates are floats.
"""

from collections.abc import Mapping
from typing import NewType

Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)
Work = NewType("Work", float)
"""Server-independent work of a subtask: seconds it would take on the reference server."""

Vector = Mapping[str, int]
"""Amounts by resource name. CPU is in millicores, memory and storage in bytes, accelerators in
devices. Never mutated after it was handed over; an absent name means zero."""

CPU = "cpu"
MEMORY = "memory"
STORAGE = "ephemeral-storage"
PODS = "pods"

MILLI = 1000
KIB = 1024
MIB = 1024**2
GIB = 1024**3


def minus(left: Vector, right: Vector) -> dict[str, int]:
    """Return ``left - right`` for every name of either; amounts may become negative."""
    return {name: left.get(name, 0) - right.get(name, 0) for name in sorted({*left, *right})}


def plus(left: Vector, right: Vector) -> dict[str, int]:
    """Return the sum of two vectors."""
    return {name: left.get(name, 0) + right.get(name, 0) for name in sorted({*left, *right})}


def fits(demand: Vector, room: Vector) -> bool:
    """Tell whether every demanded amount is there."""
    return all(room.get(name, 0) >= amount for name, amount in demand.items() if amount > 0)


def shortage(demand: Vector, room: Vector) -> dict[str, int]:
    """Return what is missing, by resource; empty when the demand fits."""
    missing = {name: amount - room.get(name, 0) for name, amount in demand.items() if amount > 0}
    return {name: amount for name, amount in sorted(missing.items()) if amount > 0}
