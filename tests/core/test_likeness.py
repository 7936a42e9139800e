"""What is asked by kinds is what would be found by asking for every pair."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import checks, costs, likeness
from evenkeel_core.jobs import Constraints, Expression, Job, Task, Template, Toleration
from evenkeel_core.quantities import CPU, GIB, MEMORY, PODS, Bytes, Seconds
from evenkeel_core.servers import Device, Server, Taint
from evenkeel_core.subtasks import Subtask, TaskGraph, Variant

PROCESSORS = Device("cpu", CPU, 1, Bytes(0), 1e12, 50e9)
NAMES = [f"n{number}" for number in range(7)]

servers = st.builds(
    Server,
    name=st.just(""),
    allocatable=st.sampled_from([{CPU: 8000, MEMORY: 32 * GIB}, {CPU: 4000, MEMORY: 8 * GIB}]),
    processors=st.just(PROCESSORS),
    labels=st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from(["a", "7"])),
    taints=st.lists(st.builds(Taint, st.sampled_from(["x", "y"])), max_size=1).map(tuple),
    ready=st.booleans(),
    schedulable=st.booleans(),
    reserve=st.sampled_from([{}, {CPU: 3000}]),
)
expressions = st.one_of(
    st.builds(
        Expression,
        st.sampled_from(["zone", "disk"]),
        st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]),
        st.lists(st.sampled_from(["a", "5"]), min_size=1, max_size=2).map(tuple),
    ),
    st.builds(
        Expression,
        st.just("metadata.name"),
        st.sampled_from(["In", "NotIn", "Exists"]),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map(tuple),
        st.just(value=True),
    ),
)
constraints = st.builds(
    Constraints,
    node_selector=st.dictionaries(st.just("zone"), st.just("a")),
    tolerations=st.lists(st.just(Toleration("x", "Exists")), max_size=1).map(tuple),
    required=st.lists(st.lists(expressions, min_size=1, max_size=2).map(tuple), max_size=2).map(
        tuple
    ),
)
pins = st.sampled_from([None, None, *NAMES])


@given(
    st.lists(servers, min_size=1, max_size=len(NAMES)),
    st.lists(st.tuples(constraints, st.sampled_from([2000, 5000]), pins), min_size=1, max_size=5),
)
@settings(max_examples=200, deadline=None)
def test_a_pair_is_feasible_where_every_check_holds(rack, asked):
    rack = [replace(server, name=name) for server, name in zip(rack, NAMES, strict=False)]
    tasks, subtasks = [], []
    for number, (where, cores, pin) in enumerate(asked):
        work = Template({CPU: cores, MEMORY: GIB}, Seconds(10.0 + number))
        tasks.append(Task(f"t{number}", work, 1, constraints=where))
        variant = Variant("", {CPU: cores, MEMORY: GIB})
        subtasks.append(
            Subtask(f"t{number}-0", f"t{number}", f"t{number}-0", number, costs.Work(1.0),
                    (variant,), where, server=pin)
        )  # fmt: skip
    job = Job("default/j", "u", tuple(tasks))

    found = costs.problem(job, TaskGraph(tuple(subtasks)), rack, {})

    expected = [[checks.reason(s, server) is None for server in rack] for s in subtasks]
    np.testing.assert_array_equal(np.isfinite(found.cost), expected)
    pods = found.resources.index(PODS)
    fits = [[checks.variant(s, server) is not None for server in rack] for s in subtasks]
    np.testing.assert_array_equal(found.demand[:, found.kind, pods], fits)


def test_labels_nobody_asks_for_make_no_kinds():
    rack = [Server(name, {CPU: 8000}, PROCESSORS, labels={"host": name}) for name in NAMES]
    subtask = Subtask("t-0", "t", "t-0", 0, costs.Work(1.0), (Variant("", {CPU: 1000}),))

    assert len(likeness.rack((subtask,), rack).examples) == 1
    pinned = replace(subtask, server="n3")
    assert likeness.rack((pinned,), rack).kind.tolist() == [0, 0, 0, 1, 0, 0, 0]


def test_alike_things_are_numbered_in_the_order_of_their_first():
    numbering = likeness.Numbering()
    for key in "babcb":
        numbering.add(key)

    assert numbering.classes().number.tolist() == [0, 1, 0, 2, 0]
    assert numbering.classes().firsts.tolist() == [0, 1, 3]


def test_a_page_of_memory_makes_no_kind_unless_something_fits_or_it_is_asked_for():
    rooms = [8 * GIB, 8 * GIB - 4096, 3 * GIB]
    rack = [
        Server(name, {CPU: 8000, MEMORY: room}, PROCESSORS)
        for name, room in zip(NAMES, rooms, strict=False)
    ]
    subtask = Subtask(
        "t-0", "t", "t-0", 0, costs.Work(1.0), (Variant("", {CPU: 1000, MEMORY: 4 * GIB}),)
    )

    assert likeness.rack((subtask,), rack).kind.tolist() == [0, 0, 1]
    assert likeness.rack((subtask,), rack, exactly=True).kind.tolist() == [0, 1, 2]
    job = Job("default/j", "u", (Task("t", Template({}, Seconds(1.0)), 1),))
    found = costs.problem(job, TaskGraph((subtask,)), rack, {})
    assert found.capacity[:, found.resources.index(MEMORY)].tolist() == rooms
