"""`evenkeel status`: how far jobs are, and what each subtask took against its prediction."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenkeel_cli import cluster, printing
from evenkeel_cli.cluster import Kubeconfig, Namespace
from evenkeel_cli.failing import NOT_PLACED, Failure, reported
from evenkeel_cli.printing import Format, Output

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from evenkeel_kube.client import Client

PERIOD = 1.0
"""Seconds between two looks with --watch."""
ROWS = 60
"""Subtasks that a table lists; JSON has them all."""


@reported
def status(
    job: Annotated[str | None, typer.Argument(help="A job; without it all are listed.")] = None,
    namespace: Namespace = None,
    every: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="List the jobs of all namespaces.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again every second, until the job ends.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    output: Format = Output.table,
) -> None:
    """Show jobs, or one job with where each subtask ran and how long.

    Predicted and actual seconds are in the time of the prediction: real
    seconds of a simulator are multiplied with its timeScale. Exit status
    1 says that the job has failed.

      evenkeel status

      evenkeel status llama-8b-batch --watch
    """
    if watch and output is Output.json:
        raise Failure("--watch prints tables; leave --output json out")
    if watch and job is None:
        raise Failure("--watch follows one job; name it")
    if job is None:

        async def listed(api: "Client", own: str) -> list[cluster.Object]:
            return await cluster.jobs(api, None if every else own)

        _print_jobs(cluster.ask(kubeconfig, namespace, listed), output)
        return
    name = job

    async def one(api: "Client", own: str) -> cluster.Running:
        return await cluster.running(api, own, name)

    if watch:
        found = _follow(lambda: cluster.ask(kubeconfig, namespace, one))
    else:
        found = cluster.ask(kubeconfig, namespace, one)
        if output is Output.json:
            printing.write_json(document(found))
        else:
            printing.console().print(render(found))
    from evenkeel_kube import statuses

    if statuses.state(found.job) == "Failed":
        raise typer.Exit(NOT_PLACED)


def _follow(look: Any) -> cluster.Running:
    """Show a job until it ends."""
    from rich.live import Live

    from evenkeel_kube import statuses

    with Live(console=printing.console(), auto_refresh=False) as live:
        while True:
            found: cluster.Running = look()
            live.update(render(found), refresh=True)
            if statuses.state(found.job) in statuses.ENDED:
                return found
            time.sleep(PERIOD)


def _print_jobs(jobs: Sequence[cluster.Object], output: Output) -> None:
    rows = [_row(job) for job in jobs]
    if output is Output.json:
        printing.write_json(rows)
        return
    if not rows:
        printing.console().print("No InferenceJobs here; -A looks in all namespaces.")
        return
    printing.console().print(
        printing.table(
            ("namespace", "job", "state", "done", "predicted s", "age", "reason"),
            (
                (
                    row["namespace"],
                    row["name"],
                    row["state"],
                    f"{row['succeeded']}/{row['subtasks']}",
                    printing.seconds(row["makespanSeconds"]),
                    row["age"],
                    row["reason"],
                )
                for row in rows
            ),
        )
    )


def _row(job: cluster.Object) -> dict[str, Any]:
    from evenkeel_cli import following
    from evenkeel_kube import statuses

    succeeded, total = following.done(job)
    said = job.get("status") or {}
    return {
        "namespace": job["metadata"]["namespace"],
        "name": job["metadata"]["name"],
        "state": statuses.state(job),
        "succeeded": succeeded,
        "subtasks": total,
        "queuePosition": said.get("queuePosition"),
        "makespanSeconds": (said.get("plan") or {}).get("makespanSeconds"),
        "reason": reason(job),
        "age": age(job["metadata"].get("creationTimestamp")),
    }


def age(created: str | None) -> str:
    """Return how old something is, by this machine's clock."""
    if not created:
        return "-"
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def reason(job: cluster.Object) -> str:
    """Return the reason of the condition that tells most about a job now."""
    from evenkeel_kube.statuses import condition

    for kind in ("Failed", "Succeeded"):
        if condition(job, kind).get("status") == "True":
            return str(condition(job, kind).get("reason", ""))
    for kind in ("Accepted", "Planned", "Scheduled"):
        found = condition(job, kind)
        if found and found.get("status") != "True":
            return str(found.get("reason", ""))
    return str(condition(job, "Running").get("reason", ""))


def document(found: cluster.Running) -> dict[str, Any]:
    """Return a job as plain data for JSON."""
    from evenkeel_cli import following

    said = found.job.get("status") or {}
    return {
        **_row(found.job),
        "conditions": said.get("conditions") or [],
        "subtaskCounts": said.get("subtaskCounts") or {},
        "requestCounts": said.get("requestCounts") or {},
        "plan": said.get("plan"),
        "tasks": [
            {
                "name": line.subtask,
                "state": line.state,
                "plannedServer": line.planned,
                "server": line.server,
                "predictedSeconds": line.predicted,
                "actualSeconds": line.actual,
                "attempt": line.attempt,
                "pod": line.pod,
                "waitsFor": line.obstacle or None,
            }
            for line in following.lines(found)
        ],
    }


def render(found: cluster.Running) -> "Group":
    """Return a job as lines and a table."""
    from rich.console import Group
    from rich.text import Text

    from evenkeel_cli import following
    from evenkeel_kube import statuses

    said = found.job.get("status") or {}
    succeeded, total = following.done(found.job)
    plan = said.get("plan") or {}
    head = f"{found.job['metadata']['name']}: {statuses.state(found.job)}"
    if total:
        head += f", {succeeded} of {total} subtasks done"
    if plan.get("makespanSeconds"):
        head += f", predicted {plan['makespanSeconds']:.1f} s in all"
    parts: list[Any] = [Text(head)]
    parts += [
        Text(f"  {item['type']}={item['status']} {item['reason']}: {item['message']}")
        for item in said.get("conditions") or ()
        if item.get("message") and (item["status"] != "True" or item["type"] == "Failed")
    ]
    lines = following.lines(found)
    if lines:
        parts.append(_table(lines))
        if len(lines) > ROWS:
            parts.append(Text(f"… and {len(lines) - ROWS} more; --output json has all."))
        parts += [Text(f"  {who}: {why}") for why, who in _obstacles(lines).items()]
    return Group(*parts)


def _obstacles(lines: Sequence[Any]) -> dict[str, str]:
    """Return each distinct obstacle with the first subtask it keeps, and how many more."""
    kept: dict[str, list[str]] = {}
    for line in lines:
        if line.obstacle:
            kept.setdefault(line.obstacle, []).append(line.subtask)
    return {
        why: names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        for why, names in kept.items()
    }


def _table(lines: Sequence[Any]) -> "Table":
    return printing.table(
        ("subtask", "state", "server", "planned", "predicted s", "actual s", "attempt"),
        (
            (
                line.subtask,
                line.state,
                line.server or "-",
                "as planned" if line.server == line.planned else line.planned,
                f"{line.predicted:.1f}",
                printing.seconds(line.actual),
                str(line.attempt),
            )
            for line in lines[:ROWS]
        ),
    )
