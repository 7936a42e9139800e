"""The game: rounds to equilibrium, cost against the optimum, makespan against other schedulers.

Worlds are mixed racks from the table of devices and jobs from the table of models, drawn by seed
(`benchmarks.worlds` says how). Small ones are compared with every assignment there is.

python -m benchmarks.game --json
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from benchmarks import worlds
from evenkeel_core import baselines, factorising, game, partitioning, planning
from evenkeel_core.problems import Floats, Ints, Problem, throughput
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify_assignment

OTHERS = ("default_scheduler", "min_cost_flow", "best_fit", "random", "heft")
STARTS = 3
"""Random starts of each world from which the rounds to an equilibrium are counted."""


def main() -> int:
    """Plan every world, and every small one in all ways; print what came out."""
    options = _options()
    rows = [_compared(world) for world in worlds.worlds(options.worlds, options.seed)]
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    cases = [found for world in worlds.small(options.cases, options.seed) for found in _case(world)]
    if options.json:
        print(json.dumps(_summary([row for row in rows if row["feasible"]], cases)))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=25, help="of each kind")
    parser.add_argument("--cases", type=int, default=60, help="small worlds, tried in all ways")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    return parser.parse_args()


def _compared(world: worlds.World) -> dict[str, Any]:
    """Return the makespan of a world's plan beside the others', and the rounds it takes."""
    plan = planning.plan(world.job, world.servers)
    row: dict[str, Any] = {"kind": world.kind, "world": world.number, "feasible": plan.feasible}
    if not plan.feasible:
        return row
    problem = worlds.problem(world, plan)
    ends = {name: _end(problem, baselines.ALL[name](problem)) for name in OTHERS}
    ratios = {name: plan.makespan / end for name, end in ends.items()}
    return row | {
        "subtasks": len(problem.subtasks),
        "servers": len(problem.servers),
        "makespan": plan.makespan,
        "stable": plan.stable,
        "of": ratios,
        "rounds": [_rounds(problem, seed) for seed in range(STARTS)],
    }


def _end(problem: Problem, assignment: Ints) -> float:
    return timetable(problem, assignment).makespan


def _rounds(problem: Problem, seed: int) -> int:
    """Return the rounds from a random assignment to an equilibrium, 0 if it was none."""
    scale = game.scale_of(problem)
    begin = baselines.random(problem, seed)
    found = game.equilibrium(problem, begin, balance=1 / scale, scale=scale)
    rises = (np.diff(found.history) > 1e-9 * abs(found.potential)).any()
    return 0 if rises or not found.stable else len(found.history) - 1


def _case(world: worlds.World) -> Iterator[dict[str, float]]:
    """Yield what a small world's plan is above the optimum, in makespan and in the potential."""
    plan = planning.plan(world.job, world.servers)
    if not plan.feasible:
        return
    problem = worlds.problem(world, plan)
    problem = replace(problem, rate=throughput(problem))
    scale = game.scale_of(problem)
    weights = {"balance": 1 / scale, "scale": scale}
    factors = factorising.factorise(problem)
    begin = partitioning.partition(problem, factors, **weights)
    state = game.equilibrium(problem, begin, **weights)
    ways = list(_ways(problem))
    cost = min(game.potential(problem, way, **weights) for way in ways)
    end = min(_end(problem, way) for way in ways)
    yield {"potential": state.potential / cost, "makespan": plan.makespan / end}


def _ways(problem: Problem) -> Iterator[Ints]:
    """Yield every assignment that breaks no rule."""
    every = range(len(problem.servers))
    for places in product(every, repeat=len(problem.subtasks)):
        way = np.array(places, dtype=np.int64)
        if np.isfinite(problem.cost[np.arange(way.size), way]).all() and not verify_assignment(
            problem, way
        ):
            yield way


def _summary(rows: Sequence[dict[str, Any]], cases: Sequence[dict[str, float]]) -> dict[str, Any]:
    rounds = [number for row in rows for number in row["rounds"]]
    kinds = {row["kind"]: [r for r in rows if r["kind"] == row["kind"]] for row in rows}
    of_flow = [row["of"]["min_cost_flow"] for row in rows]
    return {
        "worlds": len(rows),
        "all_stable": all(row["stable"] for row in rows) and min(rounds, default=1) > 0,
        "rounds": {"mean": float(np.mean(rounds)), "worst": max(rounds)},
        "better_than_default_scheduler_percent": 100 - 100 * _mean(rows, "default_scheduler"),
        "times_min_cost_flow": _mean(rows, "min_cost_flow"),
        "later_than_min_cost_flow": sum(ratio > 1 + 1e-9 for ratio in of_flow),
        "mean_makespan_over_theirs": {name: _mean(rows, name) for name in OTHERS},
        "by_kind": {
            kind: {name: round(_mean(found, name), 4) for name in OTHERS}
            for kind, found in kinds.items()
        },
        "above_optimum_percent": {
            what: _spread(np.array([case[what] for case in cases])) for what in cases[0]
        }
        if cases
        else {},
        "cases": len(cases),
    }


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row["of"][name] for row in rows]))


def _spread(ratios: Floats) -> dict[str, float]:
    above = 100 * (ratios - 1)
    found = {"mean": above.mean(), "p95": np.quantile(above, 0.95), "worst": above.max()}
    return {name: round(float(value), 3) for name, value in found.items()}


if __name__ == "__main__":
    sys.exit(main())
