"""Rendering is a pure function with a known result; releasing multiplies what the user wants."""

from typing import Any

import pytest

from evenkeel_core import planning
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes
from evenkeel_core.servers import Device, Server
from evenkeel_kube import jobs, names, pods

SERVERS = [
    Server(
        name,
        {CPU: 64_000, MEMORY: 256 * GIB},
        Device("EPYC-7763", CPU, 1, Bytes(0), 5e12, 200e9),
        labels={"zone": zone},
    )
    for name, zone in (("s1", "east"), ("s2", "west"))
]


def manifest(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "job", "namespace": "ns", "uid": "u", "labels": {"team": "x"}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": metadata,
        "spec": spec,
    }


def rendered(spec: dict[str, Any]) -> dict[str, Any]:
    job = jobs.job(manifest(spec))
    made = planning.plan(job, SERVERS)
    assert made.feasible, made.refusals
    subtask = made.graph.subtasks[0]
    return pods.render(
        manifest(spec),
        job.tasks[0],
        subtask,
        made.assignments[0],
        subtask.variants[0].demand,
        revision=3,
        attempt=2,
    )


SIMULATED = {
    "model": {"uri": "file://qwen3-0.6b-q8_0.gguf"},
    "runtime": {"engine": "simulator", "timeScale": 10},
    "input": {"prompts": ["one", "two"]},
}


def test_a_simulator_pod_is_nobody_and_knows_its_shard() -> None:
    pod = rendered(SIMULATED)
    assert pod["metadata"]["name"].startswith("job-batch-0-a2-")
    assert pod["metadata"]["labels"]["team"] == "x"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["schedulerName"] == "evenkeel"
    container = pod["spec"]["containers"][0]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"name": "EVENKEEL_REQUESTS", "value": "0-2"} in container["env"]
    assert any(t["key"] == names.TAINT_SIMULATED for t in pod["spec"]["tolerations"])
    annotations = pod["metadata"]["annotations"]
    predicted = float(annotations[names.ANNOTATION_SECONDS])
    real = float(annotations[names.ANNOTATION_RUN_SECONDS])
    assert real == pytest.approx(predicted / 10, rel=pods.SPREAD + 0.01)


def required(*values: str) -> dict[str, Any]:
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]}
        for value in values
    ]
    return {"nodeAffinity": {pods.REQUIRED: {"nodeSelectorTerms": terms}}}


def test_required_affinity_is_withheld_and_multiplied_in() -> None:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}
    spec = {
        "tasks": [
            {
                "name": "t",
                "template": {
                    "spec": {"containers": [container], "affinity": required("east", "west")}
                },
            }
        ]
    }
    pod = rendered(spec)
    assert pod["spec"]["affinity"] == {}
    assert not any(t["key"] == names.TAINT_SIMULATED for t in pod["spec"]["tolerations"])
    pod["metadata"]["resourceVersion"] = "7"
    job = jobs.job(manifest(spec))
    patch = pods.release(pod, ["s1", "s2"], job.tasks[0].constraints.required, 5.0)
    assert patch[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    added = patch[-1]["value"]
    terms = added["nodeAffinity"][pods.REQUIRED]["nodeSelectorTerms"]
    assert len(terms) == 4
    for term in terms:
        assert len(term["matchFields"]) == 1
        assert len(term["matchFields"][0]["values"]) == 1
        assert term["matchExpressions"][0]["key"] == "zone"


def test_foreign_gates_stay() -> None:
    pod = rendered(SIMULATED)
    pod["metadata"]["resourceVersion"] = "1"
    pod["spec"]["schedulingGates"].append({"name": "other.example/gate"})
    patch = pods.release(pod, ["s1"], (), 0.0)
    gates = next(step for step in patch if step["path"] == "/spec/schedulingGates")
    assert gates["value"] == [{"name": "other.example/gate"}]


def test_jobs_with_names_that_run_together_share_no_pod() -> None:
    first = pods.pod_name({"name": "a-b", "uid": "1"}, "c-0", 1)
    second = pods.pod_name({"name": "a", "uid": "2"}, "b-c-0", 1)
    namesake = pods.pod_name({"name": "a", "uid": "3"}, "b-c-0", 1)
    assert len({first, second, namesake}) == 3
    assert all(name.startswith("a-b-c-0-a1-") for name in (first, second, namesake))


def test_long_names_are_shortened_and_stay_different() -> None:
    job = {"name": "j" * 60, "uid": "u"}
    first, second = (pods.pod_name(job, f"task-{n}", 1) for n in (1, 2))
    assert first != second
    assert len(first) <= 63
    assert len(second) <= 63
