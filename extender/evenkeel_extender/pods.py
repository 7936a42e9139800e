"""Pods as the extender sees them, in a watch and in kube-scheduler's calls alike.

Only the fields that are looked at are decoded, and what they amount to is worked out once: the
snapshot is built from thousands of these, again and again.
"""

from typing import TypedDict

import msgspec

from evenkeel_core.quantities import PODS
from evenkeel_kube import names, nodes

Amounts = dict[str, str | int | float]


class _Resources(TypedDict, total=False):
    requests: Amounts | None
    limits: Amounts | None


class _Container(TypedDict, total=False):
    resources: _Resources | None
    restartPolicy: str | None


class _Gate(TypedDict):
    name: str


class _Spec(TypedDict, total=False):
    nodeName: str | None
    containers: list[_Container] | None
    initContainers: list[_Container] | None
    overhead: Amounts | None
    schedulingGates: list[_Gate] | None
    nodeSelector: dict[str, str] | None


class _Owner(TypedDict, total=False):
    apiVersion: str
    kind: str
    uid: str
    controller: bool | None


class _Metadata(msgspec.Struct, gc=False):
    uid: str
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owners: list[_Owner] | None = msgspec.field(name="ownerReferences", default=None)


class _Status(msgspec.Struct, gc=False):
    phase: str = "Pending"


class _Json(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


class Pod(msgspec.Struct, frozen=True, gc=False):
    """One pod, ours or another's."""

    uid: str
    key: str
    """``namespace/name``."""
    demand: dict[str, int]
    node: str = ""
    """Where it is bound; empty while it is not."""
    over: bool = False
    """It has ended and holds nothing any more."""
    job: str = ""
    """``namespace/uid`` of the job it belongs to; empty for a pod that is not ours."""
    subtask: str = ""
    planned: str = ""
    """The server its plan wants."""
    work: float = 0.0
    """Reference seconds."""
    gated: bool = False
    """Our gate still holds it: it reserves nothing yet."""
    selects: tuple[tuple[str, str], ...] = ()
    """Labels its nodeSelector asks for, sorted."""

    @property
    def amounts(self) -> tuple[tuple[str, int], ...]:
        """What it asks for as something that can be counted."""
        return tuple(sorted(self.demand.items()))

    @property
    def server(self) -> str:
        """Where it is, or else should go."""
        return self.node or self.planned

    @property
    def reserves(self) -> bool:
        """Tell whether it holds capacity: bound, or released onto its planned server."""
        return bool(self.node) or not self.gated


_decoder = msgspec.json.Decoder(_Json)


def decode(data: bytes | msgspec.Raw) -> Pod:
    """Return the pod of a v1 Pod's JSON.

    Raises
    ------
    ValueError
        If it is none; msgspec's own errors are ValueErrors too.
    """
    pod = _decoder.decode(data)
    metadata, spec = pod.metadata, pod.spec
    labels, annotations = metadata.labels or {}, metadata.annotations or {}
    job = nodes.owner(metadata.namespace, labels, metadata.owners)
    gates = spec.get("schedulingGates") or ()
    return Pod(
        uid=metadata.uid,
        key=f"{metadata.namespace}/{metadata.name}",
        demand={**nodes.pod_demand(spec), PODS: 1},
        node=spec.get("nodeName") or "",
        over=pod.status.phase in nodes.FINISHED,
        job=job,
        subtask=labels.get(names.LABEL_SUBTASK, ""),
        planned=annotations.get(names.ANNOTATION_SERVER, "") if job else "",
        work=_number(annotations.get(names.ANNOTATION_WORK)) if job else 0.0,
        gated=any(gate["name"] == names.GATE for gate in gates),
        selects=tuple(sorted((spec.get("nodeSelector") or {}).items())),
    )


def _number(text: str | None) -> float:
    """Return a load that was written down; 0 where it makes no sense."""
    try:
        found = float(text or 0)
    except ValueError:
        return 0.0
    return found if 0 <= found < float("inf") else 0.0
