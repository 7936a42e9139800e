"""`evenkeel explain`: why a subtask is where it is, or is not."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenkeel_cli import cluster, printing
from evenkeel_cli.cluster import Kubeconfig, Namespace
from evenkeel_cli.failing import NOT_PLACED, Failure, reported
from evenkeel_cli.printing import Format, Output

if TYPE_CHECKING:
    from evenkeel_cli.elsewhere import Seen
    from evenkeel_kube.client import Client

ALTERNATIVES = 16
"""Servers that a table lists for one subtask; JSON has them all."""
EXTENDER_SECONDS = 3.0


@reported
def explain(
    job: Annotated[str, typer.Argument(help="The job.")],
    subtask: Annotated[
        str | None, typer.Argument(help="One of its subtasks, such as batch-0.")
    ] = None,
    namespace: Namespace = None,
    extender: Annotated[
        str | None, typer.Option(help="URL of the extender, for the terms as they are now.")
    ] = None,
    kubeconfig: Kubeconfig = None,
    output: Format = Output.table,
) -> None:
    """Say why each subtask was given its server, and why one is elsewhere.

    Without SUBTASK: the reasons of the whole plan. With it: every server
    it could have had, with the seconds it would take there. Exit status 1
    says that the job has no plan.

      evenkeel explain llama-8b-batch

      evenkeel explain dag count-1 --extender http://127.0.0.1:8888
    """
    if extender is not None and subtask is None:
        raise Failure("--extender explains one subtask; name it after the job")

    async def question(api: "Client", own: str) -> tuple[cluster.Running, "Seen"]:
        return await cluster.running(api, own, job), await _seen(api)

    found, seen = cluster.ask(kubeconfig, namespace, question)
    if found.record is None:
        _not_planned(found, output)
        raise typer.Exit(NOT_PLACED)
    if subtask is None:
        _whole(found, seen, output)
    else:
        _one(found, seen, subtask, extender, output)


async def _seen(api: "Client") -> "Seen":
    from evenkeel_cli import elsewhere

    servers = {server.name: server for server in await cluster.servers(api)}
    found = await cluster.all_pods(api)
    return elsewhere.Seen(servers, None if found is None else elsewhere.holders(found))


def _not_planned(found: cluster.Running, output: Output) -> None:
    from evenkeel_kube.statuses import condition

    said = [condition(found.job, kind) for kind in ("Accepted", "Planned")]
    reasons = [item for item in said if item.get("status") != "True" and item.get("message")]
    if output is Output.json:
        printing.write_json({"job": found.job["metadata"]["name"], "conditions": reasons})
        return
    console = printing.console()
    console.print(f"{found.job['metadata']['name']} has no plan.")
    for item in reasons:
        console.print(f"  {item['reason']}: {item.get('message', '')}")
    if not reasons:
        console.print("  Nothing has looked at it yet; is the operator running?")


def _whole(found: cluster.Running, seen: "Seen", output: Output) -> None:
    from evenkeel_cli import elsewhere, following
    from evenkeel_cli.plan import subtasks_table
    from evenkeel_core import explaining

    assert found.record is not None  # noqa: S101 - the caller has looked
    plan = found.record.plan
    deviations = following.deviations(following.lines(found))
    reasons = {line.subtask: elsewhere.why(found, line, seen) for line in deviations}
    if output is Output.json:
        document = explaining.document(plan)
        document["deviations"] = [
            {
                "subtask": line.subtask,
                "plannedServer": line.planned,
                "server": line.server,
                "why": reasons[line.subtask],
            }
            for line in deviations
        ]
        printing.write_json(document)
        return
    console = printing.console()
    for note in plan.graph.notes:
        console.print(note, markup=False)
    console.print(subtasks_table(explaining.rows(plan)))
    if deviations:
        console.print("Not where the plan wanted them:")
        for line in deviations:
            console.print(f"  {line.subtask} is on {line.server}: {reasons[line.subtask]}")


def _one(
    found: cluster.Running,
    seen: "Seen",
    subtask: str,
    extender: str | None,
    output: Output,
) -> None:
    from evenkeel_cli import elsewhere, following
    from evenkeel_core import explaining

    assert found.record is not None  # noqa: S101 - the caller has looked
    plan = found.record.plan
    row = next((row for row in explaining.rows(plan) if row.name == subtask), None)
    if row is None:
        some = ", ".join(row.name for row in explaining.rows(plan)[:5])
        raise Failure(f"the plan has no subtask {subtask}; there are {some} and so on")
    line = next(line for line in following.lines(found) if line.subtask == subtask)
    choices = explaining.alternatives(plan, subtask)
    live = _live(extender, found.job["metadata"]["namespace"], line.pod) if extender else None
    deviates = bool(following.deviations([line]))
    why = elsewhere.why(found, line, seen, live) if deviates else row.why
    if output is Output.json:
        document: dict[str, Any] = {
            "subtask": subtask,
            "state": line.state,
            "plannedServer": line.planned,
            "server": line.server,
            "why": why,
            "terms": {"cost": row.terms.cost, "edges": row.terms.edges, "load": row.terms.load},
            "runnerUp": row.runner_up,
            "regret": row.regret,
            "servers": [
                {"name": item.server, "place": item.place, "seconds": item.seconds}
                for item in choices
            ],
        }
        printing.write_json({**document, "extender": live} if extender else document)
        return
    console = printing.console()
    where = f"on {line.server}" if line.server else f"planned for {line.planned}"
    console.print(f"{subtask}: {line.state}, {where}: {why}.")
    console.print(
        f"Utility {row.terms.utility:.3f}: cost {row.terms.cost:.3f}, transfers "
        f"{row.terms.edges:.3f}, load {row.terms.load:.3f}; predicted {row.seconds:.1f} s.",
    )
    console.print(
        printing.table(
            ("server", "shortlist", "predicted s"),
            (
                (item.server, str(item.place or "-"), printing.seconds(item.seconds))
                for item in choices[:ALTERNATIVES]
            ),
        )
    )
    if live is not None:
        _print_live(live)


def _live(extender: str, namespace: str, pod: str) -> Any:
    """Return what the extender says of a pod now."""
    import json
    import urllib.error
    import urllib.request

    if not extender.startswith(("http://", "https://")):
        raise Failure("--extender must be a URL such as http://127.0.0.1:8888")
    url = f"{extender.rstrip('/')}/explain/{namespace}/{pod}"
    try:
        with urllib.request.urlopen(url, timeout=EXTENDER_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Failure(f"the extender knows nothing of pod {pod} (status {error.code})") from None
    except (OSError, ValueError) as error:
        raise Failure(f"the extender at {extender} does not answer: {error}") from None


def _print_live(live: Any) -> None:
    """Print the extender's terms as they come: one row a server."""
    rows = live.get("servers") if isinstance(live, dict) else None
    console = printing.console()
    if not isinstance(rows, list) or not rows:
        console.print_json(data=live)
        return
    columns = list(rows[0])
    console.print(
        printing.table(
            columns,
            ([_cell(row.get(column)) for column in columns] for row in rows[:ALTERNATIVES]),
            title="the extender, now",
        )
    )


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)
