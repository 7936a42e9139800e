"""Evenkeel itself on a sandbox: operator, extender and second scheduler as processes of the host.

They run with the permissions they have in a real cluster, so what is missing shows here first.
"""

import http.client
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel_sandbox import manifests
from evenkeel_sandbox.api import MERGE
from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.progress import Progress

if TYPE_CHECKING:
    from evenkeel_sandbox.clusters import Cluster

OPERATOR = "evenkeel-operator"
EXTENDER = "evenkeel-extender"
SCHEDULER = "evenkeel-scheduler"
PROGRAMS = (EXTENDER, SCHEDULER, OPERATOR)


def attach(cluster: "Cluster", profiles: Iterable[Mapping[str, Any]], progress: Progress) -> None:
    """Apply the CRDs and start the operator, the extender and the scheduler that asks it.

    What runs already is left as it is.
    """
    with progress.step("Starting Evenkeel"):
        definitions = [document for path in _definitions() for document in manifests.load(path)]
        cluster.apply(definitions)
        for definition in definitions:
            name = definition["metadata"]["name"]
            cluster.wait(f"the resource {name}", lambda: _established(cluster, name))  # noqa: B023
        for profile in profiles:
            cluster.apply([{key: profile[key] for key in profile if key != "status"}])
            status = {"status": profile.get("status", {})}
            cluster.api.call("PATCH", f"{manifests.path(profile)}/status", status, MERGE)
        _start_extender(cluster)
        _start_scheduler(cluster)
        _start_operator(cluster)


def _start(cluster: "Cluster", name: str, argv: list[str]) -> None:
    if not cluster.processes.identity(name):
        cluster.start(name, argv)


def _definitions() -> list[Path]:
    folder = Path(__file__).parents[2] / "crds"
    found = sorted(folder.glob("*.yaml"))
    if not found:
        raise SandboxError(
            f"no CRDs in {folder}: `--evenkeel` works from a checkout of the project"
        )
    return found


def _established(cluster: "Cluster", name: str) -> bool:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    conditions = cluster.api.get(path).get("status", {}).get("conditions") or ()
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


def _start_extender(cluster: "Cluster") -> None:
    config = cluster.folder / "kubeconfigs" / "extender"
    port = cluster.state.ports[EXTENDER]
    words = ["--kubeconfig", str(config), "--port", str(port)]
    _start(cluster, EXTENDER, [sys.executable, "-m", "evenkeel_extender", *words])
    cluster.wait("the extender", lambda: _answers(port, "/readyz"), needs=(EXTENDER,))


def _answers(port: int, path: str) -> bool:
    return _ask(port, path)[0] == http.client.OK


def _ask(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def metric(cluster: "Cluster", program: str, name: str) -> float | None:
    """Return what a metric without labels says; None while nobody answers."""
    try:
        _, text = _ask(cluster.state.ports[program], "/metrics")
    except (OSError, http.client.HTTPException):
        return None
    found = (line.split() for line in text.splitlines() if line.startswith(f"{name} "))
    return next((float(value) for _, value in found), None)


def works(cluster: "Cluster", program: str) -> bool:
    """Tell whether a program does its work: an operator that waits for the Lease does not."""
    if program == OPERATOR:
        return metric(cluster, OPERATOR, "evenkeel_operator_leader") == 1
    try:
        return _answers(cluster.state.ports[program], "/readyz")
    except (OSError, http.client.HTTPException):
        return False


def _start_operator(cluster: "Cluster") -> None:
    config = cluster.folder / "kubeconfigs" / "operator"
    port = cluster.state.ports[OPERATOR]
    words = ["--kubeconfig", str(config), "--metrics-port", str(port)]
    words += ["--metrics-address", "127.0.0.1"]
    _start(cluster, OPERATOR, [sys.executable, "-m", "evenkeel_operator", *words])
    cluster.wait("the operator", lambda: _answers(port, "/metrics"), needs=(OPERATOR,))


def _start_scheduler(cluster: "Cluster") -> None:
    # Imported here: a sandbox without Evenkeel works where only the command line is installed.
    from evenkeel_extender import attachment

    connection = cluster.folder / "kubeconfigs" / "scheduler"
    url = f"http://127.0.0.1:{cluster.state.ports[EXTENDER]}"
    config = cluster.folder / "evenkeel-scheduler.json"
    config.write_text(json.dumps(attachment.scheduler_configuration(url, str(connection))))
    argv = [
        cluster.state.binaries["kube-scheduler"],
        f"--config={config}",
        f"--authentication-kubeconfig={connection}",
        f"--authorization-kubeconfig={connection}",
        "--bind-address=127.0.0.1",
        f"--secure-port={cluster.state.ports[SCHEDULER]}",
    ]
    _start(cluster, SCHEDULER, argv)
