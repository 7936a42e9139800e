"""Instances of the generalised assignment problem, read or made by published recipes."""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel_core.packings import Packing

Instance = dict[str, Any]
SIZES = ((100, 5), (100, 10), (100, 20), (200, 10), (200, 20), (400, 20), (400, 40))


def read(path: Path) -> Iterator[Instance]:
    """Yield the instances of a file of JSON lines, packed by gzip or not."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            yield json.loads(line)


def made(types: Iterable[str], seed: int) -> Iterator[Instance]:
    """Yield an instance of each type and size.

    Types D and E of Chu and Beasley (1997) and Yagiura et al. (1998): costs fall with weights,
    and agents hold 0.8 of an equal share of all weights.
    """
    for kind in types:
        for items, agents in SIZES:
            random = np.random.default_rng([seed, ord(kind), items, agents])
            cost, weight = _drawn(kind, random, (agents, items))
            yield {
                "name": f"{kind}{agents:02}{items}-{seed}",
                "agents": agents,
                "items": items,
                "cost": cost.tolist(),
                "weight": weight.tolist(),
                "capacity": (8 * weight.sum(axis=1) // (10 * agents)).tolist(),
            }


def _drawn(kind: str, random: np.random.Generator, shape: tuple[int, int]) -> Any:
    if kind == "D":
        weight = random.integers(5, 101, shape)
        return 111 - weight + random.integers(-10, 11, shape), weight
    weight = np.floor(1 - 10 * np.log(1 - random.random(shape))).astype(np.int64)
    return np.floor(1000 / weight - 10 * random.random(shape)).astype(np.int64), weight


def packing(instance: Instance) -> Packing:
    """Return an instance as the core takes it: items are subtasks, agents servers."""
    return Packing(
        cost=np.array(instance["cost"], dtype=float).T,
        demand=np.array(instance["weight"], dtype=float).T[:, :, None],
        capacity=np.array(instance["capacity"], dtype=float)[:, None],
    )


def known(instance: Instance) -> float | None:
    """Return the optimum or the best cost on record, None where there is none."""
    for field in ("optimum", "best_known"):
        if instance.get(field) not in (None, ""):
            return float(instance[field])
    return None
