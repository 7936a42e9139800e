"""Servers as resource vectors: step 1 of the method.

A `Server` is everything the planner knows of one machine. It is built from a Node and its
ServerProfile (`evenkeel_kube.nodes`) or from a servers file (`evenkeel plan --servers`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from evenkeel_core.efficiencies import Estimate, Setting
from evenkeel_core.quantities import GIB, Bytes, Seconds, Vector, minus

REFERENCE_FLOPS = 5e12
"""Dense 16-bit FLOP/s of the reference server: about a 64-core server of 2021 (EPYC-7763)."""
REFERENCE_BANDWIDTH = 200e9
"""Memory bandwidth of the reference server in bytes/s, of the same machine."""


@dataclass(frozen=True, slots=True)
class Device:
    """What computes: a server's processors together, or one accelerator of several alike."""

    name: str
    """Row of ``facts/accelerators.csv`` where known, else what the server calls it."""
    resource: str
    """``cpu``, or the extended resource that requests one such device."""
    count: int
    """Devices of this kind; 1 for the processors, which count as one device."""
    memory: Bytes
    """Of one device; 0 for the processors, which use the server's memory."""
    peak_flops: float
    """Dense 16-bit FLOP/s of one device."""
    bandwidth: float
    """Memory bandwidth of one device in bytes/s."""
    confidence: float = 1.0
    """0 to 1: how far the figures above are to be believed."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a Node."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class Server:
    """One machine that may be given subtasks."""

    name: str
    allocatable: Vector
    """What pods may use when none of ours run: Node allocatable less the pods that are not ours."""
    processors: Device
    accelerators: tuple[Device, ...] = ()
    """Sorted by resource name; kinds differ in it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    ready: bool = True
    schedulable: bool = True
    reserve: Vector = field(default_factory=dict)
    """Never planned; `plannable` subtracts it."""
    link_bandwidth: float = 125e6
    """Bytes/s of the network interface; the default is 1 Gbit/s, the slowest rack worth naming."""
    link_latency: Seconds = Seconds(0.0002)
    """One way to the switch; two servers are the sum of both apart."""
    load_bandwidth: float = 500e6
    """Bytes/s at which weights are read into memory; the default is a SATA SSD."""
    models: frozenset[str] = frozenset()
    """Models whose weights are on the server, by sha256 and by name."""
    observed_load: float | None = None
    """Measured seconds of queued reference work, or None where nothing fresh was measured."""
    calibration: Mapping[Setting, Estimate] = field(default_factory=dict)
    """What was learnt of its devices from observed times (`evenkeel_core.calibrating`)."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """Accelerators first: an engine prefers them to the processors."""
        return (*self.accelerators, self.processors)

    @property
    def plannable(self) -> Vector:
        """What subtasks may use when none of ours run: `allocatable` less `reserve`, >= 0."""
        return {
            name: max(0, amount) for name, amount in minus(self.allocatable, self.reserve).items()
        }

    def calibrated(self, setting: Setting) -> Estimate | None:
        """Return what was learnt of a setting, else of the nearest wider one."""
        found = (self.calibration.get(kin) for kin in setting.kin())
        return next((estimate for estimate in found if estimate is not None), None)


def rate(server: Server) -> float:
    """Return R_i, the server's capacity in reference-work seconds per second.

    The geometric mean of its compute and bandwidth against the reference server, summed over
    its devices: half of the work of inference (prefill) follows the one, half (decode) the other.
    """
    return sum(
        device.count
        * math.sqrt(
            (device.peak_flops / REFERENCE_FLOPS) * (device.bandwidth / REFERENCE_BANDWIDTH)
        )
        for device in server.devices
    )


DEFAULT_RESERVE_SHARE = 0.10
"""Share of CPU and memory of each server that is never planned (design section 3, step 8)."""
CONTROL_PLANE_RESERVE = Bytes(2 * GIB)
"""Memory that is never planned on a control-plane server, if that is more than the share."""
