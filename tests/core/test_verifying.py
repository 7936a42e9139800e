"""Each test injects one fault into something good and expects the verifier to name it."""

from dataclasses import replace

import numpy as np
import pytest

from evenkeel_core.jobs import Engine, Inference, Job, Requests, Task, Template
from evenkeel_core.models import Model
from evenkeel_core.plans import Assignment, Plan, Refusal, Terms
from evenkeel_core.problems import NOWHERE
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Device, Server, Taint
from evenkeel_core.subtasks import Edge, Subtask, TaskGraph, Variant
from evenkeel_core.timetabling import timetable
from evenkeel_core.verifying import verify, verify_assignment

# --- assignments ---------------------------------------------------------------------------------


@pytest.fixture
def problem(problem_of):
    """Return two singles that follow one another, and a coupled pair pinned to two servers."""
    return problem_of(
        [[5, 6, np.inf], [5, 6, 7], [2, np.inf, np.inf], [np.inf, 3, np.inf]],
        group=[0, 1, 2, 2],
        pinned=[NOWHERE, NOWHERE, 0, 1],
        edges=[(0, 1, 4.0)],
    )


GOOD = np.array([0, 2, 0, 1])


def test_a_good_assignment_and_its_timetable_have_no_faults(problem):
    assert verify_assignment(problem, GOOD) == ()
    assert verify_assignment(problem, GOOD, timetable(problem, GOOD)) == ()


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([0, 2, 0], "(3,) servers for 4 subtasks"),
        ([0, NOWHERE, 0, 1], "t1 has no server"),
        ([0, 3, 0, 1], "t1 has no server"),
        ([2, 2, 0, 1], "t0 may not run on s2"),
        ([0, 2, 0, 2], "t3 is pinned elsewhere than s2"),
    ],
)
def test_a_wrong_place_is_found(problem, places, words):
    assert any(words in sentence for sentence in verify_assignment(problem, np.array(places)))


def test_a_subtask_too_large_for_its_server_is_found(problem):
    large = problem.with_pairs(demand=problem.demand * np.array([1, 2, 1, 1]).reshape(4, 1, 1))

    assert verify_assignment(large, GOOD) == ("t1 does not fit, with its set, s2",)


def test_a_set_too_large_for_one_server_is_found(problem_of):
    problem = problem_of([[1, 1], [1, 1]], group=[0, 0])

    assert len(verify_assignment(problem, np.array([0, 0]))) == 2
    assert verify_assignment(problem, np.array([0, 1])) == ()


@pytest.mark.parametrize(
    ("subtask", "start", "end", "words"),
    [
        (0, 0.0, 5.0, "s0 is over its capacity at some moment"),
        (1, 8.0, 15.0, "t1 starts before the output of t0 is there"),
        (3, 20.0, 23.0, "the coupled set t2, t3 does not start together"),
        (1, 20.0, 22.0, "t1 has less time than it takes"),
        (1, -1.0, 22.0, "t1 has less time than it takes"),
        (1, np.nan, np.nan, "t1 has less time than it takes"),
        (1, 50.0, 57.0, "the makespan is not the end of the last subtask"),
    ],
)
def test_a_wrong_time_is_found(problem, subtask, start, end, words):
    times = timetable(problem, GOOD)
    starts, ends = times.start.copy(), times.end.copy()
    # The pair runs from 0 to 3, t0 from 3 to 8 (or the other way round), t1 after 12.
    starts[subtask], ends[subtask] = start, end
    if subtask == 0:
        starts[[2, 3]], ends[[2, 3]] = 0.0, 3.0

    found = verify_assignment(problem, GOOD, replace(times, start=starts, end=ends))

    assert any(words in sentence for sentence in found)


def test_what_ends_makes_room_for_what_starts_at_the_same_moment(problem_of):
    problem = problem_of([[5], [5]])
    places = np.zeros(2, dtype=np.int64)

    assert verify_assignment(problem, places, timetable(problem, places)) == ()


# --- plans ---------------------------------------------------------------------------------------

MODEL = Model(
    name="tiny", layers=8, hidden=64, heads=4, kv_heads=2, head_dim=16, vocabulary=100,
    layer_parameters=1000, active_layer_parameters=1000, layer_bytes=1000, embedding_bytes=1000,
    head_bytes=1000, kv_bytes_per_token=16,
)  # fmt: skip


def server(name, **changes):
    processors = Device("epyc", "cpu", 1, 0, 5e12, 200e9)
    made = Server(name, {"cpu": 4000, "memory": 8000}, processors, link_bandwidth=1e6)
    return replace(made, **changes)


SERVERS = [server("a"), server("b"), server("c")]


def stage(name, group, index, place, layers, requests):
    return Subtask(
        name=name,
        task="read",
        group=group,
        index=index,
        work=1.0,
        variants=(Variant("cpu", {"cpu": 3000, "memory": 4000}),),
        server=place,
        layers=layers,
        requests=requests,
    )


def graph():
    """Return a pipeline over a and b, one whole model anywhere, and a template after both."""
    after = Subtask("sum-0", "sum", "sum-0", 2, 1.0, (Variant("cpu", {"cpu": 1000}),))
    return TaskGraph(
        subtasks=(
            stage("read-0-s0", "read-0", 0, "a", (0, 5), (0, 6)),
            stage("read-0-s1", "read-0", 0, "b", (5, 8), (0, 6)),
            stage("read-1", "read-1", 1, None, None, (6, 10)),
            after,
        ),
        edges=tuple(Edge(name, "sum-0", 1_000_000) for name in ("read-0-s0", "read-1")),
    )


def job():
    read = Inference(MODEL, Engine.LLAMACPP, Requests(10, 5.0, 5.0))
    return Job(
        "default/demo",
        "uid",
        (
            Task("read", read, shards=None),
            Task("sum", Template({"cpu": 1000}, 5.0), depends_on=("read",)),
        ),
    )


def place(subtask, at, start, seconds):
    return Assignment(subtask, at, seconds, start, Terms(-1.0, 0.0, -1.0), (at,))


def plan():
    return Plan(
        job="default/demo",
        graph=graph(),
        assignments=(
            place("read-0-s0", "a", 0.0, 10.0),
            place("read-0-s1", "b", 0.0, 10.0),
            place("read-1", "c", 0.0, 8.0),
            place("sum-0", "c", 12.0, 5.0),
        ),
        makespan=17.0,
    )


def reassigned(name, **changes):
    good = plan()
    return replace(
        good,
        assignments=tuple(
            replace(one, **changes) if one.subtask == name else one for one in good.assignments
        ),
    )


def regraphed(name, **changes):
    good = plan()
    subtasks = tuple(
        replace(one, **changes) if one.name == name else one for one in good.graph.subtasks
    )
    return replace(good, graph=replace(good.graph, subtasks=subtasks))


def test_a_good_plan_has_no_faults():
    assert verify(plan(), job(), SERVERS) == ()


FAULTS = {
    "a subtask without an assignment": (
        lambda: replace(plan(), assignments=plan().assignments[1:]),
        "read-0-s0 is assigned 0 times",
    ),
    "a subtask assigned twice": (
        lambda: replace(plan(), assignments=plan().assignments + plan().assignments[:1]),
        "read-0-s0 is assigned 2 times",
    ),
    "an assignment of nothing": (
        lambda: replace(plan(), assignments=(*plan().assignments, place("x", "a", 0.0, 1.0))),
        "x is assigned but no subtask",
    ),
    "two subtasks of one name": (
        lambda: replace(
            plan(), graph=replace(graph(), subtasks=(*graph().subtasks, graph().subtasks[3]))
        ),
        "two subtasks share a name",
    ),
    "a subtask of another job": (
        lambda: regraphed("sum-0", task="other"),
        "sum-0 belongs to other, which is no task of the job",
    ),
    "a group with two numbers": (
        lambda: regraphed("read-0-s1", index=7),
        "read-0 has two numbers",
    ),
    "two groups with one number": (
        lambda: regraphed("sum-0", index=1),
        "sum-0 and read-1 share the number 1",
    ),
    "an unknown server": (lambda: reassigned("sum-0", server="z"), "sum-0 is on z"),
    "a server it was not sized for": (
        lambda: reassigned("read-0-s0", server="c", shortlist=("c",)),
        "read-0-s0 may not run on c: PinnedElsewhere",
    ),
    "a shortlist of other servers": (
        lambda: reassigned("sum-0", shortlist=("b", "c")),
        "the shortlist of sum-0 does not begin with c",
    ),
    "a shortlist with a server twice": (
        lambda: reassigned("sum-0", shortlist=("c", "a", "a")),
        "the shortlist of sum-0 names a server twice",
    ),
    "no finite utility": (
        lambda: reassigned("sum-0", terms=Terms(float("-inf"), 0.0, 0.0)),
        "the utility of sum-0",
    ),
    "a request in two shards": (
        lambda: regraphed("read-1", requests=(5, 10)),
        "request 5 is in no shard or in two",
    ),
    "a request in no shard": (
        lambda: regraphed("read-1", requests=(7, 10)),
        "request 6 is in no shard or in two",
    ),
    "requests left over": (lambda: regraphed("read-1", requests=(6, 9)), "the shards end at 9"),
    "stages with other requests": (
        lambda: regraphed("read-0-s1", requests=(0, 5)),
        "the stages of a replica have different requests",
    ),
    "a layer in no stage": (
        lambda: regraphed("read-0-s1", layers=(6, 8)),
        "layer 5 is in no stage or in two",
    ),
    "a layer in two stages": (
        lambda: regraphed("read-0-s1", layers=(4, 8)),
        "layer 4 is in no stage or in two",
    ),
    "layers left over": (
        lambda: regraphed("read-0-s1", layers=(5, 7)),
        "read-0 ends at layer 7 of 8",
    ),
    "too much at a time": (
        lambda: reassigned("read-1", server="a", shortlist=("a",)),
        "a is over its capacity",
    ),
    "a set that does not start together": (
        lambda: reassigned("read-0-s1", start=1.0, seconds=9.0),
        "the coupled set read-0 does not start together",
    ),
    "a start before the output has come": (
        lambda: replace(reassigned("sum-0", start=10.5), makespan=15.5),
        "sum-0 starts before the output of read-0-s0 is there",
    ),
    "a start before the task it depends on, with its edges lost": (
        lambda: replace(
            reassigned("sum-0", start=9.0), graph=replace(graph(), edges=()), makespan=14.0
        ),
        "sum starts before read has ended",
    ),
    "an edge to nowhere": (
        lambda: replace(plan(), graph=replace(graph(), edges=(Edge("read-1", "x", 1),))),
        "an edge joins read-1 and x",
    ),
    "a start before the job's": (lambda: reassigned("read-1", start=-1.0), "read-1 starts at -1"),
    "an end that never comes": (
        lambda: reassigned("read-1", seconds=float("inf")),
        "read-1 starts at 0.0 for inf seconds",
    ),
    "a wrong makespan": (lambda: replace(plan(), makespan=16.0), "the makespan is 16.0"),
    "assignments beside refusals": (
        lambda: replace(plan(), refusals=(Refusal("x", Reason.NO_FEASIBLE_SERVER, ""),)),
        "a plan with refusals has assignments",
    ),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_in_a_plan_is_found(fault):
    broken, words = FAULTS[fault]

    found = verify(broken(), job(), SERVERS)

    assert any(words in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ready": False}, "ServerNotReady"),
        ({"schedulable": False}, "ServerCordoned"),
        ({"taints": (Taint("gpu"),)}, "TaintNotTolerated"),
        ({"reserve": {"memory": 5000}}, "InsufficientResource"),
    ],
)
def test_hard_checks_are_asked_again(changes, reason):
    servers = [*SERVERS[:2], server("c", **changes)]

    assert f"read-1 may not run on c: {reason}" in verify(plan(), job(), servers)


def test_a_missing_task_and_a_wrong_number_of_shards_are_found():
    more = Task("more", Template({}, 1.0))
    longer = replace(job(), tasks=(*job().tasks, more))
    assert "more has no subtask" in verify(plan(), longer, SERVERS)

    twice = replace(job(), tasks=(job().tasks[0], replace(job().tasks[1], shards=2)))
    assert "sum has 1 subtasks for 2 shards" in verify(plan(), twice, SERVERS)


def test_a_set_holds_its_servers_until_its_last_member_has_ended():
    short = reassigned("read-0-s1", seconds=4.0)
    moved = replace(
        short,
        assignments=tuple(
            replace(one, server="b", shortlist=("b",), start=5.0)
            if one.subtask == "read-1"
            else one
            for one in short.assignments
        ),
        makespan=20.0,
    )
    late = replace(
        moved,
        assignments=tuple(
            replace(one, start=15.0) if one.subtask == "sum-0" else one for one in moved.assignments
        ),
    )

    assert verify(late, job(), SERVERS) == ("b is over its capacity when read-1 starts",)


def test_a_refusal_is_a_good_plan():
    refused = Plan("default/demo", TaskGraph(()), (), (Refusal("x", Reason.NO_SERVERS, ""),))

    assert verify(refused, job(), []) == ()
