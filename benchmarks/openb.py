"""Pods with parts of GPUs, placed as they come on a cluster of 6,212: the published experiment.

python -m benchmarks.openb --nodes ../shared/data/openb/openb_node_list_gpu_node.csv.gz \
    --pods ../shared/data/openb/openb_pod_list_default.csv.gz \
    --stream stream.csv --decisions decisions.csv --json

Each pod of the stream goes to the server where the extender's own score (`evenkeel_core.fitting`)
says that least is stranded; it is dropped only where it fits nowhere. None is looked at before its
turn. As in the published runs of FGD (Weng et al., USENIX ATC 2023), the list of --pods is taken as
the workload that is known beforehand; with --learn typical pods are those that have come, looked
at again at every doubling of their number. The published figure is
the mean share of the cluster's GPUs in use while the pods that came ask for 100 % of them.
"""

import argparse
import csv
import gzip
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evenkeel_core import fitting
from evenkeel_core.fitting import WHOLE, Fitting, Room, Shape

REPORTED = (90, 95, 100, 110, 130)
EXTRA_DRAW = re.compile(r"-tuned-\d+$")
"""How the simulator marks a pod that is offered again."""

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The servers of the file, in its order."""

    names: list[str]
    models: list[str]
    room: Room


def main() -> int:
    """Decide the stream, write every decision, print the shares in use."""
    options = _options()
    cluster = _cluster(options.nodes)
    shapes = {row["name"]: _shape(row, cluster.models) for row in _rows(options.pods)}
    began, cpu = time.perf_counter(), time.process_time()
    decisions = list(decide(cluster, shapes, _rows(options.stream), learn=options.learn))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    with options.decisions.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("seq", "pod", "node", "gpus"))
        writer.writerows(decisions)
    shares = _shares(cluster, shapes, decisions)
    for percent, share in shares.items():
        print(f"{percent:4} % asked for: {share:6.2f} % in use", file=sys.stderr)
    if options.json:
        print(
            json.dumps(
                {
                    "pods": len(decisions),
                    "placed": sum(1 for decision in decisions if decision[2]),
                    "known_beforehand": not options.learn,
                    "in_use_percent_at": shares,
                    "fgd_percent_at": _published(options.published, options.pods),
                    "decisions_per_second": round(len(decisions) / seconds),
                    "decisions_per_cpu_second": round(len(decisions) / cpu),
                }
            )
        )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nodes", type=Path, required=True, help="sn,cpu_milli,memory_mib,gpu,model"
    )
    parser.add_argument("--pods", type=Path, required=True, help="the pods and what they ask for")
    parser.add_argument("--stream", type=Path, required=True, help="seq,pod: the offered order")
    parser.add_argument(
        "--decisions", type=Path, required=True, help="seq,pod,node,gpus is written"
    )
    parser.add_argument("--learn", action="store_true", help="know nothing of the pods beforehand")
    parser.add_argument(
        "--published",
        type=Path,
        default=Path("../shared/data/openb/published/alloc_ratio_summary.csv"),
        help="mean shares of the published runs, to set FGD's beside ours where it is there",
    )
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    return parser.parse_args()


def _rows(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from csv.DictReader(lines)


def _cluster(path: Path) -> Cluster:
    rows = list(_rows(path))
    models = sorted({row["model"] for row in rows})
    count = np.array([int(row["gpu"]) for row in rows])
    slots = np.arange(count.max(initial=0))
    return Cluster(
        [row["sn"] for row in rows],
        models,
        Room(
            np.array([[row["cpu_milli"], row["memory_mib"]] for row in rows], dtype=float),
            np.where(slots < count[:, None], float(WHOLE), 0.0),
            np.array([models.index(row["model"]) for row in rows], dtype=np.int64),
        ),
    )


def _shape(row: Row, models: list[str]) -> Shape:
    amounts = int(row["cpu_milli"]), int(row["memory_mib"])
    count = int(row["num_gpu"])
    if not count:
        return Shape(amounts)
    named = set((row.get("gpu_spec") or "").strip().split("|")) - {""}
    kinds = tuple(model in named for model in models) if named else None
    return Shape(amounts, count, int(row["gpu_milli"]), kinds)


def decide(
    cluster: Cluster, shapes: dict[str, Shape], stream: Iterator[Row], *, learn: bool
) -> Iterator[tuple[str, str, str, str]]:
    """Yield seq, pod, node and devices of each pod in turn."""
    known: Counter[Shape] = Counter() if learn else Counter(shapes.values())
    fitted = Fitting(cluster.room, *_aim(cluster, known))
    lesson = 1
    for seen, row in enumerate(stream, start=1):
        shape = shapes[EXTRA_DRAW.sub("", row["pod"].strip())]
        if learn:
            known[shape] += 1
            if seen == lesson:
                fitted.aim(*_aim(cluster, known))
                lesson *= 2
        server = fitted.choose(shape)
        if server is None:
            yield row["seq"], row["pod"], "", ""
            continue
        devices = fitted.take(server, shape)
        yield row["seq"], row["pod"], cluster.names[server], "|".join(map(str, devices))


def _aim(cluster: Cluster, known: Counter[Shape]) -> tuple[fitting.Typical, fitting.Floats]:
    kinds, room = len(cluster.models), cluster.room
    devices = np.bincount(room.kind, weights=room.devices.sum(axis=1), minlength=kinds)
    return fitting.typical(known, kinds), fitting.prices(known, devices)


def _shares(
    cluster: Cluster, shapes: dict[str, Shape], decisions: list[tuple[str, str, str, str]]
) -> dict[int, float]:
    """Return the mean percentage in use while a percentage, rounded, is asked for."""
    capacity = cluster.room.devices.sum()
    asked = np.array([shapes[EXTRA_DRAW.sub("", pod.strip())].asked for _, pod, _, _ in decisions])
    placed = np.array([bool(node) for _, _, node, _ in decisions], dtype=bool)
    arrived = np.rint(100 * asked.cumsum() / capacity)
    used = 100 * (asked * placed).cumsum() / capacity
    return {
        percent: round(float(used[arrived == percent].mean()), 2)
        for percent in REPORTED
        if (arrived == percent).any()
    }


def _published(path: Path, pods: Path) -> dict[int, float] | None:
    """Return FGD's shares, mean of ten seeds, for the list of the same name; None if not there."""
    if not path.exists():
        return None
    workload = pods.name.removesuffix(".gz").removesuffix(".csv")
    for row in _rows(path):
        if row["workload"] == workload and row["policy"].endswith("FGD"):
            return {percent: float(row[f"mean_at_{percent}"]) for percent in REPORTED}
    return None


if __name__ == "__main__":
    sys.exit(main())
