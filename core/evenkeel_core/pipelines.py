"""Cutting a model into contiguous layer ranges over unlike servers.

Where the stages of a decode step take turns (llama.cpp's RPC, a star around the head), the time
of a set is the sum over its stages, so the order of the servers does not change it: which
servers and how many layers each is a knapsack over layers, solved exactly by a dynamic
programme. Where stages overlap, the slowest counts: the smallest bound that still holds all
layers is found exactly among the finitely many candidates. Weak servers drop out by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evenkeel_core.jobs import MAX_STAGES, Overlap
from evenkeel_core.problems import Floats, Ints


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a server offers to a pipeline."""

    server: str
    layers: int
    """How many layers fit, with the two ends of the model counted."""
    layer_seconds: float
    """What one layer takes there over the whole work."""
    stage_seconds: float
    """What being a stage costs once: hops, wake-ups."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Contiguous layers on servers, in order."""

    stages: tuple[tuple[str, int], ...]
    """Server and number of layers."""
    seconds: float


def cut(
    layers: int,
    candidates: Sequence[Candidate],
    *,
    overlap: Overlap,
    stages: int | None = None,
    most: int = MAX_STAGES,
) -> Cut | None:
    """Return the best cut of a model, or None where the servers do not hold it.

    Parameters
    ----------
    layers : int
        Of the model.
    candidates : sequence of Candidate
    overlap : Overlap
        Whether stages take turns or work at the same time.
    stages : int, optional
        Exactly so many; by default as many as are best.
    most : int, default=16
        Stages at most.

    Notes
    -----
    O(servers²) to leave out servers that others make needless; then
    O(candidates · stages · layers²) for `Overlap.SUM`, vectorised over layers;
    O(candidates · layers · log) for `Overlap.SLOWEST`. Ties go to fewer stages, then to the
    servers first by speed and name.
    """
    usable = sorted(
        (c for c in candidates if c.layers > 0),
        key=lambda c: (c.layer_seconds + c.stage_seconds / layers, c.server),
    )
    limit = min(most, layers, len(usable)) if stages is None else stages
    if not usable or limit > min(layers, len(usable)):
        return None
    usable = _needed(usable, limit)
    if overlap is Overlap.SLOWEST:
        return _slowest(layers, usable, limit, exactly=stages is not None)
    return _sum(layers, usable, limit, exactly=stages is not None)


def _needed(usable: Sequence[Candidate], limit: int) -> list[Candidate]:
    """Return the servers that a best cut of at most `limit` stages may have to use.

    Not a server that `limit` others match or beat in layers held, in seconds a layer and in
    seconds a stage: a cut that uses it leaves one of those free to take its place.
    """
    held = np.array([c.layers for c in usable])
    layer = np.array([c.layer_seconds for c in usable])
    stage = np.array([c.stage_seconds for c in usable])
    others = (held[:, None] <= held) & (layer[:, None] >= layer) & (stage[:, None] >= stage)
    # Of equals only those before it count, or each would make the others needless.
    equal = others & others.T
    others &= ~equal | np.tri(len(usable), k=-1, dtype=bool)
    return [c for c, better in zip(usable, others.sum(axis=1), strict=True) if better < limit]


def _sum(layers: int, usable: Sequence[Candidate], limit: int, *, exactly: bool) -> Cut | None:
    """Minimise Σ (stage + n·layer) over servers and counts: best[k, l] with k stages, l layers."""
    best = np.full((limit + 1, layers + 1), np.inf)
    best[0, 0] = 0.0
    taken = np.zeros((len(usable), limit + 1, layers + 1), dtype=np.int64)
    for index, candidate in enumerate(usable):
        before = best.copy()
        for count in range(1, min(candidate.layers, layers) + 1):
            price = candidate.stage_seconds + count * candidate.layer_seconds
            offer = before[:-1, : layers + 1 - count] + price
            better = offer < best[1:, count:]
            best[1:, count:][better] = offer[better]
            taken[index, 1:, count:][better] = count
    ends = best[1:, layers]
    stages = limit if exactly else int(np.argmin(ends)) + 1
    if not np.isfinite(best[stages, layers]):
        return None
    return _trace(taken, usable, stages, layers, float(best[stages, layers]))


def _trace(
    taken: "np.ndarray[tuple[int, int, int], np.dtype[np.int64]]",
    usable: Sequence[Candidate],
    stages: int,
    layers: int,
    seconds: float,
) -> Cut:
    chosen: list[tuple[str, int]] = []
    for index in range(len(usable) - 1, -1, -1):
        count = int(taken[index, stages, layers])
        # A later server overwrote the cell only if it was better; what stands here is its own.
        if count:
            chosen.append((usable[index].server, count))
            stages, layers = stages - 1, layers - count
    return Cut(tuple(reversed(chosen)), seconds)


def _slowest(layers: int, usable: Sequence[Candidate], limit: int, *, exactly: bool) -> Cut | None:
    """Minimise the slowest stage: the smallest bound under which the largest shares suffice."""
    per_layer = np.array([c.layer_seconds for c in usable])
    fixed = np.array([c.stage_seconds for c in usable])
    room = np.array([min(c.layers, layers) for c in usable])
    bounds = np.unique(
        np.concatenate(
            [fixed[i] + per_layer[i] * np.arange(1, room[i] + 1) for i in range(len(room))]
        )
    )

    def shares(bound: float) -> tuple[Floats, Ints]:
        held = np.floor((bound - fixed) / per_layer + 1e-9).clip(0, room)
        return held, np.argsort(-held, kind="stable")[:limit]

    def enough(bound: float) -> bool:
        held, largest = shares(bound)
        # Exactly so many stages: each of them must hold a layer.
        return held[largest].sum() >= layers and not (exactly and held[largest].min() < 1)

    low, high = 0, len(bounds) - 1
    if not enough(bounds[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(bounds[middle]) else (middle + 1, high)
    held, largest = shares(bounds[low])
    largest = np.sort(largest[held[largest] > 0])
    return _trim(layers, usable, held, largest, limit if exactly else None, float(bounds[low]))


def _trim(
    layers: int,
    usable: Sequence[Candidate],
    held: Floats,
    chosen: Ints,
    exactly: int | None,
    seconds: float,
) -> Cut | None:
    """Give back the layers that are too many, from the slowest servers first."""
    counts = {int(index): int(held[int(index)]) for index in chosen}
    least = 1 if exactly else 0
    surplus = sum(counts.values()) - layers
    for index in sorted(counts, reverse=True):
        back = min(surplus, counts[index] - least)
        counts[index] -= back
        surplus -= back
    stages = tuple((usable[index].server, count) for index, count in counts.items() if count)
    if surplus or (exactly is not None and len(stages) != exactly):
        return None
    return Cut(stages, seconds)
