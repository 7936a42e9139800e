"""Seconds obey the physics they claim: rooflines, measured small batches, loading."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import costs, decomposing, facts
from evenkeel_core.efficiencies import Efficiency, Setting, estimate
from evenkeel_core.jobs import (
    CostModel,
    Engine,
    Inference,
    Job,
    Parallelism,
    Requests,
    Task,
    Template,
    Workload,
)
from evenkeel_core.models import Model
from evenkeel_core.problems import Problem
from evenkeel_core.quantities import CPU, GIB, MEMORY, PODS, Bytes, Seconds, Work
from evenkeel_core.servers import Device, Server
from evenkeel_core.subtasks import Subtask, TaskGraph, Variant

GPU = "nvidia.com/gpu"


def known(name: str) -> Model:
    found = facts.model(name)
    assert found is not None
    return found


LLAMA = known("llama-3.1-8b-instruct-q4_k_m.gguf")
MIXTRAL = known("mixtral-8x7b-v0.1.q4_k_m.gguf")


def server(name: str = "n", **more: object) -> Server:
    processors = Device("EPYC-7763", CPU, 1, Bytes(0), 5e12, 204.8e9)
    room = {CPU: 64_000, MEMORY: 256 * GIB}
    return Server(name, room, processors, **more)  # type: ignore[arg-type]


def accelerated(name: str, label: str, **more: object) -> Server:
    row = facts.device(label)
    assert row is not None
    device = Device(
        row["name"], GPU, 1, facts.memory(row), facts.peak_flops(row), facts.bandwidth(row)
    )
    found = server(name, accelerators=(device,), **more)
    return replace(found, allocatable={**found.allocatable, GPU: 1})


def work(model: Model = LLAMA, **more: object) -> Inference:
    requests = Requests(8, 500.0, 100.0)
    return Inference(model, Engine.SIMULATOR, requests, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch", "experts"), [(1, 2.0), (4, 5.47), (8, 7.20), (16, 7.92)])
def test_mixtral_touches_as_many_experts_as_published(batch: int, experts: float) -> None:
    assert costs.touched_experts(MIXTRAL, batch) == pytest.approx(experts, abs=0.005)


@given(st.floats(1, 64), st.floats(0, 8000), st.booleans())
def test_no_step_is_faster_than_its_bytes(batch: float, context: float, processor: bool) -> None:
    """A check any planner must pass: never above bandwidth over bytes touched."""
    at = costs.Speed(1e15, 200e9, costs.CPU_EFFICIENCY, processor)
    step = costs.layer_step(LLAMA, at, batch, context)
    assert step >= LLAMA.layer_bytes / at.bandwidth


def test_a_roofline_has_a_round_corner_on_accelerators_and_a_sharp_one_on_processors() -> None:
    """3 s of arithmetic and 4 s of traffic; then one half as fast, and two layers of 0.1 s."""
    effort = costs.Effort(((3e12, 4e9),), 2.0)
    whole = Efficiency(1.0, 1.0, 0.0)
    gpu = costs.Speed(1e12, 1e9, whole, processor=False)
    assert costs.seconds(effort, gpu) == pytest.approx(5.0)
    assert costs.seconds(effort, replace(gpu, processor=True)) == pytest.approx(4.0)
    half = replace(gpu, efficiency=Efficiency(0.375, 2 / 3, 0.1))
    assert costs.seconds(effort, half) == pytest.approx(10.0 + 0.2)
    assert costs.bound(effort, half) == pytest.approx(4.0)


@pytest.mark.parametrize("model", [LLAMA, MIXTRAL])
@pytest.mark.parametrize("processor", [False, True])
def test_many_ranges_at_once_take_what_each_takes(model: Model, processor: bool) -> None:
    at = costs.Speed(1e14, 1e12, costs.ACCELERATOR_EFFICIENCY, processor)
    inference = replace(work(model), requests=Requests(100, 300.0, 50.0))
    parts = [costs.tokens(inference, 0, end) for end in (1, 3, 40, 100)]
    together = costs.Tokens(
        *(
            np.array([getattr(part, column) for part in parts], dtype=float)
            for column in ("requests", "input", "input_squared", "output")
        )
    )
    alone = [costs.compute_seconds(inference, part, at) for part in parts]
    np.testing.assert_allclose(costs.compute_seconds(inference, together, at), alone)


def test_kernels_run_one_after_the_other() -> None:
    """One bound by arithmetic, one by traffic: neither hides the other."""
    effort = costs.Effort(((3e12, 0.0), (0.0, 4e9)), 0.0)
    at = costs.Speed(1e12, 1e9, Efficiency(1.0, 1.0, 0.0), processor=True)
    assert costs.seconds(effort, at) == pytest.approx(7.0)
    assert costs.bound(effort, at) == pytest.approx(4.0)


@settings(max_examples=60)
@given(
    st.sampled_from([LLAMA, MIXTRAL]),
    st.booleans(),
    st.tuples(st.floats(1, 300), st.floats(0, 8000), st.floats(1, 8000)),
    st.tuples(st.floats(0, 300), st.floats(0, 8000), st.floats(0, 8000)),
)
def test_more_tokens_never_cost_less(
    model: Model,
    processor: bool,
    few: tuple[float, float, float],
    more: tuple[float, float, float],
) -> None:
    at = costs.Speed(1e14, 1e12, costs.ACCELERATOR_EFFICIENCY, processor)

    def step(batch: float, context: float) -> float:
        return costs.layer_step(model, at, batch, context)

    def prompt(tokens: float) -> float:
        return costs.layer_prefill(model, at, costs.Tokens(1, tokens, tokens**2, 0.0))

    (batch, context, tokens), rounding = few, 1 - 1e-12
    assert step(batch + more[0], context) >= step(batch, context) * rounding
    assert step(batch, context + more[1]) >= step(batch, context) * rounding
    assert prompt(tokens + more[2]) >= prompt(tokens) * rounding
    assert costs.head_step(model, at, batch + more[0]) >= costs.head_step(model, at, batch)


def test_small_batches_gain_little_on_processors() -> None:
    """Measured with llama.cpp: four sequences take 3.6 times as long as one."""
    at = costs.Speed(100e9, 16.4e9, costs.CPU_EFFICIENCY, processor=True)
    one, four = (costs.layer_step(LLAMA, at, batch, 128) for batch in (1, 4))
    assert four / one == pytest.approx(3.4, abs=0.3)


def test_one_core_decodes_as_measured() -> None:
    """164.0 MB a token, 24 layers, 16.4 GB/s: 10.9 to 11.2 ms were measured."""
    stored = 164_000_000 // 24
    parameters = int(stored * 8 / facts.bits("Q8_0"))
    small = replace(LLAMA, layer_bytes=Bytes(stored), active_layer_parameters=parameters)
    at = costs.Speed(117e9, 16.4e9, costs.CPU_EFFICIENCY, processor=True)
    step = 24 * costs.layer_step(small, at, 1, 0)
    assert step * 1e3 == pytest.approx(11.05, rel=0.06)


def test_cores_beyond_half_add_compute_but_no_bandwidth() -> None:
    machine = server()
    quarter, half, whole = (
        costs.speed(machine.processors, machine, Variant(CPU, {CPU: cores * 1000}))
        for cores in (16, 32, 64)
    )
    assert quarter.bandwidth == half.bandwidth / 2
    assert half.bandwidth == whole.bandwidth
    assert half.flops == whole.flops / 2


def test_tensor_parallel_accelerators_are_faster_than_one_but_not_in_proportion() -> None:
    machine = accelerated("gpu", "L4")
    one, four = (
        costs.speed(machine.accelerators[0], machine, Variant(GPU, {}), tensor=n) for n in (1, 4)
    )
    assert one.flops < four.flops < 4 * one.flops


LEARNT = estimate(Efficiency(0.31, 0.62, 2e-5), (0.1, 0.1, 0.1), 12)
HERE = Setting("llama-3.1-8b-instruct-q4_k_m.gguf", "simulator", "L4")


def test_what_a_server_has_learnt_is_used_for_that_model_engine_and_device() -> None:
    machine = accelerated("gpu", "L4", calibration={HERE: LEARNT})
    device, variant = machine.accelerators[0], Variant(GPU, {})
    at = costs.speed(device, machine, variant, work=work())
    assert at.efficiency == LEARNT.efficiency
    assert (at.flops, at.bandwidth) == (device.peak_flops, device.bandwidth)
    for other in (
        costs.speed(device, machine, variant),
        costs.speed(device, machine, variant, work=work(MIXTRAL)),
        costs.speed(device, machine, variant, work=replace(work(), engine=Engine.VLLM)),
        costs.speed(device, machine, variant, tensor=2, work=work()),
    ):
        assert other.efficiency == costs.ACCELERATOR_EFFICIENCY


def test_what_was_learnt_over_four_accelerators_counts_them_as_one() -> None:
    machine = accelerated("gpu", "L4", calibration={replace(HERE, tensor=4): LEARNT})
    device = machine.accelerators[0]
    at = costs.speed(device, machine, Variant(GPU, {}), 4, work())
    assert at.flops == 4 * device.peak_flops
    assert at.efficiency == LEARNT.efficiency


def test_known_lengths_and_their_mean_agree() -> None:
    by_mean = costs.tokens(work(), 2, 6)
    each = replace(work(), requests=Requests(8, 500.0, 100.0, ((500, 100),) * 8))
    assert costs.tokens(each, 2, 6) == by_mean


def test_weights_on_the_disk_are_not_fetched() -> None:
    away = server(link_bandwidth=125e6, load_bandwidth=500e6)
    here = replace(away, models=frozenset({"llama-3.1-8b-instruct-q4_k_m.gguf"}))
    other = replace(away, models=frozenset({"llama-3.1-8b-instruct-q8_0.gguf"}))
    fetched = costs.load_seconds(LLAMA, LLAMA.bytes, away)
    assert costs.load_seconds(LLAMA, LLAMA.bytes, here) == pytest.approx(fetched / 4)
    assert costs.load_seconds(LLAMA, LLAMA.bytes, other) == fetched


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(1, 200))
def test_more_requests_take_longer(first: int, more: int) -> None:
    at = costs.REFERENCE
    inference = replace(work(), requests=Requests(1000, 300.0, 50.0))
    less = costs.compute_seconds(inference, costs.tokens(inference, 0, first), at)
    assert less < costs.compute_seconds(inference, costs.tokens(inference, 0, first + more), at)


# The problem


def built(job: Job, servers: list[Server], loads: dict[str, float] | None = None) -> Problem:
    graph = decomposing.decompose(job, servers)
    assert isinstance(graph, TaskGraph)
    return costs.problem(job, graph, servers, loads or {})


def batch(**more: object) -> Job:
    shards = work(parallelism=Parallelism(data=3), workload=Workload(concurrency=2))
    return Job("default/b", "u", (Task("b", shards, None),), **more)  # type: ignore[arg-type]


def test_servers_alike_cost_alike_and_unlike_ones_do_not() -> None:
    found = built(batch(), [server("a"), server("b"), accelerated("c", "L4")])
    np.testing.assert_array_equal(found.cost[:, 0], found.cost[:, 1])
    assert (found.cost[:, 2] < found.cost[:, 0]).all()
    assert found.kind.tolist() == [0, 0, 1]


def test_every_subtask_takes_a_pod() -> None:
    small = server("a")
    found = built(
        batch(), [replace(small, allocatable={**small.allocatable, PODS: 2}), server("b")]
    )
    pods = found.resources.index(PODS)
    assert found.capacity[0, pods] == 2
    assert (found.demand[:, :, pods] == 1).all()
    assert found.capacity[1, pods] > 10**6


def test_only_the_device_that_is_used_must_be_known() -> None:
    guess = Device("?", CPU, 1, Bytes(0), 1e12, 50e9, confidence=0.2)
    found = built(batch(), [replace(accelerated("a", "L4"), processors=guess)])
    assert found.measured.all()
    assert not built(batch(), [replace(server("a"), processors=guess)]).measured.any()


def test_a_calibrated_server_costs_what_was_learnt_and_is_believed() -> None:
    guess = Device("?", CPU, 1, Bytes(0), 1e12, 50e9, confidence=0.2)
    slow = estimate(Efficiency(0.1, 0.1, 0.0), (0.1, 0.1, 0.1))
    learnt = {replace(HERE, device="?"): slow}
    found = built(
        batch(),
        [
            replace(server("a"), processors=guess),
            replace(server("b", calibration=learnt), processors=guess),
        ],
    )
    assert found.kind.tolist() == [0, 1]
    assert found.measured.all(axis=0).tolist() == [False, True]
    # Nothing but traffic counts here, at a tenth of the bandwidth and not 0.95 of it.
    assert (found.compute[:, 1] / found.compute[:, 0] > 5).all()


def test_the_larger_of_committed_and_observed_load_counts() -> None:
    servers = [server("a", observed_load=5.0), server("b", observed_load=1.0)]
    assert built(batch(), servers, {"a": 2.0, "b": 3.0}).load.tolist() == [5.0, 3.0]


def test_a_server_that_is_not_allowed_costs_infinitely() -> None:
    found = built(batch(), [server("a"), server("b", ready=False)])
    assert np.isfinite(found.cost[:, 0]).all()
    assert np.isinf(found.cost[:, 1]).all()


def test_the_shares_are_demand_over_what_is_there() -> None:
    task = Task("t", Template({CPU: 1000, MEMORY: GIB}, Seconds(10.0)))
    job = Job("default/t", "u", (task,), cost_model=CostModel.SHARES)
    small = replace(server("b"), allocatable={CPU: 8000, MEMORY: 32 * GIB})
    found = built(job, [server("a"), small])
    # An eighth of what the large one has: eight times the share.
    assert found.cost[0, 1] / found.cost[0, 0] == pytest.approx(8.0)


def test_the_shares_are_of_the_estimate_and_nothing_else() -> None:
    """10 s at 1/64 of the processors and 1/256 of the memory, by hand."""
    task = Task("t", Template({CPU: 1000, MEMORY: GIB}, Seconds(10.0)))
    other = Task("u", Template({CPU: 64_000}, Seconds(70.0)))
    for tasks in ((task,), (task, other)):
        found = built(Job("default/t", "u", tasks, cost_model=CostModel.SHARES), [server("a")])
        assert found.cost[0, 0] == pytest.approx(10 * (1 / 64 + 1 / 256))


amounts = st.fixed_dictionaries(
    {CPU: st.integers(0, 16_000), MEMORY: st.integers(0, 64 * GIB), GPU: st.integers(0, 4)}
)
templates = st.builds(Template, amounts, st.floats(1.0, 1e4).map(Seconds))
rooms = st.fixed_dictionaries(
    {CPU: st.integers(0, 64_000), MEMORY: st.integers(0, 256 * GIB), GPU: st.integers(0, 8)}
)


def shares(works: list[Template], rack: list[dict[str, int]]) -> np.ndarray:
    tasks = tuple(Task(f"t{number}", one) for number, one in enumerate(works))
    servers = [
        replace(accelerated(f"s{number}", "L4"), allocatable=room)
        for number, room in enumerate(rack)
    ]
    graph = TaskGraph(
        tuple(
            Subtask(task.name, task.name, task.name, 0, Work(one.estimated_seconds),
                    (Variant(GPU if one.demand[GPU] else CPU, one.demand),))
            for task, one in zip(tasks, works, strict=True)
        )
    )  # fmt: skip
    job = Job("default/t", "u", tasks, cost_model=CostModel.SHARES)
    return costs.problem(job, graph, servers, {}).cost


@settings(max_examples=150, deadline=None)
@given(
    st.lists(templates, min_size=1, max_size=4),
    st.lists(rooms, min_size=1, max_size=4),
    st.data(),
)
def test_more_demand_or_less_to_have_never_lowers_an_entry(
    works: list[Template], rack: list[dict[str, int]], data: st.DataObject
) -> None:
    before = shares(works, rack)
    resource = data.draw(st.sampled_from([CPU, MEMORY, GPU]))
    if data.draw(st.booleans(), label="raise a demand"):
        index = data.draw(st.integers(0, len(works) - 1))
        more = works[index].demand[resource] + data.draw(st.integers(0, 64 * GIB))
        demand = {**works[index].demand, resource: more}
        works = [*works[:index], replace(works[index], demand=demand), *works[index + 1 :]]
    else:
        index = data.draw(st.integers(0, len(rack) - 1))
        less = data.draw(st.integers(0, rack[index][resource]))
        rack = [*rack[:index], {**rack[index], resource: less}, *rack[index + 1 :]]
    assert (shares(works, rack) >= before).all()


def test_the_shares_of_a_model_grow_with_its_demand_and_not_with_its_speed() -> None:
    """Fewer cores make it slower, and still take a smaller share."""
    task = batch().tasks[0]
    assert isinstance(task.work, Inference)

    def cost(**more: object) -> np.ndarray:
        work = replace(task.work, **more)  # type: ignore[arg-type]
        found = built(
            replace(batch(), tasks=(replace(task, work=work),), cost_model=CostModel.SHARES),
            [server("a"), server("b")],
        )
        assert found.measured.all()
        return found.cost

    assert (cost(overhead={MEMORY: 200 * GIB}) > cost()).all()
    assert (cost(limits={CPU: 8000}) < cost()).all()


@pytest.mark.parametrize("servers", [[], [server("b"), server("a")], [server("a"), server("a")]])
def test_servers_out_of_order_are_a_wrong_call(servers: list[Server]) -> None:
    with pytest.raises(ValueError, match="`servers`"):
        costs.problem(batch(), TaskGraph(()), servers, {})
