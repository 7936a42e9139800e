"""What is read of a pod."""

import json
from typing import Any

import pytest

from evenkeel_extender import pods
from evenkeel_kube import names


def test_a_pod_of_a_job(make: Any) -> None:
    pod = make.read(make.pod("a", server="n1", cpu="1500m", work=7))
    assert (pod.key, pod.job, pod.subtask, pod.planned) == (
        "default/a",
        "default/job-uid",
        "a",
        "n1",
    )
    assert pod.demand == {"cpu": 1500, "pods": 1}
    assert (pod.work, pod.server, pod.reserves, pod.over) == (7.0, "n1", True, False)


def test_a_gated_pod_reserves_nothing_and_a_foreign_gate_is_not_ours(make: Any) -> None:
    assert not make.read(make.pod("a", gated=True)).reserves
    other = make.pod("a")
    other["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    assert make.read(other).reserves


def test_where_it_is_goes_before_where_it_should_be(make: Any) -> None:
    assert make.read(make.pod("a", server="n1", node="n2")).server == "n2"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_an_ended_pod_is_over(make: Any, phase: str) -> None:
    assert make.read(make.pod("a", phase=phase)).over


def test_a_stranger_can_not_reserve_by_annotation(make: Any) -> None:
    pod = make.pod()
    pod["metadata"]["annotations"] = {names.ANNOTATION_SERVER: "n1", names.ANNOTATION_WORK: "9"}
    found = make.read(pod)
    assert (found.job, found.planned, found.work) == ("", "", 0.0)


@pytest.mark.parametrize("work", ["", "x", "-1", "nan", "inf"])
def test_a_load_that_makes_no_sense_is_none(make: Any, work: str) -> None:
    pod = make.pod("a")
    pod["metadata"]["annotations"][names.ANNOTATION_WORK] = work
    assert make.read(pod).work == 0.0


@pytest.mark.parametrize(
    ("spec", "demand"),
    [
        ({}, {"pods": 1}),
        ({"containers": None, "initContainers": None}, {"pods": 1}),
        ({"containers": [{"resources": None}]}, {"pods": 1}),
        ({"containers": [{"resources": {"limits": {"x/gpu": 1}}}]}, {"x/gpu": 1, "pods": 1}),
        ({"overhead": {"memory": "1Ki"}}, {"memory": 1024, "pods": 1}),
    ],
)
def test_demands_in_every_form(spec: Any, demand: dict[str, int]) -> None:
    data = json.dumps({"metadata": {"uid": "u"}, "spec": spec}).encode()
    assert pods.decode(data).demand == demand


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"metadata": {"uid": "u"}}', "missing required field `spec`"),
        ('{"metadata": {}, "spec": {}}', "missing required field `uid`"),
        ('{"metadata": {"uid": 5}, "spec": {}}', r"\$.metadata.uid"),
        (
            '{"metadata": {"uid": "u"}, "spec": {"overhead": {"cpu": "lots"}}}',
            "`lots` is not a quantity",
        ),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pods.decode(text.encode())


def test_cut_off_json_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="truncated"):
        pods.decode(b"{")
