"""Step 2, second half: what every subtask costs on every server, in seconds.

A roofline a kernel: the weights of a layer, its attention and the output head each take their
FLOPs at the device's rate and their bytes at the device's bandwidth, each at an efficiency of at
most one, and a layer a fixed time on top. Efficiencies are learnt (`evenkeel_core.calibrating`)
or defaults. Weights that are not there are loaded first. Formulas: the transformer literature's,
as in the parameter counter and cost models of microsoft/vidur and DistServe (arXiv 2401.09670).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenkeel_core import checks, likeness
from evenkeel_core.efficiencies import Efficiency, Setting
from evenkeel_core.jobs import OVERLAP, CostModel, Inference, Job, Overlap, Task, Template
from evenkeel_core.likeness import Classes, Numbering, Rack
from evenkeel_core.models import Model
from evenkeel_core.problems import NOWHERE, Floats, Ints, Mask, Problem
from evenkeel_core.quantities import CPU, MILLI, PODS, Work
from evenkeel_core.servers import (
    REFERENCE_BANDWIDTH,
    REFERENCE_FLOPS,
    Device,
    Server,
    rate,
)
from evenkeel_core.subtasks import Subtask, TaskGraph, Variant

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


def setting(device: Device, work: Inference, tensor: int = 1) -> Setting:
    """Return what a measurement of some work on a device is filed under."""
    devices = 1 if device.resource == CPU else tensor
    return Setting(work.model.weights or work.model.name, work.engine.value, device.name, devices)


def believed(device: Device, server: Server, work: Inference, tensor: int = 1) -> bool:
    """Tell whether a device's times are known: its figures are, or they were measured."""
    measured = server.calibrated(setting(device, work, tensor)) is not None
    return measured or device.confidence >= MEASURED_FROM


def ceiling(device: Device, server: Server, variant: Variant, tensor: int = 1) -> Speed:
    """Return the speed at which a variant would reach all figures of a server's device.

    What no prediction beats, and what observed times are compared with.

    Parameters
    ----------
    device : Device
        One of the `server`'s.
    server : Server
    variant : Variant
        Whose demand says which share of the cores it gets.
    tensor : int, optional
        Accelerators that every layer is split over.
    """
    if device.resource != CPU:
        flops, bandwidth = device.peak_flops * tensor, device.bandwidth * tensor
        return Speed(flops, bandwidth, Efficiency(1.0, 1.0, 0.0), processor=False)
    cores = max(server.allocatable.get(CPU, MILLI), MILLI)
    share = min(1.0, variant.demand.get(CPU, cores) / cores)
    bandwidth = device.bandwidth * min(1.0, share / HALF_THE_CORES)
    return Speed(device.peak_flops * share, bandwidth, Efficiency(1.0, 1.0, 0.0), processor=True)


def speed(
    device: Device,
    server: Server,
    variant: Variant,
    tensor: int = 1,
    work: Inference | None = None,
) -> Speed:
    """Return the speed a variant has on a server's device.

    A model over several accelerators of one server is cut by layers: its stages take turns, so
    it is as fast as one of them. With `tensor` > 1 every layer is split instead.

    Parameters
    ----------
    device, server, variant, tensor
        As for `ceiling`.
    work : Inference, optional
        Looked up in the server's calibration; without it the device's default efficiency counts.
    """
    most = ceiling(device, server, variant, tensor)
    learnt = server.calibrated(setting(device, work, tensor)) if work else None
    if learnt:
        # What was measured over several accelerators says itself what the splitting costs.
        return replace(most, efficiency=learnt.efficiency)
    if most.processor:
        return replace(most, efficiency=CPU_EFFICIENCY)
    reached = (1 + TENSOR_EFFICIENCY * (tensor - 1)) / tensor
    return Speed(
        most.flops * reached,
        most.bandwidth * reached,
        ACCELERATOR_EFFICIENCY,
        processor=False,
    )


REFERENCE = Speed(REFERENCE_FLOPS, REFERENCE_BANDWIDTH, CPU_EFFICIENCY, processor=True)
"""The reference server: what w_t is measured on."""


Amount = Any
"""A number, or an array of them: the formulas broadcast, for one range of requests or for many."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a range of requests puts through a model."""

    requests: Amount
    input: Amount
    """Sum of the input tokens."""
    input_squared: Amount
    """Sum of their squares: attention grows with them."""
    output: Amount


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


def touched_experts(model: Model, batch: Amount) -> Amount:
    """Return the expected number of distinct experts a batch of tokens uses in one layer.

    E·(1 - (1 - k/E)^B): each token draws k of E experts independently.
    """
    if not model.experts:
        return 0.0
    return model.experts * (1 - (1 - model.experts_used / model.experts) ** batch)


class Effort(NamedTuple):
    """What some computing asks of a device, whichever it is: FLOPs, bytes, layers passed.

    The same on every device of a sort, so that it is counted once for all of them.
    """

    kernels: tuple[tuple[Amount, Amount], ...]
    """FLOPs and bytes moved, a pair a kernel; kernels run one after the other."""
    layers: Amount
    """Layers passed through, over all steps: how often c_0 is paid."""


def seconds(effort: Effort, at: Speed) -> Amount:
    """Return the seconds an effort takes; never less than `bound`.

    Within a kernel arithmetic and traffic overlap: wholly on processors, whose threads prefetch.
    On accelerators the root of the sum of their squares describes 6,000 measured times better
    than the larger of them or their sum (`benchmarks.costs`).
    """
    joined = np.maximum if at.processor else np.hypot
    efficiency = at.efficiency
    flops, bandwidth = at.flops * efficiency.compute, at.bandwidth * efficiency.memory
    total = effort.layers * efficiency.layer
    for arithmetic, traffic in effort.kernels:
        total = total + joined(arithmetic / flops, traffic / bandwidth)
    return total


def bound(effort: Effort, at: Speed) -> Amount:
    """Return the physical ceiling as seconds: all FLOPs at the peak, all bytes at the bandwidth.

    Nothing is done earlier, whatever the efficiency.
    """
    arithmetic, traffic = (sum(part) for part in zip(*effort.kernels, strict=True))
    return np.maximum(arithmetic / at.flops, traffic / at.bandwidth)


def _weights(model: Model, batch: Amount) -> Amount:
    """Return the bytes of one layer's weights that a batch of tokens touches."""
    dense = float(model.layer_bytes) - model.experts * model.expert_bytes
    return dense + touched_experts(model, batch) * model.expert_bytes


def step_effort(
    model: Model, batch: Amount, context: Amount, *, layers: Amount = 1.0, processor: bool = False
) -> Effort:
    """Return the effort of some layers in one decode step, or of one layer in some steps.

    Parameters
    ----------
    model : Model
    batch : float or array
        Sequences that take the step together, at least one.
    context : float or array
        Mean tokens that each attends to.
    layers : float or array, optional
        Layers times steps.
    processor : bool, optional
        Whether it is for processors, which do not amortise small batches as the roofline promises.
    """
    if processor:
        gain = np.minimum(CPU_BATCH_GAIN_MOST, 1 + CPU_BATCH_GAIN * (batch - 1))
        batch, layers = 1.0, layers * batch / gain
    flops = 2.0 * batch * model.active_layer_parameters
    attention = 4.0 * batch * context * model.heads * model.head_dim
    cache = batch * context * model.kv_bytes_per_token
    weights = _weights(model, batch)
    kernels = ((layers * flops, layers * weights), (layers * attention, layers * cache))
    return Effort(kernels, layers)


def head_effort(model: Model, batch: Amount, *, steps: Amount = 1.0) -> Effort:
    """Return the effort of the output head in some decode steps."""
    weights = model.head_bytes or model.embedding_bytes
    flops = 2.0 * model.hidden * model.vocabulary * batch
    return Effort(((steps * flops, steps * weights),), 0.0)


def prefill_effort(
    model: Model, work: Tokens, *, layers: float = 1.0, passes: Amount | None = None
) -> Effort:
    """Return the effort of some layers over the prompts of some requests.

    Parameters
    ----------
    model : Model
    work : Tokens
    layers : float, optional
    passes : float or array, optional
        How often the weights are read; by default once a request, however short it is. 0 where
        the prompts ride on decode steps that read the weights anyway.
    """
    passes = work.requests if passes is None else passes
    flops = 2.0 * work.input * model.active_layer_parameters
    weights = passes * _weights(model, work.input / np.maximum(passes, MIN_PASSES))
    attention = 2.0 * work.input_squared * model.heads * model.head_dim  # the causal half
    cache = work.input * model.kv_bytes_per_token
    kernels = ((layers * flops, layers * weights), (layers * attention, layers * cache))
    return Effort(kernels, layers * passes)


MIN_PASSES = 1e-9
"""Where nothing is read, so that nothing is divided by zero."""


def together(efforts: Iterable[Effort]) -> Effort:
    """Return what is done one after the other on one device."""
    found = tuple(efforts)
    kernels = tuple(kernel for effort in found for kernel in effort.kernels)
    return Effort(kernels, sum(effort.layers for effort in found))


def layer_step(model: Model, at: Speed, batch: Amount, context: Amount) -> Amount:
    """Return the seconds of one layer in one decode step of `batch` sequences."""
    return seconds(step_effort(model, batch, context, processor=at.processor), at)


def head_step(model: Model, at: Speed, batch: Amount) -> Amount:
    """Return the seconds of the output head in one decode step."""
    return seconds(head_effort(model, batch), at)


def layer_prefill(model: Model, at: Speed, work: Tokens) -> Amount:
    """Return the seconds of one layer over the prompts of all requests."""
    return seconds(prefill_effort(model, work), at)


def steps(work: Inference, part: Tokens) -> tuple[Amount, Amount, Amount]:
    """Return the decode steps of a range, the batch of each and the mean context."""
    batch = np.maximum(1.0, np.minimum(work.workload.concurrency, part.requests))
    context = (part.input + part.output / 2) / np.maximum(1, part.requests)
    return part.output / batch, batch, context


def effort(work: Inference, part: Tokens, *, processor: bool = False) -> Effort:
    """Return what a range of requests asks of one device that holds the whole model."""
    model = work.model
    count, batch, context = steps(work, part)
    step = step_effort(model, batch, context, layers=model.layers * count, processor=processor)
    head = head_effort(model, batch, steps=count)
    return together((prefill_effort(model, part, layers=model.layers), step, head))


def compute_seconds(work: Inference, part: Tokens, at: Speed) -> Amount:
    """Return the seconds the whole model takes on one device for a range of requests."""
    return seconds(effort(work, part, processor=at.processor), at)


def load_seconds(model: Model, weights: float, server: Server) -> float:
    """Return the seconds until weights are in memory.

    From the server's own disk where they are, else over its link as well: whichever is slower.
    """
    if model.weights in server.models:
        return weights / server.load_bandwidth
    return weights / min(server.load_bandwidth, server.link_bandwidth)


def reference_work(work: Inference, part: Tokens, share: float = 1.0) -> Work:
    """Return w_t: the seconds of a range on the reference server, or of a share of its layers."""
    return Work(max(MIN_WORK, float(share * compute_seconds(work, part, REFERENCE))))


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
    Subtasks that are alike and servers that are alike are evaluated once (`likeness`): O(T + S +
    rows x kinds), the rows of one task at once for each kind.
    """
    names = tuple(server.name for server in servers)
    if not names or list(names) != sorted(set(names)):
        raise ValueError("`servers` must be sorted by name, without doubles and not empty")
    subtasks = graph.subtasks
    number = {name: index for index, name in enumerate(names)}
    rack = likeness.rack(subtasks, servers, exactly=job.cost_model is CostModel.SHARES)
    classes = likeness.needs(subtasks)
    examples = [subtasks[first] for first in classes.firsts.tolist()]
    resources = _resources(examples)
    chosen = _chosen(examples, rack)
    feasible, needs = _feasible(examples, rack, chosen, resources)
    tasks = {task.name: task for task in job.tasks}
    rows = _rows(tasks, subtasks, classes)
    need = classes.number[rows.firsts]
    firsts = [subtasks[first] for first in rows.firsts.tolist()]
    compute, load, believed = _seconds(tasks, graph, firsts, need, rack, servers, chosen)
    compute[~feasible[need]] = np.inf
    seconds = compute + load[need]
    if job.cost_model is CostModel.SHARES:
        works = np.array([[subtask.work] for subtask in firsts], dtype=float).reshape(-1, 1)
        works = np.where(feasible[need], works, np.inf)
        seconds = compute = _shares(needs[need], rack.examples, resources, works)
        believed = np.ones_like(feasible)  # the shares of a device are known without its speed
    edge, edge_bytes, dependency = _edges(graph)
    observed = [server.observed_load or 0.0 for server in servers]
    capacity = [{PODS: MANY, **server.plannable} for server in servers]
    return Problem(
        subtasks=tuple(subtask.name for subtask in subtasks),
        servers=names,
        resources=resources,
        row=rows.number,
        need=classes.number,
        kind=rack.kind,
        seconds=seconds,
        computing=compute,
        believed=(feasible & believed)[need],
        needs=needs,
        capacity=_amounts(capacity, resources),
        work=np.array([subtask.work for subtask in subtasks], dtype=float),
        rate=np.array([max(rate(server), 1e-9) for server in rack.examples])[rack.kind],
        load=np.maximum([loads.get(name, 0.0) for name in names], observed),
        group=_groups(subtasks),
        pinned=np.array(
            [number.get(s.server, NOWHERE) if s.server is not None else NOWHERE for s in subtasks],
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


Chosen = Sequence[Sequence[Variant | None]]
"""(D, outfits) what a subtask of each demand runs as on servers of each outfit."""


def _chosen(subtasks: Sequence[Subtask], rack: Rack) -> Chosen:
    """Return the variant of each subtask on servers of each outfit."""
    outfits = [rack.examples[first] for first in rack.outfit.firsts.tolist()]
    return [[checks.variant(subtask, server) for server in outfits] for subtask in subtasks]


def _feasible(
    subtasks: Sequence[Subtask], rack: Rack, chosen: Chosen, resources: tuple[str, ...]
) -> tuple[Mask, Ints]:
    """Return where subtasks may run (D, K), and what they take of each kind (D, K, R)."""
    standings = [rack.examples[first] for first in rack.standing.firsts.tolist()]
    shape = (len(subtasks), len(rack.examples))
    feasible = np.zeros(shape, dtype=bool)
    needs = np.zeros((*shape, len(resources)), dtype=np.int64)
    for number, (subtask, variants) in enumerate(zip(subtasks, chosen, strict=True)):
        fits = np.array([variant is not None for variant in variants])
        stands = np.array(
            [checks.reason(subtask, server, checks.STANDING) is None for server in standings]
        )
        feasible[number] = fits[rack.outfit.number] & stands[rack.standing.number]
        taken = [{**variant.demand, PODS: 1} if variant else {} for variant in variants]
        needs[number] = _amounts(taken, resources)[rack.outfit.number]
    return feasible, needs


def _rows(tasks: Mapping[str, Task], subtasks: Sequence[Subtask], needs: Classes) -> Classes:
    """Return the subtasks by the seconds they take everywhere: the rows of the matrix."""
    sums = {name: _Sums(task.work) for name, task in tasks.items()}
    found = Numbering()
    for subtask, need in zip(subtasks, needs.number.tolist(), strict=True):
        # The stages of one set last as long as the whole set.
        of = "" if subtask.layers is None else subtask.group
        found.add((need, of, sums[subtask.task].of(subtask)))
    return found.classes()


class _Sums:
    """What makes the seconds of a part of a task differ from those of another."""

    def __init__(self, work: Inference | Template) -> None:
        self._count = 0 if isinstance(work, Template) else work.requests.count
        known = () if isinstance(work, Template) else work.requests.lengths
        self._sums = [tuple(line) for line in _running(known).tolist()] if known else []

    def of(self, subtask: Subtask) -> tuple[float, ...]:
        """Return the number of requests and, where lengths are known, the sums of theirs."""
        first, end = subtask.requests or (0, self._count)
        if not self._sums:
            return (end - first,)
        here, there = self._sums[first], self._sums[end]
        return (end - first, *(b - a for a, b in zip(here, there, strict=True)))


def _seconds(
    tasks: Mapping[str, Task],
    graph: TaskGraph,
    firsts: Sequence[Subtask],
    need: Ints,
    rack: Rack,
    servers: Sequence[Server],
    chosen: Chosen,
) -> tuple[Floats, Floats, Mask]:
    """Return compute seconds (A, K), and load seconds and which compute is believed (D, K)."""
    kinds = len(rack.examples)
    demands = int(need.max()) + 1 if need.size else 0
    compute = np.empty((len(firsts), kinds))
    load, belief = np.zeros((demands, kinds)), np.ones((demands, kinds))
    shards: dict[int, list[int]] = {}
    pipelines = _Pipelines(graph, servers)
    for row, (subtask, number) in enumerate(zip(firsts, need.tolist(), strict=True)):
        work = tasks[subtask.task].work
        if isinstance(work, Template):
            compute[row] = work.estimated_seconds
        elif subtask.layers is None:
            shards.setdefault(number, []).append(row)
        else:
            compute[row] = pipelines.seconds(subtask, work)
    for number, rows in shards.items():
        alike = [firsts[row] for row in rows]
        work = tasks[alike[0].task].work
        assert isinstance(work, Inference), "a template is no shard"  # noqa: S101
        variants = [chosen[number][outfit] for outfit in rack.outfit.number.tolist()]
        compute[rows], load[number], belief[number] = _inference(
            alike, work, rack.examples, variants
        )
    return compute, load, belief >= MEASURED_FROM


class _Pipelines:
    """The seconds of coupled sets, each asked for once for all of its stages."""

    def __init__(self, graph: TaskGraph, servers: Sequence[Server]) -> None:
        self._graph = graph
        self._servers = servers
        self._sets: dict[str, list[Subtask]] = {}
        self._named: dict[str, Server] = {}
        self._known: dict[str, float] = {}

    def seconds(self, stage: Subtask, work: Inference) -> float:
        """Return the seconds of a stage: those of its set.

        A stage lasts as long as its set: the head needs every stage until the last token.
        """
        if not self._sets:
            self._named = {server.name: server for server in self._servers}
            for subtask in self._graph.subtasks:
                self._sets.setdefault(subtask.group, []).append(subtask)
        if stage.group not in self._known:
            part = tokens(work, *(stage.requests or (0, work.requests.count)))
            self._known[stage.group] = set_seconds(work, part, self._sets[stage.group], self._named)
        return self._known[stage.group]


def _inference(
    shards: Sequence[Subtask],
    work: Inference,
    kinds: Sequence[Server],
    variants: Sequence[Variant | None],
) -> tuple[Floats, Floats, Floats]:
    """Return compute seconds (N, K), load seconds (K,) and belief (K,) of shards of one task."""
    part = _tokens(work, [shard.requests or (0, work.requests.count) for shard in shards])
    compute = np.full((len(kinds), len(shards)), np.inf)
    load, belief = np.zeros(len(kinds)), np.zeros(len(kinds))
    known: dict[Speed, Floats] = {}
    for number, (server, variant) in enumerate(zip(kinds, variants, strict=True)):
        device = _device(variant, server)
        if variant is None or device is None:
            continue
        tensor = work.parallelism.tensor or 1
        at = speed(device, server, variant, tensor, work)
        if at not in known:
            known[at] = compute_seconds(work, part, at)
        compute[number] = known[at]
        load[number] = load_seconds(work.model, work.model.bytes, server)
        belief[number] = believed(device, server, work, tensor)
    return compute.T, load, belief


def _tokens(work: Inference, spans: Sequence[tuple[int, int]]) -> Tokens:
    """Return the sums over many ranges of requests at once, each an array over the ranges."""
    first, end = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    count = (end - first).astype(float)
    known = work.requests.lengths
    if not known:
        length, output = work.requests.mean_input, work.requests.mean_output
        return Tokens(count, count * length, count * length**2, count * output)
    sums = _running(known)
    return Tokens(count, *(sums[end] - sums[first]).T)


def _running(lengths: Sequence[tuple[int, int]]) -> Floats:
    """Return the running sums of input tokens, their squares and output tokens, (n + 1, 3).

    Whole numbers below 2^53: the difference of two is the sum of a range, to the last digit.
    """
    pairs = np.array(lengths, dtype=float).reshape(-1, 2)
    each = np.column_stack([pairs[:, 0], pairs[:, 0] ** 2, pairs[:, 1]])
    return np.append(np.zeros((1, 3)), each.cumsum(axis=0), axis=0)


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
        return float(sum(each) + sum(stage.load for stage in stages))
    filling = sum(stage.step for stage in stages) - max(stage.step for stage in stages)
    return float(max(each) + filling + max(stage.load for stage in stages))


def _stage(
    work: Inference, part: Tokens, member: Subtask, server: Server | None, *, first: bool
) -> _StageSeconds | None:
    variant = checks.variant(member, server) if server else None
    device = _device(variant, server) if server else None
    if server is None or variant is None or device is None:
        return None
    model = work.model
    _, batch, context = steps(work, part)
    at = speed(device, server, variant, work.parallelism.tensor or 1, work)
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


LEAST_SHARES = 1e-6
"""Shares of what asks for nothing at all: it still takes a place, and has a logarithm."""


def _shares(
    needs: Ints,
    kinds: Sequence[Server],
    resources: tuple[str, ...],
    seconds: Floats,
) -> Floats:
    """Return the claim's matrix in seconds: Σ_r d_tr/a_ir times the work of the subtask.

    Parameters
    ----------
    needs : (A, K, R) integer array
        What each row of subtasks takes of each kind of server.
    kinds : sequence of Server, of length K
    resources : tuple of str, of length R
    seconds : (A, K) array
        Of each row, changed by no demand and no server: what one whole share of everything lasts.
        Infinite where it may not run.

    Notes
    -----
    Resources weigh alike and are summed, not averaged, and nothing is scaled by other entries: a
    larger demand or less to have never lowers any entry.
    """
    available = np.maximum(_amounts([server.plannable for server in kinds], resources), 1)
    asked = [index for index, name in enumerate(resources) if name != PODS]
    shares = (needs / available)[:, :, asked].sum(axis=2)
    finite = np.isfinite(seconds)
    result: Floats = np.full(seconds.shape, np.inf)
    result[finite] = np.maximum(shares[finite], LEAST_SHARES) * seconds[finite]
    return result
