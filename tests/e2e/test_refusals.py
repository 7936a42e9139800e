"""What the API server refuses is told by field and rule; what is right gets its defaults."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel_kube import names
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import ApiError
from evenkeel_sandbox.specs import ClusterSpec

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[2]
BAD = sorted(Path(__file__).with_name("bad").glob("*.yaml"))
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.yaml") if path.stem != "servers")
STRICT = "dryRun=All&fieldValidation=Strict"
JOBS = f"/apis/{names.API_VERSION}/namespaces/default/inferencejobs"
COLLECTIONS = {
    "InferenceJob": JOBS,
    "ServerProfile": f"/apis/{names.API_VERSION}/serverprofiles",
    "ConfigMap": "/api/v1/namespaces/default/configmaps",
}
MODEL = {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"}
PODS = {"spec": {"containers": [{"name": "c", "image": "i"}]}}
INPUT = {"prompts": ["Hello."]}

Object = dict[str, Any]


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    """Start an API server that knows our kinds; nothing acts on them."""
    made = Cluster.up(f"refusals-{os.getpid()}", ClusterSpec())
    try:
        made.kubectl("apply", "-f", str(ROOT / "crds"))
        made.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        made.wait("the kinds are served", lambda: "items" in made.api.get(JOBS))
        yield made
    finally:
        made.down()


def job(spec: Object, name: str = "good") -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": {"name": name},
        "spec": spec,
    }


def accepted(cluster: Cluster, manifest: Object) -> Object:
    """Return a manifest as the API server would store it."""
    path = COLLECTIONS[manifest["kind"]]
    found: Object = cluster.api.call("POST", f"{path}?{STRICT}", manifest)
    return found


def test_there_are_many() -> None:
    assert len(BAD) >= 40


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_manifest_is_refused_by_field_and_rule(control_plane: Cluster, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    expected = text.splitlines()[0].removeprefix("# expect: ")
    with pytest.raises(ApiError) as refused:
        accepted(control_plane, yaml.safe_load(text))
    assert expected in str(refused.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted(control_plane: Cluster, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        stored = accepted(control_plane, document)
        if stored["kind"] == "InferenceJob":
            assert stored["spec"]["backoffLimit"] == 3


def test_the_simplest_job_gets_its_defaults(control_plane: Cluster) -> None:
    stored = accepted(control_plane, job({"model": MODEL, "input": INPUT}))
    assert stored["spec"] == {
        "model": MODEL,
        "input": INPUT,
        "runtime": {"engine": "llamacpp", "args": [], "env": []},
        "parallelism": {"pipeline": "auto", "tensor": "auto", "data": "auto"},
        "workload": {"maxInputTokens": 2048, "maxOutputTokens": 256, "concurrency": 4},
        "objective": "throughput",
        "costModel": "Auto",
        "rebalance": "Observe",
        "backoffLimit": 3,
        "gangTimeoutSeconds": 60,
        "suspend": False,
    }


def test_a_task_gets_its_defaults(control_plane: Cluster) -> None:
    stored = accepted(control_plane, job({"tasks": [{"name": "one", "template": PODS}]}))
    assert stored["spec"]["tasks"] == [
        {
            "name": "one",
            "template": PODS,
            "shards": 1,
            "dependsOn": [],
            "estimatedSeconds": 60,
            "outputBytes": 0,
            "migratable": False,
            "retryOnNodeLoss": False,
        }
    ]


@pytest.mark.parametrize(
    "spec",
    [
        {"model": MODEL, "input": {"configMapRef": {"name": "requests"}}},
        {
            "model": MODEL,
            "input": {"persistentVolumeClaim": {"claimName": "a", "path": "in/requests.jsonl"}},
            "output": {"persistentVolumeClaim": {"claimName": "a", "path": "out"}},
        },
        {
            "model": {"uri": "pvc://claim/model.gguf"},
            "input": INPUT,
            "stages": [{"nodeName": "a", "layers": 20}, {"nodeName": "b", "layers": 12}],
            "parallelism": {"pipeline": 2},
        },
        {"model": MODEL, "input": INPUT, "runtime": {"engine": "simulator", "timeScale": 10}},
        {"model": MODEL, "input": INPUT, "resources": {"requests": {"memory": "8Gi", "cpu": 2}}},
        {
            "tasks": [
                {"name": "a", "template": PODS},
                {"name": "b", "template": PODS, "dependsOn": ["a"], "shards": "auto"},
            ]
        },
    ],
)
def test_what_is_right_is_accepted(control_plane: Cluster, spec: Object) -> None:
    assert accepted(control_plane, job(spec))["metadata"]["name"] == "good"


def test_a_profile_may_say_little_or_much(control_plane: Cluster) -> None:
    profile: Object = {
        "apiVersion": names.API_VERSION,
        "kind": "ServerProfile",
        "metadata": {"name": "a"},
        "spec": {},
    }
    assert accepted(control_plane, profile)["spec"] == {"excluded": False}
    profile["spec"] = {"overrides": {"accelerators": [{"product": "L4"}]}, "excluded": True}
    (found,) = accepted(control_plane, profile)["spec"]["overrides"]["accelerators"]
    assert found == {"product": "L4", "resource": "nvidia.com/gpu"}


def test_only_what_may_change_changes(control_plane: Cluster) -> None:
    api = control_plane.api
    api.call("POST", JOBS, job({"model": MODEL, "input": INPUT}, "kept"))
    merge = "application/merge-patch+json"
    change: Object
    for change in ({"suspend": True}, {"rebalance": "Act"}, {"ttlSecondsAfterFinished": 5}):
        api.call("PATCH", f"{JOBS}/kept", {"spec": change}, merge)
    fixed = {
        "model": {"uri": "file://other"},
        "input": {"prompts": ["Else."]},
        "runtime": {"engine": "vllm"},
        "parallelism": {"data": 2},
        "workload": {"concurrency": 9},
        "objective": "latency",
        "costModel": "Shares",
        "backoffLimit": 9,
        "nodeSelector": {"a": "b"},
        "output": {"configMap": "there"},
    }
    for field, value in fixed.items():
        with pytest.raises(ApiError, match=rf"spec\.{field} can't be changed"):
            api.call("PATCH", f"{JOBS}/kept", {"spec": {field: value}}, merge)
