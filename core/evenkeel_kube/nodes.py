"""Nodes and ServerProfiles to `Server`s, and what other pods take from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from evenkeel_core import facts
from evenkeel_core.quantities import (
    CPU,
    GIB,
    MEMORY,
    MILLI,
    PODS,
    Bytes,
    Seconds,
    Vector,
    minus,
    plus,
)
from evenkeel_core.servers import (
    CONTROL_PLANE_RESERVE,
    DEFAULT_RESERVE_SHARE,
    Device,
    Server,
    Taint,
)
from evenkeel_kube import amounts, names

Object = Mapping[str, Any]

NVIDIA_PRODUCT = "nvidia.com/gpu.product"
NVIDIA_MEMORY = "nvidia.com/gpu.memory"
AMD_PRODUCTS = ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name")
AMD_MEMORY = "amd.com/gpu.vram"
ASCEND_CHIP = "node.kubernetes.io/npu.chip.name"
ASCEND_PREFIX = "huawei.com/"
CPU_MODEL = f"{names.GROUP}/cpu"
"""Node label with the processor's row of the device table, where nothing else tells it."""
CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")

ACCELERATORS = ("nvidia.com/", "amd.com/", ASCEND_PREFIX, "gpu.intel.com/")
"""Prefixes of the extended resources that count as accelerators."""
CORES_PER_ROW = {"EPYC-9654": 96, "Kunpeng-920-6426": 64, "Xeon-Platinum-8480+": 56}
TABLE_CORES = {
    "EPYC-7763": 64,
    "Xeon-Gold-6430": 32,
    "Xeon-Platinum-8380": 40,
    "Xeon-Gold-6330": 28,
}


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
    allocatable = amounts.vector(status.get("allocatable") or status.get("capacity"))
    capacity = amounts.vector(status.get("capacity") or status.get("allocatable"))
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
    return Server(
        name=metadata["name"],
        allocatable=room,
        processors=_processors(labels, hardware, capacity),
        accelerators=_accelerators(labels, hardware, capacity),
        labels=labels,
        taints=_taints(node),
        ready=_ready(status),
        schedulable=not node.get("spec", {}).get("unschedulable", False)
        and not ((profile or {}).get("spec") or {}).get("excluded", False),
        reserve=_reserve(labels, capacity, profile),
        models=_models(profile),
        **link,
        **({} if latency is None else {"link_latency": Seconds(latency)}),
    )


def _hardware(profile: Object | None) -> dict[str, Any]:
    """Return the probed hardware with the people's overrides on top."""
    profile = profile or {}
    probed = (profile.get("status") or {}).get("hardware") or {}
    overrides = (profile.get("spec") or {}).get("overrides") or {}
    return {**probed, **{key: value for key, value in overrides.items() if value is not None}}


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


def _processors(labels: Object, hardware: Object, capacity: Vector) -> Device:
    cores = max(capacity.get(CPU, MILLI) / MILLI, 0.001)
    stated = hardware.get("processor") or {}
    product = stated.get("product") or labels.get(CPU_MODEL) or ""
    row = facts.device(product) if product else None
    if row is not None and row["kind"] == "cpu":
        # The table's figures are of one socket; the node has as many cores as it has.
        share = cores / {**CORES_PER_ROW, **TABLE_CORES}.get(row["name"], cores)
        flops, bandwidth = facts.peak_flops(row) * share, facts.bandwidth(row) * share
        confidence, source = facts.confidence(row), f"device table, {row['name']}"
        product = row["name"]
    else:
        flops = cores * facts.UNKNOWN_CPU_FLOPS_PER_CORE
        bandwidth = cores * facts.UNKNOWN_CPU_BANDWIDTH_PER_CORE
        confidence, source = facts.UNKNOWN_CONFIDENCE, "unknown processor, by its cores"
        product = product or "unknown-cpu"
    if stated.get("flops") and stated.get("bandwidth"):
        flops, bandwidth = float(stated["flops"]), float(stated["bandwidth"])
        confidence, source = 1.0, "server profile"
    # Any processor beats a guess of its speed by far less than accelerators differ: a job on
    # processors only is still planned by what is known of them.
    return Device(product, CPU, 1, Bytes(0), flops, bandwidth, confidence, source)


def _accelerators(labels: Object, hardware: Object, capacity: Vector) -> tuple[Device, ...]:
    stated = hardware.get("accelerators")
    if stated:
        return tuple(sorted((_stated(item, capacity) for item in stated), key=lambda d: d.resource))
    return tuple(
        _labelled(resource, count, labels)
        for resource, count in sorted(capacity.items())
        if count > 0 and resource.startswith(ACCELERATORS) and not resource.endswith("-memory")
    )


def _stated(item: Object, capacity: Vector) -> Device:
    row = facts.device(item["product"])
    resource = item.get("resource", "nvidia.com/gpu")
    count = item.get("count")
    memory = item.get("memoryBytes") or (facts.memory(row) if row else 0)
    return Device(
        row["name"] if row else item["product"],
        resource,
        capacity.get(resource, 0) if count is None else int(count),
        Bytes(int(memory)),
        float(
            item.get("flops") or (facts.peak_flops(row) if row else facts.UNKNOWN_ACCELERATOR_FLOPS)
        ),
        float(
            item.get("bandwidth")
            or (facts.bandwidth(row) if row else facts.UNKNOWN_ACCELERATOR_BANDWIDTH)
        ),
        1.0 if item.get("flops") and item.get("bandwidth") else _belief(row),
        "server profile",
    )


def _belief(row: Mapping[str, str] | None) -> float:
    return facts.confidence(row) if row else facts.UNKNOWN_CONFIDENCE


def _product(resource: str, labels: Object) -> str:
    if resource.startswith("nvidia.com/"):
        return str(labels.get(NVIDIA_PRODUCT, ""))
    if resource.startswith("amd.com/"):
        return next((str(labels[key]) for key in AMD_PRODUCTS if key in labels), "")
    if resource.startswith(ASCEND_PREFIX):
        return str(labels.get(ASCEND_CHIP) or resource.removeprefix(ASCEND_PREFIX))
    return ""


def _labelled(resource: str, count: int, labels: Object) -> Device:
    product = _product(resource, labels)
    row = facts.device(product) if product else None
    memory = facts.memory(row) if row else Bytes(0)
    label = str(labels.get(NVIDIA_MEMORY, ""))
    if label.isdigit():
        memory = Bytes(int(label) * 2**20)
    vram = str(labels.get(AMD_MEMORY, "")).removesuffix("G")
    if resource.startswith("amd.com/") and vram.isdigit():
        memory = Bytes(int(vram) * GIB)
    return Device(
        row["name"] if row else product or resource,
        resource,
        count,
        memory,
        facts.peak_flops(row) if row else facts.UNKNOWN_ACCELERATOR_FLOPS,
        facts.bandwidth(row) if row else facts.UNKNOWN_ACCELERATOR_BANDWIDTH,
        _belief(row),
        f"device table, {row['name']}" if row else "unknown device",
    )


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
    """Return the servers of a cluster, sorted by name."""
    by_name = {profile["metadata"]["name"]: profile for profile in profiles}
    taken = foreign(pods)
    found = [
        server(node, by_name.get(node["metadata"]["name"]), taken.get(node["metadata"]["name"]))
        for node in nodes
    ]
    return sorted(found, key=lambda item: item.name)
