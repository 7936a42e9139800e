"""Step 2, second half: what every subtask costs on every server, in seconds.

A roofline: compute takes the longer of its FLOPs at the device's rate and its bytes at the
device's bandwidth, each at an efficiency below one, plus a fixed cost a layer. Weights that are
not there are loaded first. Formulas: the transformer literature's, as in the parameter counter
and cost models of microsoft/vidur and DistServe (arXiv 2401.09670).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenkeel_core import checks
from evenkeel_core.jobs import OVERLAP, CostModel, Inference, Job, Overlap, Task, Template
from evenkeel_core.models import Model
from evenkeel_core.problems import NOWHERE, Floats, Ints, Problem
from evenkeel_core.quantities import CPU, MILLI, PODS, Work
from evenkeel_core.servers import (
    REFERENCE_BANDWIDTH,
    REFERENCE_FLOPS,
    Device,
    Server,
    rate,
)
from evenkeel_core.subtasks import Subtask, TaskGraph, Variant


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a kind of device reaches of its figures."""

    compute: float
    """e_c, of the peak FLOP/s."""
    memory: float
    """e_m, of the bandwidth."""
    layer: float
    """c_0, seconds per layer and step."""


CPU_EFFICIENCY = Efficiency(0.70, 0.95, 40e-6)
"""Measured with llama.cpp on one AVX-512 core of a 2023 server: right within 3 % for decode and
8 % for prefill on a quiet machine."""
ACCELERATOR_EFFICIENCY = Efficiency(0.50, 0.70, 15e-6)
"""Middle of the range that published fits of Helix, LLM-PQ and Splitwise give (0.3 to 0.8)."""
CPU_BATCH_GAIN = 0.06
"""Throughput a processor gains with every further sequence of a decode batch. Measured with
llama.cpp: four sequences together run 1.16 to 1.19 times as fast as one after the other."""
CPU_BATCH_GAIN_MOST = 1.5
HALF_THE_CORES = 0.5
"""Share of a server's cores that already saturates its memory: bandwidth grows with the threads
up to there."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one subtask gets of a device: the whole accelerator, or a share of the cores."""

    flops: float
    bandwidth: float
    efficiency: Efficiency
    processor: bool


TENSOR_EFFICIENCY = 0.8
"""What further accelerators add where every layer is split over them: each layer then waits for
two exchanges of its results. A default until it is calibrated, not a measurement."""


def speed(device: Device, server: Server, variant: Variant, tensor: int = 1) -> Speed:
    """Return the speed a variant has on a server's device.

    A model over several accelerators of one server is cut by layers: its stages take turns, so
    it is as fast as one of them. With `tensor` > 1 every layer is split instead.
    """
    if device.resource != CPU:
        times = 1 + TENSOR_EFFICIENCY * (tensor - 1)
        return Speed(
            device.peak_flops * times,
            device.bandwidth * times,
            ACCELERATOR_EFFICIENCY,
            processor=False,
        )
    cores = max(server.allocatable.get(CPU, MILLI), MILLI)
    share = min(1.0, variant.demand.get(CPU, cores) / cores)
    return Speed(
        device.peak_flops * share,
        device.bandwidth * min(1.0, share / HALF_THE_CORES),
        CPU_EFFICIENCY,
        processor=True,
    )


REFERENCE = Speed(REFERENCE_FLOPS, REFERENCE_BANDWIDTH, CPU_EFFICIENCY, processor=True)
"""The reference server: what w_t is measured on."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a range of requests puts through a model."""

    requests: int
    input: float
    """Sum of the input tokens."""
    input_squared: float
    """Sum of their squares: attention grows with them."""
    output: float


def tokens(work: Inference, first: int, end: int) -> Tokens:
    """Return the sums over a range of requests."""
    known = work.requests.lengths
    if known:
        part = np.array(known[first:end], dtype=float).reshape(-1, 2)
        return Tokens(
            end - first, float(part[:, 0].sum()), float((part[:, 0] ** 2).sum()),
            float(part[:, 1].sum()),
        )  # fmt: skip
    count, length = end - first, work.requests.mean_input
    return Tokens(count, count * length, count * length**2, count * work.requests.mean_output)


def touched_experts(model: Model, batch: float) -> float:
    """Return the expected number of distinct experts a batch of tokens uses in one layer.

    E·(1 - (1 - k/E)^B): each token draws k of E experts independently.
    """
    if not model.experts:
        return 0.0
    return float(model.experts * (1 - (1 - model.experts_used / model.experts) ** batch))


def layer_step(model: Model, at: Speed, batch: float, context: float) -> float:
    """Return the seconds of one layer in one decode step of `batch` sequences."""
    if at.processor and batch > 1:
        # Processors do not amortise small batches as the roofline promises.
        gain = min(CPU_BATCH_GAIN_MOST, 1 + CPU_BATCH_GAIN * (batch - 1))
        return layer_step(model, at, 1, context) * batch / gain
    flops = 2 * model.active_layer_parameters + 4 * context * model.heads * model.head_dim
    weights = float(model.layer_bytes) - model.experts * model.expert_bytes
    weights += touched_experts(model, batch) * model.expert_bytes
    moved = weights + batch * context * model.kv_bytes_per_token
    seconds = max(
        batch * flops / (at.efficiency.compute * at.flops),
        moved / (at.efficiency.memory * at.bandwidth),
    )
    return seconds + at.efficiency.layer


def head_step(model: Model, at: Speed, batch: float) -> float:
    """Return the seconds of the output head in one decode step."""
    weights = model.head_bytes or model.embedding_bytes
    flops = 2.0 * model.hidden * model.vocabulary * batch
    return max(
        flops / (at.efficiency.compute * at.flops),
        weights / (at.efficiency.memory * at.bandwidth),
    )


def layer_prefill(model: Model, at: Speed, work: Tokens) -> float:
    """Return the seconds of one layer over the prompts of all requests."""
    flops = 2 * work.input * model.active_layer_parameters
    flops += 2 * work.input_squared * model.heads * model.head_dim  # the causal half
    read = work.requests * model.layer_bytes / (at.efficiency.memory * at.bandwidth)
    # A prompt reads the weights at least once, however short it is.
    compute = max(flops / (at.efficiency.compute * at.flops), read)
    return compute + work.requests * at.efficiency.layer


def steps(work: Inference, part: Tokens) -> tuple[float, float, float]:
    """Return the decode steps of a range, the batch of each and the mean context."""
    batch = float(max(1, min(work.workload.concurrency, part.requests)))
    context = (part.input + part.output / 2) / max(1, part.requests)
    return part.output / batch, batch, context


def compute_seconds(work: Inference, part: Tokens, at: Speed) -> float:
    """Return the seconds the whole model takes on one device for a range of requests."""
    model = work.model
    count, batch, context = steps(work, part)
    prefill = model.layers * layer_prefill(model, at, part)
    step = model.layers * layer_step(model, at, batch, context) + head_step(model, at, batch)
    return prefill + count * step


def load_seconds(model: Model, weights: float, server: Server) -> float:
    """Return the seconds until weights are in memory.

    From the server's own disk where they are, else over its link as well: whichever is slower.
    """
    if model.weights in server.models:
        return weights / server.load_bandwidth
    return weights / min(server.load_bandwidth, server.link_bandwidth)


def reference_work(work: Inference, part: Tokens, share: float = 1.0) -> Work:
    """Return w_t: the seconds of a range on the reference server, or of a share of its layers."""
    return Work(max(MIN_WORK, share * compute_seconds(work, part, REFERENCE)))


MIN_WORK = 1e-3
"""w_min: the game divides by the work."""


def problem(
    job: Job,
    graph: TaskGraph,
    servers: Sequence[Server],
    loads: Mapping[str, float],
) -> Problem:
    """Build the arrays of one planning round.

    Parameters
    ----------
    job : Job
    graph : TaskGraph
        From `evenkeel_core.decomposing.decompose`.
    servers : sequence of Server
        Sorted by name, so that ties break by name.
    loads : mapping
        Reference seconds of other jobs committed to each server; observed load counts where it
        is larger.

    Raises
    ------
    ValueError
        If `servers` are not sorted by name or empty.

    Notes
    -----
    Subtasks that are alike and servers that are alike are evaluated once: the cost is
    O(classes of subtasks x kinds of servers) plus filling the arrays.
    """
    names = tuple(server.name for server in servers)
    if not names or list(names) != sorted(set(names)):
        raise ValueError("`servers` must be sorted by name, without doubles and not empty")
    subtasks = graph.subtasks
    number = {name: index for index, name in enumerate(names)}
    kinds, kind = _kinds(servers)
    resources = _resources(subtasks)
    feasible, demand = _feasible(subtasks, servers, kinds, kind, resources)
    tasks = {task.name: task for task in job.tasks}
    compute, load, believed = _seconds(tasks, graph, servers, kinds, kind)
    compute = np.where(feasible, compute, np.inf)
    edge, edge_bytes, dependency = _edges(graph)
    observed = [server.observed_load or 0.0 for server in servers]
    cost = np.where(feasible, compute + load, np.inf)
    if job.cost_model is CostModel.SHARES:
        cost = compute = _shares(demand, kind, servers, resources, cost)
    return Problem(
        subtasks=tuple(subtask.name for subtask in subtasks),
        servers=names,
        resources=resources,
        cost=cost,
        compute=compute.copy(),
        measured=feasible & believed,
        demand=demand,
        kind=kind,
        capacity=_amounts([{PODS: MANY, **server.plannable} for server in servers], resources),
        work=np.array([subtask.work for subtask in subtasks], dtype=float),
        rate=np.array([max(rate(server), 1e-9) for server in servers]),
        load=np.maximum([loads.get(name, 0.0) for name in names], observed),
        group=_groups(subtasks),
        pinned=np.array(
            [number.get(s.server, NOWHERE) if s.server else NOWHERE for s in subtasks],
            dtype=np.int64,
        ),
        edge=edge,
        edge_bytes=edge_bytes,
        dependency=dependency,
        link_bandwidth=np.array([server.link_bandwidth for server in servers]),
        link_latency=np.array([server.link_latency for server in servers], dtype=float),
    )


MEASURED_FROM = 0.5
"""Confidence from which a device's figures count as known; below, the factors fill in."""


def _kinds(servers: Sequence[Server]) -> tuple[list[Server], Ints]:
    """Return one server of each kind of hardware, and the kind of each server."""
    found: dict[object, int] = {}
    examples: list[Server] = []
    kind = np.empty(len(servers), dtype=np.int64)
    for index, server in enumerate(servers):
        key = (
            server.devices,
            tuple(sorted(server.plannable.items())),
            server.link_bandwidth,
            server.load_bandwidth,
            server.models,
        )
        if key not in found:
            found[key] = len(examples)
            examples.append(server)
        kind[index] = found[key]
    return examples, kind


def _resources(subtasks: Sequence[Subtask]) -> tuple[str, ...]:
    demanded = {name for subtask in subtasks for v in subtask.variants for name in v.demand}
    return tuple(sorted({*demanded, PODS}))


MANY = 1 << 31
"""Pods of a server that does not say how many it takes."""


def _amounts(vectors: Sequence[Mapping[str, int]], resources: tuple[str, ...]) -> Ints:
    rows = [[vector.get(name, 0) for name in resources] for vector in vectors]
    return np.array(rows, dtype=np.int64).reshape(len(vectors), len(resources))


def _groups(subtasks: Sequence[Subtask]) -> Ints:
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(subtask.group, len(numbers)) for subtask in subtasks], dtype=np.int64
    )


def _edges(graph: TaskGraph) -> tuple[Ints, Floats, NDArray[np.bool_]]:
    number = {subtask.name: index for index, subtask in enumerate(graph.subtasks)}
    pairs = [(number[edge.source], number[edge.target]) for edge in graph.edges]
    moved = np.array([edge.data for edge in graph.edges], dtype=float)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2), moved, np.ones(len(pairs), dtype=bool)


def _alike(subtask: Subtask) -> object:
    """Return what two subtasks must share to be feasible on the same servers."""
    return (
        tuple((v.resource, v.device, tuple(sorted(v.demand.items()))) for v in subtask.variants),
        subtask.task,
        subtask.server,
    )


def _feasible(
    subtasks: Sequence[Subtask],
    servers: Sequence[Server],
    kinds: Sequence[Server],
    kind: Ints,
    resources: tuple[str, ...],
) -> tuple[NDArray[np.bool_], Ints]:
    """Return where each subtask may run (T, S), and what it takes of each kind (T, K, R)."""
    rows: dict[object, tuple[NDArray[np.bool_], Ints]] = {}
    feasible = np.empty((len(subtasks), len(servers)), dtype=bool)
    demand = np.zeros((len(subtasks), len(kinds), len(resources)), dtype=np.int64)
    for index, subtask in enumerate(subtasks):
        key = _alike(subtask)
        if key not in rows:
            chosen = [checks.variant(subtask, server) for server in kinds]
            fits = np.array([variant is not None for variant in chosen])
            allowed = np.array(
                [
                    fits[kind[i]] and checks.reason(subtask, server, checks.CHAIN[:-2]) is None
                    for i, server in enumerate(servers)
                ]
            )
            amounts = _amounts([{**v.demand, PODS: 1} if v else {} for v in chosen], resources)
            rows[key] = (allowed, amounts)
        feasible[index], demand[index] = rows[key]
    return feasible, demand


def _seconds(
    tasks: Mapping[str, Task],
    graph: TaskGraph,
    servers: Sequence[Server],
    kinds: Sequence[Server],
    kind: Ints,
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return compute and load seconds and which compute is believed, each (T, S)."""
    shape = (len(graph.subtasks), len(kinds))
    compute, load, belief = np.empty(shape), np.zeros(shape), np.ones(shape)
    known: dict[object, tuple[list[float], list[float], list[float]]] = {}
    sets = _sets(graph)
    for index, subtask in enumerate(graph.subtasks):
        work = tasks[subtask.task].work
        if isinstance(work, Template):
            compute[index] = work.estimated_seconds
            continue
        key = (
            subtask.task,
            subtask.requests,
            subtask.layers,
            subtask.group if subtask.layers else "",
        )
        if key not in known:
            known[key] = _inference(subtask, work, sets[subtask.group], kinds, servers)
        compute[index], load[index], belief[index] = known[key]
    return compute[:, kind], load[:, kind], np.asarray(belief >= MEASURED_FROM)[:, kind]


def _sets(graph: TaskGraph) -> dict[str, list[Subtask]]:
    sets: dict[str, list[Subtask]] = {}
    for subtask in graph.subtasks:
        sets.setdefault(subtask.group, []).append(subtask)
    return sets


def _inference(
    subtask: Subtask,
    work: Inference,
    members: Sequence[Subtask],
    kinds: Sequence[Server],
    servers: Sequence[Server],
) -> tuple[list[float], list[float], list[float]]:
    """Return compute seconds, load seconds and belief on each kind of server."""
    part = tokens(work, *(subtask.requests or (0, work.requests.count)))
    if subtask.layers is not None:
        # A stage lasts as long as its set: the head needs every stage until the last token.
        by_name = {server.name: server for server in servers}
        seconds = set_seconds(work, part, members, by_name)
        return [seconds] * len(kinds), [0.0] * len(kinds), [1.0] * len(kinds)
    compute, load, belief = [], [], []
    for server in kinds:
        variant = checks.variant(subtask, server)
        device = _device(variant, server)
        if variant is None or device is None:
            compute.append(np.inf)
            load.append(0.0)
            belief.append(0.0)
            continue
        at = speed(device, server, variant, work.parallelism.tensor or 1)
        compute.append(compute_seconds(work, part, at))
        load.append(load_seconds(work.model, work.model.bytes, server))
        belief.append(device.confidence)
    return compute, load, belief


def _device(variant: Variant | None, server: Server) -> Device | None:
    if variant is None:
        return None
    return next(
        (
            device
            for device in server.devices
            if device.resource == variant.resource and variant.device in ("", device.name)
        ),
        None,
    )


REMOTE_STAGE = 0.5e-3
"""Seconds a remote stage adds to every decode step beside its round trip, for wake-ups and
messages: measured with llama.cpp's RPC."""
RPC_BYTES = 4
"""llama.cpp sends activations between stages as 32-bit floats."""


@dataclass(frozen=True, slots=True)
class _StageSeconds:
    """What one stage takes of the time of its set."""

    load: float
    prefill: float
    step: float


def set_seconds(
    work: Inference,
    part: Tokens,
    members: Sequence[Subtask],
    servers: Mapping[str, Server],
) -> float:
    """Return the seconds a pipeline takes for a range of requests; inf where a stage can not run.

    Where stages take turns (llama.cpp's RPC) everything adds up, loading included: the head
    uploads to one stage after the other. Where they overlap, the slowest stage is what counts,
    and the others only until the pipeline is full.
    """
    ordered = sorted(members, key=lambda member: member.layers or (0, 0))
    found = [
        _stage(work, part, member, servers.get(member.server or ""), first=number == 0)
        for number, member in enumerate(ordered)
    ]
    stages = [stage for stage in found if stage is not None]
    if len(stages) < len(found):
        return np.inf
    count, _, _ = steps(work, part)
    each = [stage.prefill + count * stage.step for stage in stages]
    if OVERLAP[work.engine] is Overlap.SUM:
        return sum(each) + sum(stage.load for stage in stages)
    filling = sum(stage.step for stage in stages) - max(stage.step for stage in stages)
    return max(each) + filling + max(stage.load for stage in stages)


def _stage(
    work: Inference, part: Tokens, member: Subtask, server: Server | None, *, first: bool
) -> _StageSeconds | None:
    variant = checks.variant(member, server) if server else None
    device = _device(variant, server) if server else None
    if server is None or variant is None or device is None:
        return None
    model = work.model
    _, batch, context = steps(work, part)
    at = speed(device, server, variant, work.parallelism.tensor or 1)
    begin, end = member.layers or (0, model.layers)
    step = (end - begin) * layer_step(model, at, batch, context)
    prefill = (end - begin) * layer_prefill(model, at, part)
    if end == model.layers:
        step += head_step(model, at, batch)
    if not first:
        hop = RPC_BYTES * model.hidden / server.link_bandwidth
        step += REMOTE_STAGE + 2 * server.link_latency + 2 * batch * hop
        prefill += 2 * part.input * hop
        if end == model.layers:
            # The last stage answers with the logits of the whole vocabulary.
            step += batch * RPC_BYTES * model.vocabulary / server.link_bandwidth
    return _StageSeconds(load_seconds(model, member.weight_bytes, server), prefill, step)


def _shares(
    demand: Ints,
    kind: Ints,
    servers: Sequence[Server],
    resources: tuple[str, ...],
    cost: Floats,
) -> Floats:
    """Return the claim's matrix: Σ_r w_r d_tr/a_ir, resources weighted alike.

    Scaled so that its median is that of the seconds: loads and edges stay comparable.
    """
    available = np.maximum(_amounts([server.plannable for server in servers], resources), 1)
    asked = [index for index, name in enumerate(resources) if name != PODS]
    shares = (demand[:, kind] / available)[:, :, asked].mean(axis=2)
    finite = np.isfinite(cost)
    shares = np.where(finite, shares, np.inf)
    if not finite.any() or not np.median(shares[finite]) > 0:
        return cost
    result: Floats = shares * (np.median(cost[finite]) / np.median(shares[finite]))
    return result
