"""What the commands read from a cluster."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from evenkeel_cli.failing import Failure

if TYPE_CHECKING:
    from evenkeel_core.servers import Server
    from evenkeel_kube.client import Client
    from evenkeel_kube.plans import Record

Object = dict[str, Any]
_R = TypeVar("_R")

Kubeconfig = Annotated[
    Path | None,
    typer.Option(help="Default: the variable KUBECONFIG, the pod we run in, ~/.kube/config."),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Default: that of the kubeconfig.")
]

PLURAL = "inferencejobs"


def ask(
    kubeconfig: Path | None,
    namespace: str | None,
    question: Callable[["Client", str], Awaitable[_R]],
) -> _R:
    """Ask the API server, with the client and the namespace to look in.

    Raises
    ------
    Failure
        If there is no way to it or it refuses.
    """
    from evenkeel_kube import client, configuration

    async def connected() -> _R:
        where = configuration.load(kubeconfig)
        async with client.Client(where) as api:
            return await question(api, namespace or where.namespace)

    try:
        return asyncio.run(connected())
    except configuration.ConfigurationError as error:
        raise Failure(str(error)) from None
    except client.Unavailable as error:
        raise Failure(
            f"the API server does not answer: {error.message}; is the cluster up, and does the "
            "kubeconfig name it?"
        ) from None
    except client.ApiError as error:
        raise Failure(f"the API server refused: {error.message}") from None


async def jobs(api: "Client", namespace: str | None) -> list[Object]:
    """Return the jobs of a namespace, or of all."""
    from evenkeel_kube import client, names

    try:
        found, _ = await api.list(client.path(names.API_VERSION, PLURAL, namespace))
    except client.NotFound:
        raise Failure(
            "the cluster does not know InferenceJobs; apply crds/ first: kubectl apply -f crds/"
        ) from None
    return sorted(
        found, key=lambda job: (job["metadata"]["namespace"], job["metadata"]["creationTimestamp"])
    )


async def job(api: "Client", namespace: str, name: str) -> Object:
    """Return one job."""
    from evenkeel_kube import client, names

    if not name:
        raise Failure("the name of the job is empty")

    try:
        return await api.get(client.path(names.API_VERSION, PLURAL, namespace, name))
    except client.NotFound:
        raise Failure(
            f"there is no InferenceJob {name} in namespace {namespace}; "
            "`evenkeel status -A` lists all"
        ) from None


@dataclass(frozen=True, slots=True)
class Running:
    """One job with its plan on record and its pods by name."""

    job: Object
    record: "Record | None"
    pods: Mapping[str, Object]


async def running(api: "Client", namespace: str, name: str) -> Running:
    """Return a job with what belongs to it."""
    from evenkeel_kube import client, names, plans

    found = await job(api, namespace, name)
    selector = {"labelSelector": f"{names.LABEL_JOB_UID}={found['metadata']['uid']}"}
    pods, _ = await api.list(client.path("v1", "pods", namespace), selector)
    record = None
    try:
        held = await api.get(client.path("v1", "configmaps", namespace, plans.name(name)))
        if belongs(held, found):
            record = plans.decode(held["binaryData"][plans.KEY])
    except client.NotFound:
        pass  # there is no plan yet
    except (plans.RecordError, KeyError) as error:
        raise Failure(f"the plan of {name} on record can't be read: {error}") from None
    return Running(found, record, {pod["metadata"]["name"]: pod for pod in pods})


def belongs(held: Object, job: Object) -> bool:
    """Tell whether a plan is that of a job, and not of one that had its name before."""
    from evenkeel_kube import names

    labels = held["metadata"].get("labels") or {}
    return bool(labels.get(names.LABEL_JOB_UID) == job["metadata"]["uid"])


async def servers(api: "Client") -> "list[Server]":
    """Return the servers of the cluster as the planner sees them, without anybody's pods."""
    from evenkeel_kube import client, names, nodes

    found, _ = await api.list(client.path("v1", "nodes"))
    try:
        profiles, _ = await api.list(client.path(names.API_VERSION, "serverprofiles"))
    except client.NotFound:
        profiles = []
    return nodes.servers(found, profiles)


async def all_pods(api: "Client") -> list[Object] | None:
    """Return the live pods of all namespaces, None where we may not see them."""
    from evenkeel_kube import client

    live = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
    try:
        found, _ = await api.list(client.path("v1", "pods"), live)
    except client.Forbidden:
        return None
    return found
