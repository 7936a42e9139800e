"""Where the claims that a pod mounts let it run.

A claim on a disk of one server ties every pod that mounts it to that server, from the moment it is
bound. kube-scheduler knows; a plan that does not would name servers where the pod never starts.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evenkeel_core.jobs import Expression, Job, Term
from evenkeel_kube.jobs import both, node_terms

Object = Mapping[str, Any]

SELECTED = "volume.kubernetes.io/selected-node"
"""Where a claim that waited for its first consumer is being provisioned."""
ONE_NODE = ["ReadWriteOnce"]


@dataclass(frozen=True, slots=True)
class Storage:
    """Claims by ``namespace/name``, volumes by name, and the pods that may hold claims."""

    claims: Mapping[str, Object]
    volumes: Mapping[str, Object]
    pods: Iterable[Object] = ()

    def bindings(self) -> frozenset[tuple[str, str]]:
        """Return what changes when a claim is bound: it may pay to plan a refused job anew."""
        return frozenset(
            (key, str(claim["spec"].get("volumeName", ""))) for key, claim in self.claims.items()
        )


def confined(job: Job, manifest: Object, storage: Storage) -> Job:
    """Return the job with each template task kept where its claims let it run."""
    namespace = manifest["metadata"]["namespace"]
    templates = {
        task["name"]: task["template"]["spec"]
        for task in manifest["spec"].get("tasks") or ()
        if task.get("template")
    }
    shared = (manifest["spec"].get("workspace") or {}).get("persistentVolumeClaim") or {}
    workspace = [shared["claimName"]] if shared else []
    tasks = []
    for task in job.tasks:
        required = task.constraints.required
        template = templates.get(task.name)
        for claim in [] if template is None else [*workspace, *mounted(template)]:
            required = both(required, _reach(f"{namespace}/{claim}", storage))
        if required is not task.constraints.required:
            task = replace(task, constraints=replace(task.constraints, required=required))
        tasks.append(task)
    return replace(job, tasks=tuple(tasks))


def mounted(pod: Object) -> Iterator[str]:
    """Yield the names of the claims a pod spec mounts; what is malformed mounts none."""
    volumes = pod.get("volumes")
    for volume in volumes if isinstance(volumes, list) else ():
        source = volume.get("persistentVolumeClaim") if isinstance(volume, dict) else None
        if isinstance(source, dict) and isinstance(source.get("claimName"), str):
            yield source["claimName"]


def _reach(key: str, storage: Storage) -> tuple[Term, ...]:
    """Return the terms of which a node must fulfil one to mount a claim; none where it is free."""
    claim = storage.claims.get(key)
    if claim is None:
        return ()
    volume = storage.volumes.get(str(claim["spec"].get("volumeName", "")))
    if volume is None:
        selected = (claim["metadata"].get("annotations") or {}).get(SELECTED)
        return _only([selected]) if selected else ()
    stated = node_terms((volume["spec"].get("nodeAffinity") or {}).get("required") or {})
    if stated or claim["spec"].get("accessModes") != ONE_NODE:
        return stated
    return _only(sorted(_holders(key, storage.pods)))


def _holders(key: str, pods: Iterable[Object]) -> set[str]:
    """Return the nodes on which a pod has the claim now."""
    namespace, _, name = key.partition("/")
    return {
        pod["spec"]["nodeName"]
        for pod in pods
        if pod["metadata"]["namespace"] == namespace
        and pod["spec"].get("nodeName")
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        and name in mounted(pod["spec"])
    }


def _only(nodes: list[str]) -> tuple[Term, ...]:
    return tuple((Expression("metadata.name", "In", (node,), field=True),) for node in nodes)
