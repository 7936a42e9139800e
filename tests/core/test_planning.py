"""From a job to a verified plan: shards, pipelines, templates, refusals, replanning."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import (
    checks,
    costs,
    decomposing,
    explaining,
    facts,
    inserting,
    planning,
    verifying,
)
from evenkeel_core.jobs import (
    Constraints,
    Engine,
    Inference,
    Job,
    Objective,
    Parallelism,
    Requests,
    Stage,
    Task,
    Template,
    Toleration,
    Workload,
)
from evenkeel_core.models import InvalidModel, Model, from_config
from evenkeel_core.plans import Plan
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes, Seconds
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Device, Server, Taint
from evenkeel_core.subtasks import TaskGraph


def server(name: str, cores: int = 64, memory: int = 256, gpu: str = "", count: int = 0) -> Server:
    processors = Device("EPYC-7763", CPU, 1, Bytes(0), 5e12 * cores / 64, 204.8e9 * cores / 64)
    accelerators: tuple[Device, ...] = ()
    room = {CPU: cores * 1000, MEMORY: memory * GIB}
    if gpu:
        row = facts.device(gpu)
        assert row is not None
        accelerators = (
            Device(
                row["name"],
                "nvidia.com/gpu",
                count,
                facts.memory(row),
                facts.peak_flops(row),
                facts.bandwidth(row),
            ),
        )
        room["nvidia.com/gpu"] = count
    return Server(name, room, processors, accelerators)


RACK = (
    server("a100", gpu="A100-SXM4-80GB", count=4),
    server("l4-1", 32, 128, "L4", 2),
    server("l4-2", 32, 128, "L4", 2),
    server("t4", 16, 64, "T4", 1),
    server("cpu-1", 64, 256),
    server("cpu-2", 16, 32),
)


def known(name: str) -> Model:
    found = facts.model(name)
    assert found is not None
    return found


def batch(model: str = "Llama-3.1-8B-Q4_K_M", requests: int = 400, **inference: object) -> Job:
    work = Inference(
        known(model),
        Engine.SIMULATOR,
        Requests(requests, 500.0, 150.0),
        **inference,  # type: ignore[arg-type]
    )
    return Job("default/batch", "uid", (Task("batch", work, shards=None),))


def good(made: Plan, job: Job, servers: tuple[Server, ...] = RACK) -> Plan:
    assert made.feasible, made.refusals
    assert verifying.verify(made, job, servers) == ()
    return made


def test_a_batch_is_sharded_and_fast_servers_take_more() -> None:
    job = batch(requests=4000)
    made = good(planning.plan(job, RACK), job)
    placed = [assignment.server for assignment in made.assignments]
    assert len(placed) > 6
    assert placed.count("a100") > placed.count("t4")
    assert made.stable


def test_the_same_arguments_give_the_same_plan() -> None:
    job = batch()
    assert planning.plan(job, RACK) == planning.plan(job, tuple(reversed(RACK)))


def test_a_model_for_no_single_server_becomes_a_pipeline() -> None:
    small = tuple(server(f"n{i}", 32, 24) for i in range(6))
    job = batch("Llama-3.1-70B-Q4_K_M", requests=10)
    made = good(planning.plan(job, small), job, small)
    # Two replicas of three servers each: no server is in both.
    assert {subtask.group for subtask in made.graph.subtasks} == {"batch-0", "batch-1"}
    assert len({assignment.server for assignment in made.assignments}) == 6
    assert all(len(assignment.shortlist) == 1 for assignment in made.assignments)


def test_the_users_cut_is_kept() -> None:
    job = batch("Llama-3.1-8B", requests=10, stages=(Stage("cpu-1", 20), Stage("l4-1", 12)))
    made = good(planning.plan(job, RACK), job)
    assert [(s.server, s.layers) for s in made.graph.subtasks] == [
        ("cpu-1", (0, 20)),
        ("l4-1", (20, 32)),
    ]


def test_parallelism_is_kept_exactly() -> None:
    job = batch(parallelism=Parallelism(pipeline=2, data=2))
    made = good(planning.plan(job, RACK), job)
    sizes: dict[str, int] = {}
    for subtask in made.graph.subtasks:
        sizes[subtask.group] = sizes.get(subtask.group, 0) + 1
    assert sizes == {"batch-0": 2, "batch-1": 2}


def test_what_fits_nowhere_says_what_is_missing() -> None:
    job = batch("Llama-3.1-405B", requests=4)
    made = planning.plan(job, RACK[3:])
    assert not made.feasible
    (refusal,) = made.refusals
    assert refusal.reason is Reason.MODEL_DOES_NOT_FIT
    assert refusal.resource == MEMORY
    assert refusal.missing > 500 * GIB
    assert "GiB" in refusal.remedy


def template(name: str, *after: str, cpu: int = 1000, shards: int = 1) -> Task:
    work = Template({CPU: cpu, MEMORY: GIB}, Seconds(10.0))
    return Task(name, work, shards, after, Bytes(10**6))


def test_a_template_that_is_too_large_names_the_closest_server() -> None:
    job = Job("default/t", "uid", (template("big", cpu=65_000),))
    (refusal,) = planning.plan(job, RACK).refusals
    assert (refusal.reason, refusal.resource) == (Reason.INSUFFICIENT_RESOURCE, CPU)
    assert refusal.missing == 1000
    assert "a100" in refusal.message


def test_a_taint_keeps_jobs_away_unless_tolerated() -> None:
    tainted = replace(RACK[0], taints=(Taint("gpu", "true"),))
    job = Job("default/t", "uid", (template("one"),))
    (refusal,) = planning.plan(job, (tainted,)).refusals
    assert refusal.reason is Reason.TAINT_NOT_TOLERATED
    welcome = replace(
        job.tasks[0], constraints=Constraints(tolerations=(Toleration("gpu", "Exists"),))
    )
    assert planning.plan(replace(job, tasks=(welcome,)), (tainted,)).feasible


def test_a_dag_is_timed_in_order() -> None:
    tasks = (template("a"), template("b", "a", shards=5), template("c", "b"))
    job = Job("default/dag", "uid", tasks)
    made = good(planning.plan(job, RACK), job)
    starts = {assignment.subtask: assignment.start for assignment in made.assignments}
    assert starts["a-0"] < starts["b-0"] < starts["c-0"]
    assert made.makespan >= 30


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 8))
@settings(max_examples=15, deadline=None)
def test_no_dag_takes_longer_than_by_heft(seed: int, count: int) -> None:
    """Tasks of a random DAG with outputs that take about as long to move as to make."""
    draw = np.random.default_rng(seed)
    names = [f"t{number}" for number in range(count)]
    tasks = tuple(
        Task(
            name,
            Template({CPU: int(draw.integers(1, 40)) * 1000}, Seconds(float(draw.uniform(1, 30)))),
            int(draw.integers(1, 4)),
            tuple(before for before in names[:number] if draw.random() < 0.4),
            Bytes(int(draw.uniform(0, 3e9))),
        )
        for number, name in enumerate(names)
    )
    job = Job("default/dag", "uid", tasks)
    made = good(planning.plan(job, RACK), job)
    ordered = tuple(sorted(RACK, key=lambda one: one.name))
    graph = decomposing.decompose(job, ordered)
    assert isinstance(graph, TaskGraph)
    by_heft = inserting.heft(costs.problem(job, graph, ordered, {}))
    assert made.makespan * (1 - planning.WORTH) <= by_heft.times.makespan * (1 + 1e-9)


def test_an_equilibrium_is_kept_for_a_schedule_that_is_hardly_shorter() -> None:
    """On two servers the second starts later by the milliseconds that its input takes."""
    job = Job("default/dag", "uid", (template("a"), template("b", "a")))
    made = good(planning.plan(job, RACK), job)
    assert made.stable
    assert made.makespan == pytest.approx(20.0, rel=planning.WORTH)


def test_a_schedule_is_priced_so_that_nobody_would_leave_it() -> None:
    """All on one server saves moving the outputs; alone, each would go where less waits."""
    one = Task("one", Template({CPU: 1000}, Seconds(60.0)), 7, (), Bytes(10**10))
    two = Task("two", Template({CPU: 1000}, Seconds(60.0)), 2, ("one",), Bytes(0))
    job = Job("default/dag", "uid", (one, two))
    rack = tuple(server(f"s{number}", 16, 64) for number in range(4))
    made = good(planning.plan(job, rack), job, rack)
    assert made.makespan == pytest.approx(120.0)
    assert made.stable
    assert min(assignment.regret for assignment in made.assignments) >= 0
    dearer = dict(zip(made.servers, made.rates, strict=True))
    (kept,) = {assignment.server for assignment in made.assignments}
    assert all(dearer[kept] >= rate for rate in dearer.values())


def test_far_more_than_the_rack_runs_in_waves() -> None:
    small = (server("one", 8, 16), server("two", 8, 16))
    job = Job("default/waves", "uid", (template("w", cpu=6000, shards=40),))
    made = good(planning.plan(job, small), job, small)
    assert made.makespan == pytest.approx(200.0)


def test_stages_that_overlap_take_as_long_as_the_slowest() -> None:
    small = tuple(server(f"n{i}", 32, 24) for i in range(3))

    def seconds(engine: Engine) -> float:
        job = batch("Llama-3.1-70B-Q4_K_M", requests=64, parallelism=Parallelism(data=1))
        work = job.tasks[0].work
        assert isinstance(work, Inference)
        job = replace(job, tasks=(replace(job.tasks[0], work=replace(work, engine=engine)),))
        return good(planning.plan(job, small), job, small).makespan

    # Three stages alike: a third of the time, but for filling the pipeline and the slowest end.
    assert seconds(Engine.VLLM) == pytest.approx(seconds(Engine.LLAMACPP) / 3, rel=0.1)


def test_latency_makes_the_mean_end_small_and_throughput_the_last() -> None:
    job = batch(requests=2000)
    late = replace(job, objective=Objective.LATENCY)

    def ends(job: Job) -> list[float]:
        made = good(planning.plan(job, RACK), job)
        return [assignment.start + assignment.seconds for assignment in made.assignments]

    assert max(ends(job)) <= max(ends(late))
    assert sum(ends(late)) <= sum(ends(job))


def test_a_band_levels_the_loads() -> None:
    job = batch(requests=4000)
    free = planning.plan(job, RACK)
    wanted = planning.PlanSettings(band=1.05)
    level = good(planning.plan(job, RACK, settings=wanted), job)
    assert level.imbalance <= free.imbalance


def test_replanning_keeps_the_rest() -> None:
    job = batch()
    before = good(planning.plan(job, RACK), job)
    moved = before.assignments[0]
    group = next(s.group for s in before.graph.subtasks if s.name == moved.subtask)
    after = planning.replan(job, before, {group}, RACK, avoid={group: {moved.server}})
    kept = [(a.subtask, a.server) for a in before.assignments[1:]]
    assert [(a.subtask, a.server) for a in after.assignments[1:]] == kept
    assert after.assignments[0].server != moved.server


def test_replanning_keeps_the_prices() -> None:
    job = batch(requests=4000)
    before = good(planning.plan(job, RACK), job)
    moved = before.assignments[0]
    group = next(s.group for s in before.graph.subtasks if s.name == moved.subtask)
    after = planning.replan(job, before, {group}, RACK, avoid={group: {moved.server}})
    assert after.rates == before.rates


def test_a_pipeline_is_cut_anew_without_its_lost_server() -> None:
    small = tuple(server(f"n{i}", 32, 24) for i in range(6))
    job = batch("Llama-3.1-70B-Q4_K_M", requests=10)
    before = good(planning.plan(job, small), job, small)
    lost = before.assignments[0].server
    left = tuple(s for s in small if s.name != lost)
    after = planning.replan(job, before, {"batch-0"}, left)
    assert after.feasible
    assert lost not in {assignment.server for assignment in after.assignments}
    assert verifying.verify(after, job, left) == ()
    gone = planning.replan(job, before, {"batch-0"}, small[:2])
    assert gone.refusals[0].reason is Reason.MODEL_DOES_NOT_FIT


def test_what_is_done_on_a_server_that_has_gone_stays_on_record() -> None:
    job = batch(requests=4000)
    before = good(planning.plan(job, RACK), job)
    lost = before.assignments[0].server
    left = tuple(s for s in RACK if s.name != lost)
    groups = {s.name: s.group for s in before.graph.subtasks}
    on_lost = [a.subtask for a in before.assignments if a.server == lost]
    assert len(on_lost) > 1
    after = planning.replan(job, before, {groups[on_lost[0]]}, left)
    places = {a.subtask: a.server for a in after.assignments}
    assert places.pop(on_lost[0]) != lost
    assert places == {a.subtask: a.server for a in before.assignments if a.subtask != on_lost[0]}
    assert len(explaining.document(after)["subtasks"]) == len(before.assignments)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(RACK), min_size=1, unique_by=lambda server: server.name),
    st.integers(1, 60),
    st.integers(1, 8),
    st.sampled_from(["Llama-3.1-8B-Q4_K_M", "Qwen3-0.6B", "Mixtral-8x7B-v0.1.Q4_K_M"]),
)
def test_every_plan_is_good_or_says_why_not(
    rack: list[Server], requests: int, concurrency: int, model: str
) -> None:
    job = batch(model, requests, workload=Workload(concurrency=concurrency))
    made = planning.plan(job, rack)
    assert verifying.verify(made, job, rack) == ()
    assert made.feasible == bool(made.assignments)


SHAPE = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14_336, "vocab_size": 128_256,
    "sliding_window": 4096, "sliding_window_pattern": 4, "num_experts": 8,
    "num_experts_per_tok": 2, "first_k_dense_replace": 3, "tie_word_embeddings": True,
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(SHAPE)), st.integers(0, 2**31), max_size=3),
    st.integers(1, 2**24),
    st.integers(1, 2**16),
    st.lists(st.tuples(st.integers(1, 2**31), st.integers(1, 2**31)), min_size=1, max_size=6),
)
def test_whatever_a_config_describes_is_planned_or_refused(
    changes: dict[str, int], tokens: int, concurrency: int, lengths: list[tuple[int, int]]
) -> None:
    try:
        model = from_config({**SHAPE, **changes}, name="m", bits=4.5)
    except InvalidModel:
        return
    requests = Requests(len(lengths), 100.0, 10.0, tuple(lengths))
    work = Inference(model, Engine.SIMULATOR, requests, Workload(tokens, tokens, concurrency))
    job = Job("default/any", "uid", (Task("any", work, None),))
    made = planning.plan(job, RACK)
    assert made.refusals if not made.feasible else verifying.verify(made, job, RACK) == ()


def test_a_task_that_was_killed_for_memory_moves_to_where_more_fits() -> None:
    rack = (server("large", 16, 64), server("small", 16, 16))
    job = batch(requests=4, parallelism=Parallelism(data=2))
    made = good(planning.plan(job, rack), job, rack)
    need = checks.variant(made.graph.subtasks[0], rack[1])
    assert need is not None, "it fits the small server as it is"
    group = made.graph.subtasks[0].group
    again = planning.replan(job, made, {group}, rack, memory={"batch": 3.0})
    (place,) = (a for a in again.assignments if a.subtask == made.graph.subtasks[0].name)
    assert place.server == "large"
    assert again.graph == made.graph, "what was asked at first stays on record"
    refused = planning.replan(job, made, {group}, rack, memory={"batch": 100.0})
    assert refused.refusals[0].resource == MEMORY
