"""Simulated nodes look like servers one can buy."""

import pytest

from evenkeel_kube import nodes
from evenkeel_kube.names import TAINT_SIMULATED
from evenkeel_sandbox import simulated
from evenkeel_sandbox.failures import SandboxError


def test_a_longer_rack_begins_with_the_shorter() -> None:
    assert simulated.rack(50)[:20] == simulated.rack(20)
    assert len({node.name for node in simulated.rack(300)}) == 300
    with pytest.raises(ValueError, match="`count`"):
        simulated.rack(-1)


def test_a_rack_mixes_devices_and_plain_servers() -> None:
    rack = simulated.rack(12)
    products = {node.labels.get("nvidia.com/gpu.product") for node in rack}
    assert {"NVIDIA-A100-SXM4-80GB", "Tesla-T4", "NVIDIA-H100-80GB-HBM3", None} <= products
    assert any("amd.com/gpu" in node.capacity for node in rack)


def test_labels_are_those_of_gpu_feature_discovery() -> None:
    node = simulated.rack(1)[0]
    assert node.capacity["nvidia.com/gpu"] == node.labels["nvidia.com/gpu.count"] == "8"
    assert node.labels["nvidia.com/gpu.memory"] == str(80 * 1024)


def test_the_planner_knows_every_device_of_the_rack() -> None:
    for node in simulated.rack(12):
        server = nodes.server(node.manifest())
        assert all("device table" in device.source for device in server.devices), node.name


def test_nothing_lands_on_a_simulated_node_by_accident() -> None:
    manifest = simulated.rack(1)[0].manifest()
    assert manifest["spec"]["taints"] == [
        {"key": TAINT_SIMULATED, "value": "fake", "effect": "NoSchedule"}
    ]


def test_a_servers_file_is_read() -> None:
    entry = {"name": "a", "capacity": {"cpu": 4, "memory": "8Gi"}, "labels": {"x": 1}}
    (node,) = simulated.parse([entry], "file")
    assert (node.capacity, node.labels) == ({"cpu": "4", "memory": "8Gi"}, {"x": "1"})


def test_nodes_of_a_cluster_can_be_simulated_from_its_own_documents() -> None:
    (before,) = simulated.rack(1)
    profile = {"apiVersion": "evenkeel.dev/v1alpha1", "kind": "ServerProfile"}
    (node,) = simulated.parse([before.manifest(), profile], "file")
    assert (node.name, node.capacity["nvidia.com/gpu"]) == (before.name, "8")


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ("text", "must be a list"),
        ({"a": 1}, "must be a list"),
        ([{"capacity": {}}], r"\[0\].*`name`"),
        ([{"name": "a"}], r"\[0\].*`capacity`"),
        ([{"name": "a", "capacity": {"cpu": "1"}}], "`cpu` and `memory`"),
        ([{"name": "a", "capacity": {"cpu": "1", "memory": "1"}}] * 2, "must differ"),
    ],
)
def test_what_is_wrong_in_a_servers_file_is_named(entries: object, named: str) -> None:
    with pytest.raises(SandboxError, match=named):
        simulated.parse(entries, "file")
