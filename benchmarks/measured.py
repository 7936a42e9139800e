"""Measured times of language models on unlike hardware, as matrices of work by machine."""

import csv
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from evenkeel_core.problems import Floats

Row = dict[str, str]
Key = tuple[str, ...]


def matrices(data: Path) -> Iterator[tuple[str, Floats]]:
    """Yield (name, seconds of each work on each machine), nan where not measured."""
    helix = list(_rows(data / "helix" / "machine_latency_profiles.csv.gz"))
    for phase in ("prompt", "decode"):
        rows = [row for row in helix if row["phase"] == phase]
        yield f"helix {phase}", _matrix(rows, _layer, ("machine",), "ms_per_layer")
    rows = list(_rows(data / "llm-perf-measured" / "splitwise_perf_model.csv.gz"))
    machine = ("hardware", "tensor_parallel")
    # What is generated later does not enter into the time of the prompt.
    yield "splitwise prompt", _matrix(rows, _prompt, machine, "prompt_time")
    yield "splitwise token", _matrix(rows, _request, machine, "token_time")


def _rows(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt") as lines:
        yield from csv.DictReader(lines)


def _layer(row: Row) -> Key:
    return row["model"], row["batch_tokens_or_requests"]


def _prompt(row: Row) -> Key:
    return row["model"], row["prompt_size"], row["batch_size"]


def _request(row: Row) -> Key:
    return (*_prompt(row), row["token_size"])


def _matrix(rows: list[Row], work: Callable[[Row], Key], machine: Key, time: str) -> Floats:
    """Return the median seconds of each work on each machine; works on one machine only go."""
    found: dict[tuple[Key, Key], list[float]] = {}
    for row in rows:
        if float(row[time]) <= 0:  # the empty batch of a profile
            continue
        place = tuple(row[column] for column in machine)
        found.setdefault((work(row), place), []).append(float(row[time]) / 1000)
    works, machines = (sorted({key[axis] for key in found}) for axis in (0, 1))
    matrix = np.full((len(works), len(machines)), np.nan)
    for (one, place), times in found.items():
        matrix[works.index(one), machines.index(place)] = median(times)
    return matrix[np.isfinite(matrix).sum(axis=1) > 1]
