"""Plans as they are looked up."""

import json
from typing import Any

import pytest

from evenkeel_core import planning
from evenkeel_extender import planned
from evenkeel_kube import jobs, names, nodes, plans


def decode(config_map: Any) -> planned.JobPlan:
    return planned.decode(json.dumps(config_map).encode())


def test_every_subtask_finds_its_costs_and_neighbours(make: Any) -> None:
    record = make.record(
        {"a": {"n1": 1.0, "n2": 2.0}, "b": {"n2": 4.0}},
        {"a": "n1", "b": "n2"},
        edges=[("a", "b", 100)],
    )
    found = decode(make.config_map(record))
    assert found.job == "default/job-uid"
    a, b = found.subtasks["a"], found.subtasks["b"]
    assert dict(a.costs) == {"n1": 1.0, "n2": 2.0}
    assert dict(b.costs) == {"n1": float("inf"), "n2": 4.0}
    assert (a.neighbours, b.neighbours) == ((("b", 100),), (("a", 100),))
    assert a.rates == {"n1": 1.0, "n2": 1.0}


def test_long_names_are_found_by_their_label(make: Any) -> None:
    long = "x" * 62 + "-" + "y" * 20
    record = make.record({long: {"n1": 1.0}}, {long: "n1"})
    assert list(decode(make.config_map(record)).subtasks) == ["x" * 62]


def test_what_is_no_plan_is_a_value_error(make: Any, garbled: str) -> None:
    config_map = make.config_map(make.record({"a": {"n1": 1.0}}, {"a": "n1"}))
    for broken in (
        {**config_map, "binaryData": {}},
        {**config_map, "binaryData": {plans.KEY: garbled}},
        {**config_map, "metadata": {"name": "p", "labels": {names.LABEL_PLAN: "true"}}},
        {**config_map, "metadata": {"name": "p"}},
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - which one does not matter
            decode(broken)


def test_a_plan_of_the_planner_is_read_as_it_was_made(make: Any) -> None:
    template = {
        "spec": {
            "containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}}}]
        }
    }
    tasks = [
        {"name": "one", "shards": 3, "estimatedSeconds": 60, "template": template},
        {"name": "two", "dependsOn": ["one"], "estimatedSeconds": 30, "template": template},
    ]
    job = jobs.job(
        {
            "apiVersion": names.API_VERSION,
            "kind": "InferenceJob",
            "metadata": {"name": "job", "namespace": "default", "uid": "job-uid"},
            "spec": {"tasks": tasks},
        }
    )
    plan = planning.plan(job, nodes.servers([make.node("n1"), make.node("n2", cpu="4")]))
    found = decode(make.config_map(plans.Record(1, plan)))
    assert set(found.subtasks) == {a.subtask for a in plan.assignments}
    for item in found.subtasks.values():
        place = item.assignment
        assert item.costs[place.server] == pytest.approx(place.seconds)
        assert -item.costs[place.server] / plan.scale == pytest.approx(place.terms.cost)
