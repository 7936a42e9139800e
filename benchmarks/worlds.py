"""Mixed racks and jobs for them, from seeds and the tables the package ships.

Nothing is picked by hand: device, count, memory, links and models are drawn from all rows. The
same seed gives the same world on every machine.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np

from evenkeel_core import costs, decomposing, facts
from evenkeel_core.jobs import Engine, Inference, Job, Parallelism, Requests, Task, Workload
from evenkeel_core.plans import Plan
from evenkeel_core.problems import Problem, throughput
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import TaskGraph
from evenkeel_kube import racks

QUANTIZATIONS = ("Q4_K_M", "Q8_0", "F16")
LARGEST = 40e9
"""Bytes of weights of the largest model drawn: the first kind of every rack holds it."""
Draw = np.random.Generator


@dataclass(frozen=True, slots=True)
class World:
    """A job and the servers it is planned for."""

    kind: str
    number: int
    job: Job
    servers: tuple[Server, ...]


def worlds(count: int, seed: int) -> Iterator[World]:
    """Yield so many worlds of each kind."""
    for kind, tasks in KINDS.items():
        for number in range(count):
            draw = np.random.default_rng([seed, number, *kind.encode()])
            servers = rack(draw)
            yield World(kind, number, Job(f"{kind}/{number}", "uid", tasks(draw)), servers)


def small(count: int, seed: int) -> Iterator[World]:
    """Yield worlds small enough to try every assignment: 3 servers, 4 to 7 subtasks."""
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        offered = rack(draw)
        servers = tuple(offered[n] for n in draw.choice(len(offered), 3, replace=False))
        shards = int(draw.integers(4, 8))
        if number % 2:
            task = inference(draw, "batch", int(draw.integers(50, 2000)))
            tasks = (_cut(task, shards),)
        else:
            tasks = tuple(
                _cut(inference(draw, f"t{n}", int(draw.integers(20, 500))), 1)
                for n in range(shards)
            )
        yield World("small", number, Job(f"small/{number}", "uid", tasks), servers)


def large(subtasks: int, servers: int, seed: int) -> Problem:
    """Return the problem of so many shards of eight models on so many servers."""
    draw = np.random.default_rng([seed, subtasks, servers])
    offered: list[Server] = []
    while len(offered) < servers:
        offered += [replace(s, name=f"s{len(offered) + n:05}") for n, s in enumerate(rack(draw))]
    tasks = [inference(draw, f"t{n}", subtasks, unlike=True) for n in range(8)]
    job = Job("large", "uid", tuple(_cut(task, subtasks // 8) for task in tasks))
    graph = decomposing.decompose(job, offered[:servers])
    assert isinstance(graph, TaskGraph), "a rack holds every model drawn"  # noqa: S101
    found = costs.problem(job, graph, offered[:servers], {})
    return replace(found, rate=throughput(found))


def problem(world: World, plan: Plan) -> Problem:
    """Return what a plan was made from, with its own costs: what unmeasured pairs were taken for.

    The rates are those of the servers as such, before a plan priced them.
    """
    servers = sorted(world.servers, key=lambda server: server.name)
    found = costs.problem(world.job, plan.graph, servers, {})
    cost = np.array(plan.costs)[list(plan.rows)][:, list(plan.columns)]
    return found.with_pairs(cost=cost)


def assignment(plan: Plan) -> Any:
    """Return the server of each subtask of a plan, by number."""
    number = {server: index for index, server in enumerate(plan.servers)}
    return np.array([number[place.server] for place in plan.assignments], dtype=np.int64)


def rack(draw: Draw) -> tuple[Server, ...]:
    """Return 3 to 32 servers of 3 to 8 kinds, one kind in four without accelerators."""
    rows = _table("accelerators.csv")
    offered = [r for r in rows if r["vendor"] in racks.RESOURCES]
    cards = [row["name"] for row in offered if row["kind"] != "cpu"]
    processors = [row["name"] for row in rows if row["kind"] == "cpu"]
    kinds = [_kind(draw, number, cards, processors) for number in range(draw.integers(3, 9))]
    kinds[0] |= {"memory": "256Gi", "cpu": 64}
    return tuple(racks.read(json.dumps(kinds)).servers())


def _kind(draw: Draw, number: int, cards: list[str], processors: list[str]) -> dict[str, Any]:
    cores = int(draw.choice([16, 32, 64, 96]))
    found: dict[str, Any] = {
        "name": f"kind{number}",
        "replicas": int(draw.integers(1, 5)),
        "cpu": cores,
        "memory": f"{cores * int(draw.choice([2, 4, 8]))}Gi",
        "processor": str(draw.choice(processors)),
        "linkGigabits": float(draw.choice([1, 10, 25])),
        "linkMilliseconds": float(draw.choice([0.05, 0.1, 0.2])),
        "diskGigabytesPerSecond": float(draw.choice([0.5, 2, 3])),
    }
    if draw.random() < 0.75:
        count = int(draw.choice([1, 2, 4, 8]))
        found["gpus"] = {"product": str(draw.choice(cards)), "count": count}
    return found


def _table(name: str) -> list[dict[str, str]]:
    text = files(facts).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def inference(draw: Draw, name: str, requests: int, *, unlike: bool = False) -> Task:
    """Return a task that puts requests through a model of the table, of unlike lengths if asked."""
    names = [row["model"] for row in _table("models.csv")]
    while True:
        model = facts.model(str(draw.choice(names)), str(draw.choice(QUANTIZATIONS)))
        if model is not None and model.bytes < LARGEST:
            break
    means = float(draw.integers(64, 1500)), float(draw.integers(16, 250))
    lengths: tuple[tuple[int, int], ...] = ()
    if unlike:
        drawn = np.exp(draw.normal(0, 0.8, (requests, 2))) * means
        pairs = np.clip(drawn, 1, (1900, 250)).astype(int)
        lengths = tuple((int(one), int(other)) for one, other in pairs)
    shape = Workload(2048, 256, int(draw.choice([1, 4, 8])))
    work = Inference(model, Engine.SIMULATOR, Requests(requests, *means, lengths), shape)
    return Task(name, work, None)


def _cut(task: Task, shards: int) -> Task:
    assert isinstance(task.work, Inference)  # noqa: S101  (a task of this module)
    return replace(task, work=replace(task.work, parallelism=Parallelism(data=shards)))


def _batch(draw: Draw) -> tuple[Task, ...]:
    return (inference(draw, "batch", int(draw.integers(100, 5000))),)


def _models(draw: Draw) -> tuple[Task, ...]:
    count = int(draw.integers(3, 9))
    return tuple(inference(draw, f"t{n}", int(draw.integers(20, 1000))) for n in range(count))


def _lengths(draw: Draw) -> tuple[Task, ...]:
    return (inference(draw, "batch", int(draw.integers(100, 2000)), unlike=True),)


def _whole(draw: Draw) -> tuple[Task, ...]:
    count = int(draw.integers(8, 25))
    tasks = [inference(draw, f"t{n:02}", int(draw.integers(20, 1000))) for n in range(count)]
    return tuple(_cut(task, 1) for task in tasks)


KINDS: Mapping[str, Callable[[Draw], tuple[Task, ...]]] = {
    "batch": _batch,
    "models": _models,
    "lengths": _lengths,
    "whole": _whole,
}
"""What a job is: one model in shards, several in shards, shards of requests of unlike lengths, and
many models in one piece each."""
