"""Assignments of least cost: gap to the best known, or to the linear bound where none is.

python -m benchmarks.assignment --instances gap_instances.jsonl.gz --solutions out.jsonl --json
python -m benchmarks.assignment --made DE --seed 1 --json
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import instances
from evenkeel_core.assigning import assign

Row = dict[str, Any]


def main() -> int:
    """Solve every instance, one after the other, and print what came out."""
    options = _options()
    given = (
        instances.read(options.instances)
        if options.instances
        else instances.made(options.made, options.seed)
    )
    rows = [_solved(instance, options.time_limit) for instance in given]
    if options.solutions:
        _write(options.solutions, rows)
    if options.json:
        print(json.dumps(_summary(rows)))
    return 0 if all(row["assignment"] is not None for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--instances", type=Path, help="JSON lines, .gz or not")
    source.add_argument("--made", choices=("D", "E", "DE"), help="make instances of these types")
    parser.add_argument("--seed", type=int, default=1, help="of the instances made (1)")
    parser.add_argument("--solutions", type=Path, help="write the assignments here, JSON lines")
    parser.add_argument("--time-limit", type=float, default=5.0, help="seconds an instance (5)")
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    return parser.parse_args()


def _solved(instance: instances.Instance, limit: float) -> Row:
    begin = time.perf_counter()
    problem = instances.packing(instance)
    found = assign(problem, clock=time.perf_counter, time_limit=limit)
    seconds = time.perf_counter() - begin
    row: Row = {"name": instance["name"], "seconds": round(seconds, 3), "assignment": None}
    if found is not None:
        best = instances.known(instance)
        least = found.linear if best is None else best
        row |= {
            "assignment": found.assignment.tolist(),
            "cost": found.cost,
            "gap_percent": 100 * (found.cost - least) / least,
            "gap_to": "linear bound" if best is None else "best known",
            "proven": found.proven,
        }
        print(f"{row['name']:24} {row['gap_percent']:7.3f} % {seconds:6.2f} s", file=sys.stderr)
    return row


def _write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w") as out:
        for row in rows:
            out.write(json.dumps({key: row[key] for key in ("name", "assignment", "seconds")}))
            out.write("\n")


def _summary(rows: list[Row]) -> Row:
    solved = [row for row in rows if row["assignment"] is not None]
    gaps = [row["gap_percent"] for row in solved]
    return {
        "instances": len(rows),
        "feasible": len(solved),
        "mean_gap_percent": round(statistics.fmean(gaps), 4) if gaps else None,
        "worst_gap_percent": round(max(gaps), 4) if gaps else None,
        "gap_to": sorted({row["gap_to"] for row in solved}),
        "proven": sum(row["proven"] for row in solved),
        "longest_seconds": max(row["seconds"] for row in rows),
    }


if __name__ == "__main__":
    sys.exit(main())
