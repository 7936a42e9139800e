"""Step 2, first half: a job becomes subtasks with demands, and a DAG.

An inference task becomes shards (one pod each, the whole model on one server, a part of the
requests) where the model fits some server, else replicas of a pipeline: coupled sets whose
members are sized for, and pinned to, their servers. A template task becomes its copies.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evenkeel_core import checks, costs, pipelines, replicas
from evenkeel_core.jobs import (
    MAX_STAGES,
    MAX_SUBTASKS,
    OVERLAP,
    Inference,
    Job,
    Objective,
    Overlap,
    Task,
    Template,
    Workload,
)
from evenkeel_core.models import MAX_LAYERS, Model
from evenkeel_core.pipelines import Role
from evenkeel_core.plans import Refusal
from evenkeel_core.quantities import CPU, GIB, MEMORY, MILLI, Bytes, Vector, Work, fits
from evenkeel_core.reasons import Reason
from evenkeel_core.refusing import amount, why_not
from evenkeel_core.servers import Device, Server
from evenkeel_core.subtasks import Edge, Subtask, TaskGraph, Variant

MARGIN = 1.10
"""On top of computed memory on a server's own processors, until calibrated."""
STAGE_MARGIN = 1.25
"""For a remote stage: llama.cpp's RPC server was seen to need more than its tensors."""
USABLE = 0.92
"""Share of an accelerator's memory an engine gets: driver and context take the rest."""
PREFILL_BATCH = 512
"""Tokens llama.cpp prefills at a time: what the compute buffer is sized for."""
HOST_MEMORY = 2 * GIB
"""Of a pod whose model is on an accelerator: the process, and pages of the file in passing."""
THREADS = (64, 32, 16, 8, 4, 2, 1)
"""Cores a pod on processors may get, the most first: a server uses the first that fits."""
MOST_BYTES = 2**60
"""Of anything a pod asks for: what a config asks beyond, no server has, and sums fit 64 bits."""
MAX_EDGES = 100_000
SHARDS_PER_SLOT = 3
"""Shards for each place that could run one: a fast server takes more of them than a slow one."""
LEAST_SECONDS = 5.0
"""A shard shorter than this is mostly start-up."""
WORTH = 0.05
"""Further pipelines are worth their servers when they take so much of the time off."""
NAMED = 5
"""Servers a sentence names; it counts the others."""


def decompose(job: Job, servers: Sequence[Server]) -> TaskGraph | tuple[Refusal, ...]:
    """Cut a job into subtasks.

    Parameters
    ----------
    job : Job
    servers : sequence of Server
        Sorted by name. Their hardware decides shards and stages; their load does not.

    Returns
    -------
    TaskGraph or tuple of Refusal
        Refusals where a task fits nowhere or would become more subtasks than a job may have.

    Raises
    ------
    ValueError
        If two tasks of `job` share a name, one depends on a task that is not before it, or a stage
        cut by hand has no layer.
    """
    _check(job)
    subtasks: list[Subtask] = []
    notes: list[str] = []
    refusals: list[Refusal] = []
    index = 0
    for task in job.tasks:
        cut = _cut(task, servers, index, job.objective)
        if isinstance(cut, Refusal):
            refusals.append(cut)
            continue
        subtasks += cut.subtasks
        notes += cut.notes
        index += len({subtask.group for subtask in cut.subtasks})
    if refusals:
        return tuple(refusals)
    if len(subtasks) > MAX_SUBTASKS:
        return (_too_many(job.key, len(subtasks)),)
    joined = edges(job.tasks, subtasks)
    if len(joined) > MAX_EDGES:
        return (_too_dense(job.key, len(joined)),)
    return TaskGraph(tuple(subtasks), tuple(joined), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Parts:
    """The subtasks of one task, and why it was cut into these."""

    subtasks: Sequence[Subtask]
    notes: tuple[str, ...] = ()


def _check(job: Job) -> None:
    before: set[str] = set()
    for task in job.tasks:
        if task.name in before:
            raise ValueError(f"`job` has two tasks called {task.name}")
        if not before.issuperset(task.depends_on):
            raise ValueError(f"`job`: {task.name} depends on a task that is not before it")
        before.add(task.name)
        if isinstance(task.work, Inference) and any(s.layers < 1 for s in task.work.stages):
            raise ValueError(f"`job` has a stage of {task.name} without layers")


def _cut(
    task: Task, servers: Sequence[Server], index: int, objective: Objective
) -> _Parts | Refusal:
    work = task.work
    if isinstance(work, Template):
        return _Parts(_copies(task, work, index))
    if work.stages:
        made = _by_hand(task, work, servers, index)
        return made if isinstance(made, Refusal) else _Parts(made)
    pipeline = work.parallelism.pipeline
    probe = _shard(task, work, servers, index, (0, work.requests.count))
    if pipeline in (None, 1) and not probe.variants:
        return _cap_too_low(task, work)
    possible = [server for server in servers if checks.reason(probe, server) is None]
    if pipeline == 1 and not possible:
        return why_not(probe, servers)
    asked = pipeline == 1 or work.parallelism.data or task.shards
    if possible and pipeline in (None, 1) and asked:
        shards = _shards(task, work, servers, possible, index)
        return shards if isinstance(shards, Refusal) else _Parts(shards)
    return _replicated(_Case(task, work, servers, possible, objective), index)


def _copies(task: Task, work: Template, index: int) -> list[Subtask]:
    count = task.shards or 1
    return [
        Subtask(
            name=f"{task.name}-{copy}",
            task=task.name,
            group=f"{task.name}-{copy}",
            index=index + copy,
            work=Work(max(float(work.estimated_seconds), costs.MIN_WORK)),
            variants=(Variant("", work.demand),),
            constraints=task.constraints,
            output_bytes=Bytes(task.output_bytes // count),
        )
        for copy in range(count)
    ]


# Memory


def kv_bytes(work: Inference, end: int, first: int = 0) -> Bytes:
    """Return the bytes of keys and values of layers `first` to `end` at full concurrency."""
    return _cache(work.model, work.workload, first, end)


def _cache(model: Model, shape: Workload, first: int, end: int) -> Bytes:
    cached = model.cached(
        first,
        end,
        tokens=shape.max_input_tokens + shape.max_output_tokens,
        sequences=shape.concurrency,
        batch=PREFILL_BATCH,
    )
    return Bytes(min(cached, MOST_BYTES))


@lru_cache(maxsize=64)
def _runs(model: Model, shape: Workload) -> NDArray[np.int64]:
    """Return the bytes of the heaviest run of n layers with their cache, for n = 0 to all."""
    most = MOST_BYTES // MAX_LAYERS
    each = [
        min(model.stored(n, n + 1) + _cache(model, shape, n, n + 1), most)
        for n in range(model.layers if model.each else 1)
    ]
    if not model.each:
        return np.arange(model.layers + 1, dtype=np.int64) * each[0]
    upto = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(each, dtype=np.int64)])
    heaviest = [(upto[n:] - upto[: len(upto) - n]).max() for n in range(len(upto))]
    return np.array(heaviest, dtype=np.int64)


def buffer_bytes(work: Inference, *, head: bool) -> Bytes:
    """Return the bytes of the compute buffers of a stage; the output head adds its logits."""
    model = work.model
    inner = max(4 * model.hidden, model.heads * model.head_dim)
    logits = (model.hidden + model.vocabulary) * work.workload.concurrency * 4 if head else 0
    return Bytes(PREFILL_BATCH * inner * 4 + logits)


def _needed(work: Inference) -> int:
    """Return the bytes the whole model takes where it runs, without a margin."""
    model = work.model
    return model.bytes + kv_bytes(work, model.layers) + buffer_bytes(work, head=True)


def _variants(work: Inference, servers: Sequence[Server]) -> tuple[Variant, ...]:
    """Return how the whole model could run on each kind of device there is."""
    accelerators: dict[tuple[str, str], Device] = {}
    for device in (d for server in servers for d in server.accelerators if d.memory > 0):
        # Devices of one name may differ in memory: what fits the smallest fits all.
        known = accelerators.setdefault((device.resource, device.name), device)
        if device.memory < known.memory:
            accelerators[device.resource, device.name] = device
    found = [
        _accelerated(device, work)
        for _, device in sorted(
            accelerators.items(), key=lambda item: (-item[1].bandwidth, item[0])
        )
    ]
    if (work.parallelism.tensor or 1) == 1:
        memory = math.ceil(_needed(work) * MARGIN)
        demands = [{CPU: threads * MILLI, MEMORY: memory} for threads in THREADS]
        found += [_capped(Variant(CPU, demand), work) for demand in demands]
    return tuple(variant for variant in found if variant is not None)


def _accelerated(device: Device, work: Inference) -> Variant | None:
    """Return the variant for one kind of accelerator, None where the user's cut does not fit."""
    usable = device.memory * USABLE
    count = math.ceil(_needed(work) / usable)
    if work.parallelism.tensor is not None:
        if count > work.parallelism.tensor:
            return None
        count = work.parallelism.tensor
    demand = {device.resource: count, CPU: MILLI, MEMORY: HOST_MEMORY}
    return _capped(Variant(device.resource, demand, device.name), work)


def _capped(variant: Variant, work: Inference) -> Variant | None:
    """Apply the user's floor and cap; None where the cap leaves less than is needed.

    Less CPU is slower, less of anything else does not run.
    """
    floor, cap = work.overhead, work.limits
    demand = {
        name: max(variant.demand.get(name, 0), floor.get(name, 0))
        for name in sorted({*variant.demand, *floor})
    }
    if CPU in cap:
        demand[CPU] = min(demand[CPU], cap[CPU])
    return replace(variant, demand=demand) if fits(demand, {**demand, **cap}) else None


# Shards


def _shard(
    task: Task,
    work: Inference,
    servers: Sequence[Server],
    index: int,
    requests: tuple[int, int],
    number: int = 0,
    variants: tuple[Variant, ...] | None = None,
) -> Subtask:
    part = costs.tokens(work, *requests)
    share = part.requests / max(1, work.requests.count)
    return Subtask(
        name=f"{task.name}-{number}",
        task=task.name,
        group=f"{task.name}-{number}",
        index=index + number,
        work=costs.reference_work(work, part),
        variants=_variants(work, servers) if variants is None else variants,
        constraints=task.constraints,
        requests=requests,
        weight_bytes=work.model.bytes,
        kv_bytes=kv_bytes(work, work.model.layers),
        output_bytes=Bytes(int(task.output_bytes * share)),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """A server that could run shards."""

    slots: int
    """Shards that fit at a time."""
    at: costs.Speed
    seconds: float
    """Of all requests there."""
    loading: float


def _places(work: Inference, probe: Subtask, possible: Sequence[Server]) -> list[_Place]:
    """Return the servers that could run shards, the fastest first; alike ones are seen once."""
    whole = costs.tokens(work, 0, work.requests.count)
    known: dict[object, _Place] = {}
    found = []
    for server in possible:
        room = tuple(server.plannable.items())
        links = (server.load_bandwidth, server.link_bandwidth, server.models)
        learnt = frozenset(server.calibration.items())
        kind = (server.devices, room, server.allocatable.get(CPU), links, learnt)
        if kind not in known:
            known[kind] = _place(work, probe, server, whole)
        found.append(known[kind])
    return sorted(found, key=lambda place: place.seconds)


def _place(work: Inference, probe: Subtask, server: Server, whole: costs.Tokens) -> _Place:
    variant = checks.variant(probe, server)
    assert variant is not None, "a possible server has a variant"  # noqa: S101
    room = server.plannable
    device = next(
        d
        for d in server.devices
        if d.resource == variant.resource and variant.device in ("", d.name)
    )
    at = costs.speed(device, server, variant, work.parallelism.tensor or 1, work)
    slots = min(room.get(name, 0) // n for name, n in variant.demand.items() if n > 0)
    loading = costs.load_seconds(work.model, work.model.bytes, server)
    return _Place(slots, at, costs.compute_seconds(work, whole, at), loading)


def _shards(
    task: Task,
    work: Inference,
    servers: Sequence[Server],
    possible: Sequence[Server],
    index: int,
) -> list[Subtask] | Refusal:
    probe = _shard(task, work, servers, 0, (0, work.requests.count))
    places = _places(work, probe, possible)
    count = work.parallelism.data or task.shards or _shard_count(places)
    count = min(count, max(1, work.requests.count))
    if count > MAX_SUBTASKS:
        return _too_many(task.name, count)
    # Shards that take alike on the middle server do so, more or less, on each.
    spans = ranges(work, [1.0] * count, places[len(places) // 2].at)
    return [
        _shard(task, work, servers, index, span, number, probe.variants)
        for number, span in enumerate(spans)
    ]


def _shard_count(places: Sequence[_Place]) -> int:
    """Return how many shards keep every place busy without being mostly start-up."""
    slots = sum(place.slots for place in places)
    seconds = [place.seconds / max(LEAST_SECONDS, 2 * place.loading) for place in places]
    # On the middle server a shard computes at least twice as long as it loads.
    worthwhile = max(1, int(np.median(seconds)))
    return min(SHARDS_PER_SLOT * max(1, slots), worthwhile, MAX_SUBTASKS)


def ranges(
    work: Inference, shares: Sequence[float], at: costs.Speed = costs.REFERENCE
) -> list[tuple[int, int]]:
    """Cut the requests into contiguous ranges whose seconds are in proportion to the shares.

    Parameters
    ----------
    work : Inference
        With at least as many requests as there are shares.
    shares : sequence of float
        Not negative, not all zero. Every range has a request at least.
    at : Speed
        Of the device whose seconds count.

    Notes
    -----
    A range ends with the request that comes nearest to its share.
    """
    count = work.requests.count
    if work.requests.lengths:
        done = np.concatenate([[0.0], np.cumsum(request_seconds(work, at))])
    else:
        done = np.arange(count + 1, dtype=float)
    wanted = np.cumsum(shares)[:-1] / np.sum(shares) * done[-1]
    after = np.clip(np.searchsorted(done, wanted), 1, count)
    nearer = wanted - done[after - 1] < done[after] - wanted
    ends = np.where(nearer, after - 1, after).tolist()
    bounds = [0]
    for number, end in enumerate(ends):
        left = len(ends) - number  # ranges still to come: each needs a request
        bounds.append(max(bounds[-1] + 1, min(int(end), count - left)))
    bounds.append(count)
    return list(pairwise(bounds))


LEAST = 1e-9
"""Seconds of a request at least: shares of nothing can't be cut."""
KNOTS = 64
"""Lengths at which costs are worked out; between them they are interpolated, 1 % at the most."""


def request_seconds(work: Inference, at: costs.Speed) -> NDArray[np.float64]:
    """Return the predicted seconds of each request, in the company of others like it.

    Parameters
    ----------
    work : Inference
        With the lengths of its requests.
    at : Speed

    Notes
    -----
    The cost model is asked at `KNOTS` lengths: what a prompt takes, and what a step of decode
    takes in a context. A request decodes in the context of its prompt and half of its answer.
    O(requests + KNOTS).
    """
    lengths = np.array(work.requests.lengths, dtype=float).reshape(-1, 2)
    prompt, answer = lengths[:, 0], lengths[:, 1]
    together = max(1, min(work.workload.concurrency, len(lengths)))

    def seconds(size: float, output: float) -> float:
        part = costs.Tokens(together, together * size, together * size**2, together * output)
        return float(costs.compute_seconds(work, part, at) / together)

    knots = np.geomspace(1.0, max(2.0, float((prompt + answer).max(initial=1.0))), KNOTS)
    prefill = np.array([seconds(knot, 0.0) for knot in knots])
    step = np.array([seconds(knot, 1.0) for knot in knots]) - prefill
    decode = answer * np.interp(prompt + answer / 2, knots, step)
    found: NDArray[np.float64] = np.interp(prompt, knots, prefill) + decode
    return np.maximum(found, LEAST)


# Pipelines


@dataclass(frozen=True, slots=True)
class _Case:
    """A task whose model may run whole, in pipelines, or both."""

    task: Task
    work: Inference
    servers: Sequence[Server]
    possible: Sequence[Server]
    """Those that hold the whole model, unless so many stages are asked for."""
    objective: Objective

    @property
    def overlap(self) -> Overlap:
        """The law that counts: one request passes all stages in turn, whatever the engine."""
        latency = self.objective is Objective.LATENCY
        return Overlap.SUM if latency else OVERLAP[self.work.engine]


def _replicated(case: _Case, index: int) -> _Parts | Refusal:
    """Choose between the whole model on each server, pipelines over several, and both."""
    task, work = case.task, case.work
    allowed = [server for server in case.servers if _may_hold_a_stage(task, server)]
    if not allowed:
        return why_not(_nothing(task), case.servers)
    whole = {} if work.parallelism.pipeline else {s.name: s for s in case.possible}
    if len(whole) == len(allowed):
        return _whole(case, allowed, index)
    offers = _offers(case, allowed, whole)
    alone = _alone(case, offers)
    most = max(1, work.requests.count)
    wanted = work.parallelism.data and min(work.parallelism.data, most)
    if len(allowed) > replicas.SEARCHED:
        # Of many servers only those that can't hold the model are looked at for pipelines.
        rest = [offer for offer in offers if offer.server not in whole]
        chosen = [*_chosen(case, rest, wanted), *alone]
        chosen = sorted(chosen, key=lambda replica: replica.cut.seconds)[:most]
    else:
        chosen = _chosen(case, offers, wanted)
    if not wanted:
        # One that would only start when the others end gets nothing, not even one request.
        end = _end(chosen)
        chosen = [replica for replica in chosen if replica.share(end) > 0]
    staged = [replica for replica in chosen if len(replica.cut.stages) > 1]
    if whole and (not staged or _end(chosen) > _end(alone) * (1 - WORTH)):
        return _whole(case, allowed, index)
    if not chosen or (wanted is not None and len(chosen) < wanted):
        return _no_pipeline(task, work, allowed, len(chosen), wanted or 1)
    single = [replica for replica in chosen if len(replica.cut.stages) == 1]
    parts = _mixed(case, staged, single, index)
    return replace(parts, notes=_why_staged(case, staged, single, offers))


def _whole(case: _Case, allowed: Sequence[Server], index: int) -> _Parts | Refusal:
    shards = _shards(case.task, case.work, case.servers, case.possible, index)
    if isinstance(shards, Refusal):
        return shards
    return _Parts(shards, (_why_whole(case, len(allowed)),))


def _offers(
    case: _Case, servers: Sequence[Server], whole: Mapping[str, Server]
) -> list[pipelines.Candidate]:
    """Return what each server offers to pipelines, or to shards of the whole model."""
    work = case.work
    part = costs.tokens(work, 0, work.requests.count)
    probe = _shard(case.task, work, case.servers, 0, (0, work.requests.count))

    def offer(server: Server) -> pipelines.Candidate:
        staged = _candidate(work, part, server)
        if server.name not in whole:
            return _with_whole(staged, math.inf)
        return _with_whole(staged, _shard_seconds(work, probe, server))

    return _by_kind(servers, offer)


def _by_kind(
    servers: Sequence[Server], offer: Callable[[Server], pipelines.Candidate]
) -> list[pipelines.Candidate]:
    """Return what each server offers; alike ones are worked out once."""
    known: dict[object, pipelines.Candidate] = {}
    found = []
    for server in servers:
        key = (
            server.devices, tuple(sorted(server.plannable.items())), server.allocatable.get(CPU),
            server.link_bandwidth, server.link_latency, server.load_bandwidth, server.models,
        )  # fmt: skip
        if key not in known:
            known[key] = offer(server)
        found.append(replace(known[key], server=server.name))
    return found


def _with_whole(offer: pipelines.Candidate, seconds: float) -> pipelines.Candidate:
    """Return the offer with what the whole model takes there as shards, side by side."""
    table = offer.seconds.copy()
    table[Role.WHOLE, :-1] = np.inf
    table[Role.WHOLE, -1] = seconds
    return pipelines.Candidate(offer.server, table)


def _shard_seconds(work: Inference, probe: Subtask, server: Server) -> float:
    """Return the seconds of all requests where as many shards as fit take their parts."""
    (place,) = _places(work, probe, [server])
    return place.loading + place.seconds / min(place.slots, max(1, work.requests.count))


def _alone(case: _Case, offers: Sequence[pipelines.Candidate]) -> "list[_Replica]":
    """Return the servers that hold the model as replicas of one stage each."""
    layers = case.work.model.layers
    cuts = [
        pipelines.Cut(((offer.server, layers),), float(offer.seconds[Role.WHOLE, layers]))
        for offer in offers
    ]
    return _replicas(case, [cut for cut in cuts if math.isfinite(cut.seconds)])


def _replicas(case: _Case, cuts: Sequence[pipelines.Cut]) -> "list[_Replica]":
    by_name = {server.name: server for server in case.servers}
    return [_Replica(cut, _loading(case.work, cut, by_name)) for cut in cuts]


def _chosen(
    case: _Case, offers: Sequence[pipelines.Candidate], wanted: int | None
) -> "list[_Replica]":
    """Return the fewest replicas that end within `WORTH` of the earliest end of all sets.

    Where there can't be as many as are wanted: as many as there can be.
    """
    work = case.work
    sets = replicas.share_out(
        work.model.layers, offers, overlap=case.overlap, stages=work.parallelism.pipeline,
        count=wanted,
    )  # fmt: skip
    if not sets and wanted:
        return _chosen(case, offers, None)
    cuts = list(dict.fromkeys(cut for one_set in sets for cut in one_set))
    known = dict(zip(cuts, _replicas(case, cuts), strict=True))
    most = max(1, work.requests.count)
    found = [
        [known[cut] for cut in one_set]
        for one_set in sets
        if len(one_set) <= most and sum(len(cut.stages) for cut in one_set) < MAX_SUBTASKS
    ]
    ends = [_end(one_set) for one_set in found]
    worth = min(ends, default=0.0) / (1 - WORTH)
    return next((one_set for one_set, end in zip(found, ends, strict=True) if end <= worth), [])


def _mixed(
    case: _Case, staged: "Sequence[_Replica]", alone: "Sequence[_Replica]", index: int
) -> _Parts:
    """Give each pipeline its requests, and the rest to shards on servers that hold the model."""
    task, work = case.task, case.work
    end = _end([*staged, *alone])
    rest = sum(replica.share(end) for replica in alone)
    count = 0
    if rest > 0:
        names = {replica.cut.stages[0][0] for replica in alone}
        holding = [server for server in case.possible if server.name in names]
        probe = _shard(task, work, case.servers, 0, (0, work.requests.count))
        every = _shard_count(_places(work, probe, holding))
        left = MAX_SUBTASKS - sum(len(replica.cut.stages) for replica in staged)
        count = max(1, min(round(every * rest), work.requests.count - len(staged), left))
    shares = [replica.share(end) for replica in staged]
    by_name = {server.name: server for server in case.servers}
    first = by_name[staged[0].cut.stages[0][0]]
    variant = _stage_variant(work, first, 1, Role.FIRST)
    assert variant is not None, "a stage that was cut fits its server"  # noqa: S101
    at = costs.speed(stage_device(first), first, variant, work=work)
    spans = ranges(work, [*shares, *(rest / count for _ in range(count))], at)
    subtasks: list[Subtask] = []
    for number, replica in enumerate(staged):
        name, stages = f"{task.name}-{number}", replica.cut.stages
        subtasks += _members(task, work, by_name, name, index + number, spans[number], stages)
    variants = _variants(work, case.servers)
    for number, span in enumerate(spans[len(staged) :], start=len(staged)):
        subtasks.append(_shard(task, work, case.servers, index, span, number, variants))
    return _Parts(subtasks)


@dataclass(frozen=True, slots=True)
class _Replica:
    """A pipeline that could take a share of the requests."""

    cut: pipelines.Cut
    loading: float
    """Seconds before the first request, however small its share is."""

    def share(self, end: float) -> float:
        """Return the share of all requests it can have done by a time, 0 to 1."""
        working = max(self.cut.seconds - self.loading, costs.MIN_WORK)
        return max(0.0, (end - self.loading) / working)


def _end(replicas: Sequence[_Replica]) -> float:
    """Return when the requests are done if all replicas end together: water-filling.

    A replica that would still be loading then gets none.
    """
    end = math.inf
    slope = level = 0.0
    for replica in sorted(replicas, key=lambda replica: replica.loading):
        if replica.loading >= end:
            break
        rate = 1 / max(replica.cut.seconds - replica.loading, costs.MIN_WORK)
        slope, level = slope + rate, level + rate * replica.loading
        end = (1 + level) / slope
    return end


def _loading(work: Inference, cut: pipelines.Cut, servers: Mapping[str, Server]) -> float:
    """Return how long a pipeline's weights take: as the engine's stages work, so they load."""
    last = len(cut.stages) - 1
    each = [
        costs.load_seconds(
            work.model,
            layers * work.model.layer_bytes + _end_weights(work, _role(place, last)),
            servers[name],
        )
        for place, (name, layers) in enumerate(cut.stages)
    ]
    return sum(each) if OVERLAP[work.engine] is Overlap.SUM else max(each)


def recut(
    task: Task,
    group: str,
    index: int,
    requests: tuple[int, int],
    servers: Sequence[Server],
    objective: Objective = Objective.THROUGHPUT,
) -> list[Subtask] | Refusal:
    """Cut one replica anew for the servers that are left; its requests stay its own.

    Parameters
    ----------
    task : Task
        An inference task.
    group, index : str, int
        Name and number of the coupled set.
    requests : tuple of int
        First request and one past the last.
    servers : sequence of Server
    objective : Objective
        Of the job.
    """
    work = task.work
    if not isinstance(work, Inference):
        raise TypeError("`task` must be an inference task")
    allowed = [server for server in servers if _may_hold_a_stage(task, server)]
    if not allowed:
        return why_not(_nothing(task), servers)
    part = costs.tokens(work, *requests)
    candidates = _by_kind(allowed, lambda server: _candidate(work, part, server))
    # One request passes all stages whatever the engine: its latency is their sum.
    overlap = Overlap.SUM if objective is Objective.LATENCY else OVERLAP[work.engine]
    found = pipelines.cut(
        work.model.layers, candidates, overlap=overlap, stages=work.parallelism.pipeline
    )
    if found is None:
        return _no_pipeline(task, work, allowed, 0, 1)
    by_name = {server.name: server for server in servers}
    return _members(task, work, by_name, group, index, requests, found.stages)


def _role(place: int, last: int) -> Role:
    return Role((place == 0) * Role.FIRST + (place == last) * Role.LAST)


def _may_hold_a_stage(task: Task, server: Server) -> bool:
    return checks.reason(_nothing(task), server) is None


def _nothing(task: Task) -> Subtask:
    """Return a subtask that needs nothing: what refuses it is not about resources."""
    return Subtask(
        task.name, task.name, task.name, 0, Work(1.0), (Variant("", {}),), task.constraints
    )


def stage_device(server: Server) -> Device:
    """Return the device a stage would use: the accelerator with most memory, else processors."""
    room = server.plannable
    # One whose memory nobody knows holds no layers that could be counted.
    usable = [d for d in server.accelerators if d.memory > 0 and room.get(d.resource, 0) > 0]
    return max(usable, key=lambda d: (d.memory * d.count, d.name), default=server.processors)


def _layer_footprint(work: Inference) -> int:
    """Return the bytes of one layer with its cache, in the mean."""
    return int(_runs(work.model, work.workload)[-1]) // work.model.layers


def _ends(work: Inference, role: Role) -> int:
    """Return the bytes of what a stage holds beside its layers: ends of the model and buffers.

    Tied embeddings are held once where both ends are, and at each end else: so do llama.cpp,
    which makes a second tensor on the last device, and vLLM on its last rank.
    """
    model = work.model
    held = model.embedding_bytes if role & Role.FIRST else 0
    if role & Role.LAST:
        tied = 0 if role is Role.WHOLE else model.embedding_bytes
        held += model.head_bytes or tied
    return held + buffer_bytes(work, head=bool(role & Role.LAST))


def _needed_by(work: Inference, role: Role, layers: tuple[int, int] | int) -> int:
    """Return the bytes a stage takes where it runs, without a margin.

    Of these layers, or of the heaviest run of so many.
    """
    if isinstance(layers, int):
        held = int(_runs(work.model, work.workload)[layers])
    else:
        held = work.model.stored(*layers) + kv_bytes(work, layers[1], layers[0])
    return held + _ends(work, role)


def _stage_margin(device: Device, role: Role) -> float:
    """Return what is asked for beyond the computed bytes; the first stage is not remote."""
    if device.resource != CPU:
        return 1 / USABLE
    return MARGIN if role & Role.FIRST else STAGE_MARGIN


def _layers_that_fit(work: Inference, server: Server, role: Role = Role.INNER) -> int:
    """Return the most layers with which a stage fits the empty server: what it asks for decides."""
    room = server.plannable
    counts = range(1, work.model.layers + 1)

    def excess(layers: int) -> int:
        variant = _stage_variant(work, server, layers, role)
        return int(variant is None or not fits(variant.demand, room))

    return bisect_left(counts, 1, key=excess)


def _stage_variant(
    work: Inference, server: Server, layers: tuple[int, int] | int, role: Role
) -> Variant | None:
    """Return what a stage asks for on a server, None where the user's numbers do not allow it."""
    device = stage_device(server)
    needed = _needed_by(work, role, layers) * _stage_margin(device, role)
    if device.resource == CPU:
        cores = server.plannable.get(CPU, 0)
        threads = next((t for t in THREADS if t * MILLI <= cores), 1)
        demand: Vector = {CPU: threads * MILLI, MEMORY: math.ceil(needed)}
    else:
        count = math.ceil(needed / device.memory)
        tensor = work.parallelism.tensor or count
        if count > tensor:
            return None
        demand = {device.resource: tensor, CPU: MILLI, MEMORY: HOST_MEMORY}
    return _capped(Variant(device.resource, demand, device.name), work)


def _candidate(work: Inference, part: costs.Tokens, server: Server) -> pipelines.Candidate:
    """Return what the stages of every size and role take on a server, loading included.

    The same terms as `costs.set_seconds` sums up once the set is known.
    """
    model = work.model
    fit = [min(model.layers, _layers_that_fit(work, server, role)) for role in Role]
    table = np.full((4, model.layers + 1), np.inf)
    variant = _stage_variant(work, server, 1, Role.INNER)
    if variant is not None and max(fit):
        tensor = work.parallelism.tensor or 1
        at = costs.speed(stage_device(server), server, variant, tensor, work)
        count, batch, context = costs.steps(work, part)
        layer = count * costs.layer_step(model, at, batch, context)
        layer += costs.layer_prefill(model, at, part)
        layer += costs.load_seconds(model, model.layer_bytes, server)
        hop = costs.RPC_BYTES * model.hidden / server.link_bandwidth
        remote = count * (costs.REMOTE_STAGE + 2 * server.link_latency + 2 * batch * hop)
        remote += 2 * part.input * hop
        head = count * costs.head_step(model, at, batch)
        logits = count * batch * costs.RPC_BYTES * model.vocabulary / server.link_bandwidth
        for role, most in zip(Role, fit, strict=True):
            once = costs.load_seconds(model, _end_weights(work, role), server)
            once += head if role & Role.LAST else 0.0
            once += 0.0 if role & Role.FIRST else remote
            once += logits if role is Role.LAST else 0.0
            counts = np.arange(1, most + 1)
            table[role, 1 : most + 1] = once + counts * layer
    return pipelines.Candidate(server.name, table)


def _end_weights(work: Inference, role: Role) -> int:
    """Return the stored bytes of the ends of the model that a stage holds."""
    return _ends(work, role) - buffer_bytes(work, head=bool(role & Role.LAST))


def _members(
    task: Task,
    work: Inference,
    servers: dict[str, Server],
    group: str,
    index: int,
    requests: tuple[int, int],
    stages: Sequence[tuple[str, int]],
) -> list[Subtask]:
    part = costs.tokens(work, *requests)
    share = part.requests / max(1, work.requests.count)
    first, members = 0, []
    for number, (name, layers) in enumerate(stages):
        span = (first, first + layers)
        role = _role(number, len(stages) - 1)
        variant = _stage_variant(work, servers[name], span, role)
        assert variant is not None, "a stage that was cut fits its server"  # noqa: S101
        members.append(
            Subtask(
                name=f"{group}-s{number}",
                task=task.name,
                group=group,
                index=index,
                work=costs.reference_work(work, part, layers / work.model.layers),
                variants=(variant,),
                constraints=task.constraints,
                server=name,
                layers=span,
                requests=requests,
                weight_bytes=Bytes(work.model.stored(*span) + _end_weights(work, role)),
                kv_bytes=kv_bytes(work, span[1], span[0]),
                output_bytes=Bytes(0 if number else int(task.output_bytes * share)),
            )
        )
        first += layers
    return members


def _by_hand(
    task: Task, work: Inference, servers: Sequence[Server], index: int
) -> list[Subtask] | Refusal:
    by_name = {server.name: server for server in servers}
    stages = [(stage.server, stage.layers) for stage in work.stages]
    total = sum(layers for _, layers in stages)
    if total != work.model.layers:
        message = f"the stages hold {total} layers, {work.model.name} has {work.model.layers}"
        return Refusal(task.name, Reason.MODEL_DOES_NOT_FIT, message, remedy="change spec.stages")
    for place, (name, _) in enumerate(stages):
        if name not in by_name:
            message = f"spec.stages names {name}, which is no server"
            return Refusal(task.name, Reason.NOT_THE_NAMED_SERVER, message)
        wanted = sum(layers for server, layers in stages if server == name)
        role = _role(place, len(stages) - 1)
        room = _layers_that_fit(work, by_name[name], role)
        if wanted > room or sum(server == name for server, _ in stages) > 1:
            return _hand_cut_too_large(task, work, name, wanted, room)
    span = (0, work.requests.count)
    return _members(task, work, by_name, f"{task.name}-0", index, span, stages)


def _hand_cut_too_large(task: Task, work: Inference, name: str, wanted: int, room: int) -> Refusal:
    if wanted <= room:
        message = f"spec.stages names {name} more than once"
        remedy = f"give {name} one stage of {wanted} layers"
        return Refusal(task.name, Reason.MODEL_DOES_NOT_FIT, message, remedy=remedy)
    return Refusal(
        task.name,
        Reason.INSUFFICIENT_RESOURCE,
        f"{name} holds {room} layers of {work.model.name}, spec.stages wants {wanted}",
        MEMORY,
        (wanted - room) * _layer_footprint(work),
        f"give {name} at most {room} layers",
    )


# The DAG


def edges(tasks: Sequence[Task], subtasks: Sequence[Subtask]) -> list[Edge]:
    """Join every group of a task with every group it depends on, the bytes split evenly."""
    members: dict[str, list[Subtask]] = {}
    for subtask in subtasks:
        members.setdefault(subtask.task, []).append(subtask)
    joined = []
    for task in tasks:
        targets = members[task.name]
        groups = len({target.group for target in targets})
        for before in task.depends_on:
            for source in members[before]:
                share = Bytes(source.output_bytes // groups)
                joined += [Edge(source.name, target.name, share) for target in targets]
    return joined


# Reasons

LAWS: Mapping[Overlap, str] = {
    Overlap.SUM: "stages of a decode step take turns with {engine}, so a pipeline is no faster "
    "than its servers one after the other, and every further stage adds a hop to each token",
    Overlap.SLOWEST: "stages of a decode step overlap with {engine}, so a pipeline does at most "
    "what its servers do side by side, and waits for its slowest stage",
}


def _law(case: _Case) -> str:
    if case.objective is Objective.LATENCY:
        return "a request passes the stages in turn, so its time is their sum and the hops between"
    return LAWS[OVERLAP[case.work.engine]].format(engine=case.work.engine)


def _why_whole(case: _Case, allowed: int) -> str:
    """Say why the model runs whole on each server."""
    task, model, holding = case.task.name, case.work.model.name, len(case.possible)
    if holding == allowed:
        held = f"each of {allowed} servers holds {model}" if allowed > 1 else f"it holds {model}"
    else:
        held = f"{holding} of {allowed} servers hold {model}"
    said = f"{task}: replicas of the whole model, because {held} and {_law(case)}"
    if holding < allowed:
        said += f"; pipelines over the others would take less than {WORTH:.0%} off"
    return said


def _why_staged(
    case: _Case,
    staged: "Sequence[_Replica]",
    alone: "Sequence[_Replica]",
    offers: Sequence[pipelines.Candidate],
) -> tuple[str, ...]:
    """Say why a model runs in pipelines, which servers are left out, and why."""
    task, model = case.task.name, case.work.model.name
    lengths = sorted({len(replica.cut.stages) for replica in staged})
    stages = "-".join(dict.fromkeys(str(n) for n in (lengths[0], lengths[-1])))
    made = f"{len(staged)} pipeline{'s' * (len(staged) > 1)} of {stages} stages"
    if case.work.parallelism.pipeline:
        because = "as asked for"
    elif not case.possible:
        because = f"because none of {len(case.servers)} servers holds {model} whole"
    elif alone:
        because = f"beside whole models on {_few([r.cut.stages[0][0] for r in alone])}"
        because += ", because together they end sooner"
    else:
        because = "because they end sooner than whole models, which fit "
        because += f"{len(case.possible)} of {len(case.servers)} servers"
    chosen = f"{task}: {made}, {because}; {_law(case)}"
    used = {server for replica in [*staged, *alone] for server, _ in replica.cut.stages}
    idle = [offer for offer in offers if offer.server not in used]
    small = [offer.server for offer in idle if not np.isfinite(offer.seconds).any()]
    weak = [offer.server for offer in idle if np.isfinite(offer.seconds).any()]
    notes = [chosen]
    if small:
        notes.append(f"{task}: left out because no layer fits: {_few(small)}")
    if weak:
        notes.append(
            f"{task}: left out because no pipeline with them takes {WORTH:.0%} off: {_few(weak)}"
        )
    return tuple(notes)


def _few(names: Sequence[str]) -> str:
    named = ", ".join(names[:NAMED])
    return named if len(names) <= NAMED else f"{named} and {len(names) - NAMED} more"


# Refusals


def _too_many(name: str, count: int) -> Refusal:
    return Refusal(
        name,
        Reason.TOO_MANY_SUBTASKS,
        f"{name} would become {count} subtasks, a job may have {MAX_SUBTASKS}",
        remedy="split the input over several jobs, or ask for fewer shards",
    )


def _too_dense(name: str, count: int) -> Refusal:
    return Refusal(
        name,
        Reason.TOO_MANY_SUBTASKS,
        f"{name} would have {count} dependencies between subtasks, a job may have {MAX_EDGES}",
        remedy="put a task with one shard between tasks with many",
    )


def _cap_too_low(task: Task, work: Inference) -> Refusal:
    """Return why no variant is left although there are servers: the user's own numbers."""
    memory = math.ceil(_needed(work) * MARGIN)
    cap = work.limits.get(MEMORY, memory)
    if cap < memory:
        return Refusal(
            task.name,
            Reason.INSUFFICIENT_RESOURCE,
            f"{work.model.name} takes {amount(MEMORY, memory)}, resources.limits.memory allows "
            f"{amount(MEMORY, cap)}",
            MEMORY,
            memory - cap,
            f"raise resources.limits.memory to {amount(MEMORY, memory)}",
        )
    return Refusal(
        task.name,
        Reason.ENGINE_VARIANT_MISSING,
        f"no accelerator holds {work.model.name} in {work.parallelism.tensor} parts",
        remedy="raise parallelism.tensor or leave it out",
    )


def _no_pipeline(
    task: Task, work: Inference, allowed: Sequence[Server], found: int, wanted: int
) -> Refusal:
    most = sorted((n for s in allowed if (n := _layers_that_fit(work, s))), reverse=True)
    stages = work.parallelism.pipeline or MAX_STAGES
    if work.parallelism.pipeline and len(most) < stages * wanted:
        return Refusal(
            task.name,
            Reason.MODEL_DOES_NOT_FIT,
            f"{wanted} pipelines of {stages} stages need {wanted * stages} servers, {len(most)} of "
            f"{len(allowed)} can hold a layer of {work.model.name}",
            remedy="ask for fewer stages or replicas, or add servers",
        )
    held = sum(most[:stages])
    footprint = _layer_footprint(work)
    # Counted as inner stages; each replica needs the ends of the model as well.
    ends = _ends(work, Role.FIRST) + _ends(work, Role.LAST) - 2 * _ends(work, Role.INNER)
    lacking = (work.model.layers * (wanted - found) - held) * footprint + ends * (wanted - found)
    lacking = max(footprint, lacking)
    message = f"{work.model.name} has {work.model.layers} layers; the {len(allowed)} servers that"
    message += f" may be used hold {held} in at most {stages} stages"
    if wanted > 1:
        message += f", which is enough for {found} of {wanted} replicas"
    remedy = f"add {lacking / GIB:.1f} GiB of memory, or use a smaller quantisation"
    return Refusal(task.name, Reason.MODEL_DOES_NOT_FIT, message, MEMORY, lacking, remedy)
