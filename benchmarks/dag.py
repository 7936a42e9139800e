"""Schedules of subtasks that wait for one another: against optima, best bounds and HEFT.

python -m benchmarks.dag --data ../shared/data --solutions out.jsonl --json
python -m benchmarks.dag --only wfinstances --time-limit 1 --json

DATA has the folders rgpos and fjsp with JSON lines, and wfinstances with WfFormat files; any files
of these forms will do. A workflow is put on made racks: eight servers whose speeds and links come
from a seed, like and more and more unlike (`benchmarks/graphs.py` has the figures). HEFT is
insertion-based and judged by the shorter of its own times and the timetable of its assignment.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import graphs
from benchmarks.graphs import RACKS, Case
from evenkeel_core import baselines, inserting
from evenkeel_core.scheduling import Scheduled, schedule
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify_assignment

Row = dict[str, Any]
SETS = ("rgpos", "fjsp", "wfinstances")
SAME = 1e-9
"""Relative difference of two makespans that is rounding."""


def main() -> int:
    """Schedule every instance, one after the other, and print what came out."""
    options = _options()
    rows = [_solved(case, options) for case in _cases(options)]
    if options.json:
        print(json.dumps(_summary(rows)))
    return 0 if all(row["valid"] for row in rows) else 1


def _options() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", choices=SETS, help="one set; all three unless given")
    parser.add_argument("--every", type=int, default=1, help="of fjsp every N-th instance (1)")
    parser.add_argument("--seeds", type=int, default=2, help="racks of each kind a workflow (2)")
    parser.add_argument("--time-limit", type=float, default=2.0, help="CPU s an instance (2)")
    parser.add_argument("--solutions", type=Path, help="write problems and schedules, JSON lines")
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    options = parser.parse_args()
    if options.solutions:
        options.solutions.write_text("")
    return options


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    if options.only in (None, "rgpos"):
        yield from graphs.rgpos(options.data / "rgpos")
    if options.only in (None, "fjsp"):
        for number, case in enumerate(graphs.fjsp(options.data / "fjsp")):
            if number % options.every == 0:
                yield case
    if options.only in (None, "wfinstances"):
        yield from graphs.wfinstances(options.data / "wfinstances", options.seeds)


def _solved(case: Case, options: argparse.Namespace) -> Row:
    problem = case.problem
    begin = time.process_time()
    found = schedule(problem, clock=time.process_time, time_limit=options.time_limit)
    seconds = time.process_time() - begin
    row: Row = {"set": case.set, "name": case.name, "group": case.group, "valid": False}
    if found is None:
        return row
    heft, chance = inserting.heft(problem), baselines.random(problem)
    row |= {
        "valid": verify_assignment(problem, found.assignment, found.times) == (),
        "makespan": found.times.makespan,
        "bound": found.bound,
        "best": case.best,
        "heft": min(heft.times.makespan, timetable(problem, heft.assignment).makespan),
        "random": timetable(problem, chance).makespan,
        "seconds": round(seconds, 3),
    }
    if options.solutions:
        _write(options.solutions, case, found, row)
    known = "" if case.best is None else f"best {case.best:10.2f}"
    figures = f"{row['makespan']:12.2f} {known} HEFT {row['heft']:12.2f} {seconds:6.2f} s"
    print(f"{case.name:44} {figures}", file=sys.stderr)
    return row


def _write(path: Path, case: Case, found: Scheduled, row: Row) -> None:
    """Append a schedule with all that is needed to check it."""
    problem = case.problem
    line = row | {
        "assignment": found.assignment.tolist(),
        "start": found.times.start.tolist(),
        "end": found.times.end.tolist(),
        "edges": problem.edge.tolist(),
        "bytes": problem.edge_bytes.tolist(),
        "bandwidth": problem.link_bandwidth.tolist(),
        "latency": problem.link_latency.tolist(),
        "slots": problem.capacity[:, 0].tolist(),
    }
    # Rows of infinity where a subtask may not run: null in JSON.
    costs = [[c if c < float("inf") else None for c in costs] for costs in problem.cost.tolist()]
    with path.open("a") as out:
        out.write(json.dumps(line | {"cost": costs}) + "\n")


def _summary(rows: list[Row]) -> Row:
    solved = [row for row in rows if row["valid"]]
    worse = [row["name"] for row in solved if row["makespan"] > row["heft"] * (1 + SAME)]
    by_set = {name: [row for row in solved if row["set"] == name] for name in SETS}
    return {
        "instances": len(rows),
        "valid": len(solved),
        "worse_than_heft": len(worse),
        "longest_seconds": max((row["seconds"] for row in solved), default=0.0),
        **{name: _gaps(by_set[name]) for name in ("rgpos", "fjsp") if by_set[name]},
        **({"wfinstances": _racks(by_set["wfinstances"])} if by_set["wfinstances"] else {}),
    }


def _gaps(rows: list[Row]) -> Row:
    own = [_gap(row, "makespan") for row in rows]
    families = sorted({row["group"] for row in rows} - {""})
    return {
        "instances": len(rows),
        "mean_gap_percent": round(statistics.fmean(own), 3),
        "worst_gap_percent": round(max(own), 3),
        "as_good_as_the_best_known": sum(one <= 100 * SAME for one in own),
        "worse_than_heft": _worse(rows),
        "heft_mean_gap_percent": round(statistics.fmean(_gap(row, "heft") for row in rows), 3),
        "random_mean_gap_percent": round(statistics.fmean(_gap(row, "random") for row in rows), 3),
        "mean_gap_percent_by_family": {
            family: round(
                statistics.fmean(_gap(row, "makespan") for row in rows if row["group"] == family), 3
            )
            for family in families
        },
    }


def _gap(row: Row, by: str) -> float:
    return 100.0 * (row[by] / row["best"] - 1)


def _racks(rows: list[Row]) -> Row:
    unlike = [row for row in rows if RACKS[row["group"]].unlike > 0]
    return {
        "instances": len(rows),
        "worse_than_heft": _worse(rows),
        "mean_improvement_percent_on_unlike_servers": _better(unlike, "heft"),
        "mean_improvement_percent_by_rack": {
            rack: _better([row for row in rows if row["group"] == rack], "heft") for rack in RACKS
        },
        "mean_improvement_percent_over_random": _better(rows, "random"),
        "proven": sum(row["makespan"] <= row["bound"] * (1 + SAME) for row in rows),
    }


def _worse(rows: list[Row]) -> int:
    return sum(row["makespan"] > row["heft"] * (1 + SAME) for row in rows)


def _better(rows: list[Row], than: str) -> float:
    return round(100 * statistics.fmean(1 - row["makespan"] / row[than] for row in rows), 3)


if __name__ == "__main__":
    sys.exit(main())
