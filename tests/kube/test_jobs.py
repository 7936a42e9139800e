"""Manifests become jobs with every default; what the API server refuses is refused here too."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel_core import facts
from evenkeel_core.jobs import Constraints, CostModel, Engine, Expression, Inference, Template
from evenkeel_core.models import from_config
from evenkeel_core.quantities import CPU, GIB, MEMORY
from evenkeel_kube import jobs, names

Object = dict[str, Any]
ROOT = Path(__file__).parents[2]
BAD = sorted((ROOT / "tests" / "e2e" / "bad").glob("*.yaml"))
MODEL = {"uri": "file://llama-3.1-8b-instruct-q4_k_m.gguf"}


def manifest(spec: Object, **metadata: str) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": {"name": "j", **metadata},
        "spec": spec,
    }


def inference(spec: Object, **more: Any) -> Inference:
    (task,) = jobs.job(manifest({"model": MODEL, **spec}), **more).tasks
    assert isinstance(task.work, Inference)
    return task.work


def template(pod: Object, **task: Any) -> Object:
    own = {"containers": [{"name": "c", "image": "i"}], **pod}
    return {"name": "t", "template": {"spec": own}, **task}


def test_the_simplest_job_has_its_defaults() -> None:
    job = jobs.job(manifest({"model": MODEL, "input": {"prompts": ["Hello there."]}}))
    assert job.key == "default/j"
    assert job.cost_model is CostModel.AUTO
    (task,) = job.tasks
    assert task.name == "batch"
    assert isinstance(task.work, Inference)
    assert task.work.engine is Engine.LLAMACPP
    assert task.work.model.name == "Llama-3.1-8B"
    assert task.work.requests.lengths == ((3, 256),)
    assert task.work.parallelism.pipeline is None
    assert task.constraints == Constraints()


@pytest.mark.parametrize(
    "path", [p for p in BAD if not p.stem.startswith("profile-")], ids=lambda path: path.stem
)
def test_what_the_api_server_refuses_is_refused_here(path: Path) -> None:
    with pytest.raises(jobs.InvalidJob):
        jobs.parse(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_examples_are_taken(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if isinstance(document, dict) and document.get("kind") == "InferenceJob":
            assert jobs.job(document).tasks


@pytest.mark.parametrize(
    "document",
    [
        None, [], {}, {"kind": "Job"}, manifest({}) | {"apiVersion": "v1"},
        manifest({}) | {"metadata": {}}, manifest({}) | {"metadata": {"name": 3}},
        manifest({}) | {"spec": 3},
    ],
)  # fmt: skip
def test_what_is_no_job_is_refused(document: Any) -> None:
    with pytest.raises(jobs.InvalidJob):
        jobs.job(document)


def line(**body: Any) -> str:
    return json.dumps({"custom_id": "x", "body": body})


def test_lines_say_how_long_they_are() -> None:
    message = [{"role": "user", "content": "x" * 400}]
    lines = [
        line(messages=message, max_tokens=7),
        line(messages=message, metadata={"input_tokens": "33"}, max_completion_tokens=9),
        line(prompt="x" * 40),
        line(messages=message, max_tokens=10**9, metadata={"input_tokens": 10**9}),
        "not JSON",
        "[1]",
        line(messages=message, metadata={"input_tokens": "many"}),
    ]
    spec = {"input": {"configMapRef": {"name": "a"}, "defaults": {"maxTokens": 50}}}
    found = inference(spec, lines=lines).requests
    # What can't be read is one failed request, not a failed job.
    assert found.lengths == ((100, 7), (33, 9), (10, 50), (2048, 256), (1, 1), (1, 1), (1, 1))
    assert found.count == 7
    assert found.mean_input == pytest.approx(sum(pair[0] for pair in found.lengths) / 7)


def test_an_input_nobody_has_read_is_guessed_and_an_empty_one_refused() -> None:
    spec = {"input": {"configMapRef": {"name": "a"}}}
    assert inference(spec).requests.count == 4
    with pytest.raises(jobs.InvalidJob, match="no requests"):
        inference(spec, lines=[])
    with pytest.raises(jobs.InvalidJob, match="50000; split it"):
        jobs.request_lines("{}\n" * 50_001)


def test_numbers_auto_and_quantities_are_understood() -> None:
    found = inference(
        {
            "input": {"prompts": ["a"]},
            "parallelism": {"pipeline": "auto", "data": 3},
            "runtime": {"engine": "simulator", "timeScale": 8},
            "resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"cpu": "2500m"}},
            "stages": [{"nodeName": "a", "layers": 32}],
        }
    )
    assert (found.parallelism.pipeline, found.parallelism.data) == (None, 3)
    assert found.time_scale == 8
    assert found.overhead == {CPU: 2000, MEMORY: GIB}
    assert found.limits == {CPU: 2500}
    assert [(stage.server, stage.layers) for stage in found.stages] == [("a", 32)]


SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1000,
}  # fmt: skip


def test_a_model_may_state_its_shape() -> None:
    shape = SHAPE
    model = {"uri": "file://own.gguf", "quantization": "F32", "config": shape}
    found = inference({"model": model, "input": {"prompts": ["a"]}}).model
    # The bytes of llama.cpp's own header for this shape (147,968 without rounding).
    assert found.layer_bytes == 147_968
    with pytest.raises(jobs.UnknownModel, match=r"give its shape in model\.config"):
        inference({"model": {"uri": "file://own.gguf"}, "input": {"prompts": ["a"]}})
    bad = {**model, "config": {**shape, "vocab_size": 0}}
    with pytest.raises(jobs.InvalidJob, match=r"model\.config\.vocab_size is missing"):
        inference({"model": bad, "input": {"prompts": ["a"]}})
    with pytest.raises(jobs.InvalidJob, match=r"model\.quantization: Q9 is not known"):
        inference({"model": {**model, "quantization": "Q9"}, "input": {"prompts": ["a"]}})


PATHS = {"input": {"workspacePath": "in"}, "output": {"workspacePath": "out"}}


def test_what_was_read_from_a_file_counts_before_config_and_name() -> None:
    read = from_config(SHAPE, name="read", bits=16)
    spec = {"input": {"prompts": ["a"]}}
    assert inference(spec, models={MODEL["uri"]: read}).model is read
    assert inference(spec, models={"file://other": read}).model.source == facts.TABLE
    task = {"name": "t", "inference": {"model": MODEL, **PATHS}}
    (found,) = jobs.job(manifest({"tasks": [task]}), models={MODEL["uri"]: read}).tasks
    assert isinstance(found.work, Inference)
    assert found.work.model is read
    assert jobs.model_uris(jobs.parse(manifest({"tasks": [task]})).spec) == (MODEL["uri"],)


def test_a_config_that_says_how_it_is_stored_is_believed_after_the_name() -> None:
    config = {**SHAPE, "quantization_config": {"quant_method": "fp8"}}
    model = {"uri": "file://own", "config": config}
    found = inference({"model": model, "input": {"prompts": ["a"]}}).model
    assert (found.quantization, found.source) == ("FP8", "model.config")
    named = {**model, "uri": "file://own-q8_0.gguf"}
    assert inference({"model": named, "input": {"prompts": ["a"]}}).model.quantization == "Q8_0"


def test_templates_keep_what_their_pods_ask_for() -> None:
    requests = {"resources": {"requests": {"cpu": "1500m"}}, "name": "c"}
    spec = {
        "tasks": [
            {**template({"containers": [requests]}), "name": "first", "outputBytes": 100},
            template({}, dependsOn=["first"], shards=3, estimatedSeconds=9, migratable=True),
        ]
    }
    first, second = jobs.job(manifest(spec, namespace="ns", uid="u"), priority=4).tasks
    assert isinstance(first.work, Template)
    assert first.work.demand == {CPU: 1500}
    assert (first.output_bytes, second.depends_on, second.shards) == (100, ("first",), 3)
    assert isinstance(second.work, Template)
    assert (second.work.estimated_seconds, second.work.migratable) == (9, True)


def affinity(*zones: str) -> Object:
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}
        for zone in zones
    ]
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    return {"nodeAffinity": {key: {"nodeSelectorTerms": terms}}}


def test_wishes_of_job_and_template_hold_together() -> None:
    pod = {
        "nodeSelector": {"disk": "ssd"},
        "affinity": affinity("north"),
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    }
    spec = {
        "nodeSelector": {"site": "a", "disk": "any"},
        "affinity": affinity("east", "west"),
        "tolerations": [{"key": "slow"}],
        "tasks": [template(pod)],
    }
    found = jobs.job(manifest(spec)).tasks[0].constraints
    assert found.node_selector == {"site": "a", "disk": "ssd"}
    north = Expression("zone", "In", ("north",))
    assert found.required == (
        (Expression("zone", "In", ("east",)), north),
        (Expression("zone", "In", ("west",)), north),
    )
    assert [item.key for item in found.tolerations] == ["slow", "gpu"]


def test_only_simulators_run_on_simulated_servers() -> None:
    spec = {"model": MODEL, "input": {"prompts": ["a"]}, "runtime": {"engine": "simulator"}}
    assert jobs.job(manifest(spec)).tasks[0].constraints.tolerations == (jobs.SIMULATED,)
    assert jobs.job(manifest({"tasks": [template({})]})).tasks[0].constraints.tolerations == ()


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        ({"containers": [{"resources": {"requests": {"cpu": "much"}}}]}, "not a quantity"),
        ({"affinity": 3}, "affinity"),
        ({"nodeSelector": "x"}, "nodeSelector"),
        ({"nodeSelector": {"a": 1}}, "nodeSelector"),
        ({"schedulingGates": 5}, "schedulingGates"),
        ({"containers": [{"env": 5}]}, "env"),
        ({"tolerations": [{"key": [1]}]}, "tolerations"),
        ({"affinity": {"nodeAffinity": 3}}, "nodeAffinity"),
        ({"tolerations": [1]}, "tolerations"),
    ],
)
def test_a_pod_that_makes_no_sense_is_refused(pod: Object, said: str) -> None:
    with pytest.raises(jobs.InvalidJob, match=said):
        jobs.job(manifest({"tasks": [template(pod)]}))


def test_an_operator_nobody_knows_is_refused() -> None:
    wish = affinity("a")
    terms = wish["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms["nodeSelectorTerms"][0]["matchExpressions"][0]["operator"] = "Near"
    with pytest.raises(jobs.InvalidJob, match="operator must be one of In, NotIn"):
        jobs.job(manifest({"affinity": wish, "tasks": [template({})]}))
