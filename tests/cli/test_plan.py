"""`evenkeel plan` as a user meets it: examples, mistakes, speed."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenkeel_core import verifying
from evenkeel_core.planning import plan

EXAMPLES = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "examples").glob("*.yaml")
    if path.stem != "servers"
)
HELLO = """
apiVersion: evenkeel.dev/v1alpha1
kind: InferenceJob
metadata: {name: hello}
spec:
  model: {uri: file://llama-3.1-8b-instruct-q4_k_m.gguf}
  runtime: {engine: simulator}
  input:
    prompts: ["Name three uses of a sextant.", "Why do tides lag the moon?"]
"""
SERVERS = """
- {name: big, cpu: 64, memory: 256Gi, gpus: {product: A100-PCIE-80GB}}
- {name: small, replicas: 2, cpu: 8, memory: 8Gi}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    job, servers = tmp_path / "job.yaml", tmp_path / "servers.yaml"
    job.write_text(HELLO)
    servers.write_text(SERVERS)
    return job, servers


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_planned(run: Any, examples: Path, example: str) -> None:
    answer = run(
        "plan", "-f", examples / f"{example}.yaml", "--servers", examples / "servers.yaml",
        "-o", "json",
    )  # fmt: skip
    assert answer.status == 0, answer.error
    assert answer.document["feasible"]
    assert answer.document["stable"]
    assert all(row["why"] for row in answer.document["subtasks"])


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_plan_of_an_example_is_verified(examples: Path, example: str) -> None:
    from evenkeel_cli.plan import read_job, read_servers

    job = read_job(examples / f"{example}.yaml")
    servers = read_servers(examples / "servers.yaml")
    assert verifying.verify(plan(job, servers), job, servers) == ()


def test_the_examples_show_what_they_say(run: Any, examples: Path) -> None:
    def document(example: str) -> Any:
        rack = examples / "servers.yaml"
        return run(
            "plan", "-f", examples / f"{example}.yaml", "--servers", rack, "-o", "json"
        ).document

    batch = document("llama-8b-batch")
    assert len({row["server"] for row in batch["subtasks"]}) > 5
    pipeline = document("llama-70b-pipeline")
    groups = {row["group"] for row in pipeline["subtasks"]}
    assert len(pipeline["subtasks"]) > len(groups) > 1
    assert "none of 52 servers holds" in pipeline["notes"][0]
    assert "take turns with simulator" in pipeline["notes"][0]
    dag = document("dag")
    starts = {row["name"]: row["startSeconds"] for row in dag["subtasks"]}
    assert starts["split-0"] < starts["count-0"] < starts["merge-0"]


def test_a_plan_says_why_the_model_runs_whole(run: Any, files: tuple[Path, Path]) -> None:
    job, servers = files
    answer = run("plan", "-f", job, "--servers", servers)
    assert "replicas of the whole model" in " ".join(answer.out.split())


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_answers_in_under_two_seconds(examples: Path, example: str) -> None:
    """Start-up included, in seconds of the processor: how busy it is with others is not ours."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [
                *(sys.executable, "-m", "evenkeel_cli.main", "plan"),
                *("-f", examples / f"{example}.yaml"),
                *("--servers", examples / "servers.yaml", "--output", "json"),
            ],
            check=True,
            capture_output=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(2)) < 2.0


def test_a_table_names_server_runner_up_and_reason(run: Any, files: tuple[Path, Path]) -> None:
    answer = run("plan", "-f", files[0], "--servers", files[1], "--show", "matrix")
    assert answer.status == 0
    for said in ("batch-0", "big", "takes ", "seconds on each server", "small-1 +1"):
        assert said in answer.out


TEMPLATE = """
apiVersion: evenkeel.dev/v1alpha1
kind: InferenceJob
metadata: {name: work}
spec:
  costModel: Shares
  tasks:
  - name: sort
    estimatedSeconds: 100
    template:
      spec:
        containers:
        - {name: c, image: i, resources: {requests: {cpu: "2", memory: 1Gi}}}
"""
RACK = """
- {name: large, cpu: 40, memory: 40Gi, reserve: {cpu: 0}}
- {name: tiny, cpu: 1, memory: 1Gi, reserve: {cpu: 0}}
"""


def test_the_claims_matrix_is_shown_where_it_is_planned_by(
    run: Any, files: tuple[Path, Path]
) -> None:
    """100 s at 2 of 40 cores and 1 of 40 GiB: 7.5; the tiny server has no two cores."""
    job, servers = files
    job.write_text(TEMPLATE)
    servers.write_text(RACK)
    words = ("plan", "-f", job, "--servers", servers, "--show", "matrix")
    assert "demand shares of each server" in run(*words).out
    assert "7.5" in run(*words).out
    found = run(*words, "-o", "json").document["matrix"]
    assert found["costModel"] == "Shares"
    assert found["servers"] == [["large"], ["tiny"]]
    assert found["subtasks"] == [["sort-0"]]
    assert found["seconds"][0] == [pytest.approx(7.5), None]


def test_the_other_matrix_is_a_flag_away(run: Any, files: tuple[Path, Path]) -> None:
    job, servers = files
    job.write_text(TEMPLATE)
    servers.write_text(RACK)
    words = ("plan", "-f", job, "--servers", servers, "--show", "matrix", "--cost-model", "Seconds")
    assert "seconds on each server" in run(*words).out
    found = run(*words, "-o", "json").document["matrix"]
    assert (found["costModel"], found["seconds"][0]) == ("Seconds", [100.0, None])


def test_a_refused_job_has_an_empty_matrix(run: Any, files: tuple[Path, Path]) -> None:
    job, servers = files
    job.write_text(TEMPLATE.replace('"2"', '"200"'))
    servers.write_text(RACK)
    words = ("plan", "-f", job, "--servers", servers, "--show", "matrix")
    assert run(*words).status == 1
    assert run(*words, "-o", "json").document["matrix"]["seconds"] == []


def test_a_job_for_nobody_says_what_is_missing(run: Any, files: tuple[Path, Path]) -> None:
    job, servers = files
    job.write_text(HELLO.replace("llama-3.1-8b-instruct-q4_k_m", "llama-3.1-405b-f16"))
    answer = run("plan", "-f", job, "--servers", servers)
    assert answer.status == 1
    assert "ModelDoesNotFit" in answer.out
    assert "GiB of memory" in answer.out
    document = run("plan", "-f", job, "--servers", servers, "-o", "json").document
    assert document["refusals"][0]["missing"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("prompts:", "promts:"), "spec.input"),
        (("kind: InferenceJob", "kind: Job"), "exactly one InferenceJob, has Job"),
        (("metadata:", "metadata: {"), "is no YAML"),
        (("file://llama", "hf://llama"), "hf:// needs the internet"),
        (("llama-3.1-8b-instruct-q4_k_m", "unheard-of"), "model.config"),
        (("{engine: simulator}", "{engine: warp}"), "runtime.engine"),
    ],
)
def test_a_mistake_in_a_job_is_one_sentence(
    run: Any, files: tuple[Path, Path], change: tuple[str, str], said: str
) -> None:
    job, servers = files
    job.write_text(HELLO.replace(*change))
    answer = run("plan", "-f", job, "--servers", servers)
    assert answer.status == 2
    assert str(job) in answer.error
    assert said in answer.error
    assert answer.error.count("\n") == 1


def test_a_band_that_can_not_be_reached_names_what_binds(run: Any, tmp_path: Path) -> None:
    job, servers = tmp_path / "job.yaml", tmp_path / "servers.yaml"
    job.write_text(HELLO.replace("model:", "parallelism: {data: 1}\n  model:"))
    servers.write_text("- {name: twin, replicas: 2, cpu: 8, memory: 16Gi}")
    asked = ("plan", "-f", job, "--servers", servers, "--band", "1.5")
    answer = run(*asked)
    assert answer.status == 0
    assert "BandNotReachable: twin-1 has 2.00 times the mean load" in answer.out
    assert "What would help: cut batch into more shards" in answer.out
    unreached = run(*asked, "-o", "json").document["unreached"]
    assert unreached["reason"] == "BandNotReachable"
    assert unreached["resource"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: a}", "a: cpu is missing"),
        ("- {name: a, cpu: 1, memory: 1Gi, gpu: 4}", "gpu is no field"),
        ("", "no server"),
    ],
)
def test_a_mistake_in_the_servers_is_one_sentence(
    run: Any, files: tuple[Path, Path], text: str, said: str
) -> None:
    job, servers = files
    servers.write_text(text)
    answer = run("plan", "-f", job, "--servers", servers)
    assert (answer.status, answer.error.count("\n")) == (2, 1)
    assert said in answer.error


def test_files_that_are_not_there_are_named(run: Any, files: tuple[Path, Path]) -> None:
    answer = run("plan", "-f", "/nowhere.yaml", "--servers", files[1])
    assert answer.status == 2
    assert answer.error == "evenkeel: /nowhere.yaml: can't be read: No such file or directory\n"


def test_sizes_come_from_the_models_file_where_there_is_one(
    run: Any, files: tuple[Path, Path], tmp_path: Path, write_gguf: Any
) -> None:
    sizes = {0: (1, 4)}
    metadata = {
        "general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 1024,
        "llama.attention.head_count": 8, "general.name": "Own", "general.file_type": 0,
    }  # fmt: skip
    tensors = [
        ("token_embd.weight", (1024, 1000), 0), ("output.weight", (1024, 1000), 0),
        ("blk.0.ffn_up.weight", (1024, 4096), 0), ("blk.1.ffn_up.weight", (1024, 2048), 0),
    ]  # fmt: skip
    header = write_gguf(metadata, tensors, sizes)
    with (tmp_path / "llama-3.1-8b-instruct-q4_k_m.gguf").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * 1024 * 8144)
    job, servers = files

    def plan(*more: str | Path) -> Any:
        return run("plan", "-f", job, "--servers", servers, *more)

    (model,) = plan("--models-path", tmp_path, "-o", "json").document["models"]
    assert model["layerBytes"] == [4 * 1024 * 4096, 4 * 1024 * 2048]
    assert model["bytes"] == 4 * 1024 * 8144
    said = plan("--models-path", tmp_path).out
    assert said.startswith(
        "Own: 2 layers, 0.0 GiB F32, from the GGUF header of llama-3.1-8b-instruct-q4_k_m.gguf.\n"
    )
    assert "Llama-3.1-8B: 32 layers, 4.6 GiB Q4_K_M, from the name table." in plan().out
    missing = plan("--models-path", tmp_path / "empty")
    assert (missing.status, missing.error.count("\n")) == (2, 1)
    assert "is not in" in missing.error
    job.write_text(
        HELLO.replace(
            "q4_k_m.gguf",
            "q4_k_m.gguf, config: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, "
            "intermediate_size: 128, vocab_size: 100}",
        )
    )
    assert "2 layers, 0.0 GiB Q4_K_M, from model.config." in plan().out


def test_nodes_of_a_cluster_are_servers(run: Any, files: tuple[Path, Path]) -> None:
    """As `kubectl get nodes -o yaml` prints them."""
    job, servers = files
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}},
        "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "1"}},
    }
    servers.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [node]}))
    document = run("plan", "-f", job, "--servers", servers, "-o", "json").document
    assert {row["server"] for row in document["subtasks"]} == {"n1"}


def test_requests_in_a_config_map_that_is_not_there_are_asked_for(
    run: Any, files: tuple[Path, Path], examples: Path
) -> None:
    job, servers = files
    whole = (examples / "azure-trace.yaml").read_text()
    job.write_text(whole[whole.index("---") :])
    answer = run("plan", "-f", job, "--servers", servers)
    assert answer.status == 2
    assert "put the ConfigMap beside the job" in answer.error


def test_help_teaches_by_example(run: Any) -> None:
    assert "evenkeel plan -f" in run("--help").out
    assert "--servers" in run("plan", "--help").out
    assert "sandbox" in run("--help").out
