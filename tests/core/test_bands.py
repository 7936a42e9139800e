"""Loads come into the wanted band, or the plan says what binds them."""

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from evenkeel_core import planning, verifying
from evenkeel_core.jobs import Constraints, Job, Task, Template
from evenkeel_core.plans import Plan
from evenkeel_core.quantities import CPU, GIB, MEMORY, PODS, Bytes, Seconds
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Device, Server


def server(name: str, cpu: int = 8, memory: int = 16, speed: float = 1.0, **more: object) -> Server:
    processors = Device("P", CPU, 1, Bytes(0), speed * 1e12, speed * 1e11)
    return Server(name, {CPU: cpu * 1000, MEMORY: memory * GIB}, processors, **more)  # type: ignore[arg-type]


def task(name: str, count: int, cpu: int = 1, memory: int = 1, seconds: float = 10.0) -> Task:
    return Task(name, Template({CPU: cpu * 1000, MEMORY: memory * GIB}, Seconds(seconds)), count)


def planned(tasks: list[Task], rack: list[Server], band: float, **loads: float) -> Plan:
    job = Job("default/j", "u", tuple(tasks))
    made = planning.plan(job, rack, loads, settings=planning.PlanSettings(band=band))
    assert verifying.verify(made, job, rack) == ()
    return made


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            server,
            st.sampled_from("abcdef"),
            st.integers(1, 8),
            st.integers(1, 16),
            st.sampled_from([0.1, 1.0, 5.0]),
            labels=st.sampled_from([{}, {"zone": "a"}]),
            observed_load=st.sampled_from([None, None, 30.0]),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda server: server.name,
    ),
    st.lists(
        st.tuples(*[st.integers(1, n) for n in (9, 4, 8)], st.booleans()), min_size=1, max_size=3
    ),
    st.sampled_from([1.0, 1.2, 3.0]),
)
def test_the_band_is_met_or_the_binding_resource_is_named(
    rack: list[Server], shapes: list[tuple[int, int, int, bool]], band: float
) -> None:
    tasks = [
        replace(
            task(f"t{number}", count, cpu, memory),
            constraints=Constraints({"zone": "a"} if zoned else {}),
        )
        for number, (count, cpu, memory, zoned) in enumerate(shapes)
    ]
    made = planned(tasks, rack, band)
    if not made.feasible:
        return
    assert (made.unreached is not None) == (made.imbalance > band)
    if made.unreached is None:
        return
    assert made.unreached.reason is Reason.BAND_NOT_REACHABLE
    assert made.unreached.resource in (CPU, MEMORY, PODS)
    assert made.unreached.message
    assert made.unreached.remedy
    event("short" if made.unreached.missing else made.unreached.remedy.split(" ")[0])


def test_a_band_that_is_met_is_not_spoken_of() -> None:
    assert planned([task("t", 8)], [server("a"), server("b")], 1.0).unreached is None


def test_memory_that_is_missing_elsewhere_binds() -> None:
    made = planned([task("t", 4, memory=8)], [server("big"), server("small", memory=6)], 1.5)
    # Only servers that may run something count, so there has to be work for the small one.
    assert made.unreached is None
    made = planned(
        [task("large", 4, memory=8), task("light", 1)],
        [server("big"), server("small", memory=6)],
        1.2,
    )
    assert made.unreached is not None
    assert (made.unreached.resource, made.unreached.missing) == (MEMORY, 2 * GIB)
    assert made.unreached.server == "small"
    assert made.unreached.remedy == "small with 2.0 GiB of memory more would take some of it"


def test_one_whole_subtask_can_not_be_level() -> None:
    made = planned([task("t", 1)], [server("a"), server("b")], 1.5)
    assert made.unreached is not None
    assert made.unreached.remedy == "cut t into more shards"
    assert made.unreached.resource == CPU
    assert "a has 2.00 times the mean load" in made.unreached.message


def test_load_of_others_is_not_the_jobs_to_level() -> None:
    made = planned([task("t", 2, seconds=0.1)], [server("a"), server("b")], 1.2, a=500.0)
    assert made.unreached is not None
    assert made.unreached.remedy == "wait until a has less to do"
