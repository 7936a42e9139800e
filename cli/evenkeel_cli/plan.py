"""`evenkeel plan`: what Evenkeel would do with a job, without a cluster."""

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenkeel_cli import manifests, printing
from evenkeel_cli.failing import NOT_PLACED, Failure, reported
from evenkeel_cli.printing import Format, Output

if TYPE_CHECKING:
    from evenkeel_core.jobs import Job
    from evenkeel_core.plans import Plan
    from evenkeel_core.servers import Server

ROWS = 40
"""Subtasks that a table lists; JSON has them all."""


class Show(StrEnum):
    """What else is printed."""

    matrix = "matrix"


class Matrix(StrEnum):
    """Which matrix a plan is made by."""

    seconds = "Seconds"
    shares = "Shares"


TITLES = {
    Matrix.seconds: "seconds on each server; - where it may not run:",
    Matrix.shares: "demand shares of each server x seconds of the work; - where it may not run:",
}


@reported
def plan(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="Manifest with one InferenceJob; - is stdin.")
    ],
    servers: Annotated[
        Path,
        typer.Option(help="Servers: the short form, or `kubectl get nodes -o yaml`; - is stdin."),
    ],
    models_path: Annotated[
        Path | None, typer.Option(help="Folder of the models' files, whose headers tell sizes.")
    ] = None,
    show: Annotated[
        Show | None, typer.Option(help="Also the cost matrix that is planned by.")
    ] = None,
    cost_model: Annotated[
        Matrix | None, typer.Option(help="Plan by this matrix instead of the job's spec.costModel.")
    ] = None,
    band: Annotated[
        float | None,
        typer.Option(min=1.0, help="Largest load of a server over the mean that is wanted: 1.5."),
    ] = None,
    output: Format = Output.table,
) -> None:
    """Plan a job over servers described in a file; no cluster is needed.

    Prints which server would run which part, from when and for how long,
    why there, and what the next best server would cost. A job that can't
    be placed says what is missing, and exits with 1.

      cd examples && evenkeel plan -f dag.yaml --servers servers.yaml

      kubectl get nodes -o yaml | evenkeel plan -f job.yaml --servers -

      evenkeel plan -f job.yaml --servers rack.yaml --show matrix --cost-model Shares

    What a model weighs is read from its file below --models-path, else from
    model.config, else its name is looked up.
    """
    from evenkeel_cli import shapes
    from evenkeel_core import explaining, planning
    from evenkeel_core.jobs import CostModel

    if str(file) == "-" == str(servers):
        raise Failure("-f and --servers can't both be standard input")
    job = read_job(file, models_path)
    if cost_model is not None:
        job = replace(job, cost_model=CostModel(cost_model.value))
    matrix = Matrix.shares if job.cost_model is CostModel.SHARES else Matrix.seconds
    rack = read_servers(servers)
    made = planning.plan(job, rack, settings=planning.PlanSettings(band=band))
    if output is Output.json:
        document = {**explaining.document(made), "models": shapes.document(job)}
        if show is Show.matrix:
            document["matrix"] = {"costModel": matrix.value, **explaining.matrix(made)}
        printing.write_json(document)
    else:
        printing.console().print(shapes.sentences(job), markup=False, soft_wrap=True, end="")
        _print(made)
        if show is Show.matrix and made.feasible:
            _print_matrix(made, matrix)
    if not made.feasible:
        raise typer.Exit(NOT_PLACED)


def read_servers(path: Path) -> "list[Server]":
    """Return the servers of a file."""
    from evenkeel_kube import racks

    try:
        return racks.read(manifests.text(path)).servers()
    except racks.InvalidServers as error:
        raise Failure(f"{path}: {error}") from None


def read_job(path: Path, models_path: Path | None = None) -> "Job":
    """Return the job of a file; its requests may stand in a ConfigMap beside it."""
    from evenkeel_core.models import InvalidModel
    from evenkeel_kube import jobs, modelfiles

    found = manifests.job_file(path)
    try:
        lines = None
        spec = jobs.parse(found.job).spec
        models = modelfiles.models(models_path, jobs.model_uris(spec)) if models_path else {}
        given = spec.input
        reference = given.config_map_ref if given else None
        if given is not None and given.persistent_volume_claim is not None:
            sys.stderr.write(
                "evenkeel: the requests are on a claim that can't be read from here; planned as "
                "if there were one for each place of a replica\n"
            )
        if reference is not None:
            data = found.config_maps.get(reference.name)
            if data is None or reference.key not in data:
                raise Failure(
                    f"{path}: input.configMapRef names {reference.name}, key {reference.key}, "
                    "which is not in the file; put the ConfigMap beside the job"
                )
            lines = jobs.request_lines(str(data[reference.key]))
        return jobs.job(found.job, lines=lines, models=models)
    except jobs.InvalidJob as error:
        raise Failure(f"{path}: {error}") from None
    except InvalidModel as error:
        raise Failure(
            f"{error}; without --models-path model.config or the name tells its shape"
        ) from None


def _print(made: "Plan") -> None:
    from evenkeel_core import explaining

    console = printing.console()
    if not made.feasible:
        console.print(f"{made.job} can't be placed.", style="bold")
        for refusal in made.refusals:
            console.print(f"  {refusal.reason}: {refusal.message}")
            if refusal.remedy:
                console.print(f"  What would help: {refusal.remedy}")
        return
    rows = explaining.rows(made)
    console.print(_summary(made))
    for note in made.graph.notes:
        console.print(note)
    if made.unreached is not None:
        console.print(f"{made.unreached.reason}: {made.unreached.message}.")
        console.print(f"  What would help: {made.unreached.remedy}")
    console.print(subtasks_table(rows[:ROWS]))
    if len(rows) > ROWS:
        console.print(f"… and {len(rows) - ROWS} more; --output json has all.\n")
    console.print(
        printing.table(
            ("server", "n", "busy s", "end s"),
            (
                (share.server, str(share.subtasks), f"{share.busy:.1f}", f"{share.end:.1f}")
                for share in explaining.shares(made)[:ROWS]
            ),
        )
    )


def _summary(made: "Plan") -> str:
    """Return a plan in two lines."""
    used = len({assignment.server for assignment in made.assignments})
    groups = len({subtask.group for subtask in made.graph.subtasks})
    pipelines = {subtask.group for subtask in made.graph.subtasks if subtask.layers}
    said = f"{made.job}: {len(made.assignments)} subtasks on {used} of {len(made.servers)} servers"
    if pipelines:
        said += f", {len(pipelines)} of {groups} a pipeline" if groups > 1 else ", one pipeline"
    said += f"; done after {made.makespan:.1f} s.\n"
    factors = made.factorisation
    if factors is not None:
        said += (
            f"Factors: rank {factors.rank}, {factors.explained:.0%} explained, cost "
            f"{factors.cost_from_factors:.1f} s, after the game {factors.cost_final:.1f} s; "
        )
    if made.stable:
        return said + "nobody gains by moving."
    return said + "some subtasks alone would gain by moving."


def subtasks_table(rows: Any) -> Any:
    """Return the table of subtasks with their reasons."""
    columns = (
        *("subtask", "server", "layers", "requests", "start s", "predicted s"),
        *("runner-up", "regret", "why there"),
    )
    return printing.table(
        columns,
        (
            (
                row.name,
                row.server,
                printing.span(row.layers) or "all",
                printing.span(row.requests),
                f"{row.start:.1f}",
                f"{row.seconds:.1f}",
                row.runner_up or "-",
                f"{row.regret:.2f}" if row.runner_up else "-",
                row.why,
            )
            for row in rows
        ),
    )


def _print_matrix(made: "Plan", matrix: Matrix) -> None:
    console = printing.console()
    # Above the table and not its title, which would be cut to the table's width.
    console.print(TITLES[matrix], markup=False)
    console.print(_matrix(made))


def _matrix(made: "Plan") -> Any:
    """Return the cost matrix: a row a class of subtasks, a column a set of alike servers."""
    from evenkeel_core import explaining

    found = explaining.matrix(made)
    return printing.table(
        ("subtasks", *(_first_of(names) for names in found["servers"])),
        (
            (_first_of(names), *(_cell(value) for value in row))
            for names, row in zip(found["subtasks"][:ROWS], found["seconds"][:ROWS], strict=True)
        ),
    )


def _cell(value: float | None) -> str:
    """Return an entry of a matrix: shares may be small, so three figures that count."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _first_of(names: list[str]) -> str:
    """Return the first of some names and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"
