"""Simulated nodes: what KWOK pretends to be, with the figures of machines that exist."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evenkeel_core import facts
from evenkeel_kube.devices import AMD_MEMORY, AMD_PRODUCTS, CPU_MODEL, NVIDIA_MEMORY, NVIDIA_PRODUCT
from evenkeel_kube.names import TAINT_SIMULATED
from evenkeel_kube.racks import Rack

FAKE = "kwok.x-k8s.io/node"
"""Annotation by which KWOK knows the nodes it has to run."""
MIB_PER_GB = 1024
_TAINT = {"key": TAINT_SIMULATED, "value": "fake", "effect": "NoSchedule"}


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A node without a kubelet."""

    name: str
    capacity: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Mapping[str, str]] = ()
    """Beside the one every simulated node has."""

    def manifest(self) -> dict[str, Any]:
        """Return the Node object; KWOK fills in the rest of its status."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "type": "kwok",
            **self.labels,
        }
        capacity = {"pods": "110", "ephemeral-storage": "1Ti", **self.capacity}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels, "annotations": {FAKE: "fake"}},
            "spec": {"taints": [_TAINT, *self.taints]},
            "status": {"capacity": capacity, "allocatable": capacity},
        }


@dataclass(frozen=True, slots=True)
class _Model:
    """A server one can buy."""

    processor: str
    cores: int
    memory: int
    """GiB."""
    device: str = ""
    count: int = 0


_RACK = (
    _Model("EPYC-7763", 128, 512, "A100-SXM4-80GB", 8),
    _Model("Xeon-Gold-6330", 96, 384, "T4", 2),
    _Model("EPYC-7763", 64, 256),
    _Model("EPYC-9654", 96, 768, "L40S", 4),
    _Model("Xeon-Gold-6330", 56, 256),
    _Model("EPYC-7763", 32, 128, "RTX-4090", 2),
    _Model("Xeon-Platinum-8380", 96, 768, "V100-SXM2-32GB", 8),
    _Model("Xeon-Platinum-8480+", 112, 2048, "H100-SXM-80GB", 8),
    _Model("Xeon-Gold-6430", 128, 1024, "A10", 1),
    _Model("EPYC-9654", 96, 384),
    _Model("EPYC-9654", 64, 512, "L4", 4),
    _Model("EPYC-9654", 192, 2304, "MI300X", 8),
)
"""A rack of unlike servers, in the order in which they are dealt. Cores and memory of the T4,
V100 and A10 servers are those of Alibaba's openb trace (hkust-adsl/kubernetes-scheduler-simulator),
of the 8-accelerator servers those of the vendors' own (DGX A100, DGX H100, MI300X platform)."""


def rack(count: int) -> tuple[SimulatedNode, ...]:
    """Return so many unlike servers; the same ones every time, the first of any number alike."""
    if count < 0:
        raise ValueError("`count` must not be negative")
    models = itertools.islice(itertools.cycle(_RACK), count)
    return tuple(_node(f"sim-{number:04}", model) for number, model in enumerate(models, start=1))


def described(rack: Rack) -> tuple[SimulatedNode, ...]:
    """Return the nodes of a servers file, to be simulated."""
    return tuple(_described(node) for node in rack.nodes)


def _described(node: Mapping[str, Any]) -> SimulatedNode:
    metadata, status = node["metadata"], node["status"]
    taints = node.get("spec", {}).get("taints") or ()
    return SimulatedNode(
        metadata["name"],
        dict(status.get("capacity") or status["allocatable"]),
        dict(metadata.get("labels") or {}),
        tuple(taint for taint in taints if taint["key"] != TAINT_SIMULATED),
    )


def _node(name: str, model: _Model) -> SimulatedNode:
    labels = {CPU_MODEL: model.processor.replace("+", "")}
    capacity = {"cpu": str(model.cores), "memory": f"{model.memory}Gi"}
    row = facts.device(model.device) if model.device else None
    if row:
        vendor = row["vendor"].lower()
        capacity[f"{vendor}.com/gpu"] = str(model.count)
        labels |= _discovered(vendor, row, model.count)
    return SimulatedNode(name, capacity, labels)


def _discovered(vendor: str, row: Mapping[str, str], count: int) -> dict[str, str]:
    """Return the labels by which the vendor's own discovery names the device."""
    if vendor == "nvidia":
        return {
            NVIDIA_PRODUCT: row["node_label_value"],
            NVIDIA_MEMORY: str(int(row["memory_gb"]) * MIB_PER_GB),
            "nvidia.com/gpu.count": str(count),
            "nvidia.com/gpu.present": "true",
        }
    return {AMD_PRODUCTS[0]: row["node_label_value"], AMD_MEMORY: f"{row['memory_gb']}G"}
