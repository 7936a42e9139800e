"""Objects of the API server, small enough to read in a test."""

from collections.abc import Callable
from typing import Any

import pytest

from evenkeel_core import planning
from evenkeel_core.quantities import CPU, GIB, MEMORY, Bytes
from evenkeel_core.servers import Device, Server
from evenkeel_kube import jobs, names, plans
from evenkeel_operator.deciding import View

Object = dict[str, Any]
NOW = 1_800_000_000.0


def make_server(name: str, cores: int = 8) -> Server:
    processors = Device("EPYC-7763", CPU, 1, Bytes(0), 1e12, 50e9)
    return Server(name, {CPU: cores * 1000, MEMORY: 32 * GIB}, processors)


@pytest.fixture
def servers() -> dict[str, Server]:
    return {name: make_server(name) for name in ("s1", "s2", "s3")}


def manifest_of(spec: Object, **status: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "metadata": {
            "name": "job",
            "namespace": "default",
            "uid": "uid-1",
            "generation": 1,
            "creationTimestamp": "2027-01-15T08:00:00Z",
        },
        "spec": spec,
        "status": status,
    }


def template(name: str, *after: str, shards: int = 1, **more: Any) -> Object:
    pod = {"containers": [{"name": "main", "image": "x", "resources": {"requests": {"cpu": "1"}}}]}
    return {
        "name": name,
        "dependsOn": list(after),
        "shards": shards,
        "estimatedSeconds": 10,
        "template": {"spec": pod},
        **more,
    }


@pytest.fixture
def dag() -> Object:
    return manifest_of({"tasks": [template("a"), template("b", "a", shards=2)]})


@pytest.fixture
def make_view(servers: dict[str, Server]) -> Callable[..., View]:
    """Return a maker of views: a planned job with the given pods."""

    def make(manifest: Object, pods: tuple[Object, ...] = (), **record: Any) -> View:
        job = jobs.job(manifest)
        made = planning.plan(job, list(servers.values()))
        assert made.feasible, made.refusals
        return View(manifest, job, None, plans.Record(1, made, **record), pods)

    return make


@pytest.fixture
def with_status() -> Callable[..., Object]:
    """Return a changer of a pod: bound, ended, deleted."""

    def change(pod: Object, phase: str = "Pending", node: str = "", **status: Any) -> Object:
        changed = {**pod, "metadata": {**pod["metadata"]}, "spec": {**pod["spec"]}}
        changed["metadata"].setdefault("uid", pod["metadata"]["name"])
        changed["metadata"].setdefault("resourceVersion", "1")
        changed["status"] = {"phase": phase, **status}
        if node:
            changed["spec"]["nodeName"] = node
            changed["spec"]["schedulingGates"] = []
        return changed

    return change
