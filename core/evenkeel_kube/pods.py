"""Subtasks to pods: rendering is a pure function, names are the same for the same attempt.

A pod is created gated and without required node affinity. The gate falls with one patch that
writes the shortlist: OR-ed terms, each with one ``metadata.name``, multiplied with what the user
requires. kube-scheduler then looks at these nodes and no others.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evenkeel_core.jobs import Inference, Task, Term
from evenkeel_core.plans import Assignment
from evenkeel_core.quantities import Vector
from evenkeel_core.subtasks import Subtask
from evenkeel_kube import amounts, names

Object = dict[str, Any]

SIMULATOR_IMAGE = "localhost/evenkeel/simulator:dev"
NAME_LENGTH = 63
HASH_LENGTH = 8
UNREACHABLE_SECONDS = 30
"""How long a pod stays on a node that does not answer (design, section 9)."""
SPREAD = 0.15
"""The simulator's hidden factor is within 1 ± this: what planner and calibration can't see."""


def pod_name(metadata: Mapping[str, Any], subtask: str, attempt: int) -> str:
    """Return the name of a subtask's pod, the same for the same attempt: JOB-SUBTASK-aN-HASH.

    The hash is of the job's uid and all the rest: pods of another job never have the name, not of
    one that is called alike (``a-b`` with task ``c`` and ``a`` with ``b-c``) nor of a namesake that
    was deleted.
    """
    readable = f"{metadata['name']}-{subtask}-a{attempt}"
    whole = f"{metadata['uid']}/{subtask}/{attempt}"
    digest = hashlib.sha256(whole.encode()).hexdigest()[:HASH_LENGTH]
    return f"{readable[: NAME_LENGTH - HASH_LENGTH - 1].rstrip('-.')}-{digest}"


def hidden_factor(seed: int, *parts: str) -> float:
    """Return the factor between predicted and simulated time: the same for the same parts."""
    digest = hashlib.sha256("/".join((str(seed), *parts)).encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return 1 - SPREAD + 2 * SPREAD * share


def render(
    manifest: Mapping[str, Any],
    task: Task,
    subtask: Subtask,
    assignment: Assignment,
    demand: Vector,
    *,
    revision: int,
    attempt: int,
    scheduler: str = names.SCHEDULER,
    not_before: float | None = None,
    simulator_image: str = SIMULATOR_IMAGE,
) -> Object:
    """Return the pod of one attempt of a subtask.

    Parameters
    ----------
    manifest : mapping
        The InferenceJob, which will own the pod.
    task : Task
        The task the subtask is a part of.
    subtask, assignment : Subtask, Assignment
        From the plan.
    demand : mapping
        What the plan grants the subtask; requests and limits alike.
    revision, attempt : int
        Of the plan and of the subtask's group.
    scheduler : str
        Name of the scheduler profile.
    not_before : float, optional
        Seconds since the epoch before which the gate stays.
    simulator_image : str
    """
    spec, extra = (
        _simulator(manifest, task, subtask, assignment, demand, simulator_image)
        if isinstance(task.work, Inference)
        else _template(manifest, task, subtask)
    )
    annotations = {
        **extra.get("annotations", {}),
        names.ANNOTATION_SERVER: assignment.server,
        names.ANNOTATION_REVISION: str(revision),
        names.ANNOTATION_ATTEMPT: str(attempt),
        names.ANNOTATION_SECONDS: f"{assignment.seconds:.3f}",
        names.ANNOTATION_WORK: f"{subtask.work:.6f}",
    }
    if isinstance(task.work, Inference) and task.work.time_scale != 1.0:
        annotations[names.ANNOTATION_TIME_SCALE] = f"{task.work.time_scale:g}"
    if not_before is not None:
        annotations[names.ANNOTATION_NOT_BEFORE] = f"{not_before:.3f}"
    metadata = manifest["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(metadata, subtask.name, attempt),
            "namespace": metadata["namespace"],
            "labels": {
                **_passed_through(metadata.get("labels") or {}),
                **extra.get("labels", {}),
                **_labels(manifest, task, subtask),
            },
            "annotations": annotations,
            "ownerReferences": [owner(manifest)],
            "finalizers": [names.FINALIZER],
        },
        "spec": {
            **spec,
            **_of_the_job(manifest, spec),
            "restartPolicy": "Never",
            "schedulerName": scheduler,
            "schedulingGates": [*(spec.get("schedulingGates") or ()), {"name": names.GATE}],
            "affinity": _without_required_nodes(
                {**(manifest["spec"].get("affinity") or {}), **(spec.get("affinity") or {})}
            ),
            "tolerations": _tolerations(manifest, spec, task),
            "automountServiceAccountToken": spec.get("automountServiceAccountToken", False),
        },
    }


def owner(manifest: Mapping[str, Any]) -> Object:
    """Return the owner reference to a job."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "InferenceJob",
        "name": manifest["metadata"]["name"],
        "uid": manifest["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


KUEUE_LABELS = "kueue.x-k8s.io/"
"""Not copied to pods: each would be admitted alone (design, section 9)."""


def _passed_through(labels: Mapping[str, str]) -> Object:
    return {
        key: value
        for key, value in labels.items()
        if not key.startswith((KUEUE_LABELS, f"{names.GROUP}/", "app.kubernetes.io/"))
    }


def _labels(manifest: Mapping[str, Any], task: Task, subtask: Subtask) -> Object:
    engine = task.work.engine.value if isinstance(task.work, Inference) else "template"
    return {
        "app.kubernetes.io/managed-by": "evenkeel",
        names.LABEL_JOB: names.label(manifest["metadata"]["name"]),
        names.LABEL_JOB_UID: manifest["metadata"]["uid"],
        names.LABEL_SUBTASK: names.label(subtask.name),
        names.LABEL_GROUP: names.label(subtask.group),
        names.LABEL_ENGINE: engine,
    }


def _of_the_job(manifest: Mapping[str, Any], pod: Mapping[str, Any]) -> Object:
    """Return what the job's spec says of all its pods, with what a template says beside it."""
    spec = manifest["spec"]
    passed = ("runtimeClassName", "priorityClassName")
    found = {key: spec[key] for key in passed if spec.get(key)}
    selector = {**(spec.get("nodeSelector") or {}), **(pod.get("nodeSelector") or {})}
    secrets = [*(pod.get("imagePullSecrets") or ()), *(spec.get("imagePullSecrets") or ())]
    return {
        **found,
        **({"nodeSelector": selector} if selector else {}),
        **({"imagePullSecrets": secrets} if secrets else {}),
    }


def _tolerations(manifest: Mapping[str, Any], spec: Mapping[str, Any], task: Task) -> list[Object]:
    wanted = [*(manifest["spec"].get("tolerations") or ()), *(spec.get("tolerations") or ())]
    keys = {toleration.get("key") for toleration in wanted}
    wanted += [
        {
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": UNREACHABLE_SECONDS,
        }
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in keys
    ]
    if isinstance(task.work, Inference):
        # Only the simulator may run on simulated nodes: nothing really runs there.
        wanted.append(
            {
                "key": names.TAINT_SIMULATED,
                "operator": "Equal",
                "value": "fake",
                "effect": "NoSchedule",
            }
        )
    return wanted


def _without_required_nodes(affinity: Mapping[str, Any]) -> Object:
    """Withhold required node affinity: the patch that opens the gate writes it, multiplied."""
    rest = {key: value for key, value in affinity.items() if key != "nodeAffinity"}
    nodes = {
        key: value
        for key, value in (affinity.get("nodeAffinity") or {}).items()
        if key != "requiredDuringSchedulingIgnoredDuringExecution"
    }
    return {**rest, "nodeAffinity": nodes} if nodes else rest


def _simulator(
    manifest: Mapping[str, Any],
    task: Task,
    subtask: Subtask,
    assignment: Assignment,
    demand: Vector,
    image: str,
) -> tuple[Object, Object]:
    """Return the pod spec of the simulator and what goes into its metadata."""
    work = task.work
    assert isinstance(work, Inference)  # noqa: S101 - the caller has looked
    runtime = manifest["spec"].get("runtime") or {}
    factor = hidden_factor(
        int(runtime.get("seed") or 0), manifest["metadata"]["name"], subtask.group
    )
    seconds = assignment.seconds * factor / work.time_scale
    first, end = subtask.requests or (0, work.requests.count)
    resources = amounts.resource_list({k: v for k, v in demand.items() if v})
    spec = {
        "terminationGracePeriodSeconds": 2,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "simulator",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python3", "-m", "evenkeel_node.simulating"],
                "env": [
                    {"name": "EVENKEEL_RUN_SECONDS", "value": f"{seconds:.3f}"},
                    {"name": "EVENKEEL_REQUESTS", "value": f"{first}-{end}"},
                ],
                "resources": {"requests": resources, "limits": resources},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    return spec, {"annotations": {names.ANNOTATION_RUN_SECONDS: f"{seconds:.3f}"}}


def _template(manifest: Mapping[str, Any], task: Task, subtask: Subtask) -> tuple[Object, Object]:
    """Return the user's pod spec with the shard's number in it, and its metadata."""
    written = next(item for item in manifest["spec"]["tasks"] if item["name"] == task.name)
    template = written["template"]
    spec = dict(template["spec"])
    shard = [{"name": "EVENKEEL_SHARD", "value": subtask.name.rpartition("-")[2]}]
    shard.append({"name": "EVENKEEL_SHARDS", "value": str(task.shards or 1)})
    for kind in ("containers", "initContainers"):
        if spec.get(kind):
            spec[kind] = [
                {**container, "env": [*(container.get("env") or ()), *shard]}
                for container in spec[kind]
            ]
    _mount_workspace(manifest, spec)
    metadata = template.get("metadata") or {}
    return spec, {
        "labels": metadata.get("labels") or {},
        "annotations": metadata.get("annotations") or {},
    }


WORKSPACE = "evenkeel-workspace"
WORKSPACE_PATH = "/workspace"


def _mount_workspace(manifest: Mapping[str, Any], spec: Object) -> None:
    """Mount the job's workspace in every container that has nothing else there."""
    claim = (manifest["spec"].get("workspace") or {}).get("persistentVolumeClaim")
    if not claim:
        return
    volume = {"name": WORKSPACE, "persistentVolumeClaim": {"claimName": claim["claimName"]}}
    spec["volumes"] = [*(spec.get("volumes") or ()), volume]
    mount = {"name": WORKSPACE, "mountPath": WORKSPACE_PATH}
    for kind in ("containers", "initContainers"):
        if spec.get(kind):
            spec[kind] = [
                {**container, "volumeMounts": [*(container.get("volumeMounts") or ()), mount]}
                if WORKSPACE_PATH not in _mounted(container)
                else container
                for container in spec[kind]
            ]


def _mounted(container: Mapping[str, Any]) -> set[str]:
    return {mount.get("mountPath") for mount in container.get("volumeMounts") or ()}


# Releasing


def gated(pod: Mapping[str, Any]) -> bool:
    """Tell whether our gate still holds a pod."""
    return any(gate["name"] == names.GATE for gate in pod["spec"].get("schedulingGates") or ())


def release(
    pod: Mapping[str, Any], shortlist: Sequence[str], required: Iterable[Term], now: float
) -> list[Object]:
    """Return the JSON patch that opens the gate and writes the shortlist.

    Tests the resourceVersion first: a pod that somebody changed meanwhile is looked at again.
    Foreign gates stay where they are.

    Parameters
    ----------
    pod : mapping
        As last seen.
    shortlist : sequence of str
        Servers, best first; empty for no shortlist (mode ``open``).
    required : iterable of Term
        What the user requires of nodes, OR-ed.
    now : float
        Seconds since the epoch.
    """
    gates = [gate for gate in pod["spec"]["schedulingGates"] if gate["name"] != names.GATE]
    terms = _terms(shortlist, list(required))
    operations: list[Object] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": _version(pod)},
        {
            "op": "add",
            "path": "/metadata/annotations/" + names.ANNOTATION_RELEASED.replace("/", "~1"),
            "value": f"{now:.3f}",
        },
        {"op": "replace", "path": "/spec/schedulingGates", "value": gates}
        if gates
        else {"op": "remove", "path": "/spec/schedulingGates"},
    ]
    if terms:
        operations += _affinity(pod, terms)
    return operations


def _version(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["resourceVersion"])


def _terms(shortlist: Sequence[str], required: Sequence[Term]) -> list[Object]:
    """Multiply the shortlist with the user's terms: each product has one ``metadata.name``."""
    rendered = [_term(term) for term in required] or [{}]
    if not shortlist:
        return [term for term in rendered if term]
    fields = [
        {"key": "metadata.name", "operator": "In", "values": [server]} for server in shortlist
    ]
    return [
        {**term, "matchFields": [*term.get("matchFields", ()), field]}
        for field in fields
        for term in rendered
    ]


def _term(term: Term) -> Object:
    found: Object = {}
    for expression in term:
        kind = "matchFields" if expression.field else "matchExpressions"
        item: Object = {"key": expression.key, "operator": expression.operator}
        if expression.values:
            item["values"] = list(expression.values)
        found.setdefault(kind, []).append(item)
    return found


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def _affinity(pod: Mapping[str, Any], terms: list[Object]) -> list[Object]:
    """Return the operations that add the terms, whatever of the path exists already."""
    wanted = {"nodeSelectorTerms": terms}
    affinity = pod["spec"].get("affinity")
    if not affinity:
        return [
            {"op": "add", "path": "/spec/affinity", "value": {"nodeAffinity": {REQUIRED: wanted}}}
        ]
    if not affinity.get("nodeAffinity"):
        return [{"op": "add", "path": "/spec/affinity/nodeAffinity", "value": {REQUIRED: wanted}}]
    return [{"op": "add", "path": f"/spec/affinity/nodeAffinity/{REQUIRED}", "value": wanted}]


def without_finalizer(pod: Mapping[str, Any]) -> list[Object]:
    """Return the JSON patch that lets a pod go, once its outcome is on record."""
    left = [item for item in pod["metadata"]["finalizers"] if item != names.FINALIZER]
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": _version(pod)},
        {"op": "replace", "path": "/metadata/finalizers", "value": left},
    ]
