"""Jobs whose subtasks wait for one another, read from published data or put on made racks."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel_core.problems import NOWHERE, Floats, Ints, Problem

Edges = list[tuple[int, int, float]]
"""Source, target, and bytes (or seconds, on links of one byte a second)."""
SERVERS = 8
GIGABIT = 125e6
LATENCY = 0.5e-3


@dataclass(frozen=True, slots=True)
class Case:
    """One problem with what is known of it."""

    set: str
    name: str
    problem: Problem
    best: float | None = None
    """The optimum, or the best makespan on record."""
    group: str = ""
    """Family of an instance, or rack a workflow is put on."""


@dataclass(frozen=True, slots=True)
class Rack:
    """How a rack is made for a workflow."""

    unlike: float
    """Spread of the servers' speeds, as the standard deviation of their log; half of it again for
    how well each subtask suits each server."""
    moved: float | None
    """Mean seconds of an edge over mean seconds of a subtask; None for the files as measured."""
    slots: int = 1
    """Subtasks a server runs at a time."""


RACKS = {
    "like": Rack(0.0, None),
    "mild": Rack(0.3, None),
    "unlike": Rack(0.6, 0.5),
    "wild": Rack(1.0, 2.0),
    "unlike-slots": Rack(0.6, 0.5, slots=3),
}
"""Gigabit and ten-gigabit links by turns of the dice, half a millisecond each way."""


def rgpos(folder: Path) -> Iterator[Case]:
    """Yield graphs on like processors with a known optimum; an edge may have a third number."""
    for row in _rows(folder):
        cost = np.repeat(np.array(row["weights"], dtype=float)[:, None], row["processors"], axis=1)
        edges = [(edge[0], edge[1], float((*edge, 0.0)[2])) for edge in row["edges"]]
        yield Case("rgpos", row["name"], _problem(cost, edges), row["optimal_makespan"])


def fjsp(folder: Path) -> Iterator[Case]:
    """Yield flexible job shops: chains of operations, each on some of the machines."""
    for row in _rows(folder):
        operations = [operation for job in row["jobs"] for operation in job]
        cost = np.full((len(operations), row["machines"]), np.inf)
        for number, operation in enumerate(operations):
            for machine, seconds in operation:
                cost[number, machine - 1] = seconds
        ends = set((np.cumsum([len(job) for job in row["jobs"]]) - 1).tolist())
        edges = [(n, n + 1, 0.0) for n in range(len(operations) - 1) if n not in ends]
        yield Case(
            "fjsp", row["instance"], _problem(cost, edges), row["upper_bound"], row["family"]
        )


def wfinstances(folder: Path, seeds: int) -> Iterator[Case]:
    """Yield each workflow (WfFormat 1.5) on each rack, made anew for every seed."""
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.json.gz")]):
        seconds, edges = _workflow(json.loads(_text(path)))
        for name, rack in RACKS.items():
            for seed in range(1, seeds + 1):
                problem = _on_rack(seconds, edges, rack, np.random.default_rng(seed))
                case = f"{path.name.removesuffix('.gz').removesuffix('.json')}/{name}-{seed}"
                yield Case("wfinstances", case, problem, group=name)


def _text(path: Path) -> str:
    return gzip.open(path, "rt").read() if path.suffix == ".gz" else path.read_text()


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        yield from map(json.loads, _text(path).splitlines())


def _workflow(document: dict[str, Any]) -> tuple[Floats, Edges]:
    """Return run times, and the edges with the bytes of the files that both ends name."""
    workflow = document["workflow"]
    tasks = workflow["specification"]["tasks"]
    size = {f["id"]: f["sizeInBytes"] for f in workflow["specification"].get("files", ())}
    took = {t["id"]: t["runtimeInSeconds"] for t in workflow["execution"]["tasks"]}
    number = {task["id"]: index for index, task in enumerate(tasks)}
    edges = []
    for task in tasks:
        made = set(task.get("outputFiles", ()))
        for child in task.get("children", ()):
            read = made.intersection(tasks[number[child]].get("inputFiles", ()))
            moved = float(sum(size.get(name, 0) for name in read))
            edges.append((number[task["id"]], number[child], moved))
    return np.array([took[task["id"]] for task in tasks], dtype=float), edges


def _on_rack(seconds: Floats, edges: Edges, rack: Rack, draw: np.random.Generator) -> Problem:
    speed = np.exp(draw.normal(0.0, 1.0, SERVERS) * rack.unlike)
    suits = np.exp(draw.normal(0.0, 1.0, (seconds.size, SERVERS)) * rack.unlike / 2)
    cost = seconds[:, None] / speed * suits
    bandwidth = draw.choice([GIGABIT, 10 * GIGABIT], SERVERS)
    data = np.array([moved for _, _, moved in edges])
    if rack.moved is not None and data.sum() > 0:
        # A mean edge over a mean link takes so much of a mean subtask.
        data *= rack.moved * cost.mean() * bandwidth.mean() / data.mean()
    edges = [(a, b, float(moved)) for (a, b, _), moved in zip(edges, data, strict=True)]
    latency = np.full(SERVERS, LATENCY)
    capacity = np.full((SERVERS, 1), rack.slots, dtype=np.int64)
    return _problem(cost, edges, capacity=capacity, bandwidth=bandwidth, latency=latency)


def _problem(
    cost: Floats,
    edges: Edges,
    *,
    capacity: Ints | None = None,
    bandwidth: Floats | None = None,
    latency: Floats | None = None,
) -> Problem:
    """Return a problem of one resource of which each subtask takes one; servers have one."""
    tasks, servers = cost.shape
    finite = np.isfinite(cost)
    return Problem.of_pairs(
        subtasks=tuple(f"t{number:05}" for number in range(tasks)),
        servers=tuple(f"s{number:03}" for number in range(servers)),
        resources=("slots",),
        cost=cost,
        compute=cost.copy(),
        measured=finite,
        demand=np.ones((tasks, 1, 1), dtype=np.int64),
        kind=np.zeros(servers, dtype=np.int64),
        capacity=np.ones((servers, 1), dtype=np.int64) if capacity is None else capacity,
        work=np.maximum(np.where(finite, cost, 0.0).sum(axis=1) / finite.sum(axis=1), 1e-9),
        rate=np.ones(servers),
        load=np.zeros(servers),
        group=np.arange(tasks),
        pinned=np.full(tasks, NOWHERE),
        edge=np.array([edge[:2] for edge in edges], dtype=np.int64).reshape(-1, 2),
        edge_bytes=np.array([edge[2] for edge in edges], dtype=float),
        dependency=np.ones(len(edges), dtype=bool),
        link_bandwidth=np.ones(servers) if bandwidth is None else bandwidth,
        link_latency=np.zeros(servers) if latency is None else latency,
    )
