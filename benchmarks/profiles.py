"""Measured times of language models on devices, from unlike sources in one form.

A row is some work and the seconds it took. The work is `prompts` prompts of `prompt_tokens` tokens
each, that read the weights `passes` times, and `steps` decode steps of `batch` sequences that
attend to `context` tokens each; both through `layers` layers, or the whole model where that is 0.
"""

import csv
import gzip
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from evenkeel_core import facts
from evenkeel_core.models import Model, from_config
from evenkeel_core.problems import Floats


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement; its fields are the columns of a profiles file."""

    source: str
    """Who measured."""
    server: str
    """Machine it was measured on, whatever the source calls it."""
    engine: str
    """What ran the model."""
    model: str
    """Row of the model table."""
    quantization: str
    """Of the weights: F16, FP8, Q4_K_M."""
    device: str
    """Row of the accelerator table."""
    devices: int
    """How many of them every layer was split over."""
    phase: str
    """prefill, decode or first-token; nothing is learnt from the last, for it includes a wait."""
    prompts: float
    prompt_tokens: float
    passes: float
    steps: float
    batch: float
    context: float
    layers: int
    """0 for the whole model."""
    seconds: float


COLUMNS = {field.name: field.type for field in fields(Row)}
WAITED = "first-token"
PHASES = ("prefill", "decode", WAITED)


class InvalidProfile(ValueError):
    """A profiles file that breaks a rule; says which line, which column, which rule."""


def read(path: Path) -> list[Row]:
    """Return the rows of a profiles file.

    Raises
    ------
    InvalidProfile
        If the file can't be read or a rule is broken.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            found = csv.DictReader(lines)
            _columns(path, found.fieldnames or ())
            rows = [_row(line, f"{path}:{number}") for number, line in enumerate(found, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidProfile(f"{path}: can't be read: {error}") from None
    if not rows:
        raise InvalidProfile(f"{path}: there is no row in it")
    return rows


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as a profiles file."""
    with path.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(getattr(row, column) for column in COLUMNS)


def _columns(path: Path, found: Iterable[str]) -> None:
    missing = [column for column in COLUMNS if column not in set(found)]
    if missing:
        raise InvalidProfile(
            f"{path}: column {missing[0]} is missing; there must be {', '.join(COLUMNS)}"
        )


def _row(line: dict[str, str], where: str) -> Row:
    values = {column: _value(column, line[column], where) for column in COLUMNS}
    row = Row(**values)  # type: ignore[arg-type]
    known = row.quantization.upper() in facts.BITS_PER_WEIGHT
    rules = (
        ("phase", row.phase in PHASES, f"must be one of {', '.join(PHASES)}"),
        ("quantization", known, "is not known"),
        (
            "model",
            known and model(row.model, row.quantization) is not None,
            "is no row of the model table",
        ),
        ("device", facts.device(row.device) is not None, "is no row of the accelerator table"),
        ("devices", row.devices >= 1, "must be at least 1"),
        ("seconds", row.seconds > 0, "must be a positive time"),
        ("batch", row.steps == 0 or row.batch >= 1, "must be at least 1 where there are steps"),
        ("prompt_tokens", row.prompts == 0 or row.prompt_tokens >= 1, "must be at least 1"),
        ("steps", row.prompts + row.steps > 0, "and prompts are both 0: nothing was done"),
        ("passes", row.passes + row.steps > 0, "must be above 0: nothing else reads the weights"),
    )
    for column, holds, rule in rules:
        if not holds:
            raise InvalidProfile(f"{where}: {column} {line[column]} {rule}")
    return row


def _value(column: str, text: str | None, where: str) -> str | int | float:
    text = (text or "").strip()
    if COLUMNS[column] is str:
        if not text:
            raise InvalidProfile(f"{where}: {column} is empty")
        return text
    try:
        number = float(text or 0)
    except ValueError:
        raise InvalidProfile(f"{where}: {column} {text} is no number") from None
    if not math.isfinite(number) or number < 0:
        raise InvalidProfile(f"{where}: {column} {text} must be 0 or more")
    return int(number) if COLUMNS[column] is int else number


@cache
def model(name: str, quantization: str) -> Model | None:
    """Return a model of the shipped table or of the sources' own, None where neither has it."""
    with (Path(__file__).parent / "models.csv").open() as lines:
        own = {line["model"]: line for line in csv.DictReader(lines)}
    if name in own:
        return from_config(own[name], name=name, bits=facts.bits(quantization))
    return facts.model(name, quantization)


def measured(data: Path) -> Iterator[Row]:
    """Yield the rows of all measured sources whose README files say what they are."""
    yield from _helix(data / "helix" / "machine_latency_profiles.csv.gz")
    yield from _splitwise(data / "llm-perf-measured" / "splitwise_perf_model.csv.gz")
    for run, model, device, devices in RUNS:
        yield from vllm(
            data / "llm-perf-measured" / f"vllm_{run}_requests.csv.gz", run, model, device, devices
        )
    yield from _references(data / "llm-perf-measured" / "aiconfigurator_silicon_refs.csv")


def _lines(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return list(csv.DictReader(lines))


HELIX_MACHINES = {
    "a100": ("A100-SXM4-40GB", 1),
    "v100": ("V100-SXM2-16GB", 1),
    "l4": ("L4", 1),
    "l4x2": ("L4", 2),
    "t4": ("T4", 1),
    "t4x2": ("T4", 2),
    "t4x4": ("T4", 4),
}
HELIX_MODELS = {"llama1_30b": "Llama-30B", "llama2_70b": "Llama-2-70B"}
HELIX_INPUT, HELIX_OUTPUT = 763.0, 232.0
"""Mean tokens of a request in the paper: the Azure conversation trace, requests of at most 2,048
input and 1,024 output tokens (recomputed from data/azure-llm-2023: 762.8 and 232.4)."""


def _helix(path: Path) -> Iterator[Row]:
    """Yield times of one layer: a batch of prompts by its tokens, a decode step by its requests."""
    for line in _lines(path):
        amount, seconds = float(line["batch_tokens_or_requests"]), float(line["ms_per_layer"]) / 1e3
        if seconds <= 0:  # the empty batch
            continue
        device, devices = HELIX_MACHINES[line["machine"]]
        prompt = line["phase"] == "prompt"
        tokens = min(amount, HELIX_INPUT)
        yield Row(
            "helix", line["machine"], "vllm", HELIX_MODELS[line["model"]], "F16", device, devices,
            "prefill" if prompt else "decode",
            prompts=amount / tokens if prompt else 0, prompt_tokens=tokens if prompt else 0,
            passes=float(prompt), steps=float(not prompt), batch=0 if prompt else amount,
            context=0 if prompt else HELIX_INPUT + HELIX_OUTPUT / 2, layers=1, seconds=seconds,
        )  # fmt: skip


SPLITWISE_DEVICES = {
    "a100-80gb": "A100-SXM4-80GB",
    "h100-80gb": "H100-SXM-80GB",
    "h100-80gb-pcap": "H100-SXM-80GB",
}
SPLITWISE_MODELS = {"llama2-70b": "Llama-2-70B", "bloom-176b": "BLOOM-176B"}


def _splitwise(path: Path) -> Iterator[Row]:
    """Yield the prompt of each run and its mean decode step."""
    for line in _lines(path):
        batch, tokens = float(line["batch_size"]), float(line["prompt_size"])
        steps, seconds = float(line["token_time"]) / 1e3, float(line["prompt_time"]) / 1e3
        # Generation ends early in the long runs: tokens there are what the whole time allows.
        made = min(float(line["token_size"]), (float(line["e2e_time"]) / 1e3 - seconds) / steps)
        common = (
            "splitwise", line["hardware"], "splitwise", SPLITWISE_MODELS[line["model"]], "F16",
            SPLITWISE_DEVICES[line["hardware"]], int(line["tensor_parallel"]),
        )  # fmt: skip
        yield Row(*common, "prefill", batch, tokens, 1, 0, 0, 0, 0, seconds)
        yield Row(*common, "decode", 0, 0, 0, 1, batch, tokens + made / 2, 0, steps)


RUNS = (
    ("RTX4090_Llama-3.1-8B", "Llama-3.1-8B", "RTX-4090", 1),
    ("RTXPRO6000_Llama-3.1-8B", "Llama-3.1-8B", "RTX-PRO-6000-Server", 1),
    ("RTXPRO6000_Qwen3-32B", "Qwen3-32B", "RTX-PRO-6000-Server", 2),
    # Data parallel 2 with the experts split over both: together they are as one of two devices.
    ("RTXPRO6000_Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B", "RTX-PRO-6000-Server", 2),
)
CHUNK = 2048
"""Tokens a step takes at most: ``max_num_batched_tokens`` of the four runs."""


def vllm(path: Path, run: str, model: str, device: str, devices: int) -> Iterator[Row]:
    """Yield each request of a run: from its schedule to its first token, and to its last.

    Requests share the device: what else was running meanwhile is read from all their times.
    """
    lines = _lines(path)
    begun, first, last, given, made = (
        np.array([float(line[column]) for line in lines])
        for column in (
            "scheduled_s",
            "first_token_s",
            "last_token_s",
            "input_tokens",
            "output_tokens",
        )
    )
    for phase, starts, ends in (("prefill", begun, first), ("decode", first, last)):
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if end <= start:  # one token: there is no decode
                continue
            shares = _within(begun, first, start, end) / np.maximum(first - begun, 1e-9)
            tokens = float(shares @ given)
            present = _within(first, last, start, end)
            # Where in its own decoding a request stood in the middle of its presence.
            middle = (np.maximum(first, start) + np.minimum(last, end)) / 2
            done = np.clip((middle - first) / np.maximum(last - first, 1e-9), 0, 1)
            batch = float(present.sum() / (end - start))
            context = float(present @ (given + done * made) / max(present.sum(), 1e-9))
            alone = batch < 1
            chunks = math.ceil(tokens / CHUNK) if phase == "prefill" else 0
            steps = made[number] - 1 if phase == "decode" else 0 if alone else chunks
            yield Row(
                "vllm", run, "vllm", model, "F16", device, devices, phase,
                prompts=float(shares.sum()), prompt_tokens=tokens / max(float(shares.sum()), 1e-9),
                passes=float(chunks if alone else 0), steps=float(steps),
                batch=0 if alone and not steps else max(1.0, batch),
                context=context, layers=0, seconds=end - start,
            )  # fmt: skip


def _within(begins: Floats, ends: Floats, start: float, end: float) -> Floats:
    """Return for how long each span lies between two moments."""
    within: Floats = np.minimum(ends, end) - np.maximum(begins, start)
    return np.maximum(within, 0.0)


REFERENCE_DEVICES = {
    "h100_sxm": "H100-SXM-80GB", "h200_sxm": "H200-SXM-141GB", "b200_sxm": "B200-SXM",
    "b300_sxm": "B300-SXM", "gb200": "B200-SXM", "gb300": "B300-SXM",
}  # fmt: skip
REFERENCE_QUANTIZATION = {"": "F16", "fp8": "FP8", "fp4": "MXFP4"}


def _references(path: Path) -> Iterator[Row]:
    """Yield each point's time to the first token and time per output token.

    Under load the first includes a wait in the queue, of which the source says nothing: it is
    predicted as the time of one prompt alone. Where one server does both, every decode step
    carries the prompts that keep the batch full.
    """
    for line in _lines(path):
        name = line["model_path"].rpartition("/")[2].removesuffix("-FP8")
        quantization = REFERENCE_QUANTIZATION[line["precision"]]
        given, made = float(line["isl"]), float(line["osl"])
        parted = line["mode"] == "disagg"
        for phase, time in ((WAITED, "silicon_ttft_ms"), ("decode", "silicon_tpot_ms")):
            part = {"decode": "decode_", WAITED: "prefill_"}[phase] if parted else ""
            replicas = _number(line, f"{part}attention_dp_size")
            devices = _number(line, f"{part}tp_size") * _number(line, f"{part}pp_size") * replicas
            batch = _number(line, f"{part}batch_size") * (replicas if parted else 1)
            if phase == "decode":
                work = (0 if parted else batch / made, given, 0, 1, batch, given + made / 2)
            else:
                work = (batch if parted else 1, given, 1, 0, 0, 0)
            yield Row(
                "aiconfigurator", line["system"], line["backend"], name, quantization,
                REFERENCE_DEVICES[line["system"]], int(devices), phase, *work,
                layers=0, seconds=float(line[time]) / 1e3,
            )  # fmt: skip


def _number(line: dict[str, str], column: str) -> float:
    """Return a count, 1 where the source says nothing."""
    text = line.get(column) or ""
    return max(1.0, float(text)) if text not in ("", "None") else 1.0
