"""Nodes, profiles and other people's pods become servers."""

from typing import Any

import pytest

from evenkeel_core import facts
from evenkeel_core.efficiencies import Efficiency, Setting, estimate
from evenkeel_core.quantities import CPU, GIB, MEMORY, PODS
from evenkeel_kube import devices, names, nodes

Object = dict[str, Any]


def node(name: str = "n", labels: Object | None = None, **capacity: str) -> Object:
    amounts = {"cpu": "64", "memory": "256Gi", **capacity}
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "status": {"capacity": amounts, "allocatable": amounts},
    }


@pytest.mark.parametrize(
    ("label", "value", "resource", "device"),
    [
        (devices.NVIDIA_PRODUCT, "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu", "A100-SXM4-80GB"),
        (devices.NVIDIA_PRODUCT, "Tesla-T4", "nvidia.com/gpu", "T4"),
        (devices.AMD_PRODUCTS[0], "AMD_Instinct_MI300X_OAM", "amd.com/gpu", "MI300X"),
        (devices.AMD_PRODUCTS[1], "AMD_Instinct_MI210", "amd.com/gpu", "MI210"),
        (devices.ASCEND_CHIP, "910B3", "huawei.com/Ascend910", "Ascend-910B"),
    ],
)
def test_labels_name_the_accelerator(label: str, value: str, resource: str, device: str) -> None:
    found = nodes.server(node(labels={label: value}, **{resource: "4"}))
    (accelerator,) = found.accelerators
    row = facts.device(device)
    assert row is not None
    assert (accelerator.name, accelerator.count) == (device, 4)
    assert accelerator.peak_flops == facts.peak_flops(row)
    assert accelerator.memory == facts.memory(row)


def test_the_nodes_own_memory_label_beats_the_table() -> None:
    labels = {devices.NVIDIA_PRODUCT: "NVIDIA-L4", devices.NVIDIA_MEMORY: "23034"}
    (accelerator,) = nodes.server(node(labels=labels, **{"nvidia.com/gpu": "1"})).accelerators
    assert accelerator.memory == 23034 * 2**20


def test_an_unknown_device_is_believed_little() -> None:
    found = nodes.server(node(**{"nvidia.com/gpu": "2"}))
    assert found.accelerators[0].confidence == facts.UNKNOWN_CONFIDENCE
    assert found.processors.confidence == facts.UNKNOWN_CONFIDENCE


def test_a_processor_counts_by_the_cores_there_are() -> None:
    labels = {devices.CPU_MODEL: "EPYC-7763"}
    half = nodes.server(node(labels=labels, cpu="32")).processors
    whole = nodes.server(node(labels=labels, cpu="64")).processors
    double = nodes.server(node(labels=labels, cpu="128")).processors
    assert whole.peak_flops == pytest.approx(5.0e12)
    assert whole.bandwidth == pytest.approx(204.8e9)
    assert half.bandwidth == pytest.approx(whole.bandwidth / 2)
    assert double.peak_flops == pytest.approx(2 * whole.peak_flops)


def test_a_profile_is_believed_and_people_more() -> None:
    profile = {
        "metadata": {"name": "n"},
        "spec": {"overrides": {"linkBandwidth": 5e9}, "reserve": {"amounts": {"memory": "16Gi"}}},
        "status": {
            "hardware": {
                "processor": {"flops": 1e12, "bandwidth": 9e10},
                "linkBandwidth": 1e9,
                "linkLatencySeconds": 0.01,
                "loadBandwidth": 3e9,
                "accelerators": [{"product": "L4", "resource": "nvidia.com/gpu", "count": 1}],
            },
            "models": [{"name": "m.gguf", "sha256": "ab"}],
        },
    }
    found = nodes.server(node(), profile)
    assert found.link_bandwidth == 5e9
    assert found.link_latency == 0.01
    assert found.load_bandwidth == 3e9
    assert found.processors.peak_flops == 1e12
    assert found.models == {"m.gguf", "ab"}
    assert found.plannable[MEMORY] == 240 * GIB
    assert found.accelerators[0].name == "L4"


def test_a_tenth_is_never_planned_and_more_on_a_small_control_plane() -> None:
    assert nodes.server(node()).plannable[CPU] == 57_600
    small = node(labels={nodes.CONTROL_PLANE[0]: ""}, memory="4Gi")
    assert nodes.server(small).plannable[MEMORY] == 2 * GIB


def test_readiness_cordon_and_taints() -> None:
    told = node()
    told["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    told["spec"] = {
        "unschedulable": True,
        "taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "gpu", "value": "yes", "effect": "NoExecute"},
        ],
    }
    found = nodes.server(told)
    assert not found.ready
    assert not found.schedulable
    assert [(t.key, t.value, t.effect) for t in found.taints] == [("gpu", "yes", "NoExecute")]
    assert nodes.server(node()).ready
    assert not nodes.server(node(), {"spec": {"excluded": True}}).schedulable


def container(requests: Object | None = None, limits: Object | None = None, **more: Any) -> Object:
    return {"name": "c", "resources": {"requests": requests or {}, "limits": limits or {}}, **more}


def test_a_pod_takes_the_larger_of_its_containers_and_its_init_containers() -> None:
    spec = {
        "initContainers": [
            container({"cpu": "3", "memory": "1Gi"}),
            container({"cpu": "500m"}, restartPolicy="Always"),
            container({"cpu": "2"}),
        ],
        "containers": [container({"cpu": "1"}), container({"memory": "2Gi"}, {"cpu": "1500m"})],
        "overhead": {"memory": "64Mi"},
    }
    # The first init container runs before the sidecar starts; the rest runs beside it.
    assert nodes.pod_demand(spec) == {CPU: 3000, MEMORY: 2 * GIB + 64 * 2**20}
    assert nodes.pod_demand({"containers": [{"name": "c"}]}) == {}


def pod(where: str | None, phase: str = "Running", labels: Object | None = None) -> Object:
    return {
        "metadata": {"name": "p", "labels": labels or {}},
        "spec": {"nodeName": where, "containers": [container({"cpu": "2"})]},
        "status": {"phase": phase},
    }


def controller(uid: str, **more: Any) -> Object:
    reference = {"apiVersion": names.API_VERSION, "kind": "InferenceJob", "name": "j", "uid": uid}
    return {**reference, "controller": True, **more}


@pytest.mark.parametrize(
    ("missing", "references"),
    [
        ("", []),
        ("", [controller("v")]),
        ("", [controller("u", controller=False)]),
        ("", [controller("u", kind="Job")]),
        ("", [controller("u", apiVersion="example.com/v1")]),
        (names.LABEL_GROUP, [controller("u")]),
        (names.LABEL_SUBTASK, [controller("u")]),
    ],
)
def test_a_label_alone_makes_no_pod_ours(missing: str, references: list[Object]) -> None:
    labels = {key: "u" for key in nodes.SUBTASK_LABELS if key != missing}
    stranger = pod("n", labels=labels)
    stranger["metadata"]["ownerReferences"] = references
    assert not nodes.ours(stranger)


def test_what_others_run_is_not_there_for_us() -> None:
    labels = dict.fromkeys(nodes.SUBTASK_LABELS, "u")
    ours = pod("n", labels=labels)
    ours["metadata"]["ownerReferences"] = [controller("u")]
    pods = [pod("n"), pod("n", "Pending"), pod("n", "Succeeded"), pod(None), ours]
    assert nodes.foreign(pods) == {"n": {CPU: 4000, PODS: 2}}
    (found,) = nodes.servers([node()], (), pods)
    assert found.allocatable[CPU] == 60_000
    (full,) = nodes.servers([node(cpu="1")], (), pods)
    assert full.allocatable[CPU] == 0


def test_servers_come_sorted_with_their_own_profiles() -> None:
    profile = {"metadata": {"name": "b"}, "spec": {"excluded": True}}
    found = nodes.servers([node("b"), node("a")], [profile])
    assert [(s.name, s.schedulable) for s in found] == [("a", True), ("b", False)]


LEARNT = {
    "model": "m.gguf", "engine": "vllm", "compute": 0.4, "memory": 0.7, "layerSeconds": 1e-5,
    "uncertainty": 0.2, "samples": 3,
}  # fmt: skip


def profiled(*calibration: Object) -> Object:
    return {"metadata": {"name": "n"}, "status": {"calibration": list(calibration)}}


def test_what_was_learnt_is_read_from_the_profile() -> None:
    covariance = [0.04, 0.01, 0.09, 0.0, 0.0, 1.0]
    tensor = {**LEARNT, "device": "T4", "tensor": 2, "covariance": covariance}
    labels = {devices.NVIDIA_PRODUCT: "Tesla-T4"}
    found = nodes.server(
        node(labels=labels, **{"nvidia.com/gpu": "2"}), profiled(LEARNT, tensor)
    ).calibration
    one, two = Setting("m.gguf", "vllm", "T4"), Setting("m.gguf", "vllm", "T4", 2)
    assert set(found) == {one, two}
    assert found[one] == estimate(Efficiency(0.4, 0.7, 1e-5), (0.2, 0.2, 0.2), 3)
    assert found[two].covariance == tuple(covariance)


def test_of_a_server_without_accelerators_the_processors_were_measured() -> None:
    found = nodes.server(node(labels={devices.CPU_MODEL: "EPYC-7763"}), profiled(LEARNT))
    assert set(found.calibration) == {Setting("m.gguf", "vllm", "EPYC-7763")}


def test_a_matrix_that_is_no_covariance_is_not_believed() -> None:
    broken = {**LEARNT, "covariance": [0.01, 5.0, 0.01, 0.0, 0.0, 0.01]}
    (found,) = nodes.server(node(), profiled(broken)).calibration.values()
    assert found.uncertainty == pytest.approx(0.2)


def test_a_server_that_measured_nothing_learns_from_one_alike() -> None:
    labels = {devices.NVIDIA_PRODUCT: "NVIDIA-L4"}
    rack = [node(name, labels, **{"nvidia.com/gpu": "1"}) for name in ("n", "o")]
    _, other = nodes.servers(rack, [profiled(LEARNT)])
    lent = other.calibrated(Setting("m.gguf", "vllm", "L4"))
    assert lent is not None
    assert lent.efficiency.compute == pytest.approx(0.4)
