"""Labels of discovery become devices: as the vendors' own labellers write them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import facts
from evenkeel_core.quantities import CPU, GIB, MIB
from evenkeel_core.servers import Device
from evenkeel_kube import devices, nodes

Object = dict[str, Any]


def found(labels: Object, **capacity: str) -> tuple[Device, ...]:
    amounts = {"cpu": "64", "memory": "256Gi", **capacity}
    node = {
        "metadata": {"name": "n", "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts},
    }
    return nodes.server(node).accelerators


def one(labels: Object, **capacity: str) -> Device:
    (device,) = found(labels, **capacity)
    return device


def row(name: str) -> tuple[float, float, int]:
    known = facts.device(name)
    assert known is not None
    return facts.peak_flops(known), facts.bandwidth(known), facts.memory(known)


# NVIDIA, as GPU feature discovery labels nodes


L4 = {
    # llm-d's notes on a node at Google.
    "nvidia.com/gpu.count": "1", "nvidia.com/gpu.family": "ada-lovelace",
    "nvidia.com/gpu.machine": "Google-Compute-Engine", "nvidia.com/gpu.memory": "23034",
    "nvidia.com/gpu.mode": "compute", "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.replicas": "1",
    "nvidia.com/gpu.sharing-strategy": "none", "nvidia.com/mig.capable": "false",
    "nvidia.com/mig.strategy": "single", "nvidia.com/mps.capable": "false",
}  # fmt: skip
SHARED_4090 = {
    # Ten cards, each for two pods.
    "nvidia.com/gpu.count": "10", "nvidia.com/gpu.replicas": "2",
    "nvidia.com/gpu.product": "NVIDIA-GeForce-RTX-4090-SHARED",
    "nvidia.com/gpu.sharing-strategy": "time-slicing", "nvidia.com/gpu.memory": "24564",
}  # fmt: skip
SINGLE_MIG = {
    # The read-me of gpu-feature-discovery: eight cards of seven slices.
    "nvidia.com/mig.strategy": "single", "nvidia.com/gpu.count": "56",
    "nvidia.com/gpu.product": "A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/gpu.memory": "5120",
    "nvidia.com/gpu.multiprocessors": "14", "nvidia.com/gpu.slices.gi": "1",
}  # fmt: skip
MIXED_MIG = {
    "nvidia.com/mig.strategy": "mixed", "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB",
    "nvidia.com/gpu.memory": "40960", "nvidia.com/gpu.count": "4",
    "nvidia.com/mig-1g.5gb.count": "2", "nvidia.com/mig-1g.5gb.memory": "4864",
    "nvidia.com/mig-1g.5gb.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",
    "nvidia.com/mig-3g.20gb.count": "1", "nvidia.com/mig-3g.20gb.memory": "19968",
    "nvidia.com/mig-3g.20gb.product": "NVIDIA-A100-SXM4-40GB-MIG-3g.20gb",
}  # fmt: skip


def test_a_whole_card_is_the_tables() -> None:
    card = one(L4, **{"nvidia.com/gpu": "1"})
    assert (card.name, card.memory, card.confidence) == ("L4", 23_034 * MIB, 0.9)
    assert (card.peak_flops, card.bandwidth) == row("L4")[:2]


def test_a_card_in_time_slices_is_a_share_and_less_believed() -> None:
    card = one(SHARED_4090, **{"nvidia.com/gpu": "20"})
    flops, bandwidth, _ = row("RTX-4090")
    assert (card.name, card.count) == ("RTX-4090-SHARED-2", 20)
    assert card.memory == 24_564 * MIB // 2
    assert (card.peak_flops, card.bandwidth) == (flops / 2, bandwidth / 2)
    assert card.confidence == devices.SHARED_CONFIDENCE
    assert card.source == "device table, RTX-4090, shared by 2"


@pytest.mark.parametrize("resource", ["nvidia.com/gpu.shared", "nvidia.com/gpu", "nvidia.com/a100"])
def test_a_renamed_resource_has_the_labels_of_the_card(resource: str) -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-PCIE-40GB-SHARED", "nvidia.com/gpu.count": "4",
        "nvidia.com/gpu.replicas": "2",
    }  # fmt: skip
    card = one(labels, **{resource: "8"})
    assert (card.name, card.memory) == ("A100-PCIE-40GB-SHARED-2", 20 * GIB)
    del labels["nvidia.com/gpu.replicas"]
    assert one(labels, **{resource: "8"}) == card


def test_slices_of_one_size_stand_for_the_card() -> None:
    slice_ = one(SINGLE_MIG, **{"nvidia.com/gpu": "56"})
    flops, bandwidth, _ = row("A100-SXM4-40GB")
    assert (slice_.name, slice_.count) == ("A100-SXM4-40GB-MIG-1g.5gb", 56)
    assert slice_.memory == 5 * GIB
    assert slice_.peak_flops == pytest.approx(flops / 7)
    assert slice_.bandwidth == pytest.approx(bandwidth / 8)
    assert slice_.confidence == devices.SLICED_CONFIDENCE


def test_slices_of_several_sizes_are_resources_of_their_own() -> None:
    resources = {"nvidia.com/gpu": "3", "nvidia.com/mig-1g.5gb": "2", "nvidia.com/mig-3g.20gb": "1"}
    card, small, large = found(MIXED_MIG, **resources)
    flops, bandwidth, memory = row("A100-SXM4-40GB")
    assert (card.name, card.count, card.memory) == ("A100-SXM4-40GB", 3, memory)
    assert (small.count, small.memory) == (2, 4864 * MIB)
    assert (large.count, large.memory) == (1, 19_968 * MIB)
    assert large.peak_flops == pytest.approx(flops * 3 / 7)
    assert large.bandwidth == pytest.approx(bandwidth / 2)
    # Without labels of its own a slice has the memory in its name.
    bare = {"nvidia.com/gpu.product": "NVIDIA-A30", "nvidia.com/gpu.memory": "24576"}
    half = one(bare, **{"nvidia.com/mig-2g.12gb": "2"})
    assert (half.memory, half.peak_flops) == (12 * GIB, row("A30")[0] / 2)


def test_what_is_no_device_is_not_counted() -> None:
    beside = ("nvidia.com/gpumem", "nvidia.com/gpumem-percentage", "nvidia.com/gpucores")
    more = ("nvidia.com/hostdev", "gpu.intel.com/millicores", "gpu.intel.com/i915_monitoring")
    last = ("huawei.com/Ascend910B3-memory", "rdma/hca", "amd.com/gpu.vram", "hugepages-2Mi")
    assert found({}, **dict.fromkeys((*beside, *more, *last), "8")) == ()


# AMD, as its node labeller does


def test_an_old_labeller_counts_in_the_key() -> None:
    """Of a node with an MI210."""
    labels = {
        "beta.amd.com/gpu.cu-count.104": "1", "beta.amd.com/gpu.device-id.740f": "1",
        "beta.amd.com/gpu.family.AI": "1", "beta.amd.com/gpu.simd-count.416": "1",
        "beta.amd.com/gpu.vram.64G": "1",
    }  # fmt: skip
    card = one(labels, **{"amd.com/gpu": "1"})
    assert (card.name, card.memory) == ("MI210", 64 * GIB)
    assert (card.peak_flops, card.bandwidth) == row("MI210")[:2]


def test_a_new_labeller_says_it_plainly() -> None:
    """The example of the labeller's documentation."""
    labels = {
        "amd.com/gpu.cu-count": "304", "amd.com/gpu.device-id": "74a1", "amd.com/gpu.family": "AI",
        "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.simd-count": "1216",
        "amd.com/gpu.vram": "192G",
    }  # fmt: skip
    card = one(labels, **{"amd.com/gpu": "8"})
    assert (card.name, card.count, card.memory) == ("MI300X", 8, 192 * GIB)
    del labels["amd.com/gpu.product-name"]
    assert one(labels, **{"amd.com/gpu": "8"}) == card


def test_a_card_of_two_dies_is_two_devices() -> None:
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI250X", "amd.com/gpu.vram": "64G"}
    die = one(labels, **{"amd.com/gpu": "8"})
    flops, bandwidth, memory = row("MI250X")
    assert (die.peak_flops, die.bandwidth, die.memory) == (flops / 2, bandwidth / 2, memory // 2)


def test_several_kinds_of_one_resource_are_not_told_apart() -> None:
    labels = {"amd.com/gpu.vram.64G": "2", "amd.com/gpu.vram.192G": "4"}
    card = one(labels, **{"amd.com/gpu": "6"})
    assert (card.memory, card.confidence) == (8 * GIB, facts.UNKNOWN_CONFIDENCE)


def test_an_unknown_card_has_the_memory_of_its_label() -> None:
    """Of a workstation with a Radeon 8060S."""
    labels = {
        "beta.amd.com/gpu.product-name": "AMD_Radeon_8060S_Graphics",
        "beta.amd.com/gpu.vram": "64G", "beta.amd.com/gpu.vram.64G": "1",
    }  # fmt: skip
    card = one(labels, **{"amd.com/gpu": "1"})
    assert (card.name, card.memory) == ("AMD_Radeon_8060S_Graphics", 64 * GIB)
    assert (card.peak_flops, card.confidence) == (
        facts.UNKNOWN_ACCELERATOR_FLOPS, facts.UNKNOWN_CONFIDENCE
    )  # fmt: skip
    assert card.source == "unknown device, memory by its label"


# Huawei and Intel


@pytest.mark.parametrize(
    ("labels", "resource", "name", "gigabytes"),
    [
        ({devices.ASCEND_CHIP: "910B3"}, "huawei.com/Ascend910", "Ascend-910B", 64),
        ({devices.ASCEND_CHIP: "910B4"}, "huawei.com/Ascend910", "Ascend-910B", 32),
        ({"accelerator": "huawei-Ascend910", "accelerator-type": "module-910b-8"},
         "huawei.com/Ascend910", "Ascend-910B", 64),
        ({"accelerator": "huawei-Ascend910", "accelerator-type": "module"},
         "huawei.com/Ascend910", "Ascend-910A", 32),
        ({"accelerator": "huawei-Ascend910"}, "huawei.com/Ascend910B4-1", "Ascend-910B", 64),
        ({"accelerator": "huawei-Ascend310P"}, "huawei.com/npu", "310p", 24),
        ({}, "huawei.com/Ascend310P", "Ascend310P", 24),
    ],
)  # fmt: skip
def test_ascend_chips(labels: Object, resource: str, name: str, gigabytes: int) -> None:
    chip = one(labels, **{resource: "8"})
    assert (chip.name, chip.memory) == (name, gigabytes * GIB)
    assert chip.confidence <= 0.4


def test_intel_cards_are_unknown_with_their_memory() -> None:
    """Labels of the plugin's node feature rules; memory is of both cards together."""
    labels = {
        "gpu.intel.com/product": "Flex_170", "gpu.intel.com/family": "Flex_Series",
        "gpu.intel.com/device.count": "2", "gpu.intel.com/memory.max": str(32 * GIB),
    }  # fmt: skip
    card = one(labels, **{"gpu.intel.com/i915": "2"})
    assert (card.name, card.memory, card.confidence) == ("Flex_170", 16 * GIB, 0.2)
    assert one({}, **{"gpu.intel.com/xe": "1"}).memory == facts.UNKNOWN_ACCELERATOR_MEMORY


def test_an_unknown_card_is_usable_and_says_what_was_assumed() -> None:
    card = one({}, **{"nvidia.com/gpu": "2"})
    assert (card.memory, card.confidence) == (8 * GIB, facts.UNKNOWN_CONFIDENCE)
    assert card.source == "unknown device, 8 GiB assumed"


# Processors


def processor(labels: Object, cores: int = 64, profile: Object | None = None) -> Device:
    amounts = {"cpu": str(cores), "memory": "256Gi"}
    node = {"metadata": {"name": "n", "labels": labels}, "status": {"capacity": amounts}}
    return nodes.server(node, profile).processors


MILAN = {
    "feature.node.kubernetes.io/cpu-model.vendor_id": "AMD",
    "feature.node.kubernetes.io/cpu-model.family": "25",
    "feature.node.kubernetes.io/cpu-model.id": "1",
    "feature.node.kubernetes.io/cpu-hardware_multithreading": "false",
    "feature.node.kubernetes.io/cpu-cpuid.AVX2": "true",
}


def test_node_feature_discovery_tells_the_architecture() -> None:
    found = processor(MILAN)
    assert (found.peak_flops, found.bandwidth) == pytest.approx((5.0e12, 204.8e9))
    assert (found.name, found.confidence) == ("Zen 3", devices.KIN_CONFIDENCE)
    threads = {**MILAN, "feature.node.kubernetes.io/cpu-hardware_multithreading": "true"}
    assert processor(threads).peak_flops == pytest.approx(found.peak_flops / 2)
    # The node's own label names the very processor.
    assert processor({**MILAN, devices.CPU_MODEL: "EPYC-9654"}).name == "EPYC-9654"
    sapphire = {
        "feature.node.kubernetes.io/cpu-model.vendor_id": "Intel",
        "feature.node.kubernetes.io/cpu-model.family": "6",
        "feature.node.kubernetes.io/cpu-model.id": "143",
    }
    weakest = min(114.7 / 56, 68.8 / 32) * 64 * 1e12
    assert processor(sapphire).peak_flops == pytest.approx(weakest)


def test_instructions_tell_an_unknown_processor_apart() -> None:
    def flops(*features: str) -> float:
        prefix = f"{devices.FEATURE}cpu-cpuid."
        return processor({f"{prefix}{name}": "true" for name in features}).peak_flops

    assert flops() == flops("AVX2", "FMA3")
    assert flops("AVX2", "AVX512F", "AESNI") == 2 * flops("AVX2")
    assert flops("AESNI") == flops("AVX2") / 4
    assert processor({}).confidence == facts.UNKNOWN_CONFIDENCE


def test_a_profile_replaces_single_figures() -> None:
    probed = {"processor": {"product": "EPYC-7763", "flops": 4e12, "bandwidth": 1e11}}
    profile = {
        "metadata": {"name": "n"},
        "spec": {"overrides": {"processor": {"bandwidth": 2e11}}},
        "status": {"hardware": probed},
    }
    found = processor(MILAN, profile=profile)
    assert (found.name, found.peak_flops, found.bandwidth) == ("EPYC-7763", 4e12, 2e11)
    assert (found.confidence, found.source) == (1.0, "server profile")


# What nobody means


KEYS = sorted({
    *L4, *SHARED_4090, *SINGLE_MIG, *MIXED_MIG, *MILAN, *devices.AMD_PRODUCTS, *devices.AMD_IDS,
    *devices.AMD_MEMORIES, "amd.com/gpu.vram.64G", devices.ASCEND_CHIP, *devices.ASCEND_KINDS,
    devices.INTEL_MEMORY, devices.INTEL_PRODUCT, devices.CPU_MODEL,
})  # fmt: skip
RESOURCES = (
    "nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.5gb", "nvidia.com/mig-9g.999gb",
    "amd.com/gpu", "huawei.com/Ascend910", "gpu.intel.com/i915", "gpu.intel.com/memory.max",
)  # fmt: skip
HOSTILE = (
    "-1",
    "²",
    "٣",
    "1e99",
    "9" * 30,
    "",
    "0",
    "NaN",
    "MIG-0g.0gb",
    "A100-MIG-9g.999gb",
    "Ω-SHARED",
)
AMOUNTS = ("-5", "0", "1", "1e30", "9" * 30, "3.5", "1Ei")


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(KEYS) | st.text(max_size=8),
        st.sampled_from(HOSTILE) | st.text(max_size=20) | st.sampled_from(sorted(L4.values())),
        max_size=12,
    ),
    st.dictionaries(st.sampled_from(RESOURCES), st.sampled_from(AMOUNTS), max_size=4),
    st.sampled_from(AMOUNTS),
)
def test_any_labels_and_amounts_make_a_server_within_bounds(
    labels: Object, resources: Object, amount: str
) -> None:
    amounts = {"cpu": amount, "memory": amount, **resources}
    node = {
        "metadata": {"name": "n", "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts},
    }
    server = nodes.server(node)
    assert all(0 <= n <= nodes.MOST for n in server.plannable.values())
    for device in server.devices:
        assert 0 <= device.count <= devices.MAX_DEVICES
        assert 0 <= device.memory <= devices.MAX_MEMORY
        assert 0 < device.peak_flops < 1e30
        assert 0 < device.bandwidth < 1e30
        assert 0 < device.confidence <= 1
        assert device.source
    assert server.plannable[CPU] >= 0
