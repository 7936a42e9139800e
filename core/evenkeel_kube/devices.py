"""What computes on a node: devices from its resources, the labels of discovery, its profile.

A profile is believed first, then labels with the device table; what neither knows is still
usable, by the weakest figures there are and with a confidence that says so. Label values are
anybody's text: numbers are read only where they are small and plain, names are only compared.

References
----------
NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery and internal/lm; ROCm/k8s-device-plugin,
cmd/k8s-node-labeller; intel/intel-device-plugins-for-kubernetes, node-feature-rules; the label
tables of Huawei's MindCluster and Project-HAMi; Node Feature Discovery, feature labels.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evenkeel_core import facts
from evenkeel_core.quantities import CPU, GIB, MIB, MILLI, Bytes, Vector
from evenkeel_core.servers import Device
from evenkeel_kube import names

Object = Mapping[str, Any]
Row = Mapping[str, str]

NVIDIA_PRODUCT = "nvidia.com/gpu.product"
NVIDIA_MEMORY = "nvidia.com/gpu.memory"
AMD_PRODUCTS = ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name")
AMD_MEMORY = "amd.com/gpu.vram"
AMD_MEMORIES = (AMD_MEMORY, "beta.amd.com/gpu.vram")
AMD_IDS = ("amd.com/gpu.device-id", "beta.amd.com/gpu.device-id")
ASCEND_CHIP = "node.kubernetes.io/npu.chip.name"
ASCEND_KINDS = ("accelerator-type", "accelerator")
INTEL_PRODUCT = "gpu.intel.com/product"
INTEL_MEMORY = "gpu.intel.com/memory.max"
"""Bytes of all cards of the node together."""
CPU_MODEL = f"{names.GROUP}/cpu"
"""Node label with the processor's row of the device table, where nothing else tells it."""
FEATURE = "feature.node.kubernetes.io/"
"""Labels of Node Feature Discovery."""

MAX_DEVICES = 4096
"""Of one kind on one node: more is a mistake."""
SHARED_CONFIDENCE = 0.4
"""At most, of a device in time slices: how fast one is depends on who has the others."""
SLICED_CONFIDENCE = 0.7
"""At most, of a MIG slice: its shares are exact, what an engine reaches of them is not known."""
KIN_CONFIDENCE = 0.3
"""Of a processor of which only the architecture is known."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the labels of a node say of one resource."""

    product: str
    memory: int = 0
    """Bytes of one; 0 where no label says."""
    shares: int = 1
    """Pods that may have one device at the same time."""
    slice: str = ""
    """MIG profile, such as 1g.5gb."""
    dies: int = 1
    """Devices the node sees where the table has one card."""


def accelerators(labels: Object, hardware: Object, capacity: Vector) -> tuple[Device, ...]:
    """Return the accelerators of a node, sorted by resource.

    Parameters
    ----------
    labels : mapping
        Of the Node.
    hardware : mapping
        Of the ServerProfile, overrides on top; what it lists replaces what labels say.
    capacity : mapping
        Of the Node, as whole numbers.
    """
    stated = hardware.get("accelerators")
    if stated:
        found = [_stated(item, capacity) for item in stated]
        return tuple(sorted(found, key=lambda device: device.resource))
    return tuple(
        _labelled(resource, min(count, MAX_DEVICES), read(resource, labels, capacity))
        for resource, count in sorted(capacity.items())
        if count > 0 and (read := _vendor(resource))
    )


def _stated(item: Object, capacity: Vector) -> Device:
    row = facts.device(item["product"])
    resource = item.get("resource", "nvidia.com/gpu")
    count = item.get("count")
    memory = item.get("memoryBytes") or (facts.memory(row) if row else 0)
    known = item.get("flops") and item.get("bandwidth")
    return Device(
        row["name"] if row else item["product"],
        resource,
        capacity.get(resource, 0) if count is None else int(count),
        Bytes(int(memory or facts.UNKNOWN_ACCELERATOR_MEMORY)),
        float(item.get("flops") or _flops(row)),
        float(item.get("bandwidth") or _bandwidth(row)),
        1.0 if known else _belief(row),
        "server profile",
    )


def _belief(row: Row | None) -> float:
    return facts.confidence(row) if row else facts.UNKNOWN_CONFIDENCE


def _flops(row: Row | None) -> float:
    return facts.peak_flops(row) if row else facts.UNKNOWN_ACCELERATOR_FLOPS


def _bandwidth(row: Row | None) -> float:
    return facts.bandwidth(row) if row else facts.UNKNOWN_ACCELERATOR_BANDWIDTH


def _labelled(resource: str, count: int, found: _Found) -> Device:
    """Return the device that labels mean: a card of the table, or a part of one."""
    row = facts.device(found.product) if found.product else None
    whole = facts.memory(row) if row else 0
    memory = found.memory or whole // found.dies or facts.UNKNOWN_ACCELERATOR_MEMORY
    device = Device(
        row["name"] if row else found.product or resource,
        resource,
        count,
        Bytes(memory),
        _flops(row) / found.dies,
        _bandwidth(row) / found.dies,
        _belief(row),
        _source(row, found),
    )
    if found.slice:
        device = _sliced(device, found, whole)
    return _shared(device, found.shares) if found.shares > 1 else device


def _source(row: Row | None, found: _Found) -> str:
    if row is not None:
        return f"device table, {row['name']}"
    if found.memory:
        return "unknown device, memory by its label"
    return f"unknown device, {facts.UNKNOWN_ACCELERATOR_MEMORY // GIB} GiB assumed"


SLICE = re.compile(r"([1-9])g\.([1-9][0-9]{0,2})gb")
"""A MIG profile: compute slices and memory."""
COMPUTE_SLICES = 7
COMPUTE_SLICES_OF: Mapping[str, int] = {"A30": 4}
MEMORY_SLICES = 8


def _sliced(device: Device, found: _Found, whole: int) -> Device:
    """Return a MIG slice: compute goes by its sevenths, bandwidth by its eighths of memory."""
    match = SLICE.match(found.slice)
    assert match is not None, "only such a profile is found"  # noqa: S101
    compute = min(1.0, int(match[1]) / COMPUTE_SLICES_OF.get(device.name, COMPUTE_SLICES))
    size = int(match[2]) * GIB
    eighths = max(1, round(MEMORY_SLICES * size / whole)) if whole else 1
    return replace(
        device,
        name=f"{device.name}-MIG-{match[0]}",
        memory=Bytes(found.memory or size),
        peak_flops=device.peak_flops * compute,
        bandwidth=device.bandwidth * min(1.0, eighths / MEMORY_SLICES),
        confidence=min(device.confidence, SLICED_CONFIDENCE),
        source=f"{device.source}, MIG slice {match[0]}",
    )


def _shared(device: Device, shares: int) -> Device:
    """Return one of the replicas of a device: each may count on its share and on no more."""
    return replace(
        device,
        name=f"{device.name}-SHARED-{shares}",
        memory=Bytes(device.memory // shares),
        peak_flops=device.peak_flops / shares,
        bandwidth=device.bandwidth / shares,
        confidence=min(device.confidence, SHARED_CONFIDENCE),
        source=f"{device.source}, shared by {shares}",
    )


def _natural(text: object, most: int) -> int:
    """Return the number a label states, 0 where it is none or too large to be one."""
    found = re.fullmatch("[0-9]{1,18}", str(text))
    number = int(found[0]) if found else 0
    return number if number <= most else 0


# Vendors


Read = Callable[[str, Object, Vector], _Found]

MAX_MEMORY = 2**42
"""Bytes of one device a label may state: 4 TiB."""


def _nvidia(resource: str, labels: Object, capacity: Vector) -> _Found:
    prefix = resource.removesuffix(".shared")
    product = str(labels.get(f"{prefix}.product") or labels.get(NVIDIA_PRODUCT, ""))
    mixed = resource.startswith("nvidia.com/mig-")
    # A label about whole cards says nothing of the slices beside them.
    about = prefix if mixed else "nvidia.com/gpu"
    memory = _natural(labels.get(f"{about}.memory"), MAX_MEMORY // MIB) * MIB
    sliced = SLICE.search(resource if mixed else product.partition("-MIG-")[2])
    return _Found(
        product, memory, _shares(about, product, labels, capacity, resource),
        sliced[0] if sliced else "",
    )  # fmt: skip


def _shares(about: str, product: str, labels: Object, capacity: Vector, resource: str) -> int:
    """Return how many pods may have one device, by time slicing or MPS."""
    stated = _natural(labels.get(f"{about}.replicas"), MAX_DEVICES)
    if stated:
        return stated
    devices = _natural(labels.get(f"{about}.count"), MAX_DEVICES)
    said = product.endswith("-SHARED") or resource.endswith(".shared")
    return max(1, capacity.get(resource, 0) // devices) if said and devices else 1


AMD_DEVICES: Mapping[str, str] = {
    "74a1": "MI300X", "740f": "MI210", "7408": "MI250X", "740c": "MI250X",
}  # fmt: skip
"""PCI device ids, of the node labeller's example and the public PCI id list."""
DIES: Mapping[str, int] = {"MI250X": 2}
"""Devices of one card of the table, as a node sees it."""


def _amd(_resource: str, labels: Object, _capacity: Vector) -> _Found:
    product = _one_of(labels, AMD_PRODUCTS) or AMD_DEVICES.get(_one_of(labels, AMD_IDS), "")
    row = facts.device(product) if product else None
    stated = re.fullmatch("([0-9]{1,4})G", _one_of(labels, AMD_MEMORIES))
    memory = int(stated[1]) * GIB if stated else 0
    return _Found(product, memory, dies=DIES.get(row["name"], 1) if row else 1)


def _one_of(labels: Object, keys: tuple[str, ...]) -> str:
    """Return what a label of AMD's labeller states: plainly, else in its key with a count."""
    plain = next((str(labels[key]) for key in keys if key in labels), "")
    if plain:
        return plain
    counted = [key.removeprefix(f"{k}.") for k in keys for key in labels if key.startswith(f"{k}.")]
    # Of several kinds on one node the resource does not say which: none is believed.
    return counted[0] if len(set(counted)) == 1 else ""


ASCEND_MEMORY: Mapping[str, int] = {"910b4": 32 * GIB, "310p": 24 * GIB}
"""Where it differs from the table's row, by the beginning of the chip (HAMi's device table)."""


def _ascend(resource: str, labels: Object, _capacity: Vector) -> _Found:
    chip = str(labels.get(ASCEND_CHIP) or resource.removeprefix("huawei.com/"))
    bare = chip.lower().removeprefix("ascend")
    if bare in ("910", "npu"):
        kind = " ".join(str(labels.get(key, "")) for key in ASCEND_KINDS).lower()
        bare = next((known for known in ("910b", "310p", "910") if known in kind), bare)
        # Plain 910 is what both generations are called: the weaker one is believed.
        chip = {"910": "910A"}.get(bare, bare)
    # The four-core 910B4-1 has the memory of its sisters.
    known = (m for k, m in ASCEND_MEMORY.items() if bare.startswith(k) and bare != "910b4-1")
    return _Found(chip, next(known, 0))


def _intel(resource: str, labels: Object, capacity: Vector) -> _Found:
    total = _natural(labels.get(INTEL_MEMORY), MAX_MEMORY * 64) or capacity.get(INTEL_MEMORY, 0)
    memory = total // max(1, capacity.get(resource, 1))
    return _Found(str(labels.get(INTEL_PRODUCT, "")), memory if memory <= MAX_MEMORY else 0)


VENDORS: tuple[tuple[re.Pattern[str], Read], ...] = (
    # NVIDIA's plugin can rename a resource (nvidia.com/a100), so that what is none is listed.
    (re.compile(r"nvidia\.com/(?!gpu(mem|cores)|priority|hostdev|imex|rdma)[^/]*"), _nvidia),
    (re.compile(r"amd\.com/gpu"), _amd),
    (re.compile(r"huawei\.com/(Ascend[0-9][^/]*|npu)"), _ascend),
    (re.compile(r"gpu\.intel\.com/(i915|xe)"), _intel),
)


def _vendor(resource: str) -> Read | None:
    """Return who knows the labels of a resource, None where it is no accelerator."""
    if resource.endswith(("-memory", "-core")):
        return None
    return next((read for pattern, read in VENDORS if pattern.fullmatch(resource)), None)


# Processors


CORES: Mapping[str, int] = {
    "EPYC-9654": 96, "EPYC-7763": 64, "Kunpeng-920-6426": 64, "Xeon-Platinum-8480+": 56,
    "Xeon-Gold-6430": 32, "Xeon-Platinum-8380": 40, "Xeon-Gold-6330": 28,
}  # fmt: skip
"""Of one socket of the table's processors: their notes."""
ARCHITECTURES: Mapping[tuple[str, str, str], str] = {
    ("Intel", "6", "143"): "Sapphire Rapids",
    ("Intel", "6", "106"): "Ice Lake",
    ("AMD", "25", "1"): "Zen 3",
    ("AMD", "25", "17"): "Zen 4",
}
"""Vendor, family and model as Node Feature Discovery reads them of the processor, to the
architecture of the table's rows (Linux, arch/x86/include/asm/intel-family.h; AMD's revision
guides of families 19h models 00h and 10h)."""
VECTORS: tuple[tuple[str, float], ...] = (("AVX512F", 2.0), ("AVX2", 1.0), ("ASIMD", 0.5))
"""Instructions by Node Feature Discovery, and what a core with them does against one with AVX2:
twice the width, half of it."""
NO_VECTORS = 0.25
"""Of a core that has none of them: four numbers at a time, multiplied and added in two steps."""


def processors(labels: Object, hardware: Object, capacity: Vector) -> Device:
    """Return the processors of a node together.

    Parameters
    ----------
    labels, hardware, capacity
        As for `accelerators`.
    """
    cores = max(capacity.get(CPU, MILLI) / MILLI, 0.001)
    stated = hardware.get("processor") or {}
    product = stated.get("product") or labels.get(CPU_MODEL) or ""
    device = _known(product, cores, labels) or _guessed(product, cores, labels)
    if stated.get("flops") and stated.get("bandwidth"):
        return replace(
            device,
            peak_flops=float(stated["flops"]),
            bandwidth=float(stated["bandwidth"]),
            confidence=1.0,
            source="server profile",
        )
    return device


def _known(product: str, cores: float, labels: Object) -> Device | None:
    """Return the processors of a row of the table, or of the weakest of their architecture."""
    row = facts.device(product) if product else None
    if row is not None and row["kind"] == "cpu":
        return _of_row(row, cores, facts.confidence(row))
    key = tuple(
        str(labels.get(f"{FEATURE}cpu-model.{part}")) for part in ("vendor_id", "family", "id")
    )
    architecture = ARCHITECTURES.get((key[0], key[1], key[2]))
    kin = [row for row in facts.processors() if row["arch"] == architecture]
    if not kin:
        return None
    weakest = min(kin, key=lambda row: (facts.peak_flops(row) / CORES[row["name"]], row["name"]))
    # Of these labels a node's cores are known to be threads, two to a core.
    threads = labels.get(f"{FEATURE}cpu-hardware_multithreading") == "true"
    device = _of_row(weakest, cores / 2 if threads else cores, KIN_CONFIDENCE)
    return replace(device, name=architecture or "", source=f"{device.source}, by its architecture")


def _of_row(row: Row, cores: float, confidence: float) -> Device:
    # The table's figures are of one socket; the node has as many cores as it has.
    share = cores / CORES.get(row["name"], cores)
    flops, bandwidth = facts.peak_flops(row) * share, facts.bandwidth(row) * share
    source = f"device table, {row['name']}"
    return Device(row["name"], CPU, 1, Bytes(0), flops, bandwidth, confidence, source)


def _guessed(product: str, cores: float, labels: Object) -> Device:
    """Return unknown processors by their cores and, where discovery lists them, instructions."""
    listed = {key for key in labels if key.startswith(f"{FEATURE}cpu-cpuid.")}
    wide = next((f for name, f in VECTORS if f"{FEATURE}cpu-cpuid.{name}" in listed), NO_VECTORS)
    factor = wide if listed else 1.0
    return Device(
        product or "unknown-cpu",
        CPU,
        1,
        Bytes(0),
        cores * facts.UNKNOWN_CPU_FLOPS_PER_CORE * factor,
        cores * facts.UNKNOWN_CPU_BANDWIDTH_PER_CORE,
        facts.UNKNOWN_CONFIDENCE,
        "unknown processor, by its cores" + (" and instructions" if listed else ""),
    )
