"""Cuts of a model over unlike servers: against every cut there is, and against plain rules.

python -m benchmarks.pipeline --json
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np

from evenkeel_core import plain_cuts
from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import Candidate, cut
from evenkeel_core.problems import Floats, Ints

RATIOS = (1.0, 2.0, 4.0)
"""Speed of the fastest servers over that of the slowest."""
LARGE = (126, 64)
"""Layers and servers of the largest rack: a 405-billion model over a row of racks."""
PLAIN = (
    plain_cuts.cut_evenly,
    plain_cuts.cut_by_memory,
    plain_cuts.cut_by_speed,
    plain_cuts.one_server,
)


def main() -> int:
    """Cut over random racks of every ratio under both laws; print what came out."""
    options = _options()
    random = np.random.default_rng(options.seed)
    rows = [_compared(overlap, ratio, random, options.racks) for overlap, ratio in _kinds()]
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    large = max(_large(overlap, random) for overlap in Overlap)
    if options.json:
        summary = {
            "racks": sum(row["racks"] for row in rows),
            "unlike_enumerated": sum(row["unlike_enumerated"] for row in rows),
            "worse_than_a_baseline": sum(row["worse_than_a_baseline"] for row in rows),
            "rows": rows,
            "largest": {"layers": LARGE[0], "servers": LARGE[1], "seconds": round(large, 4)},
        }
        print(json.dumps(summary))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--racks", type=int, default=200, help="of each ratio and law")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    return parser.parse_args()


def _kinds() -> Iterator[tuple[Overlap, float]]:
    for overlap in Overlap:
        for ratio in RATIOS:
            yield overlap, ratio


def _compared(
    overlap: Overlap, ratio: float, random: np.random.Generator, racks: int
) -> dict[str, Any]:
    unlike = worse = possible = 0
    seconds: dict[str, list[float]] = {plain.__name__: [] for plain in PLAIN}
    for _ in range(racks):
        layers, offered = int(random.integers(4, 11)), _rack(random, ratio)
        found = cut(layers, offered, overlap=overlap)
        ours = found.seconds if found else np.inf
        unlike += not _same(ours, _enumerated(layers, offered, overlap))
        possible += found is not None
        for plain in PLAIN:
            other = plain(layers, offered, overlap)
            theirs = other.seconds if other else np.inf
            worse += ours > theirs * (1 + 1e-9)
            if found and other:
                seconds[plain.__name__].append(theirs / ours)
    return {
        "law": overlap.value,
        "ratio": ratio,
        "racks": racks,
        "possible": possible,
        "unlike_enumerated": unlike,
        "worse_than_a_baseline": worse,
        "times_ours": {name: round(fmean(times), 3) for name, times in seconds.items() if times},
    }


def _rack(random: np.random.Generator, ratio: float, servers: int | None = None) -> list[Candidate]:
    """Return servers whose speeds span the ratio, whatever fits on each."""
    size = servers or int(random.integers(1, 9))
    most = 40 if servers else 9
    return [
        Candidate(
            server=f"server-{number:02}",
            layers=int(random.integers(0, most)),
            layer_seconds=float(ratio ** random.random()),
            stage_seconds=float(random.choice([0.0, 0.1, 1.0])),
        )
        for number in range(size)
    ]


def _same(one: float, other: float) -> bool:
    return bool(one == other or abs(one - other) <= 1e-9 * abs(other))


def _enumerated(layers: int, offered: list[Candidate], overlap: Overlap) -> float:
    """Return the seconds of the best of all cuts, inf if there is none."""
    counts = _counts(layers, len(offered))
    counts = counts[(counts <= np.array([c.layers for c in offered])).all(axis=1)]
    each: Floats = counts * np.array([c.layer_seconds for c in offered])
    each = each + (counts > 0) * np.array([c.stage_seconds for c in offered])
    total = each.sum(axis=1) if overlap is Overlap.SUM else each.max(axis=1, initial=0.0)
    return float(total.min(initial=np.inf))


@cache
def _counts(layers: int, servers: int) -> Ints:
    """Return every way to share out the layers, a row each."""
    if servers == 1:
        return np.array([[layers]])
    parts = [
        np.insert(_counts(layers - first, servers - 1), 0, first, axis=1)
        for first in range(layers + 1)
    ]
    return np.concatenate(parts)


def _large(overlap: Overlap, random: np.random.Generator) -> float:
    offered = _rack(random, RATIOS[-1], LARGE[1])
    begin = time.perf_counter()
    found = cut(LARGE[0], offered, overlap=overlap)
    seconds = time.perf_counter() - begin
    return seconds if found else np.inf


if __name__ == "__main__":
    sys.exit(main())
