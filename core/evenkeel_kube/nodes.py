"""Nodes and ServerProfiles to `Server`s, and what other pods take from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from evenkeel_core import calibrating, efficiencies
from evenkeel_core.efficiencies import Efficiency, Estimate, Setting
from evenkeel_core.quantities import CPU, MEMORY, PODS, Seconds, Vector, minus, plus
from evenkeel_core.servers import (
    CONTROL_PLANE_RESERVE,
    DEFAULT_RESERVE_SHARE,
    Server,
    Taint,
)
from evenkeel_kube import amounts, devices, names

Object = Mapping[str, Any]

CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")

MOST = 2**60
"""Of any amount: what a node states beyond, it has not, and sums fit 64 bits."""


def server(
    node: Object,
    profile: Object | None = None,
    foreign: Vector | None = None,
) -> Server:
    """Return what the planner knows of a node.

    Parameters
    ----------
    node : mapping
        A v1 Node.
    profile : mapping, optional
        The ServerProfile of the same name.
    foreign : mapping, optional
        What pods that are not ours take of it.
    """
    metadata, status = node["metadata"], node.get("status", {})
    labels = dict(metadata.get("labels") or {})
    hardware = _hardware(profile)
    allocatable = _amounts(status.get("allocatable") or status.get("capacity"))
    capacity = _amounts(status.get("capacity") or status.get("allocatable"))
    room = {name: max(0, n) for name, n in minus(allocatable, foreign or {}).items()}
    link = {
        key: value
        for key, value in (
            ("link_bandwidth", hardware.get("linkBandwidth")),
            ("load_bandwidth", hardware.get("loadBandwidth")),
        )
        if value
    }
    latency = hardware.get("linkLatencySeconds")
    late: dict[str, Any] = {} if latency is None else {"link_latency": Seconds(latency)}
    processors = devices.processors(labels, hardware, capacity)
    accelerators = devices.accelerators(labels, hardware, capacity)
    return Server(
        name=metadata["name"],
        allocatable=room,
        processors=processors,
        accelerators=accelerators,
        labels=labels,
        taints=_taints(node),
        ready=_ready(status),
        schedulable=not node.get("spec", {}).get("unschedulable", False)
        and not ((profile or {}).get("spec") or {}).get("excluded", False),
        reserve=_reserve(labels, capacity, profile),
        models=_models(profile),
        calibration=_calibration(profile, (*accelerators, processors)[0].name),
        **link,
        **late,
    )


def _hardware(profile: Object | None) -> dict[str, Any]:
    """Return the probed hardware with the people's overrides on top."""
    profile = profile or {}
    probed = (profile.get("status") or {}).get("hardware") or {}
    overrides = (profile.get("spec") or {}).get("overrides") or {}
    return _over(probed, overrides)


def _over(probed: Object, overrides: Object) -> dict[str, Any]:
    """Return what was probed with what people say on top, field by field; lists are whole."""
    found = dict(probed)
    for key, value in overrides.items():
        inner = found.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            found[key] = _over(inner, value)
        elif value is not None:
            found[key] = value
    return found


def _amounts(stated: Object | None) -> dict[str, int]:
    """Return amounts as whole numbers that there can be."""
    return {name: min(max(0, n), MOST) for name, n in amounts.vector(stated).items()}


def _taints(node: Object) -> tuple[Taint, ...]:
    # The unschedulable taint says again what spec.unschedulable says.
    return tuple(
        Taint(taint["key"], taint.get("value", ""), taint.get("effect", ""))
        for taint in node.get("spec", {}).get("taints") or ()
        if taint["key"] != "node.kubernetes.io/unschedulable"
    )


def _ready(status: Object) -> bool:
    conditions = status.get("conditions")
    if conditions is None:
        return True  # a node of a file describes hardware, not a state
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _reserve(labels: Object, capacity: Vector, profile: Object | None) -> Vector:
    stated = (((profile or {}).get("spec") or {}).get("reserve") or {}).get("amounts")
    if stated:
        return amounts.vector(stated)
    memory = int(capacity.get(MEMORY, 0) * DEFAULT_RESERVE_SHARE)
    if any(label in labels for label in CONTROL_PLANE):
        memory = max(memory, CONTROL_PLANE_RESERVE)
    return {CPU: int(capacity.get(CPU, 0) * DEFAULT_RESERVE_SHARE), MEMORY: memory}


def _models(profile: Object | None) -> frozenset[str]:
    present = ((profile or {}).get("status") or {}).get("models") or ()
    return frozenset(
        value for model in present for key in ("name", "sha256") if (value := model.get(key))
    )


def _calibration(profile: Object | None, first: str) -> dict[Setting, Estimate]:
    """Return what was learnt of a server; what names no device is of its first."""
    learnt = ((profile or {}).get("status") or {}).get("calibration") or ()
    return {
        Setting(
            item["model"], item["engine"], item.get("device") or first, item.get("tensor") or 1
        ): _belief_in(item)
        for item in learnt
    }


def _belief_in(item: Object) -> Estimate:
    reached = Efficiency(min(1.0, item["compute"]), min(1.0, item["memory"]), item["layerSeconds"])
    uncertainty, samples = item["uncertainty"], item["samples"]
    belief = efficiencies.estimate(reached, (uncertainty,) * 3, samples)
    try:
        return Estimate(belief.logs, tuple(item.get("covariance") or belief.covariance), samples)
    except ValueError:
        # No schema says that a matrix is a covariance; the uncertainty says enough.
        return belief


# Pods


def pod_demand(spec: Object) -> dict[str, int]:
    """Return what a pod takes of its node: the larger of its containers and its init containers.

    Sidecars (init containers that restart always) run beside both; overhead comes on top.
    """
    running = _sum(spec.get("containers") or ())
    sidecars: Vector = {}
    largest: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        demand = container_demand(container)
        if container.get("restartPolicy") == "Always":
            sidecars = plus(sidecars, demand)
            continue
        for name, amount in plus(sidecars, demand).items():
            largest[name] = max(largest.get(name, 0), amount)
    total = plus(running, sidecars)
    total = {name: max(total.get(name, 0), largest.get(name, 0)) for name in {*total, *largest}}
    return {k: v for k, v in plus(total, amounts.vector(spec.get("overhead"))).items() if v}


def _sum(containers: Iterable[Object]) -> Vector:
    total: Vector = {}
    for container in containers:
        total = plus(total, container_demand(container))
    return total


def container_demand(container: Object) -> dict[str, int]:
    """Return a container's requests; a limit without a request is one."""
    resources = container.get("resources") or {}
    return {**amounts.vector(resources.get("limits")), **amounts.vector(resources.get("requests"))}


FINISHED = ("Succeeded", "Failed")


def occupies(pod: Object) -> bool:
    """Tell whether a pod still takes what it asked for."""
    return pod.get("status", {}).get("phase") not in FINISHED


SUBTASK_LABELS = (names.LABEL_JOB_UID, names.LABEL_GROUP, names.LABEL_SUBTASK)


def job_of(pod: Object) -> str:
    """Return ``namespace/uid`` of the job whose subtask a pod is; empty where it is of none."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    if not all(labels.get(key) for key in SUBTASK_LABELS):
        return ""
    return owner(metadata.get("namespace", ""), labels, metadata.get("ownerReferences"))


def owner(namespace: str, labels: Object, references: Iterable[Object] | None) -> str:
    """Return ``namespace/uid`` of the job that an object's label names and that controls it.

    Labels are anybody's to write, in any namespace: alone they make nothing ours.
    """
    uid = labels.get(names.LABEL_JOB_UID)
    controlled = any(
        reference.get("controller")
        and reference.get("uid") == uid
        and reference.get("kind") == "InferenceJob"
        and str(reference.get("apiVersion", "")).startswith(f"{names.GROUP}/")
        for reference in references or ()
    )
    return f"{namespace}/{uid}" if uid and controlled else ""


def ours(pod: Object) -> bool:
    """Tell whether a pod is one of a job's subtasks."""
    return bool(job_of(pod))


def taken_by(pod: Object) -> dict[str, int]:
    """Return what a bound pod takes of its node, its slot among the pods included."""
    return {**pod_demand(pod["spec"]), PODS: 1}


def foreign(
    pods: Iterable[Object], taken_by: Callable[[Object], Vector] = taken_by
) -> dict[str, dict[str, int]]:
    """Return what bound pods that are not ours take, by node."""
    taken: dict[str, dict[str, int]] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and not ours(pod) and occupies(pod):
            taken[node] = plus(taken.get(node, {}), taken_by(pod))
    return taken


def servers(
    nodes: Sequence[Object], profiles: Sequence[Object] = (), pods: Iterable[Object] = ()
) -> list[Server]:
    """Return the servers of a cluster, sorted by name; alike ones share what they learnt."""
    by_name = {profile["metadata"]["name"]: profile for profile in profiles}
    taken = foreign(pods)
    found = [
        server(node, by_name.get(node["metadata"]["name"]), taken.get(node["metadata"]["name"]))
        for node in nodes
    ]
    return calibrating.shared(sorted(found, key=lambda item: item.name))
