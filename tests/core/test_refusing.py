"""What a refusal says would help does help: it is done, and the job is planned again."""

from dataclasses import replace

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from evenkeel_core import facts, planning, refusing, verifying
from evenkeel_core.jobs import (
    Constraints,
    Engine,
    Inference,
    Job,
    Parallelism,
    Requests,
    Task,
    Template,
)
from evenkeel_core.plans import Refusal
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes, Seconds, plus
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Device, Server, Taint
from evenkeel_core.subtasks import Subtask, Variant

PROCESSORS = Device("P", CPU, 1, Bytes(0), 1e12, 1e11)
GPU = "nvidia.com/gpu"
ONE = Taint("t", "v")
CARD = Device("T4", GPU, 1, Bytes(16 * GIB), 65e12, 320e9)


@st.composite
def servers(draw: st.DrawFn) -> Server:
    count = draw(st.sampled_from([0, 0, 1, 2]))
    room = {CPU: draw(st.integers(0, 8)) * 1000, MEMORY: draw(st.integers(0, 12)) * GIB}
    return Server(
        draw(st.sampled_from("abcdefgh")),
        room | ({GPU: count} if count else {}),
        PROCESSORS,
        (replace(CARD, count=count),) if count else (),
        labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])),
        taints=draw(st.sampled_from([(), (ONE,), (Taint("t"), Taint("u", "w", "NoExecute"))])),
        ready=draw(st.sampled_from([True, True, False])),
        schedulable=draw(st.sampled_from([True, True, False])),
        reserve=draw(st.sampled_from([{}, {CPU: 1500}, {MEMORY: 20 * GIB}])),
    )  # fmt: skip


@st.composite
def tasks(draw: st.DrawFn, name: str) -> Task:
    where = draw(st.sampled_from([Constraints(), Constraints({"zone": "a"})]))
    if draw(st.booleans()):
        demand = {CPU: draw(st.integers(0, 20)) * 1000, MEMORY: draw(st.integers(0, 30)) * GIB}
        demand |= draw(st.sampled_from([{}, {GPU: 3}, {"example.com/dongle": 1}]))
        return Task(name, Template(demand, Seconds(5.0)), 2, constraints=where)
    model = facts.model("Llama-3.1-8B-Q8_0")
    assert model is not None
    whole = Parallelism(pipeline=1, data=2)
    limits = draw(st.sampled_from([{}, {}, {MEMORY: 3 * GIB}]))
    work = Inference(
        model, Engine.SIMULATOR, Requests(8, 50.0, 20.0), parallelism=whole, limits=limits
    )
    return Task(name, work, None, constraints=where)


racks = st.lists(servers(), min_size=1, max_size=6, unique_by=lambda server: server.name)


def helped(server: Server, refusal: Refusal) -> Server:
    """Return the server with every obstacle out of the way."""
    for reason in refusal.obstacles:
        match reason:
            case Reason.SERVER_NOT_READY:
                server = replace(server, ready=True)
            case Reason.SERVER_CORDONED:
                server = replace(server, schedulable=True)
            case Reason.TAINT_NOT_TOLERATED:
                server = replace(server, taints=())
            case Reason.SELECTOR_MISMATCH:
                server = replace(server, labels={"zone": "a"})
            case Reason.INSUFFICIENT_RESOURCE:
                server = replace(server, allocatable=plus(server.allocatable, refusal.lacking))
            case Reason.ENGINE_VARIANT_MISSING:
                cards = replace(CARD, count=refusal.lacking[GPU])
                room = plus(server.allocatable, refusal.lacking)
                server = replace(server, accelerators=(cards,), allocatable=room)
            case _:
                raise AssertionError(reason)
    return server


def raised(job: Job, refusal: Refusal) -> Job:
    """Return the job with a limit on memory that is as much higher as the refusal says."""
    found = []
    for task in job.tasks:
        work = task.work
        if task.name == refusal.subtask and isinstance(work, Inference):
            task = replace(
                task, work=replace(work, limits=plus(work.limits, {MEMORY: refusal.missing}))
            )
        found.append(task)
    return replace(job, tasks=tuple(found))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data(), racks, st.integers(1, 2))
def test_the_change_that_is_said_to_help_helps(
    data: st.DataObject, rack: list[Server], count: int
) -> None:
    job = Job("default/j", "u", tuple(data.draw(tasks(f"t{number}")) for number in range(count)))
    made = planning.plan(job, rack)
    assume(not made.feasible)
    asked = 0
    while not made.feasible:
        # One change a task, and one more where its own limit was too low.
        asked += 1
        assert asked <= 2 * count, made.refusals
        for refusal in made.refusals:
            assert refusal.remedy
            event(", ".join(refusal.obstacles) or str(refusal.reason))
            if refusal.server is None:
                assert "limits" in refusal.remedy
                job = raised(job, refusal)
            else:
                rack = [helped(s, refusal) if s.name == refusal.server else s for s in rack]
        made = planning.plan(job, rack)
    assert verifying.verify(made, job, rack) == ()


def subtask(**more: object) -> Subtask:
    demand = {CPU: 2000, MEMORY: 4 * GIB}
    return Subtask("t-0", "t", "t-0", 0, 1.0, (Variant("", demand),), **more)  # type: ignore[arg-type]


def server(name: str, cpu: int = 8, memory: int = 16, **more: object) -> Server:
    room = {CPU: cpu * 1000, MEMORY: memory * GIB}
    return Server(name, room, PROCESSORS, **more)  # type: ignore[arg-type]


def test_all_that_is_missing_is_named() -> None:
    refusal = refusing.why_not(subtask(), [server("a", 1, 1)])
    assert refusal.lacking == {CPU: 1000, MEMORY: 3 * GIB}
    assert (refusal.resource, refusal.missing) == (MEMORY, 3 * GIB)
    assert refusal.remedy == "a server like a with 1 CPU and 3.0 GiB of memory more would do"


def test_a_small_server_comes_before_one_that_is_kept_away() -> None:
    rack = [server("a", taints=(Taint("gpu", "only"),)), server("b", 1)]
    refusal = refusing.why_not(subtask(), rack)
    assert (refusal.server, refusal.reason) == ("b", Reason.INSUFFICIENT_RESOURCE)


def test_the_server_with_the_fewest_obstacles_is_named_with_all_of_them() -> None:
    taint = Taint("gpu", "only")
    rack = [
        server("a", 1, taints=(taint,), ready=False, schedulable=False),
        server("b", taints=(taint,), schedulable=False),
    ]
    refusal = refusing.why_not(subtask(), rack)
    assert refusal.server == "b"
    assert refusal.obstacles == (Reason.SERVER_CORDONED, Reason.TAINT_NOT_TOLERATED)
    assert refusal.remedy == "uncordon b; tolerate gpu=only:NoSchedule of b"


def test_a_missing_device_is_named() -> None:
    work = replace(subtask(), variants=(Variant(GPU, {GPU: 1}, "T4"),))
    refusal = refusing.why_not(work, [server("a")])
    assert refusal.reason is Reason.ENGINE_VARIANT_MISSING
    assert refusal.remedy == "give a 1 nvidia.com/gpu of T4"


def test_a_server_that_has_gone_is_to_be_brought_back() -> None:
    refusal = refusing.why_not(subtask(server="gone"), [server("a")])
    assert refusal.reason is Reason.PINNED_ELSEWHERE
    assert refusal.remedy == "bring gone back"
