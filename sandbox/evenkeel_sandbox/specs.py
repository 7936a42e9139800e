"""What a sandbox is to be: its nodes, read from the file that `kind` reads, and its timing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from evenkeel_sandbox.failures import SandboxError
from evenkeel_sandbox.simulated import SimulatedNode


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast the cluster notices that a node is lost, in seconds.

    Every node of a cluster must renew its lease often enough for the grace period; a node left
    at the usual 40 s lease flaps in a cluster that is tighter. So there is one value for all.
    """

    grace: int
    """Silence after which a node is NotReady."""
    lease: int
    """Validity of a node's lease; it is renewed four times as often."""
    status: int
    """Seconds between two status updates of a kubelet."""
    toleration: int
    """Seconds a pod without tolerations of its own stays on a lost node."""

    def __post_init__(self) -> None:
        if not 0 < self.lease < self.grace:
            raise ValueError("`lease` must be positive and shorter than `grace`")


TIMINGS = {
    "fast": Timing(grace=6, lease=4, status=2, toleration=5),
    "moderate": Timing(grace=16, lease=12, status=5, toleration=15),
    "upstream": Timing(grace=50, lease=40, status=10, toleration=300),
}
"""``fast`` costs a renewal a second and node: for tens of nodes; ``upstream`` is for thousands."""


@dataclass(frozen=True, slots=True)
class RealNode:
    """A node with a kubelet and a container runtime of its own."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A sandbox before it exists."""

    nodes: tuple[RealNode, ...] = ()
    simulated: tuple[SimulatedNode, ...] = ()
    profiles: tuple[Mapping[str, Any], ...] = ()
    """ServerProfiles of the simulated nodes: what an agent would have found there."""
    timing: Timing = TIMINGS["moderate"]
    evenkeel: bool = False
    """Also run the operator, the extender and the second kube-scheduler, on the host."""


KIND_CONFIG = "kind-config.yaml"


def default_nodes(config: Path | None) -> tuple[RealNode, ...]:
    """Return the nodes of the given file, of the one in the working folder, or two plain ones."""
    path = config or Path(KIND_CONFIG)
    if config is None and not path.exists():
        return (RealNode("worker-1"), RealNode("worker-2"))
    return read_kind_config(path)


def read_kind_config(path: Path) -> tuple[RealNode, ...]:
    """Return the worker nodes of a kind configuration.

    The control-plane entry stands for the processes on the host and is no node here.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SandboxError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SandboxError(f"cannot read {path}: {error}") from error
    return parse_kind_config(config, str(path))


def parse_kind_config(config: Any, origin: str) -> tuple[RealNode, ...]:
    """Return the worker nodes of a parsed kind configuration."""
    if not isinstance(config, dict) or config.get("kind") != "Cluster":
        raise SandboxError(f"{origin}: `kind` must be Cluster (see https://kind.sigs.k8s.io)")
    entries = config.get("nodes") or [{"role": "control-plane"}]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SandboxError(f"{origin}: `nodes` must be a list of mappings, each with a `role`")
    roles = [entry.get("role") for entry in entries]
    if roles.count("control-plane") != 1 or any(role not in ROLES for role in roles):
        raise SandboxError(
            f"{origin}: `nodes` must have exactly one control-plane, and workers; has {roles}"
        )
    workers = [entry for entry in entries if entry["role"] == "worker"]
    if len(workers) > MOST_NODES:
        raise SandboxError(f"{origin}: at most {MOST_NODES} workers, has {len(workers)}")
    return tuple(
        RealNode(f"worker-{number}", {str(k): str(v) for k, v in _labels(entry, origin).items()})
        for number, entry in enumerate(workers, start=1)
    )


ROLES = ("control-plane", "worker")
MOST_NODES = 64
"""Real nodes on one machine; each takes some 200 MB."""


def _labels(entry: Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    labels = entry.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise SandboxError(f"{origin}: `nodes[].labels` must be a mapping")
    return labels
