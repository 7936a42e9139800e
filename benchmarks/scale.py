"""Time and memory of a whole plan, from small racks to 10,000 subtasks on 5,000 servers.

python -m benchmarks.scale --json

Each size is planned in a process of its own, on one core, once the servers and the cut job are in
memory: cost matrix, factors, partition, game, timetable, shortlists, verifier. `seconds` is the
processor time of that, the least of some runs; `peak_mb` the most memory the process ever had,
interpreter and snapshot included. Then subtasks join and leave the plan one by one.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import racks
from evenkeel_core import costs, planning
from evenkeel_core.joining import Live
from evenkeel_core.plans import Plan
from evenkeel_core.problems import Problem, part, throughput

SIZES = ((100, 50), (300, 150), (1_000, 500), (3_000, 1_500), (10_000, 5_000))
"""Subtasks and servers: both grow alike."""
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> int:
    """Plan every size; print what it took."""
    options = _options()
    if options.one:
        print(json.dumps(_measured(*options.one, options)))
        return 0
    rows = [_apart(size, options) for size in SIZES if size[0] <= options.most]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()), file=sys.stderr)
    if options.json:
        print(json.dumps(_summary(rows, options)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the world")
    parser.add_argument("--runs", type=int, default=3, help="plans of each size; the least counts")
    parser.add_argument("--changes", type=int, default=50, help="subtasks that join and leave")
    parser.add_argument("--most", type=int, default=10_000, help="subtasks of the largest size")
    parser.add_argument(
        "--unlike", action="store_true", help="no two servers alike, and no two subtasks"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    parser.add_argument("--one", type=int, nargs=2, metavar=("SUBTASKS", "SERVERS"), default=None,
                        help="plan this size only, in this process")  # fmt: skip
    return parser.parse_args()


def _apart(size: tuple[int, int], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one size in a process of its own, so that its peak of memory is its own."""
    words = [sys.executable, "-m", "benchmarks.scale", "--one", *map(str, size)]
    for name in ("seed", "runs", "changes"):
        words += [f"--{name}", str(getattr(options, name))]
    words += ["--unlike"] if options.unlike else []
    done = subprocess.run(words, capture_output=True, text=True, check=False,
                          env=os.environ | ONE_CORE)  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(subtasks: int, servers: int, options: argparse.Namespace) -> dict[str, Any]:
    """Plan one size and return what it took."""
    seed = options.seed
    rack = racks.rack(servers, seed, unlike=options.unlike)
    job = racks.job(subtasks, seed + 1)
    committed = racks.loads(rack, seed + 2)
    graph = racks.graph(job, rack)
    seconds = []
    for _ in range(options.runs):
        began = time.process_time()
        made = planning.place(job, graph, rack, committed)
        seconds.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    problem = costs.problem(job, graph, rack, committed)
    return {
        "subtasks": subtasks,
        "servers": servers,
        "kinds": len(np.unique(problem.kind)),
        "rows": len(problem.seconds),
        "seconds": round(min(seconds), 3),
        "peak_mb": round(peak),
        "makespan": round(made.makespan, 1),
        "stable": made.stable,
        **_changing(problem, made, options.changes),
    }


def _changing(problem: Problem, made: Plan, changes: int) -> dict[str, Any]:
    """Let subtasks leave the plan one by one, taken evenly from all of it, and join it again."""
    number = {name: index for index, name in enumerate(problem.servers)}
    places = np.array([number[assignment.server] for assignment in made.assignments])
    rated = replace(problem, rate=throughput(problem))
    live = Live(rated, places, balance=made.balance, scale=made.scale)
    joined, left, moved = [], [], []
    for subtask in np.linspace(0, places.size - 1, changes).astype(int).tolist():
        alone = part(rated, np.arange(places.size) == subtask)
        began = time.process_time()
        gone = live.leave(problem.subtasks[subtask])
        between = time.process_time()
        come = live.join(alone)
        joined.append(time.process_time() - between)
        left.append(between - began)
        moved += [len(gone), len(come) - 1]
    return {
        "add_one_ms": _middle(joined),
        "add_one_worst_ms": round(1e3 * max(joined, default=0.0), 2),
        "remove_one_ms": _middle(left),
        "moved_mean": round(float(np.mean(moved)), 2) if moved else 0.0,
    }


def _middle(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return round(1e3 * float(np.median(seconds)), 3) if seconds else 0.0


def _summary(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    largest = rows[-1]
    return {
        "world": "unlike" if options.unlike else "racks",
        "seed": options.seed,
        "rows": rows,
        "largest": {key: largest[key] for key in ("subtasks", "servers", "seconds", "peak_mb")},
        "growth_exponent": _slope(rows),
        "growth_exponent_of_the_last_step": _slope(rows[-2:]),
        "add_one_ms": largest["add_one_ms"],
        "remove_one_ms": largest["remove_one_ms"],
    }


def _slope(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the exponent of the time in subtasks x servers, by least squares; None for one."""
    if len(rows) < 2:
        return None
    size = np.log([row["subtasks"] * row["servers"] for row in rows])
    return round(float(np.polyfit(size, np.log([row["seconds"] for row in rows]), 1)[0]), 3)


if __name__ == "__main__":
    sys.exit(main())
