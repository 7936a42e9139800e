"""Completion of pairs nobody measured: hide a share of measured ones and compare.

python -m benchmarks.lowrank --data ../shared/data --json
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measured
from evenkeel_core.factorising import Factors, factorise
from evenkeel_core.problems import NOWHERE, Array, Floats, Problem

HIDDEN = (0.2, 0.35, 0.5, 0.65, 0.8)
Method = Callable[[Floats], Floats]


def main() -> int:
    """Hide, complete and compare on every matrix; print what came out."""
    options = _options()
    matrices = list(measured.matrices(options.data))
    rows = []
    for hidden in HIDDEN:
        found = {name: _errors(matrix, hidden, options.trials) for name, matrix in matrices}
        found["all"] = {m: np.concatenate([each[m] for each in found.values()]) for m in METHODS}
        for name, errors in found.items():
            medians = {method: float(np.median(errors[method])) for method in METHODS}
            rows.append({"matrix": name, "hidden": hidden, **medians})
            line = "  ".join(f"{method} {median:6.2f} %" for method, median in medians.items())
            print(f"{name:18} {hidden:4.0%} hidden  {line}", file=sys.stderr)
    if options.json:
        print(json.dumps(_summary(rows, [matrix for _, matrix in matrices])))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--trials", type=int, default=10, help="random choices of what is hidden")
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    return parser.parse_args()


def _errors(matrix: Floats, share: float, trials: int) -> dict[str, Floats]:
    """Return each method's relative errors in percent over what was hidden."""
    errors: dict[str, list[Floats]] = {method: [] for method in METHODS}
    for seed in range(trials):
        known = _hide(matrix, share, np.random.default_rng(seed))
        hidden = np.isfinite(matrix) & ~np.isfinite(known)
        for method, complete in METHODS.items():
            off = complete(known)[hidden] / matrix[hidden] - 1
            errors[method].append(100 * np.abs(off))
    return {method: np.concatenate(found) for method, found in errors.items()}


def _hide(matrix: Floats, share: float, random: np.random.Generator) -> Floats:
    """Return the matrix with a share of its entries nan, one left at least in each line."""
    known = matrix.copy()
    pairs = random.permutation(np.argwhere(np.isfinite(matrix)))
    left = int(share * len(pairs))
    for row, column in pairs.tolist():
        alone = np.isfinite(known[row]).sum() < 2 or np.isfinite(known[:, column]).sum() < 2
        if left and not alone:
            known[row, column] = np.nan
            left -= 1
    return known


def _factors(known: Floats) -> Floats:
    return _factorised(known).completed


def _factorised(known: Floats) -> Factors:
    """Factorise as the planner does; an unknown pair holds a figure that nobody believes."""
    works, machines = known.shape
    seen = np.isfinite(known)
    compute = np.where(seen, known, np.nanmedian(known))
    nothing: Array = np.zeros(0)
    return factorise(
        Problem.of_pairs(
            subtasks=tuple(str(number) for number in range(works)),
            servers=tuple(str(number) for number in range(machines)),
            resources=(),
            cost=compute.copy(),
            compute=compute,
            measured=seen,
            demand=np.zeros((works, 1, 0), dtype=np.int64),
            kind=np.zeros(machines, dtype=np.int64),
            capacity=np.zeros((machines, 0), dtype=np.int64),
            work=np.ones(works),
            rate=np.ones(machines),
            load=np.zeros(machines),
            group=np.arange(works),
            pinned=np.full(works, NOWHERE),
            edge=np.zeros((0, 2), dtype=np.int64),
            edge_bytes=nothing,
            dependency=nothing.astype(bool),
            link_bandwidth=np.ones(machines),
            link_latency=np.zeros(machines),
        )
    )


def _column_mean(known: Floats) -> Floats:
    mean = np.exp(np.nanmean(np.log(known), axis=0))
    return np.where(np.isfinite(known), known, mean)


def _nearest_neighbour(known: Floats) -> Floats:
    """Take the time of the work most alike, by log seconds on the machines both ran on."""
    logs, seen = np.log(known), np.isfinite(known)
    completed = np.where(seen, known, _column_mean(known))
    both = seen[:, None] & seen
    squares = np.where(both, np.nan_to_num(logs[:, None] - logs) ** 2, 0.0).sum(axis=2)
    count = both.sum(axis=2)
    distance = np.where(count > 0, squares / np.maximum(count, 1), np.inf)
    np.fill_diagonal(distance, np.inf)
    for row, column in np.argwhere(~seen).tolist():
        others = np.where(seen[:, column], distance[row], np.inf)
        if np.isfinite(others).any():
            completed[row, column] = known[int(others.argmin()), column]
    return completed


METHODS: dict[str, Method] = {
    "factors": _factors,
    "column_mean": _column_mean,
    "nearest_neighbour": _nearest_neighbour,
}


def _summary(rows: list[dict[str, Any]], matrices: list[Floats]) -> dict[str, Any]:
    pooled = {row["hidden"]: row for row in rows if row["matrix"] == "all"}
    unit = 0.0
    for matrix in matrices:
        known = _hide(matrix, 0.5, np.random.default_rng(0))
        off = _factors(known * 1000) / 1000 / _factors(known) - 1
        unit = max(unit, float(np.nanmax(np.abs(off))))
    return {
        "rows": rows,
        "median_error_percent_at_half": round(pooled[0.5]["factors"], 2),
        "better_than_both_baselines": {
            f"{hidden:.0%}": all(row["factors"] < row[m] for m in METHODS if m != "factors")
            for hidden, row in pooled.items()
        },
        "largest_difference_between_seconds_and_milliseconds": unit,
    }


if __name__ == "__main__":
    sys.exit(main())
