"""The plan on record survives the way through the API server unchanged."""

import base64
import math
from dataclasses import replace
from typing import Any

import pytest

from evenkeel_core.jobs import Constraints
from evenkeel_core.plans import Assignment, Factorisation, Plan, Refusal, Terms
from evenkeel_core.quantities import Bytes, Seconds, Work
from evenkeel_core.reasons import Reason
from evenkeel_core.subtasks import Edge, Subtask, TaskGraph, Variant
from evenkeel_kube import plans


def plan() -> Plan:
    subtask = Subtask(
        "a-0", "a", "a-0", 0, Work(3.0), (Variant("cpu", {"cpu": 100}),), Constraints({"x": "y"})
    )
    chosen = Assignment("a-0", "s1", Seconds(2.0), Seconds(0.0), Terms(-1.0, 0.0, -0.5), ("s1",))
    return Plan(
        "default/a",
        TaskGraph((subtask,)),
        (chosen,),
        (Refusal("b-0", Reason.INSUFFICIENT_RESOURCE, "too small", "cpu", 3),),
        Factorisation(1, 1.0, 0.0, 2.0, 2.0),
        servers=("s1", "s2"),
        columns=(0, 1),
        rates=(1.0, 1.0),
        costs=((2.0, math.inf),),
        rows=(0,),
    )


def test_a_record_comes_back_equal() -> None:
    record = plans.Record(3, plan(), {"a-0": 2})
    assert plans.decode(plans.encode(record)) == record


@pytest.mark.parametrize(
    "changed",
    [
        {"assignments": ()},
        {"rows": ()},
        {"rates": (1.0,)},
        {"graph": TaskGraph(plan().graph.subtasks, (Edge("a-0", "elsewhere", Bytes(1)),))},
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(plans.RecordError, match="contradicts itself"):
        plans.decode(plans.encode(plans.Record(1, replace(plan(), **changed))))


def test_the_longest_name_of_a_job_leaves_room_for_its_plans() -> None:
    longest = "j" * 253
    assert len(plans.name(longest)) <= 253
    assert plans.name(longest) != plans.name("j" * 252)
    assert plans.name("job") == "job-plan"


@pytest.mark.parametrize("text", ["", "!!", base64.b64encode(b"not zlib").decode()])
def test_what_is_not_a_record_is_refused(text: str) -> None:
    with pytest.raises(plans.RecordError, match="plan on record"):
        plans.decode(text)
