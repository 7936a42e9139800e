"""The benchmarks run as they are documented, on data small enough for a test."""

import csv
import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import graphs, helix, instances, profiles

from evenkeel_core import costs, facts, packings
from evenkeel_core.efficiencies import Efficiency

ROOT = Path(__file__).parents[2]


def run(name: str, *options: str) -> Any:
    """Run a benchmark and return the object of its last line."""
    words = [sys.executable, "-m", f"benchmarks.{name}", *options, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_chain_and_set_is_the_best_there_is(tmp_path: Path) -> None:
    found = run("pipeline", "--racks", "10", "--data", str(tmp_path / "none"))
    assert found["enumerated"] == 120
    assert found["racks"] == 126
    assert found["unlike_enumerated"] == 0
    assert found["worse_than_a_baseline"] == 0
    assert found["largest"]["servers"] == 64
    assert found["helix"] == []


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Two sites of two machines each, in Helix's files; one link between the sites is thin."""
    folder = tmp_path / "helix"
    folder.mkdir()
    blocks = [{"model": "llama1_30b", "machine": "a100", "layers_held": held,
               "kv_blocks_of_16_tokens": 90000 // held} for held in range(1, 31)]  # fmt: skip
    times = [
        {"model": "llama1_30b", "machine": "a100", "phase": phase,
         "batch_tokens_or_requests": batch, "ms_per_layer": 0.001 * batch + 0.5}
        for phase in ("prompt", "decode") for batch in (0, 1000, 100000)
    ]  # fmt: skip
    links = {(0, 1): 1000, (2, 3): 1000, (0, 2): 20, (0, 3): 10, (1, 2): 10, (1, 3): 10}
    cluster = ["[NodeNames]", "total_compute_nodes=4"]
    cluster += [f"[ComputeNode-{node}]\ntype=A100" for node in range(4)]
    cluster += [f"[Link-{a}-{b}]\nbandwidth={mbps} * mbps" for (a, b), mbps in links.items()]
    machines = ["[A100]", "inbound_nic_speed = 10 * gbps"]
    for name in ("cluster10", "single24", "3cluster24"):
        (folder / f"{name}.ini.gz").write_bytes(gzip.compress("\n".join(cluster).encode()))
    packed = gzip.compress("\n".join(machines).encode())
    (folder / "google_machine_profiles.ini.gz").write_bytes(packed)
    with (folder / "kv_blocks.csv").open("w") as lines:
        written = csv.DictWriter(lines, blocks[0].keys())
        written.writeheader()
        written.writerows(blocks)
    with gzip.open(folder / "machine_latency_profiles.csv.gz", "wt") as lines:
        written = csv.DictWriter(lines, times[0].keys())
        written.writeheader()
        written.writerows(times)
    return tmp_path


def test_a_chain_crosses_between_sites_where_most_passes(fleet: Path) -> None:
    cluster, model = next(helix.clusters(fleet)), helix.MODELS[1]
    rates = helix.Rates(fleet, model, cluster)
    assert cluster.sites() == [[0, 1], [2, 3]]
    routes = [route.stages() for route in cluster.routes(model, range(4), shared=(1,))]
    assert routes == [[(1,), (0,), (2,), (3,)]] * 2
    chain = [(stage, 15) for stage in routes[0]]
    assert helix.tokens(cluster, model, rates, chain) == pytest.approx(20e6 / model.activation)
    first, *_ = cluster.routes(model, range(4), shared=(2,))
    assert first.stages() == [(1,), (0,), (2, 3)]
    # Two links carry what one carries and half of that.
    chain = [(stage, 20) for stage in first.stages()]
    assert helix.tokens(cluster, model, rates, chain) == pytest.approx(30e6 / model.activation)


def test_tokens_a_second_fall_with_the_layers_held(fleet: Path) -> None:
    rates = helix.Rates(fleet, helix.MODELS[1], next(helix.clusters(fleet))).of("A100")
    assert len(rates) == 30
    assert rates == sorted(rates, reverse=True)


def test_a_placement_is_written_as_helix_reads_it() -> None:
    text = helix.placement(5, 5, [[((2, 4), 3), ((0,), 2)], [((1,), 5)]])
    assert text.splitlines() == [
        "[Settings]", "offset=2", "", "[Solution]", "compute_node_2=[3, 4]",
        "compute_node_3=[0, 1, 2, 3, 4]", "compute_node_4=[0, 1, 2]", "compute_node_5=[]",
        "compute_node_6=[0, 1, 2]",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="2 of 5"):
        helix.placement(5, 1, [[((0,), 2)]])


HELIX = ROOT.parent / "shared"


@pytest.mark.skipif(not (HELIX / "check").exists(), reason="the data is not here")
def test_an_independent_checker_finds_the_same_tokens_a_second(tmp_path: Path) -> None:
    data = HELIX / "data" / "helix"
    found = run("pipeline", "--racks", "0", "--data", str(HELIX / "data"),
                "--placements", str(tmp_path))  # fmt: skip
    for row in found["helix"]:
        if not row["stages"]:
            continue
        words = [
            *(sys.executable, HELIX / "check" / "helix_check.py", "--model", row["model"]),
            *("--cluster", data / f"{row['cluster']}.ini.gz"),
            *("--machines", data / "google_machine_profiles.ini.gz"),
            *("--profiles", data / "machine_latency_profiles.csv.gz"),
            tmp_path / f"{row['cluster']}-{row['model']}.ini",
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        (placed,) = json.loads(done.stdout)["placements"]
        assert placed["valid"], placed["reasons"]
        assert placed["tokens_per_s"] >= row["tokens_per_second"] - 0.01


def test_plans_end_early_and_are_stable() -> None:
    found = run("game", "--worlds", "2", "--cases", "3", "--seed", "5")
    assert found["worlds"] == 8
    assert found["all_stable"]
    assert found["better_than_default_scheduler_percent"] > 15
    assert found["times_min_cost_flow"] <= 1
    assert found["above_optimum_percent"]["makespan"]["mean"] < 5


def test_the_partition_from_the_factors_alone_is_feasible() -> None:
    found = run("partition", "--worlds", "2", "--subtasks", "64", "--servers", "20", "--seed", "5")
    assert found["all_feasible"]
    assert found["largest"]["servers"] == 20


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


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def small_cluster(tmp_path: Path) -> list[str]:
    """Five GPUs on three servers and one without, five pods, and the order in which eight come."""
    nodes = table(
        tmp_path / "nodes.csv",
        "sn,cpu_milli,memory_mib,gpu,model",
        "one,8000,1000,2,A",
        "two,8000,1000,2,B",
        "three,8000,1000,1,B",
        "four,8000,1000,0,A",
    )
    pods = table(
        tmp_path / "pods.csv",
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec",
        "half,1000,100,1,500,",
        "both,1000,100,2,1000,",
        "named,1000,100,1,1000,A|A|C",
        "none,8000,100,0,0,",
        "huge,9000,100,0,0,",
    )
    order = [
        "half",
        "none",
        "half-tuned-0",
        "both",
        "huge",
        "named",
        "named-tuned-1",
        "both-tuned-2",
    ]
    stream = table(tmp_path / "stream.csv", "seq,pod", *(f"{i},{p}" for i, p in enumerate(order)))
    named = {"nodes": nodes, "pods": pods, "stream": stream, "decisions": tmp_path / "out.csv"}
    return [word for name, path in named.items() for word in (f"--{name}", str(path))]


def decided(written: Path) -> dict[str, tuple[str, str]]:
    with written.open() as lines:
        return {row["pod"]: (row["node"], row["gpus"]) for row in csv.DictReader(lines)}


def test_pods_are_placed_one_by_one_with_those_in_mind_that_may_come(
    small_cluster: list[str], tmp_path: Path
) -> None:
    means = [f"{percent}.5" for percent in (90, 95, 100, 110, 130)]
    published = table(
        tmp_path / "published.csv",
        "workload,policy," + ",".join(f"mean_at_{percent}" for percent in (90, 95, 100, 110, 130)),
        ",".join(["pods", "05-BestFit", *"12345"]),
        ",".join(["pods", "06-FGD", *means]),
    )
    found = run("openb", *small_cluster, "--published", str(published))
    assert found["fgd_percent_at"]["95"] == 95.5
    assert (found["pods"], found["placed"], found["known_beforehand"]) == (8, 6, True)
    assert found["in_use_percent_at"] == {"100": 100.0}
    assert decided(tmp_path / "out.csv") == {
        "half": ("three", "0"),  # two together stay free, and the kind that others name
        "none": ("four", ""),  # it would strand GPUs elsewhere
        "half-tuned-0": ("three", "0"),
        "both": ("two", "0|1"),
        "huge": ("", ""),
        "named": ("one", "0"),
        "named-tuned-1": ("one", "1"),
        "both-tuned-2": ("", ""),
    }


def test_what_is_not_known_beforehand_is_not_used(small_cluster: list[str], tmp_path: Path) -> None:
    found = run("openb", *small_cluster, "--learn", "--published", str(tmp_path / "none.csv"))
    assert found["fgd_percent_at"] is None
    assert (found["known_beforehand"], found["in_use_percent_at"]) == (False, {"100": 80.0})
    where = decided(tmp_path / "out.csv")
    assert where["half"] == where["half-tuned-0"] == ("one", "0")
    assert where["named-tuned-1"] == ("", "")


CHECKER = ROOT.parent / "shared" / "check" / "openb_check.py"


@pytest.mark.skipif(not CHECKER.exists(), reason="the independent checker is not on this machine")
def test_an_independent_checker_finds_no_violation(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    nodes = table(
        tmp_path / "nodes.csv",
        "sn,cpu_milli,memory_mib,gpu,model",
        *(f"n{n},{draw.choice([32, 96])}000,400000,{2 ** draw.integers(4)},{'AB'[n % 2]}"
          for n in range(30)),
    )  # fmt: skip
    pods = table(
        tmp_path / "pods.csv",
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec",
        *(f"part{n},{draw.integers(1, 9)}000,5000,1,{draw.integers(1, 10)}00," for n in range(60)),
        *(f"one{n},{draw.integers(1, 20)}000,9000,1,1000,{'A' * (n % 3 == 0)}" for n in range(30)),
        *(f"two{n},8000,9000,2,1000," for n in range(10)),
        *(f"none{n},{draw.integers(1, 30)}000,9000,0,0," for n in range(20)),
    )
    given = ["--nodes", str(nodes), "--pods", str(pods)]
    stream, decisions = tmp_path / "stream.csv", tmp_path / "out.csv"
    stream.write_text(check(*given, "--make-stream", "3"))
    found = run("openb", *given, "--stream", str(stream), "--decisions", str(decisions))
    checked = json.loads(check(*given, "--stream", str(stream), str(decisions)))
    assert checked["violations"] == 0
    assert 0 < checked["rejected"] == found["pods"] - found["placed"]
    shares = {int(percent): share for percent, share in found["in_use_percent_at"].items()}
    assert shares[100] == pytest.approx(checked["alloc_percent_at_100"], abs=0.02)


def check(*options: str) -> str:
    words = [sys.executable, str(CHECKER), *options]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_decisions_look_at_no_later_pod(small_cluster: list[str], tmp_path: Path) -> None:
    """Whatever the rest of the stream, the decisions so far are the same."""
    run("openb", *small_cluster)
    whole = (tmp_path / "out.csv").read_text().splitlines()
    stream = tmp_path / "stream.csv"
    table(stream, *stream.read_text().splitlines()[:4])
    run("openb", *small_cluster)
    assert (tmp_path / "out.csv").read_text().splitlines() == whole[:4]


@pytest.mark.parametrize("world", [[], ["--unlike"]])
def test_a_plan_scales_and_goes_on(world: list[str]) -> None:
    found = run("scale", "--most", "300", "--runs", "1", "--changes", "5", *world)
    assert [(row["subtasks"], row["servers"]) for row in found["rows"]] == [(100, 50), (300, 150)]
    assert all(row["stable"] and row["peak_mb"] > 0 for row in found["rows"])
    assert found["largest"]["seconds"] == found["rows"][-1]["seconds"] > 0
    assert found["add_one_ms"] > 0


TRUTH = {"T4": Efficiency(0.3, 0.8, 2e-4), "A100-SXM4-80GB": Efficiency(0.7, 0.6, 2e-5)}


def timed() -> list[profiles.Row]:
    """Return times of a known truth, 3 % to either side."""
    random, rows = np.random.default_rng(0), []
    model = profiles.model("Llama-2-70B", "F16")
    assert model is not None
    for device, truth in TRUTH.items():
        table = facts.device(device)
        assert table is not None
        at = costs.Speed(facts.peak_flops(table), facts.bandwidth(table), truth, processor=False)
        for number in range(100):
            tokens = float(np.exp(random.uniform(0, 8)))
            prompts, steps = (1.0, 0.0) if number % 2 else (0.0, 1.0)
            batch = float(random.integers(1, 200))
            effort = (
                costs.prefill_effort(model, costs.Tokens(1, tokens, tokens**2, 0.0), passes=1)
                if prompts
                else costs.step_effort(model, batch, tokens)
            )
            seconds = costs.seconds(effort, at) * float(np.exp(random.normal(0, 0.03)))
            rows.append(
                profiles.Row(
                    "made", device, "vllm", "Llama-2-70B", "F16", device, 1,
                    "prefill" if prompts else "decode", prompts, tokens if prompts else 0.0,
                    prompts, steps, 0.0 if prompts else batch, 0.0 if prompts else tokens, 1,
                    seconds,
                )
            )  # fmt: skip
    return rows


def test_times_are_predicted_from_a_tenth_of_them(tmp_path: Path) -> None:
    given, written = tmp_path / "given.csv", tmp_path / "written.csv"
    profiles.write(given, timed())
    found = run("costs", "--profiles", str(given), "--write", str(written), "--seeds", "3")
    assert found["rows"] == 200
    assert found["calibrated_on"] == 20
    assert found["median_abs_error_percent"] < 5
    assert found["median_abs_error_percent_one_by_one"] < 8
    assert found["median_abs_error_percent_uncalibrated"] > 10
    assert found["ceiling_violations"] == 0
    assert {"made", "T4 x1", "decode", "made prefill"} <= set(found["by"])
    assert written.read_text() == given.read_text()


def test_prompts_that_read_no_weights_are_refused(tmp_path: Path) -> None:
    given = tmp_path / "given.csv"
    profiles.write(given, [replace(next(row for row in timed() if row.prompts), passes=0.0)])
    with pytest.raises(profiles.InvalidProfile, match=r"passes 0\.0 must be above 0"):
        profiles.read(given)


def test_times_above_the_ceiling_are_never_predicted(tmp_path: Path) -> None:
    """Ten times as fast as the device can be: counted, not believed."""
    given = tmp_path / "given.csv"
    profiles.write(given, [replace(row, seconds=row.seconds / 100) for row in timed()])
    found = run("costs", "--profiles", str(given), "--seeds", "2", "--share", "0.5")
    assert found["measured_above_the_ceiling"] == 200
    assert found["ceiling_violations"] == 0


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("model", "Unheard-9B", "2: model Unheard-9B is no row of the model table"),
        ("device", "Abacus", "2: device Abacus is no row of the accelerator table"),
        ("quantization", "Q99", "2: quantization Q99 is not known"),
        ("phase", "sleep", "2: phase sleep must be one of prefill, decode, first-token"),
        ("seconds", "0", "2: seconds 0 must be a positive time"),
        ("seconds", "nan", "2: seconds nan must be 0 or more"),
        ("devices", "0", "2: devices 0 must be at least 1"),
        ("batch", "some", "2: batch some is no number"),
        ("batch", "0.5", "2: batch 0.5 must be at least 1 where there are steps"),
        ("steps", "0", "2: steps 0 and prompts are both 0: nothing was done"),
        ("source", "", "2: source is empty"),
        (None, "", "column source is missing; there must be source, server,"),
    ],
)
def test_a_profile_that_is_wrong_is_one_sentence(
    tmp_path: Path, column: str | None, value: str, said: str
) -> None:
    given = tmp_path / "given.csv"
    profiles.write(given, [next(row for row in timed() if row.steps)])
    head, line = given.read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    if column is None:
        head = head.replace("source", "origin")
    else:
        cells[column] = value
    given.write_text(f"{head}\n{','.join(cells.values())}\n")
    with pytest.raises(profiles.InvalidProfile) as refused:
        profiles.read(given)
    assert said in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"source\n"])
def test_what_is_no_profile_ends_without_a_traceback(tmp_path: Path, content: bytes | None) -> None:
    given = tmp_path / "given.csv"
    if content is not None:
        given.write_bytes(content)
    words = [sys.executable, "-m", "benchmarks.costs", "--profiles", str(given)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"costs: {given}: ")


def test_what_ran_beside_a_request_is_read_from_the_others(tmp_path: Path) -> None:
    """Two requests of 10 steps, the second prefilled while the first decodes."""
    path = tmp_path / "requests.csv"
    path.write_text(
        "scheduled_s,first_token_s,last_token_s,input_tokens,output_tokens\n"
        "0,1,11,100,11\n"
        "5,6,16,200,11\n"
    )
    rows = list(profiles.vllm(path, "run", "Llama-3.1-8B", "L4", 1))
    prefill, _, first, second = rows
    assert (prefill.prompts, prefill.prompt_tokens, prefill.passes, prefill.steps) == (1, 100, 1, 0)
    assert (first.phase, first.steps, first.seconds, first.passes) == ("decode", 10, 10, 0)
    assert (first.prompts, first.prompt_tokens) == (1, 200)
    assert first.batch == pytest.approx(1.5)
    # Ten seconds at 105.5 tokens beside five at 202.75.
    assert first.context == pytest.approx((10 * 105.5 + 5 * 202.75) / 15)
    assert (second.prompts, second.batch) == (0, 1.5)


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Small jobs of every set whose best lengths are plain to see."""
    graph = {
        "name": "two chains",
        "processors": 2,
        "weights": [3, 4, 5, 2],
        "edges": [[0, 1], [2, 3]],
        "optimal_makespan": 7,
    }
    shop = {
        "instance": "two jobs",
        "family": "small",
        "machines": 2,
        "jobs": [[[[1, 3], [2, 9]], [[2, 2]]], [[[1, 9], [2, 3]], [[1, 2]]]],
        "lower_bound": 5,
        "upper_bound": 5,
    }
    for name, row in (("rgpos", graph), ("fjsp", shop)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "made.jsonl").write_text(json.dumps(row) + "\n")
    size = 5 * 10**8
    tasks = [
        {"id": "a", "parents": [], "children": ["b", "c"], "outputFiles": ["f"]},
        {"id": "b", "parents": ["a"], "children": [], "inputFiles": ["f"]},
        {"id": "c", "parents": ["a"], "children": [], "inputFiles": ["f"]},
    ]
    document = {
        "workflow": {
            "specification": {"tasks": tasks, "files": [{"id": "f", "sizeInBytes": size}]},
            "execution": {"tasks": [{"id": t["id"], "runtimeInSeconds": 9.0} for t in tasks]},
        }
    }
    (tmp_path / "wfinstances").mkdir()
    packed = gzip.compress(json.dumps(document).encode())
    (tmp_path / "wfinstances" / "fork.json.gz").write_bytes(packed)
    return tmp_path


def test_schedules_are_written_with_what_it_takes_to_check_them(waiting: Path) -> None:
    written = waiting / "written.jsonl"
    options = ("--time-limit", "0.2", "--seeds", "1")
    found = run("dag", "--data", str(waiting), "--solutions", str(written), *options)
    assert found["valid"] == found["instances"] == 2 + 5
    assert found["worse_than_heft"] == 0
    assert found["rgpos"]["mean_gap_percent"] == found["fjsp"]["worst_gap_percent"] == 0.0
    assert found["fjsp"]["mean_gap_percent_by_family"] == {"small": 0.0}
    assert found["wfinstances"]["mean_improvement_percent_on_unlike_servers"] >= 0.0
    for line in map(json.loads, written.read_text().splitlines()):
        place, start, end = line["assignment"], line["start"], line["end"]
        for task, server in enumerate(place):
            assert end[task] - start[task] == pytest.approx(line["cost"][task][server])
        for (one, other), moved in zip(line["edges"], line["bytes"], strict=True):
            i, j = place[one], place[other]
            apart = line["latency"][i] + line["latency"][j]
            apart += moved / min(line["bandwidth"][i], line["bandwidth"][j])
            assert start[other] >= end[one] + (apart if i != j else 0.0) - 1e-6
        for server, slots in enumerate(line["slots"]):
            here = [task for task in range(len(place)) if place[task] == server]
            for moment in [start[task] for task in here]:
                assert sum(start[task] <= moment < end[task] for task in here) <= slots
        assert max(end) == line["makespan"]


def test_a_rack_is_made_anew_from_its_seed(waiting: Path) -> None:
    one, other = (list(graphs.wfinstances(waiting / "wfinstances", 2)) for _ in range(2))
    assert [case.name for case in one] == [case.name for case in other]
    assert all((a.problem.cost == b.problem.cost).all() for a, b in zip(one, other, strict=True))
    assert (one[0].problem.cost != one[2].problem.cost).any()
