"""Simulated nodes look like servers one can buy."""

import json

import pytest

from evenkeel_kube import nodes, racks
from evenkeel_kube.names import TAINT_SIMULATED
from evenkeel_sandbox import simulated


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


def test_a_servers_file_is_simulated_with_its_taints() -> None:
    text = "- {name: a, capacity: {cpu: 4, memory: 8Gi}, labels: {x: y}, taints: [{key: t}]}"
    (node,) = simulated.described(racks.read(text))
    manifest = node.manifest()
    assert (node.capacity["cpu"], node.labels["x"]) == ("4", "y")
    assert [taint["key"] for taint in manifest["spec"]["taints"]] == [TAINT_SIMULATED, "t"]


def test_nodes_of_a_cluster_can_be_simulated_from_its_own_documents() -> None:
    (before,) = simulated.rack(1)
    (node,) = simulated.described(racks.read(json.dumps(before.manifest())))
    assert (node.name, node.capacity) == (before.name, before.manifest()["status"]["capacity"])
    assert len(node.manifest()["spec"]["taints"]) == 1
