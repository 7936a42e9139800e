"""What a device reaches of its figures: a default, or an estimate learnt from observed times."""

import math
from dataclasses import dataclass, replace

Logs = tuple[float, float, float]
Triangle = tuple[float, float, float, float, float, float]
"""Lower triangle of a symmetric 3 x 3 matrix, row by row."""

LEAST_SHARE = 1e-4
"""Smallest share of a figure that is believed: below, the figure is of another device."""
LEAST_LAYER, MOST_LAYER = 1e-9, 60.0
"""Bounds of c_0 in seconds: its logarithm must be finite."""

ROUNDING = 1e-12
"""What a determinant of a covariance may be below zero."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a device reaches of its figures.

    Raises
    ------
    ValueError
        If a share is not in (0, 1] or `layer` negative: nothing is faster than its figures, so
        that no prediction ever beats flops over peak or bytes over bandwidth.
    """

    compute: float
    """e_c, of the peak FLOP/s."""
    memory: float
    """e_m, of the bandwidth."""
    layer: float
    """c_0, seconds per layer and step."""

    def __post_init__(self) -> None:
        for name, share in (("compute", self.compute), ("memory", self.memory)):
            if not 0 < share <= 1:
                raise ValueError(f"`{name}` must be above 0 and at most 1, not {share}")
        if not 0 <= self.layer < math.inf:
            raise ValueError(f"`layer` must be seconds, not {self.layer}")


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What an efficiency belongs to; an empty name stands for any."""

    model: str
    """Weights file, or the model's name."""
    engine: str
    device: str
    tensor: int = 1
    """Devices that every layer is split over: together they count as one."""

    def kin(self) -> tuple["Setting", ...]:
        """Return this setting and the wider ones it is one of, nearest first."""
        same_engine = replace(self, model="")
        return tuple(dict.fromkeys((self, same_engine, replace(same_engine, engine=""))))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A belief in an efficiency: normal in the logarithms of e_c, e_m and c_0."""

    logs: Logs
    covariance: Triangle
    samples: int = 0
    """Observations it rests on."""

    def __post_init__(self) -> None:
        a, b, c, d, e, f = self.covariance
        minors = (
            a,
            c,
            f,
            a * c - b * b,
            a * (c * f - e * e) - b * (b * f - d * e) + d * (b * e - c * d),
        )
        if not all(minor >= -ROUNDING for minor in minors):
            raise ValueError(
                "`covariance` must be that of three logarithms: positive semi-definite"
            )

    @property
    def efficiency(self) -> Efficiency:
        """What is most likely, within what is possible."""
        compute, memory, layer = (math.exp(value) for value in self.logs)
        return Efficiency(
            min(1.0, max(LEAST_SHARE, compute)),
            min(1.0, max(LEAST_SHARE, memory)),
            min(MOST_LAYER, layer),
        )

    @property
    def uncertainty(self) -> float:
        """Root mean square of the three standard deviations of the logarithms."""
        first, _, second, _, _, third = self.covariance
        return math.sqrt((first + second + third) / 3)


def estimate(efficiency: Efficiency, deviations: Logs, samples: int = 0) -> Estimate:
    """Return a belief whose three parts are independent.

    Parameters
    ----------
    efficiency : Efficiency
        Its middle.
    deviations : (3,) tuple
        Standard deviations of the logarithms of e_c, e_m and c_0.
    samples : int, optional
    """
    first, second, third = (deviation**2 for deviation in deviations)
    return Estimate(
        (
            math.log(efficiency.compute),
            math.log(efficiency.memory),
            math.log(max(LEAST_LAYER, efficiency.layer)),
        ),
        (first, 0.0, second, 0.0, 0.0, third),
        samples,
    )
