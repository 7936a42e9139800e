"""Jobs are cut so that nothing is lost, the user's numbers are kept, and refusals help."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import checks, costs, decomposing, facts, pipelines, planning, verifying
from evenkeel_core.jobs import (
    MAX_SUBTASKS,
    Engine,
    Inference,
    Job,
    Objective,
    Overlap,
    Parallelism,
    Requests,
    Stage,
    Task,
    Template,
    Workload,
)
from evenkeel_core.models import Layer
from evenkeel_core.pipelines import Role
from evenkeel_core.plans import Refusal
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes, Seconds, fits
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Device, Server, Taint
from evenkeel_core.subtasks import TaskGraph

GPU = "nvidia.com/gpu"


def server(name: str, memory: int = 64, label: str = "", count: int = 0) -> Server:
    processors = Device("EPYC-7763", CPU, 1, Bytes(0), 2.5e12, 102.4e9)
    room = {CPU: 32_000, MEMORY: memory * GIB}
    if not label:
        return Server(name, room, processors)
    row = facts.device(label)
    assert row is not None
    device = Device(
        row["name"], GPU, count, facts.memory(row), facts.peak_flops(row), facts.bandwidth(row)
    )
    return Server(name, {**room, GPU: count}, processors, (device,))


def inference(
    model: str = "llama-3.1-8b-q4_k_m", requests: int | Requests = 100, **more: object
) -> Inference:
    found = facts.model(model)
    assert found is not None
    given = Requests(requests, 300.0, 100.0) if isinstance(requests, int) else requests
    return Inference(found, Engine.SIMULATOR, given, **more)  # type: ignore[arg-type]


def job(*tasks: Task) -> Job:
    return Job("default/j", "u", tasks)


def cut(work: Inference, *servers: Server, shards: int | None = None) -> TaskGraph:
    found = decomposing.decompose(job(Task("batch", work, shards)), servers)
    assert isinstance(found, TaskGraph), found
    return found


def refused(work: Inference | Template, *servers: Server) -> Refusal:
    found = decomposing.decompose(job(Task("batch", work, 1)), servers)
    assert isinstance(found, tuple), found
    return found[0]


# Requests


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 900)), min_size=1, max_size=60),
    st.lists(st.floats(0.0, 9.0), min_size=1, max_size=20).filter(sum),
)
def test_every_request_is_in_exactly_one_range(
    lengths: list[tuple[int, int]], shares: list[float]
) -> None:
    shares = shares[: len(lengths)]
    if not sum(shares):
        shares = [1.0]
    work = inference(requests=Requests(len(lengths), 0.0, 0.0, tuple(lengths)))
    found = decomposing.ranges(work, shares)
    assert found[0][0] == 0
    assert found[-1][1] == len(lengths)
    assert all(first < end for first, end in found)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(found))


def test_ranges_are_level_by_work_and_not_by_number() -> None:
    lengths = ((1000, 100),) * 10 + ((10, 1),) * 990
    work = inference(requests=Requests(1000, 0.0, 0.0, lengths))
    (first, _) = decomposing.ranges(work, [1.0, 1.0])
    assert first == (0, 10)


@given(
    st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 1500)), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_no_range_is_over_its_share_by_more_than_one_request(
    lengths: list[tuple[int, int]], count: int
) -> None:
    count = min(count, len(lengths))
    work = inference(requests=Requests(len(lengths), 0.0, 0.0, tuple(lengths)))
    seconds = decomposing.request_seconds(work, costs.REFERENCE)
    share = seconds.sum() / count
    for first, end in decomposing.ranges(work, [1.0] * count):
        assert seconds[first:end].sum() <= share + seconds.max() * (1 + 1e-9)


@pytest.mark.parametrize("label", ["L4", "T4", ""])
@pytest.mark.parametrize("order", ["as they come", "short first"])
def test_shards_take_alike_where_the_lengths_are_known(label: str, order: str) -> None:
    """Lengths as skewed as those of the published traces; cut by number they differ widely."""
    random = np.random.default_rng(5)
    prompts = np.clip(random.lognormal(6.5, 1.1, 2000), 1, 8000).astype(int)
    answers = np.clip(random.lognormal(4.5, 1.0, 2000), 1, 1500).astype(int)
    lengths = list(zip(prompts.tolist(), answers.tolist(), strict=True))
    work = inference(
        requests=Requests(2000, 0.0, 0.0, tuple(sorted(lengths) if order[0] == "s" else lengths)),
        parallelism=Parallelism(data=20),
        workload=Workload(8000, 1500, 4),
    )
    rack = server("a", label=label, count=4 if label else 0)
    shards = cut(work, rack).subtasks
    variant = checks.variant(shards[0], rack)
    assert variant is not None
    at = costs.speed(rack.devices[0], rack, variant)

    def longest(spans: list[tuple[int, int]]) -> float:
        """Return the predicted seconds of the longest shard against the mean."""
        each = [costs.compute_seconds(work, costs.tokens(work, *span), at) for span in spans]
        return max(each) / (sum(each) / len(each))

    by_number = longest([(100 * n, 100 * (n + 1)) for n in range(20)])
    by_seconds = longest([shard.requests for shard in shards if shard.requests])
    assert by_seconds < 1.1
    assert by_number > (1.1 if order[0] == "a" else 2.0)


def test_the_seconds_of_requests_are_those_of_the_cost_model() -> None:
    lengths = ((1000, 100), (10, 1), (8000, 1), (1, 1500), (0, 0))
    work = inference(requests=Requests(5, 0.0, 0.0, lengths), workload=Workload(8000, 1500, 1))
    found = decomposing.request_seconds(work, costs.REFERENCE)
    for number in range(4):
        alone = costs.compute_seconds(work, costs.tokens(work, number, number + 1), costs.REFERENCE)
        assert found[number] == pytest.approx(alone, rel=0.02)
    assert found[4] > 0


# Layers that differ


def uneven(sizes: list[tuple[int, int]]) -> Inference:
    work = inference("llama-3.1-8b-q4_k_m", 8)
    each = tuple(Layer(Bytes(size * 2**20), Bytes(4096), window) for size, window in sizes)
    model = replace(
        work.model, layers=len(each), each=each,
        layer_bytes=Bytes(sum(layer.bytes for layer in each) // len(each)),
    )  # fmt: skip
    return replace(work, model=model)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3000), st.sampled_from([0, 128, 4096])), min_size=2, max_size=24
    ),
    st.lists(st.integers(8, 40), min_size=1, max_size=5),
)
def test_stages_of_unlike_layers_ask_for_exactly_theirs(
    sizes: list[tuple[int, int]], memories: list[int]
) -> None:
    work = uneven(sizes)
    rack = [server(f"n{i}", memory) for i, memory in enumerate(memories)]
    found = decomposing.decompose(job(Task("batch", work, None)), rack)
    if not isinstance(found, TaskGraph):
        assert found[0].missing > 0
        return
    for member in found.subtasks:
        if member.layers is None:
            assert member.weight_bytes == work.model.bytes
            continue
        first, end = member.layers
        role = Role((first == 0) * Role.FIRST + (end == work.model.layers) * Role.LAST)
        ends = decomposing._end_weights(work, role)
        assert member.weight_bytes == work.model.stored(first, end) + ends
        held = work.workload.concurrency * (2048 + 256)
        windowed = -(-(work.workload.concurrency * 128 + 512) // 256) * 256
        assert member.kv_bytes == 4096 * sum(
            windowed if window == 128 else held for _, window in sizes[first:end]
        )
        (variant,) = member.variants
        home = next(s for s in rack if s.name == member.server)
        assert variant.demand[MEMORY] <= home.plannable[MEMORY]
        assert variant.demand[MEMORY] >= member.weight_bytes + member.kv_bytes


def test_a_window_saves_the_memory_of_long_contexts() -> None:
    shape = Workload(32_000, 1000, 8)
    capped = inference("gemma-3-27b-it-q4_k_m", workload=shape)
    whole = replace(capped, model=replace(capped.model, each=()))
    saved = decomposing.kv_bytes(whole, 62) - decomposing.kv_bytes(capped, 62)
    # 52 of 62 layers keep 8 windows of 1,024 tokens and a batch of 512, not 264,000 tokens.
    assert saved == 52 * capped.model.kv_bytes_per_token * (264_000 - 8704)


def test_what_no_server_could_hold_is_refused_and_not_overflown() -> None:
    work = inference()
    huge = replace(work.model, kv_bytes_per_token=Bytes(2**31), layers=4096)
    wide = replace(work, model=huge, workload=Workload(2**24, 2**24, 2**16))
    assert refused(wide, server("a")).missing > 0


# Shards and pipelines


def test_one_request_is_one_shard() -> None:
    assert len(cut(inference(requests=1), server("a"), server("b")).subtasks) == 1


@pytest.mark.parametrize("data", [1, 7, 100])
def test_the_wanted_number_of_shards_is_kept(data: int) -> None:
    found = cut(inference(parallelism=Parallelism(data=data)), server("a"))
    assert len(found.subtasks) == data
    assert {subtask.index for subtask in found.subtasks} == set(range(data))


def test_there_are_never_more_shards_than_requests() -> None:
    assert (
        len(cut(inference(requests=3, parallelism=Parallelism(data=8)), server("a")).subtasks) == 3
    )


def test_a_pipeline_is_not_cut_more_often_than_there_are_requests() -> None:
    small = [server(f"n{i}", 24) for i in range(8)]
    work = inference("llama-3.1-70b-q4_k_m", 1, parallelism=Parallelism(data=2))
    assert len({subtask.group for subtask in cut(work, *small).subtasks}) == 1


def test_the_variant_for_an_accelerator_holds_weights_cache_and_buffers() -> None:
    work = inference(workload=Workload(2000, 500, 8))
    (subtask, *_) = cut(work, server("a", label="T4", count=4)).subtasks
    need = work.model.bytes + decomposing.kv_bytes(work, 32)
    need += decomposing.buffer_bytes(work, head=True)
    (variant, *_) = subtask.variants
    assert variant.device == "T4"
    assert variant.demand[GPU] == -(-need // int(16 * GIB * decomposing.USABLE))


def test_of_devices_of_one_name_the_smallest_counts() -> None:
    large, small = server("a", label="T4", count=2), server("b", label="T4", count=2)
    (card,) = small.accelerators
    small = replace(small, accelerators=(replace(card, memory=Bytes(card.memory // 3)),))
    for rack in ((large, small), (small, large)):
        (subtask, *_) = cut(inference(), *rack).subtasks
        assert subtask.variants[0].demand[GPU] == 2


def test_the_tensor_split_is_kept_exactly() -> None:
    work = inference(parallelism=Parallelism(tensor=4))
    (subtask, *_) = cut(work, server("a", label="L4", count=4)).subtasks
    assert [variant.demand[GPU] for variant in subtask.variants] == [4]
    assert refused(work, server("a")).reason is Reason.ENGINE_VARIANT_MISSING


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(20, 80), st.integers(1, 12))
def test_every_layer_is_in_one_stage_and_fits(servers: int, memory: int, requests: int) -> None:
    rack = [server(f"n{i}", memory) for i in range(servers)]
    work = inference("llama-3.1-70b-q4_k_m", requests)
    found = decomposing.decompose(job(Task("batch", work, None)), rack)
    if not isinstance(found, TaskGraph):
        assert found[0].missing > 0
        return
    groups: dict[str, list[tuple[int, int]]] = {}
    for subtask in found.subtasks:
        if subtask.layers is not None:
            groups.setdefault(subtask.group, []).append(subtask.layers)
    for layers in groups.values():
        assert sorted(n for first, end in layers for n in range(first, end)) == list(range(80))


def test_a_pipeline_that_only_starts_when_the_others_end_gets_nothing() -> None:
    def replica(loading: float, seconds: float) -> decomposing._Replica:
        return decomposing._Replica(pipelines.Cut((("s", 1),), seconds), loading)

    quick = replica(10.0, 110.0)
    assert decomposing._end([quick]) == pytest.approx(110.0)
    # Two alike work side by side: both load, then share the rest.
    assert decomposing._end([quick, quick]) == pytest.approx(60.0)
    assert decomposing._end([quick, replica(120.0, 500.0)]) == pytest.approx(110.0)


# Replicas: whole, in pipelines, and both


MIXED = st.lists(
    st.tuples(st.sampled_from(["", "", "T4", "L4", "A10"]), st.integers(8, 120)),
    min_size=1,
    max_size=6,
).map(lambda rows: [server(f"n{n}", memory, gpu, 1) for n, (gpu, memory) in enumerate(rows)])


def cache_of_stage(work: Inference, layers: int) -> int:
    """Return the cache of the heaviest layers in a row: where a stage is cut is not known yet."""
    firsts = range(work.model.layers - layers + 1)
    return max(decomposing.kv_bytes(work, first + layers, first) for first in firsts)


@settings(max_examples=40, deadline=None)
@given(
    rack=MIXED,
    model=st.sampled_from(["llama-3.1-8b-q4_k_m", "qwen3-32b-q4_k_m", "gemma-2-2b-f16"]),
    shape=st.builds(Workload, st.integers(16, 4096), st.integers(16, 1024), st.integers(1, 16)),
    role=st.sampled_from(Role),
)
def test_a_stage_fits_as_long_as_what_it_asks_for_does(
    rack: list[Server], model: str, shape: Workload, role: Role
) -> None:
    """Weights, cache, buffers and the ends of the model it holds: to the byte."""
    work = inference(model, workload=shape)
    for one in rack:
        most = decomposing._layers_that_fit(work, one, role)
        for layers in range(1, work.model.layers + 1):
            asked = decomposing._stage_variant(work, one, layers, role)
            assert asked is not None
            needed = layers * work.model.layer_bytes + cache_of_stage(work, layers)
            needed += decomposing.buffer_bytes(work, head=bool(role & Role.LAST))
            needed += work.model.embedding_bytes if role & Role.FIRST else 0
            head = work.model.head_bytes or (work.model.embedding_bytes if role is Role.LAST else 0)
            needed += head if role & Role.LAST else 0
            if asked.resource == CPU:
                margin = decomposing.MARGIN if role & Role.FIRST else decomposing.STAGE_MARGIN
                assert asked.demand[MEMORY] == pytest.approx(needed * margin, abs=1)
            else:
                held = asked.demand[GPU] * decomposing.stage_device(one).memory
                assert held * decomposing.USABLE >= needed
            assert fits(asked.demand, one.plannable) == (layers <= most)


@settings(max_examples=30, deadline=None)
@given(
    rack=MIXED,
    requests=st.integers(1, 40),
    objective=st.sampled_from(Objective),
    engine=st.sampled_from(Engine),
)
def test_every_choice_is_a_plan_and_explained(
    rack: list[Server], requests: int, objective: Objective, engine: Engine
) -> None:
    """`planning.plan` verifies what it returns: layers, requests, memory at every moment."""
    work = replace(inference("qwen3-32b-q4_k_m", requests), engine=engine)
    made = planning.plan(replace(job(Task("batch", work, None)), objective=objective), rack)
    if made.feasible:
        assert made.graph.notes
        assert verifying.verify(made, replace(job(Task("batch", work, None))), rack) == ()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(12, 40), min_size=2, max_size=6), st.integers(1, 9))
def test_the_seconds_of_a_cut_are_those_of_its_set(memories: list[int], requests: int) -> None:
    rack = [server(f"n{n}", memory) for n, memory in enumerate(memories)]
    work = inference("llama-3.1-70b-q4_k_m", requests)
    part = costs.tokens(work, 0, requests)
    offers = [decomposing._candidate(work, part, one) for one in rack]
    found = pipelines.cut(work.model.layers, offers, overlap=Overlap.SUM)
    if found is None:
        return
    by_name = {one.name: one for one in rack}
    members = decomposing._members(
        Task("t", work), work, by_name, "t-0", 0, (0, requests), found.stages
    )
    assert costs.set_seconds(work, part, members, by_name) == pytest.approx(found.seconds)


@pytest.mark.parametrize(
    ("engine", "objective", "law"),
    [
        (Engine.LLAMACPP, Objective.THROUGHPUT, "take turns with llamacpp"),
        (Engine.VLLM, Objective.THROUGHPUT, "overlap with vllm"),
        (Engine.VLLM, Objective.LATENCY, "its time is their sum"),
    ],
)
def test_what_fits_each_server_is_replicated_whole_and_the_law_says_why(
    engine: Engine, objective: Objective, law: str
) -> None:
    work = replace(inference(requests=1000), engine=engine)
    asked = replace(job(Task("batch", work, None)), objective=objective)
    found = decomposing.decompose(asked, [server("a"), server("b", label="T4", count=1)])
    assert isinstance(found, TaskGraph)
    assert all(subtask.layers is None for subtask in found.subtasks)
    (note,) = found.notes
    assert "replicas of the whole model, because each of 2 servers holds Llama-3.1-8B" in note
    assert law in note


def slow(name: str, memory: int) -> Server:
    """Return a server that holds much and takes long."""
    return replace(server(name, memory), processors=Device("old", CPU, 1, Bytes(0), 0.2e12, 20e9))


def test_fast_servers_together_beat_a_slow_one_that_holds_it_all() -> None:
    work = inference("qwen3-32b-q4_k_m", 200)
    rack = [server("gpu-a", 16, "L4", 1), server("gpu-b", 16, "L4", 1)]
    rack = [replace(one, models=frozenset({work.model.weights})) for one in [*rack, slow("z", 96)]]
    small = replace(work, workload=Workload(2048, 1024, 8))
    found = cut(small, *rack)
    groups = {subtask.group for subtask in found.subtasks if subtask.layers}
    assert len(groups) == 1
    assert {s.server for s in found.subtasks if s.layers} >= {"gpu-a", "gpu-b"}
    assert "end sooner" in found.notes[0] or "ends sooner" in found.notes[0]
    assert planning.plan(job(Task("batch", small, None)), rack).feasible


def test_whole_models_and_pipelines_share_the_requests() -> None:
    """One server holds the model; two others only hold it together, and are as fast."""
    work = inference("llama-3.1-70b-q4_k_m", 400)
    rack = [server("large", 128), *(server(f"half-{n}", 44) for n in range(2))]
    rack = [replace(one, models=frozenset({work.model.weights})) for one in rack]
    made = planning.plan(job(Task("batch", work, None)), rack)
    assert made.feasible
    staged = [subtask for subtask in made.graph.subtasks if subtask.layers]
    shards = [subtask for subtask in made.graph.subtasks if not subtask.layers]
    assert {subtask.server for subtask in staged} == {"half-0", "half-1"}
    assert shards
    assert "beside whole models on large" in made.graph.notes[0]
    assert made.makespan < 0.7 * planning.plan(job(Task("batch", work, None)), rack[:1]).makespan


def test_many_servers_that_hold_the_model_are_kept_beside_pipelines() -> None:
    """More than are searched: pipelines are cut from those that can't hold it."""
    work = inference("llama-3.1-70b-q4_k_m", 1500)
    rack = [server(f"large-{n:02}", 128) for n in range(35)]
    rack += [server(f"half-{n:02}", 44) for n in range(36)]
    rack = [replace(one, models=frozenset({work.model.weights})) for one in rack]
    found = cut(work, *rack)
    staged = {subtask.server for subtask in found.subtasks if subtask.layers}
    assert staged == {f"half-{n:02}" for n in range(36)}
    assert len([subtask for subtask in found.subtasks if not subtask.layers]) >= 35
    few = planning.plan(
        job(Task("batch", replace(work, requests=Requests(3, 300.0, 100.0)), None)), rack
    )
    assert few.feasible
    assert len({subtask.group for subtask in few.graph.subtasks}) <= 3


def test_weak_servers_are_left_out_and_named() -> None:
    work = inference("qwen3-32b-q4_k_m", 12, workload=Workload(2048, 1024, 8))
    strong = [server(f"strong-{n}", 16, "A10", 1) for n in range(2)]
    found = cut(work, *strong, slow("weak", 16), server("tiny", 0))
    assert {subtask.server for subtask in found.subtasks} == {"strong-0", "strong-1"}
    assert any("no layer fits: tiny" in note for note in found.notes)
    assert any(note.endswith("takes 5% off: weak") for note in found.notes)


def test_tied_embeddings_are_held_at_both_ends_and_once_where_they_meet() -> None:
    work = inference("gemma-2-2b-f16")
    assert work.model.head_bytes == 0
    ends = [
        decomposing._ends(work, role) - decomposing.buffer_bytes(work, head=bool(role & Role.LAST))
        for role in Role
    ]
    tied = work.model.embedding_bytes
    assert ends == [0, tied, tied, tied]


# What users write


def test_a_cap_below_the_need_is_refused_with_the_number_to_write() -> None:
    found = refused(inference(limits={MEMORY: 2 * GIB}), server("a"))
    assert found.reason is Reason.INSUFFICIENT_RESOURCE
    assert found.resource == MEMORY
    assert "resources.limits.memory" in found.remedy


def test_a_cap_on_cpu_only_makes_it_slower() -> None:
    (subtask, *_) = cut(inference(limits={CPU: 4000}), server("a")).subtasks
    assert max(variant.demand[CPU] for variant in subtask.variants) == 4000


def test_a_floor_is_asked_for_in_full() -> None:
    (subtask, *_) = cut(inference(overhead={MEMORY: 40 * GIB}), server("a")).subtasks
    assert all(variant.demand[MEMORY] == 40 * GIB for variant in subtask.variants)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Stage("a", 16), Stage("b", 15)), "31 layers"),
        ((Stage("a", 16), Stage("c", 16)), "no server"),
        ((Stage("a", 16), Stage("a", 16)), "more than once"),
    ],
)
def test_a_cut_by_hand_that_can_not_be_is_refused(stages: tuple[Stage, ...], said: str) -> None:
    assert said in refused(inference(stages=stages), server("a"), server("b")).message


def test_a_cut_by_hand_for_a_small_server_says_what_it_holds() -> None:
    work = inference("llama-3.1-70b-q4_k_m", stages=(Stage("a", 70), Stage("b", 10)))
    found = refused(work, server("a", 24), server("b", 24))
    assert (found.reason, found.resource) == (Reason.INSUFFICIENT_RESOURCE, MEMORY)
    assert "at most" in found.remedy


def test_more_stages_than_servers_are_refused() -> None:
    found = refused(inference(parallelism=Parallelism(pipeline=3)), server("a"), server("b"))
    assert found.reason is Reason.MODEL_DOES_NOT_FIT
    assert "need 3 servers, 2 of 2" in found.message


def test_too_many_copies_are_refused_with_a_remedy() -> None:
    work = Template({CPU: 100}, Seconds(1.0))
    task = Task("many", work, MAX_SUBTASKS + 1)
    found = decomposing.decompose(job(task), [server("a")])
    assert isinstance(found, tuple)
    assert found[0].reason is Reason.TOO_MANY_SUBTASKS
    assert found[0].remedy


def test_a_model_for_nobody_says_how_much_memory_is_missing() -> None:
    found = refused(inference("llama-3.1-405b-f16"), server("a"), server("b"))
    assert found.reason is Reason.MODEL_DOES_NOT_FIT
    assert found.missing / GIB == pytest.approx(669, rel=0.01)


def test_when_no_server_may_be_used_the_reason_is_theirs() -> None:
    tainted = replace(server("a", 16), taints=(Taint("x"),))
    assert refused(inference("llama-3.1-70b"), tainted).reason is Reason.TAINT_NOT_TOLERATED


# The DAG


def test_dependent_groups_are_joined_and_bytes_are_split_evenly() -> None:
    first = Task("a", Template({CPU: 100}, Seconds(1.0)), 2, output_bytes=Bytes(600))
    second = Task("b", Template({CPU: 100}, Seconds(1.0)), 3, ("a",))
    found = decomposing.decompose(job(first, second), [server("n")])
    assert isinstance(found, TaskGraph)
    assert len(found.edges) == 6
    assert sum(edge.data for edge in found.edges) == 600
    assert {edge.data for edge in found.edges} == {100}
