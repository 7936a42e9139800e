"""The benchmarks run as they are documented, on data small enough for a test."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import instances

from evenkeel_core import packings

ROOT = Path(__file__).parents[2]


def run(name: str, *options: str) -> Any:
    """Run a benchmark and return the object of its last line."""
    words = [sys.executable, "-m", f"benchmarks.{name}", *options, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_cut_is_the_best_there_is() -> None:
    found = run("pipeline", "--racks", "20")
    assert found["racks"] == 120
    assert found["unlike_enumerated"] == 0
    assert found["worse_than_a_baseline"] == 0
    assert found["largest"]["servers"] == 64


def small(name: str) -> dict[str, Any]:
    """Return an instance whose best assignment costs 3."""
    return {
        "name": name,
        "agents": 2,
        "items": 3,
        "cost": [[1, 1, 9], [5, 5, 1]],
        "weight": [[2, 2, 2], [2, 2, 2]],
        "capacity": [4, 4],
    }


def test_assignments_are_written_for_others_to_check(tmp_path: Path) -> None:
    given, written = tmp_path / "given.jsonl.gz", tmp_path / "written.jsonl"
    lines = [small("known") | {"optimum": 3}, small("unknown")]
    given.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    found = run("assignment", "--instances", str(given), "--solutions", str(written))
    assert found["feasible"] == found["instances"] == 2
    assert found["worst_gap_percent"] == 0.0
    assert found["gap_to"] == ["best known", "linear bound"]
    solved = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["assignment"] for line in solved] == [[0, 0, 1], [0, 0, 1]]


def test_made_instances_are_tight_and_correlated() -> None:
    for instance in instances.made("DE", seed=3):
        packing = instances.packing(instance)
        relaxed = packings.relax(packing)
        assert relaxed is not None, instance["name"]
        used = packings.loads(packing, relaxed.share.argmax(axis=1)).sum()
        assert used > 0.9 * packing.capacity.sum()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Measured times that are work over speed, in the files the benchmark reads."""
    works, speeds = [1, 2, 5, 9, 20, 40], {"a": 1.0, "b": 2.0, "c": 3.5, "d": 8.0}
    helix = [
        {"model": "m", "machine": machine, "phase": phase, "ms_per_layer": 10 * work / speed,
         "batch_tokens_or_requests": work}
        for phase in ("prompt", "decode") for work in works for machine, speed in speeds.items()
    ]  # fmt: skip
    splitwise = [
        {"model": "m", "hardware": machine, "tensor_parallel": 2, "prompt_size": work,
         "batch_size": 1, "token_size": 8, "prompt_time": work / speed, "token_time": work / speed}
        for work in works for machine, speed in speeds.items()
    ]  # fmt: skip
    for name, rows in (
        ("helix/machine_latency_profiles.csv.gz", helix),
        ("llm-perf-measured/splitwise_perf_model.csv.gz", splitwise),
    ):
        (tmp_path / name).parent.mkdir()
        with gzip.open(tmp_path / name, "wt") as lines:
            writer = csv.DictWriter(lines, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return tmp_path


def test_hidden_times_are_completed(data: Path) -> None:
    found = run("lowrank", "--data", str(data), "--trials", "2")
    assert found["median_error_percent_at_half"] < 1.0
    assert found["better_than_both_baselines"]["50%"]
    assert found["largest_difference_between_seconds_and_milliseconds"] < 1e-6
