"""Random racks of unlike servers and jobs for them, of any size, from a seed.

Servers come in racks of one kind, made from the table of devices the package ships; tasks are
models over many shards of unlike lengths, and templates that ask for a zone.
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import numpy as np

from evenkeel_core import decomposing, facts
from evenkeel_core.jobs import (
    Constraints,
    Engine,
    Inference,
    Job,
    Parallelism,
    Requests,
    Task,
    Template,
    Toleration,
)
from evenkeel_core.models import Model
from evenkeel_core.quantities import CPU, GIB, KIB, MEMORY, PODS, Bytes, Seconds
from evenkeel_core.servers import Device, Server, Taint
from evenkeel_core.subtasks import TaskGraph

RACK = 40
"""Servers of one rack at most: all alike."""
KINDS = 24
"""Racks at least, so that few servers are of many kinds as well."""
MODELS = (
    "Qwen3-0.6B",
    "Llama-3.1-8B-Q4_K_M",
    "Llama-3.1-8B",
    "Mixtral-8x7B-v0.1.Q4_K_M",
    "Llama-3.1-70B-Q4_K_M",
)
TEMPLATES = 2
"""Tasks that are templates, beside one of each model."""
REQUESTS = 12
"""Of a shard, on average."""
ZONES = 4
GPU = "nvidia.com/gpu"


def rack(count: int, seed: int, *, unlike: bool = False) -> list[Server]:
    """Return servers in racks of one kind each; with `unlike` every server is one of its own.

    A tenth of the racks has a taint, a fifth no accelerator, half has some of the models.
    """
    draw = np.random.default_rng(seed)
    rows = [row for row in _devices() if row["kind"] == "gpu" and row["fp16_dense_tflops"]]
    size = max(1, min(RACK, count // KINDS))
    found: list[Server] = []
    for first in range(0, count, size):
        example = _server(draw, rows, first // size)
        for place in range(min(size, count - first)):
            name = f"r{first // size:04}-n{place:02}"
            server = replace(_varied(example, draw) if unlike else example, name=name)
            # No two machines report the same memory to the last page.
            memory = server.allocatable[MEMORY] - int(draw.integers(1 << 15)) * KIB
            found.append(replace(server, allocatable={**server.allocatable, MEMORY: memory}))
    return found


def _devices() -> list[dict[str, str]]:
    table = files(facts).joinpath("accelerators.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(table.splitlines()))


def _server(draw: np.random.Generator, rows: Sequence[dict[str, str]], number: int) -> Server:
    cores = int(draw.choice([16, 32, 64, 128]))
    processors = Device("cpu", CPU, 1, Bytes(0), cores * 80e9, cores * 3.2e9, 0.9)
    room = {CPU: cores * 1000, MEMORY: cores * 4 * GIB, PODS: 110}
    accelerators: tuple[Device, ...] = ()
    if draw.random() < 0.8:
        row = rows[draw.integers(len(rows))]
        count = int(draw.choice([1, 2, 4, 8]))
        room[GPU] = count
        accelerators = (
            Device(
                row["name"], GPU, count, facts.memory(row), facts.peak_flops(row),
                facts.bandwidth(row), facts.confidence(row), row["source"],
            ),
        )  # fmt: skip
    there = [_model(name) for name in MODELS if draw.random() < 0.3]
    return Server(
        "",
        room,
        processors,
        accelerators,
        labels={"zone": f"z{number % ZONES}", "rack": f"r{number}"},
        taints=(Taint("dedicated", "research"),) if draw.random() < 0.1 else (),
        link_bandwidth=float(draw.choice([125e6, 1.25e9, 3.125e9])),
        load_bandwidth=float(draw.choice([500e6, 2e9, 5e9])),
        models=frozenset(model.weights for model in there),
    )


def _model(name: str) -> Model:
    found = facts.model(name)
    if found is None:
        raise ValueError(f"the table has no {name}")
    return found


def _varied(server: Server, draw: np.random.Generator) -> Server:
    """Return a server whose devices are each a little faster or slower than their kind."""

    def other(device: Device) -> Device:
        flops, bandwidth = draw.uniform(0.8, 1.2, 2)
        return replace(
            device,
            peak_flops=device.peak_flops * float(flops),
            bandwidth=device.bandwidth * float(bandwidth),
        )

    return replace(
        server,
        processors=other(server.processors),
        accelerators=tuple(other(device) for device in server.accelerators),
    )


def loads(servers: Sequence[Server], seed: int) -> dict[str, float]:
    """Return the reference seconds already committed to servers: two in three have some."""
    draw = np.random.default_rng(seed)
    seconds = draw.exponential(60.0, len(servers)) * (draw.random(len(servers)) < 2 / 3)
    return {server.name: float(load) for server, load in zip(servers, seconds, strict=True)}


def job(shards: int, seed: int) -> Job:
    """Return a job of so many shards: tasks over models, and templates that ask for a zone."""
    draw = np.random.default_rng(seed)
    tasks = len(MODELS) + TEMPLATES
    counts = np.diff(np.linspace(0, shards, tasks + 1).astype(int)).tolist()
    welcome = Constraints(tolerations=(Toleration("dedicated", "Exists"),))
    found = []
    for number, (name, count) in enumerate(zip(MODELS, counts, strict=False)):
        model = _model(name)
        tokens = draw.lognormal((6.0, 5.0), (0.9, 0.8), (count * REQUESTS, 2)).astype(int) + 1
        mean = tokens.mean(axis=0)
        work = Inference(
            model,
            Engine.SIMULATOR,
            Requests(len(tokens), mean[0], mean[1], tuple(map(tuple, tokens.tolist()))),
            parallelism=Parallelism(pipeline=1, data=count),
        )
        found.append(
            Task(f"m{number}", work, None, constraints=welcome if number else Constraints())
        )
    for number, count in enumerate(counts[len(MODELS) :]):
        asked = Constraints(node_selector={"zone": f"z{number % ZONES}"})
        need = {CPU: 2000 * (number + 1), MEMORY: 8 * GIB}
        template = Template(need, Seconds(20.0 * (number + 1)))
        found.append(Task(f"t{number}", template, count, constraints=asked))
    return Job("benchmarks/scale", "uid", tuple(found))


def graph(whole: Job, servers: Sequence[Server]) -> TaskGraph:
    """Return the subtasks of every task together, as of as many jobs that are planned at once."""
    subtasks = []
    for task in whole.tasks:
        match decomposing.decompose(replace(whole, tasks=(task,)), servers):
            case TaskGraph(cut):
                first = len(subtasks)
                subtasks += [replace(subtask, index=first + subtask.index) for subtask in cut]
            case refusals:
                raise ValueError(f"{task.name} has no place on `servers`: {refusals[0].message}")
    return TaskGraph(tuple(subtasks))
