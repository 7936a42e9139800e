"""Random worlds of every kind: a good plan, reasons, or the name of a wrong argument."""

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from evenkeel_core import explaining, facts, planning, verifying
from evenkeel_core.jobs import (
    Constraints,
    CostModel,
    Engine,
    Expression,
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
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes, Seconds
from evenkeel_core.servers import Device, Server, Taint

NAMES = ("a", "b", "node-1", "node-10", "Köln", "東京", "Ω", "z z", "🜁", "")
GPU = "nvidia.com/gpu"
WISH = Taint("p", "", "PreferNoSchedule")
MODELS = (
    "Qwen3-0.6B-Q4_K_M",
    "Qwen3-0.6B-Q8_0",
    "Llama-3.1-8B-Q4_K_M",
    "Llama-3.1-70B-Q4_K_M",
    "Mixtral-8x7B-v0.1",
)


def powers(low: int, high: int) -> st.SearchStrategy[float]:
    """Return numbers of all magnitudes between two powers of ten."""
    return st.floats(low, high).map(lambda power: 10.0**power)


@st.composite
def servers(draw: st.DrawFn) -> Server:
    cores = draw(st.sampled_from([64, 64, 10**6, 16, 4, 1, 0]))
    memory = draw(st.sampled_from([256, 256, 2**30, 48, 16, 1, 0])) * GIB
    count = draw(st.sampled_from([0, 0, 1, 4]))
    room = {CPU: cores * 1000, MEMORY: memory} | ({GPU: count} if count else {})
    card = Device(
        draw(st.sampled_from(["T4", "L4", "?"])), GPU, count,
        Bytes(draw(st.sampled_from([0, 16, 80])) * GIB), draw(powers(6, 16)), draw(powers(6, 14)),
        draw(st.sampled_from([0.0, 0.4, 1.0])),
    )  # fmt: skip
    processors = Device("P", CPU, 1, Bytes(0), draw(powers(6, 15)), draw(powers(6, 13)))
    return Server(
        draw(st.sampled_from(NAMES)),
        room,
        processors,
        (card,) if count else (),
        labels=draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b", "Größe": "ß"}])),
        taints=draw(st.sampled_from([(), (), (), (), (Taint("t", "v"),), (WISH,)])),
        ready=draw(st.sampled_from([True] * 8 + [False])),
        schedulable=draw(st.sampled_from([True] * 8 + [False])),
        reserve=draw(st.sampled_from([{}, {}, {}, {CPU: 500}, {MEMORY: 10**18}])),
        link_bandwidth=draw(powers(3, 12)),
        link_latency=Seconds(draw(st.sampled_from([0.0, 1e-4, 10.0]))),
        load_bandwidth=draw(powers(3, 12)),
        models=frozenset(draw(st.sampled_from([(), MODELS[:1]]))),
        observed_load=draw(st.sampled_from([None, 0.0, 3.0, 1e12])),
    )  # fmt: skip


@st.composite
def constraints(draw: st.DrawFn) -> Constraints:
    zone = (Expression("zone", draw(st.sampled_from(["In", "NotIn", "Exists"])), ("a",)),)
    return draw(
        st.sampled_from([
            *[Constraints()] * 6,
            Constraints({"zone": "a"}),
            Constraints(tolerations=(Toleration(operator="Exists"),)),
            Constraints(required=(zone,)),
        ])
    )  # fmt: skip


@st.composite
def works(draw: st.DrawFn) -> Inference | Template:
    if draw(st.booleans()):
        demand = draw(
            st.sampled_from([{}, {CPU: 0, MEMORY: 0}, {CPU: 500}, {CPU: 500}, {CPU: 500},
                             {CPU: 4000, MEMORY: 2 * GIB}, {CPU: 4000, MEMORY: 2 * GIB},
                             {CPU: 4000, MEMORY: 2 * GIB}, {GPU: 1}, {"example.com/none": 1},
                             {MEMORY: 2**62}])
        )  # fmt: skip
        return Template(demand, Seconds(draw(powers(-9, 9))))
    model = facts.model(draw(st.sampled_from(MODELS)))
    assert model is not None
    count = draw(st.integers(1, 40))
    lengths = draw(st.sampled_from([(), tuple((n, n % 7 + 1) for n in range(1, count + 1))]))
    shape = draw(st.sampled_from([(None, None, None), (1, None, 3), (2, None, 1), (None, 2, None)]))
    return Inference(
        model,
        draw(st.sampled_from(list(Engine))),
        Requests(count, draw(powers(0, 4)), draw(powers(0, 3)), lengths),
        Workload(2048, 256, draw(st.sampled_from([1, 4, 64]))),
        Parallelism(*shape),
        limits=draw(st.sampled_from([{}, {}, {}, {CPU: 2000}, {MEMORY: GIB}])),
    )


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, 4))):
        before = tuple(draw(st.sets(st.sampled_from([t.name for t in tasks])))) if tasks else ()
        tasks.append(
            Task(
                f"t{number}",
                draw(works()),
                draw(st.sampled_from([None, 1, 2, 5])),
                tuple(sorted(before)),
                Bytes(draw(st.sampled_from([0, 10**6, 10**15]))),
                draw(constraints()),
            )
        )
    return Job(
        "default/j",
        "u",
        tuple(tasks),
        objective=draw(st.sampled_from(list(Objective))),
        cost_model=draw(st.sampled_from(list(CostModel))),
    )


racks = st.one_of(
    [st.lists(servers(), min_size=n, max_size=8, unique_by=lambda s: s.name) for n in (0, 3, 5)]
)
every_world = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@every_world
@given(jobs(), racks, st.dictionaries(st.sampled_from(NAMES), powers(-3, 9)), st.booleans())
def test_every_world_has_a_good_plan_or_reasons(
    job: Job, rack: list[Server], loads: dict[str, float], band: bool
) -> None:
    wanted = planning.PlanSettings(band=1.2 if band else None)
    made = planning.plan(job, rack, loads, settings=wanted)

    assert verifying.verify(made, job, rack) == ()
    assert made.feasible == bool(made.assignments)
    assert made.feasible or all(refusal.message for refusal in made.refusals)
    assert made.stable
    assert msgspec.json.encode(explaining.document(made))
    assert planning.plan(job, rack[::-1], loads, settings=wanted) == made
    event("planned" if made.feasible else str(made.refusals[0].reason))


@every_world
@given(jobs(), racks.filter(bool), st.data())
def test_a_cut_by_hand_is_good_or_refused(
    job: Job, rack: list[Server], data: st.DataObject
) -> None:
    model = facts.model("Qwen3-0.6B-Q4_K_M")
    assert model is not None
    first = data.draw(st.integers(1, model.layers - 1))
    names = st.sampled_from([*(server.name for server in rack), "nobody"])
    stages = [Stage(data.draw(names), first), Stage(data.draw(names), model.layers - first)]
    work = Inference(model, Engine.VLLM, Requests(3, 10.0, 10.0), stages=tuple(stages))
    job = replace(job, tasks=(*job.tasks, Task("cut", work)))

    made = planning.plan(job, rack)

    assert verifying.verify(made, job, rack) == ()
    assert made.feasible == bool(made.assignments)


def test_a_wrong_call_names_the_argument() -> None:
    server = Server("a", {CPU: 1000}, Device("P", CPU, 1, Bytes(0), 1e12, 1e11))
    task = Task("t", Template({CPU: 100}, Seconds(1.0)))
    with pytest.raises(ValueError, match="`servers`"):
        planning.plan(Job("j", "u", (task,)), [server, server])
    with pytest.raises(ValueError, match="`job`"):
        planning.plan(Job("j", "u", (task, task)), [server])
    with pytest.raises(ValueError, match="`job`"):
        planning.plan(Job("j", "u", (replace(task, depends_on=("later",)),)), [server])
    model = facts.model(MODELS[0])
    assert model is not None
    cut = Inference(model, Engine.VLLM, Requests(1, 1.0, 1.0), stages=(Stage("a", 0),))
    with pytest.raises(ValueError, match="`job`"):
        planning.plan(Job("j", "u", (Task("t", cut),)), [server])


ASK = """
import hashlib, pickle, sys
import msgspec
from evenkeel_core import planning
worlds = pickle.load(sys.stdin.buffer)
made = [msgspec.msgpack.encode(planning.plan(job, rack)) for job, rack in worlds]
print(hashlib.sha256(b"".join(made)).hexdigest())
"""


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(jobs(), racks), min_size=15, max_size=20))
def test_another_process_makes_the_same_plans(worlds: list[tuple[Job, list[Server]]]) -> None:
    """Hashes of strings differ between processes, and with them the order of sets."""
    made = [planning.plan(job, rack) for job, rack in worlds]
    here = hashlib.sha256(b"".join(map(msgspec.msgpack.encode, made))).hexdigest()
    for seed in ("1", "4711"):
        asked = subprocess.run(
            [sys.executable, "-c", ASK],
            input=pickle.dumps(worlds),
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=False,
        )
        assert asked.returncode == 0, asked.stderr.decode()
        assert asked.stdout.decode().strip() == here
