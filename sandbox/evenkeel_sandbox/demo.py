"""`make demo`: a real cluster, three jobs, from `kubectl apply` to Succeeded.

Brings a sandbox up, applies three of the examples, shows their plans and their progress, and
prints for every subtask where it ran and how long it took against what was predicted. The
cluster is taken down at the end, unless it is to be kept for looking around.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from evenkeel_kube import names, racks, statuses
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.places import checkout, own
from evenkeel_sandbox.progress import shown
from evenkeel_sandbox.simulated import described
from evenkeel_sandbox.specs import ClusterSpec, default_nodes

ROOT = checkout()
EXAMPLES = ("llama-8b-batch", "llama-70b-pipeline", "dag")
REAL = ("dag",)
"""Examples of real containers, which simulated nodes do not run."""
SERVERS = ROOT / "examples" / "servers.yaml"
TIMEOUT = 300.0
"""Seconds until the demo gives up; a warm run takes a fifth of it."""
CLAIM = "dag-workspace"
"""The claim that the DAG example's tasks share."""
RESULT_LINES = 8
ROWS = 12
"""Subtasks of one job that are listed; the rest is counted."""

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one subtask."""

    subtask: str
    server: str
    predicted: float
    actual: float | None


def _numbers(name: str) -> list[tuple[int, str]]:
    """Return what sorts names by the numbers in them, as people count."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in name.split("-")]


def outcomes(pods: Sequence[Object], time_scale: float) -> Iterator[Outcome]:
    """Yield what became of each subtask, in the order of their names."""
    for pod in sorted(pods, key=lambda pod: _numbers(str(pod["metadata"]["name"]))):
        metadata = pod["metadata"]
        actual = statuses.seconds(pod)
        yield Outcome(
            subtask=metadata["labels"][names.LABEL_SUBTASK],
            server=pod["spec"].get("nodeName", "-"),
            predicted=float(metadata["annotations"].get(names.ANNOTATION_SECONDS, "nan")),
            actual=None if actual is None else actual * time_scale,
        )


def plan_table(job: Object) -> Table:
    """Return the plan of a job as its status tells it."""
    plan = job["status"]["plan"]
    factors = plan.get("factorisation") or {}
    table = Table(
        title=f"plan of {job['metadata']['name']}",
        caption=f"rank {factors.get('rank', '-')}, {factors.get('explained', 1.0):.0%} explained; "
        f"predicted {plan.get('makespanSeconds', 0.0):.0f} s in all",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("subtask", "server", "layers", "predicted s"):
        table.add_column(column, justify="right" if column.endswith("s") else "left")
    rows = plan.get("subtasks", [])
    for row in rows[:ROWS]:
        table.add_row(
            row["name"],
            row["server"],
            str(row.get("layers", "all")),
            f"{row.get('predictedSeconds', 0.0):.1f}",
        )
    if len(rows) > ROWS:
        table.add_row(f"… and {len(rows) - ROWS} more", "", "", "")
    return table


def progress_table(jobs: Sequence[Object]) -> Table:
    """Return how far the jobs are."""
    table = Table(title="progress", title_justify="left")
    for column in ("job", "state", "waiting", "running", "succeeded", "failed"):
        table.add_column(column)
    for job in jobs:
        counts = job.get("status", {}).get("subtaskCounts", {})
        numbers = (str(counts.get(key, 0)) for key in ("waiting", "running", "succeeded", "failed"))
        table.add_row(job["metadata"]["name"], statuses.state(job), *numbers)
    return table


def outcome_table(job: Object, pods: Sequence[Object]) -> Table:
    """Return every subtask's server, predicted and actual seconds."""
    scale = float(job["spec"].get("runtime", {}).get("timeScale", 1.0))
    table = Table(title=f"{job['metadata']['name']}: where and how long", title_justify="left")
    for column in ("subtask", "server", "predicted s", "actual s"):
        table.add_column(column, justify="right" if column.endswith("s") else "left")
    for row in outcomes(pods, scale):
        actual = "-" if row.actual is None else f"{row.actual:.1f}"
        table.add_row(row.subtask, row.server, f"{row.predicted:.1f}", actual)
    return table


def possible(examples: Sequence[str], *, real: bool) -> tuple[str, ...]:
    """Return the examples that can run, with real nodes or without."""
    return tuple(example for example in examples if real or example not in REAL)


class Demo:
    """The demo on one cluster."""

    def __init__(self, cluster: Cluster, console: Console) -> None:
        self.cluster = cluster
        self.console = console
        self.examples = possible(EXAMPLES, real=bool(cluster.state.nodes))
        for example in sorted(set(EXAMPLES) - set(self.examples)):
            console.print(f"{example} is left out: its containers need real nodes.")

    def get(self, kind: str, *options: str) -> list[dict[str, Any]]:
        """Return the objects of a kind in the default namespace."""
        listed = json.loads(self.cluster.kubectl("get", kind, "-o", "json", *options))
        items: list[dict[str, Any]] = listed["items"]
        return items

    def apply(self) -> None:
        """Apply the examples, as a user would."""
        for example in self.examples:
            path = ROOT / "examples" / f"{example}.yaml"
            self.console.print(f"$ kubectl apply -f examples/{path.name}")
            self.console.print(self.cluster.kubectl("apply", "-f", str(path)).strip(), style="dim")

    def follow(self) -> list[dict[str, Any]]:
        """Show plans and progress until every job has ended; return the jobs."""
        shown: set[str] = set()
        deadline = time.monotonic() + TIMEOUT
        with Live(console=self.console, refresh_per_second=4, transient=True) as live:
            while True:
                jobs = self.get("inferencejobs")
                for job in jobs:
                    if job["metadata"]["name"] not in shown and job.get("status", {}).get("plan"):
                        shown.add(job["metadata"]["name"])
                        live.console.print(plan_table(job))
                live.update(Group(progress_table(jobs)))
                ended = all(statuses.state(job) in statuses.ENDED for job in jobs)
                if (jobs and ended) or time.monotonic() > deadline:
                    return jobs
                time.sleep(0.5)

    def show(self, jobs: Sequence[Object]) -> None:
        """Print what became of the jobs, and the result of the DAG's containers."""
        self.console.print(progress_table(jobs))
        for job in jobs:
            selector = f"{names.LABEL_JOB_UID}={job['metadata']['uid']}"
            self.console.print(outcome_table(job, self.get("pods", "-l", selector)))
        if set(REAL) <= set(self.examples):
            self._show_result()

    def _show_result(self) -> None:
        result = self.cluster.volume(CLAIM) / "result.txt"
        if not result.exists():
            self.console.print(f"the DAG left no result file {result}", style="red")
            return
        self.console.print("first lines of the DAG's result file, result.txt:", style="bold")
        with result.open(encoding="utf-8") as file:
            self.console.print("".join(islice(file, RESULT_LINES)).rstrip())


@contextmanager
def cluster(name: str, console: Console, *, keep: bool) -> Iterator[Cluster]:
    """Bring the demo's cluster up, and down again unless it is to be kept."""
    nodes = default_nodes(ROOT / "kind-config.yaml")
    rack = racks.read(SERVERS.read_text(encoding="utf-8"))
    spec = ClusterSpec(
        nodes=nodes, simulated=described(rack), profiles=rack.profiles, evenkeel=True
    )
    found = Cluster.fresh(name, spec, shown(console))
    try:
        found.kubectl("apply", "-f", "-", stdin=json.dumps(found.workspace(CLAIM)))
        yield found
    finally:
        if keep:
            console.print(
                f"kept until the next demo: KUBECONFIG={found.kubeconfig} "
                f"(evenkeel sandbox down --name {name})"
            )
        else:
            found.down()


def main() -> int:
    """Run the demo; 0 when every job succeeded, 2 when there is no cluster to run it on."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--name", default=own("demo"), help="of the sandbox; default %(default)s")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running")
    options = parser.parse_args()
    console = Console(markup=False)
    try:
        return _run(options.name, console, keep=options.keep)
    except SandboxError as error:
        console.print(f"demo: {error}", style="red", soft_wrap=True)
        return 2


def _run(name: str, console: Console, *, keep: bool) -> int:
    started = time.monotonic()
    with cluster(name, console, keep=keep) as found:
        demo = Demo(found, console)
        demo.apply()
        jobs = demo.follow()
        demo.show(jobs)
    succeeded = [job["metadata"]["name"] for job in jobs if statuses.state(job) == "Succeeded"]
    console.print(
        f"{len(succeeded)} of {len(demo.examples)} jobs Succeeded in "
        f"{time.monotonic() - started:.0f} s",
        style="bold green" if len(succeeded) == len(demo.examples) else "bold red",
    )
    return 0 if len(succeeded) == len(demo.examples) else 1


if __name__ == "__main__":
    sys.exit(main())
