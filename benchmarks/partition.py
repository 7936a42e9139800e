"""What the low-rank factors do for a plan: the partition from them alone, and plans without them.

On mixed racks drawn by seed (`benchmarks.worlds`): whether the sets that the factors alone give
are feasible, and what they cost against the final plan. Then with half of the pairs unmeasured:
the true cost and end of equilibria found with the completed times, and with what is left
without factors, the mean of each server. And the processor time of both at a large size.

python -m benchmarks.partition --json
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import worlds
from evenkeel_core import factorising, game, partitioning, planning
from evenkeel_core.factorising import Factors
from evenkeel_core.problems import Array, Floats, Ints, Problem, throughput
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify_assignment

HIDDEN = 0.5


def main() -> int:
    """Partition every world; print what came out."""
    options = _options()
    rows = [_partitioned(world) for world in worlds.worlds(options.worlds, options.seed)]
    rows = [row for row in rows if row]
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    large = _large(options.subtasks, options.servers, options.seed)
    if options.json:
        print(json.dumps(_summary(rows) | {"largest": large}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=25, help="of each kind")
    parser.add_argument("--subtasks", type=int, default=2000, help="of the largest problem")
    parser.add_argument("--servers", type=int, default=500, help="of the largest problem")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    return parser.parse_args()


def _partitioned(world: worlds.World) -> dict[str, Any]:
    plan = planning.plan(world.job, world.servers)
    if not plan.feasible or plan.factorisation is None:
        return {}
    truth = worlds.problem(world, plan)
    truth = replace(truth, rate=throughput(truth))
    factors = factorising.factorise(truth)
    scale = game.scale_of(truth)
    alone = partitioning.start(truth, factors, balance=plan.balance, scale=scale)
    row: dict[str, Any] = {
        "kind": world.kind,
        "world": world.number,
        "subtasks": len(plan.assignments),
        "servers": len(plan.servers),
        "feasible": not verify_assignment(truth, alone, timetable(truth, alone)),
        "from_factors": plan.factorisation.cost_from_factors / plan.factorisation.cost_final,
    }
    known = _placed(truth, factors)
    cost, end = partitioning.total_cost(truth, known), timetable(truth, known).makespan
    hidden = _hidden(truth, np.random.default_rng([world.number, *world.kind.encode()]))
    for name, complete in WAYS.items():
        places = _placed(*complete(hidden))
        row[f"{name}_cost"] = partitioning.total_cost(truth, places) / cost
        row[f"{name}_makespan"] = timetable(truth, places).makespan / end
    return row


def _hidden(truth: Problem, draw: np.random.Generator) -> Problem:
    """Return the problem with half of its pairs unmeasured, one left at least in each line."""
    measured = np.isfinite(truth.compute)
    for row, column in draw.permutation(np.argwhere(measured)).tolist():
        lone = measured[row].sum() < 2 or measured[:, column].sum() < 2
        if not lone and draw.random() < HIDDEN:
            measured[row, column] = False
    # What nobody measured holds a figure that nobody believes.
    compute = np.where(measured, truth.compute, np.median(truth.compute[measured]))
    return _with_compute(truth, np.where(np.isfinite(truth.cost), compute, np.inf), measured)


def _with_compute(problem: Problem, compute: Floats, measured: Array) -> Problem:
    """Return the problem with other compute times; what is loaded takes what it takes."""
    finite = np.isfinite(problem.cost)
    before = np.where(finite, problem.compute, 0.0)
    cost = np.where(finite, compute - before + np.where(finite, problem.cost, 0.0), np.inf)
    return problem.with_pairs(cost=cost, compute=compute, measured=measured)


def _with_factors(hidden: Problem) -> tuple[Problem, Factors | None]:
    factors = factorising.factorise(hidden)
    completed = np.where(np.isfinite(hidden.cost), factors.completed, np.inf)
    return _with_compute(hidden, completed, hidden.measured), factors


def _without_factors(hidden: Problem) -> tuple[Problem, Factors | None]:
    """Fill with the mean of the server, in logarithms: what is known without factors."""
    logs = np.where(hidden.measured, np.log(np.where(hidden.measured, hidden.compute, 1.0)), 0.0)
    mean = np.exp(logs.sum(axis=0) / np.maximum(hidden.measured.sum(axis=0), 1))
    filled = np.where(hidden.measured, hidden.compute, mean)
    filled = np.where(np.isfinite(hidden.cost), filled, np.inf)
    return _with_compute(hidden, filled, hidden.measured), None


WAYS: dict[str, Callable[[Problem], tuple[Problem, Factors | None]]] = {
    "with_factors": _with_factors,
    "without_factors": _without_factors,
}


def _placed(problem: Problem, factors: Factors | None) -> Ints:
    """Return the equilibrium from the partition of the factors, or from nobody placed."""
    scale = game.scale_of(problem)
    weights = {"balance": 1 / scale, "scale": scale}
    begin = np.full(len(problem.subtasks), -1, dtype=np.int64)
    if factors is not None:
        begin = partitioning.start(problem, factors, **weights)
    begin = partitioning.improve(problem, begin, **weights)
    return game.equilibrium(problem, begin, **weights).assignment


def _large(subtasks: int, servers: int, seed: int) -> dict[str, Any]:
    """Time both ways on a rack and a job made by repeating what a seed draws."""
    problem = worlds.large(subtasks, servers, seed)
    seconds = {}
    for name, complete in WAYS.items():
        begin = time.process_time()
        _placed(*complete(problem))
        seconds[f"{name}_seconds"] = round(time.process_time() - begin, 3)
    return {"subtasks": subtasks, "servers": len(problem.servers), **seconds}


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = np.array([row["from_factors"] for row in rows])
    kinds = sorted({row["kind"] for row in rows})
    return {
        "worlds": len(rows),
        "all_feasible": all(row["feasible"] for row in rows),
        "factors_above_final_percent": {
            "mean": round(float(100 * (ratios.mean() - 1)), 3),
            "worst": round(float(100 * (ratios.max() - 1)), 3),
            "above_ten": int((ratios > 1.1).sum()),
        },
        "factors_above_final_by_kind": {
            kind: round(
                100 * float(np.mean([r["from_factors"] for r in rows if r["kind"] == kind])) - 100,
                3,
            )
            for kind in kinds
        },
        "half_unmeasured_over_all_measured": {
            f"{name}_{what}": round(float(np.mean([row[f"{name}_{what}"] for row in rows])), 4)
            for name in WAYS
            for what in ("cost", "makespan")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
