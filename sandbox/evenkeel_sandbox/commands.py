"""`evenkeel sandbox`: the command line of the sandbox."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evenkeel_kube import racks
from evenkeel_kube.racks import InvalidServers, Rack
from evenkeel_sandbox import clusters, simulated, specs
from evenkeel_sandbox.clusters import Cluster
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.progress import shown

app = typer.Typer(no_args_is_help=True, help="A real Kubernetes cluster on this machine.")
_out = Console(markup=False)
_err = Console(stderr=True, markup=False)
TROUBLE = 2
"""Exit status where there is no answer, as of the other commands of `evenkeel`."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count it."""
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Output(StrEnum):
    """How the answer is printed."""

    table = "table"
    json = "json"


class Detection(StrEnum):
    """How fast lost nodes are noticed."""

    fast = "fast"
    moderate = "moderate"
    upstream = "upstream"


Name = Annotated[str, typer.Option("--name", "-n", help="Sandboxes of several names can run.")]
Format = Annotated[Output, typer.Option("--output", "-o", help="table or json")]


def _reported(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn what can go wrong into one line and an exit status."""

    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except (SandboxError, ValueError) as error:
            _err.print(f"evenkeel: {error}", highlight=False, soft_wrap=True)
            raise typer.Exit(TROUBLE) from None
        except KeyboardInterrupt:
            _err.print(
                "evenkeel: interrupted; `evenkeel sandbox down` with the sandbox's --name removes "
                "what has started",
                soft_wrap=True,
            )
            raise typer.Exit(INTERRUPTED) from None

    return run


@app.command()
@_reported
def up(
    name: Name = clusters.DEFAULT,
    config: Annotated[
        Path | None, typer.Option(help="kind configuration to read the real nodes from")
    ] = None,
    simulated_nodes: Annotated[
        int, typer.Option("--simulated", min=0, help="nodes to simulate: a rack of unlike servers")
    ] = 0,
    servers: Annotated[
        Path | None, typer.Option(help="servers file to simulate, as `evenkeel plan` reads it")
    ] = None,
    real: Annotated[bool, typer.Option(help="start the real nodes")] = True,
    evenkeel: Annotated[
        bool, typer.Option("--evenkeel", help="also run operator, extender and scheduler")
    ] = False,
    failure_detection: Annotated[
        Detection, typer.Option(help="how fast lost nodes are noticed")
    ] = Detection.moderate,
    output: Format = Output.table,
) -> None:
    """Start a sandbox, or say that it is up."""
    began = time.monotonic()
    progress = shown(_err)
    nodes = specs.default_nodes(config) if real else ()
    rack = _servers(servers) if servers else Rack((), ())
    spec = specs.ClusterSpec(
        nodes=nodes,
        simulated=(*simulated.described(rack), *simulated.rack(simulated_nodes)),
        profiles=rack.profiles,
        timing=specs.TIMINGS[failure_detection.value],
        evenkeel=evenkeel,
    )
    cluster = Cluster.up(name, spec, progress)
    _show(cluster, output)
    progress.say(
        f"{time.monotonic() - began:.1f} s. Use it: export KUBECONFIG={cluster.kubeconfig}, "
        f"or evenkeel sandbox exec{clusters.option(name)} -- kubectl get nodes"
    )


@app.command()
@_reported
def down(
    name: Name = clusters.DEFAULT,
    everything: Annotated[bool, typer.Option("--all", help="every sandbox")] = False,
    mine: Annotated[
        bool, typer.Option("--mine", help="every sandbox started from this checkout")
    ] = False,
    output: Format = Output.table,
) -> None:
    """Stop a sandbox and remove all of it, whatever happened to it."""
    names = clusters.names() if everything else clusters.mine() if mine else [name]
    removed = [each for each in names if clusters.down(each, shown(_err))]
    absent = [each for each in names if each not in removed]
    if output is Output.json:
        _write({"removed": removed, "absent": absent})
        return
    for each in absent:
        _err.print(f"There is no sandbox {each}.")


@app.command()
@_reported
def status(name: Name = clusters.DEFAULT, output: Format = Output.table) -> None:
    """Show processes and nodes."""
    _show(Cluster.open(name), output)


@app.command()
@_reported
def logs(
    process: Annotated[str, typer.Argument(help="as `status` names it, e.g. worker-1/kubelet")],
    name: Name = clusters.DEFAULT,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
    lines: Annotated[int, typer.Option("--tail", min=0)] = 100,
    output: Format = Output.table,
) -> None:
    """Show what a process of the sandbox said."""
    if follow and output is Output.json:
        raise SandboxError("--follow has no end that JSON could have; leave --output json out")
    log = Cluster.open(name).processes.record(process).log
    if output is Output.json:
        with Path(log).open(encoding="utf-8", errors="replace") as file:
            said = [line.rstrip("\n") for line in deque(file, maxlen=lines)]
        _write({"process": process, "log": log, "lines": said})
        return
    argv = ["tail", "-n", str(lines), *(["-F"] if follow else []), log]
    raise typer.Exit(subprocess.run(argv, check=False).returncode)


@app.command()
@_reported
def kubeconfig(name: Name = clusters.DEFAULT, output: Format = Output.table) -> None:
    """Print the path of the administrator's kubeconfig."""
    path = str(Cluster.open(name).kubeconfig)
    if output is Output.json:
        _write({"name": name, "kubeconfig": path})
    else:
        sys.stdout.write(f"{path}\n")


@app.command()
@_reported
def volume(
    claim: Annotated[str, typer.Argument(help="name of the PersistentVolumeClaim")],
    name: Name = clusters.DEFAULT,
    output: Format = Output.table,
) -> None:
    """Provide a claim in namespace default: a folder that all real nodes share."""
    cluster = Cluster.open(name)
    said = cluster.kubectl("apply", "-f", "-", stdin=json.dumps(cluster.workspace(claim)))
    if output is Output.json:
        _write({"name": name, "claim": claim, "folder": str(cluster.volume(claim))})
    else:
        sys.stdout.write(said)


@app.command("exec", context_settings={"ignore_unknown_options": True})
@_reported
def execute(
    command: Annotated[list[str], typer.Argument(help="-- COMMAND ARG...")],
    name: Name = clusters.DEFAULT,
) -> None:
    """Run a command with KUBECONFIG set and the sandbox's kubectl on the PATH."""
    cluster = Cluster.open(name)
    tools = Path(cluster.state.binaries["kubectl"]).parent
    path = os.pathsep.join([str(tools), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "PATH": path}
    program = shutil.which(command[0], path=path)
    if program is None:
        raise SandboxError(f"no such command: {command[0]}")
    sys.stdout.flush()
    try:
        os.execve(program, command, environment)  # noqa: S606 - the user's own command, as given
    except OSError as error:
        raise SandboxError(f"{program} can't be run: {error.strerror}") from error


def _write(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _servers(path: Path) -> Rack:
    try:
        return racks.read(path.read_text())
    except OSError as error:
        raise SandboxError(f"cannot read {path}: {error.strerror}") from error
    except InvalidServers as error:
        raise SandboxError(f"{path}: {error}") from error


def _show(cluster: Cluster, output: Output) -> None:
    summary = cluster.summary()
    if output is Output.json:
        _write(summary)
        return
    table = Table(
        "process",
        "state",
        "pid",
        title=f"Sandbox {cluster.state.name}",
        caption=f"evenkeel sandbox logs{clusters.option(cluster.state.name)} PROCESS",
    )
    for process in summary["processes"]:
        state = Text("runs", "green") if process["pid"] else Text("dead", "red")
        table.add_row(process["name"], state, str(process["pid"] or ""))
    _out.print(table)
    if summary["problem"]:
        _out.print(f"The nodes are not known: {summary['problem']}.", style="red", highlight=False)
        return
    nodes = Table("nodes", "count", "ready")
    for kind in ("real", "simulated"):
        found = [node for node in summary["nodes"] if node["kind"] == kind]
        nodes.add_row(kind, str(len(found)), str(sum(node["ready"] for node in found)))
    _out.print(nodes)
