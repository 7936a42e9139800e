"""Step 6, feedback: efficiencies learnt from observed times.

What is learnt are the logarithms of e_c, e_m and c_0 (`evenkeel_core.efficiencies`), as a normal
belief. An observation is an effort, the speed of what did it and the seconds it took; its error
is one of the logarithm, so that a step of a millisecond counts as much as a job of an hour. The
belief starts from the device's kind, else from the device table, and stays where no efficiency
is above one: a prediction never beats the physical ceiling, whatever is observed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evenkeel_core.costs import ACCELERATOR_EFFICIENCY, CPU_EFFICIENCY, Effort, Speed
from evenkeel_core.efficiencies import (
    LEAST_LAYER,
    LEAST_SHARE,
    MOST_LAYER,
    Estimate,
    Logs,
    Setting,
    estimate,
)
from evenkeel_core.problems import Floats, Ints
from evenkeel_core.servers import Server

DEFAULT_DEVIATION: Logs = (0.5, 0.35, 1.5)
"""Standard deviations of the logarithms before anything was observed: two of them reach from a
third of e_c = 0.5 to all of it, and c_0 from a microsecond to 0.3 ms."""
KIN_DEVIATION: Logs = (0.2, 0.2, 0.7)
"""How far alike devices, or models on one device, differ in the logarithms."""
SPREAD = 0.1
"""Standard deviation of the logarithm of a time the model describes: what three parameters leave
unexplained of the sources of `benchmarks.costs`, and the noise of a measurement."""
GUARD = 2.0
"""Standard deviations of surprise from which an observation weighs less and less."""
DRIFT = 0.001
"""What a logarithm may change from one observation to the next: servers age and get warm."""
ROUNDS = 2
"""Linearisations an update is worked out with; more change nothing."""

_LOW = np.log([LEAST_SHARE, LEAST_SHARE, LEAST_LAYER])
_HIGH = np.log([1.0, 1.0, MOST_LAYER])


@dataclass(frozen=True, slots=True)
class Observation:
    """How long something took."""

    effort: Effort
    at: Speed
    """Its figures count, its efficiency does not."""
    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds < np.inf:
            raise ValueError(f"`seconds` must be a positive time, not {self.seconds}")


def default(*, processor: bool) -> Estimate:
    """Return the belief of the device table: all that is known before anything was observed."""
    middle = CPU_EFFICIENCY if processor else ACCELERATOR_EFFICIENCY
    return estimate(middle, DEFAULT_DEVIATION)


def update(belief: Estimate, seen: Observation) -> Estimate:
    """Return the belief after one more observation.

    Parameters
    ----------
    belief : Estimate
    seen : Observation

    Returns
    -------
    Estimate
        However absurd the observation, no logarithm moves further than `GUARD` times its own
        standard deviation (with `DRIFT`).

    Notes
    -----
    An iterated extended Kalman filter of one dimension. The surprise is clipped at `GUARD` of its
    standard deviations by giving the observation the variance at which it is no larger (Huber's
    weight), so that an outlier hardly narrows the belief either.
    """
    times = _Times((seen,))
    prior, spread = np.array(belief.logs), _matrix(belief.covariance) + DRIFT**2 * np.eye(3)
    logs = prior.copy()
    for _ in range(ROUNDS):
        predicted, slope = times.logs(logs)
        toward = spread @ slope[0]
        variance = slope[0] @ toward + SPREAD**2
        surprise = np.log(seen.seconds) - predicted[0] - slope[0] @ (prior - logs)
        variance *= max(1.0, abs(surprise) / (GUARD * np.sqrt(variance)))
        logs = np.clip(prior + toward * surprise / variance, _LOW, _HIGH)
    return _estimate(logs, spread - np.outer(toward, toward) / variance, belief.samples + 1)


def fit(observations: Sequence[Observation], prior: Estimate) -> Estimate:
    """Return the belief after many observations, all weighed at once.

    Parameters
    ----------
    observations : sequence of Observation
        Their order does not matter; without any, the prior is returned.
    prior : Estimate

    Notes
    -----
    Most likely logarithms by nonlinear least squares within the bounds, Huber's loss beyond
    `GUARD`; the covariance is that of the linearisation there. What `update` finds one by one,
    it finds without linearising on the way: of random series the predictions of the two differ
    by 0.1 % in the middle and by 2 % in 97 of 100, where two steps of a kernel in which compute
    and traffic weigh alike are all that is known, by up to a quarter.
    """
    if not observations:
        return prior
    times = _Times(observations)
    observed = np.log([seen.seconds for seen in observations])
    middle, spread = np.array(prior.logs), _matrix(prior.covariance)
    whiten = np.linalg.inv(np.linalg.cholesky(spread))

    def errors(logs: Floats) -> tuple[Floats, Floats]:
        """Return the errors in standard deviations, the prior's last, and their slopes."""
        predicted, slope = times.logs(logs)
        from_prior = whiten @ (logs - middle)
        error = np.concatenate([(predicted - observed) / SPREAD, from_prior])
        return error, np.vstack([slope / SPREAD, whiten])

    logs = _least(errors, np.clip(middle, _LOW, _HIGH))
    error, slope = errors(logs)
    covariance = np.linalg.inv(slope.T @ (_weights(error)[:, None] * slope)).astype(float)
    return _estimate(logs, covariance, prior.samples + len(observations))


STEPS = 60
"""Most steps of a fit; a dozen is usual."""
STILL = 1e-9
"""Change of the logarithms below which a fit has arrived."""


def _least(errors: Callable[[Floats], tuple[Floats, Floats]], logs: Floats) -> Floats:
    """Return the logarithms within the bounds at which Huber's loss of the errors is least.

    Levenberg and Marquardt's method with Huber's weights; a logarithm at its bound is left
    there as long as the slope pushes it outward.
    """
    damping = 1e-3
    error, slope = errors(logs)
    for _ in range(STEPS):
        weighted = _weights(error)[:, None] * slope
        pull = -weighted.T @ error
        free = ~(((logs <= _LOW) & (pull < 0)) | ((logs >= _HIGH) & (pull > 0)))
        normal = weighted.T @ slope
        normal += damping * np.diag(np.diag(normal))
        move = np.zeros(3)
        move[free] = np.linalg.solve(normal[np.ix_(free, free)], pull[free])
        tried = np.clip(logs + move, _LOW, _HIGH)
        if np.abs(tried - logs).max() < STILL:
            break
        found = errors(tried)
        if _loss(found[0]) < _loss(error):
            logs, (error, slope), damping = tried, found, damping / 3
        else:
            damping *= 5
    return logs


def _weights(error: Floats) -> Floats:
    return GUARD / np.maximum(GUARD, np.abs(error))


def _loss(error: Floats) -> float:
    """Return Huber's loss: squares up to `GUARD`, straight beyond."""
    size = np.abs(error)
    return float(np.where(size <= GUARD, size**2, GUARD * (2 * size - GUARD)).sum())


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Return what estimates of alike devices say of one more of their kind.

    Each is as sure as itself and as alike devices differ; their mean by that weight, and its
    spread with theirs.

    Raises
    ------
    ValueError
        If there are no `estimates`.
    """
    if not estimates:
        raise ValueError("`estimates` must not be empty")
    apart = np.diag(np.square(KIN_DEVIATION))
    each = np.array([_matrix(one.covariance) for one in estimates])
    weights = np.linalg.inv(each + apart)
    pulls = np.einsum("nij,nj->i", weights, [one.logs for one in estimates])
    spread = np.linalg.inv(weights.sum(axis=0))
    logs = np.clip(spread @ pulls, _LOW, _HIGH)
    return _estimate(logs, spread + apart, sum(one.samples for one in estimates))


Place = tuple[str, Setting]
"""A server by name, and what was observed on it."""


def learn(
    observed: Mapping[Place, Sequence[Observation]],
) -> dict[Place, Estimate]:
    """Return estimates of several servers at once: each starts from what its kin say.

    Parameters
    ----------
    observed : mapping
        Observations by server and setting.

    Returns
    -------
    dict
        An estimate for each place that has observations.
    """
    alone = {
        place: fit(seen, default(processor=seen[0].at.processor))
        for place, seen in observed.items()
        if seen
    }
    found = {}
    for place, one in alone.items():
        others = {other: belief for other, belief in alone.items() if other != place}
        near = _nearest(place[1], others)
        found[place] = fit(observed[place], pooled(near)) if near else one
    return found


def _nearest(setting: Setting, known: Mapping[Place, Estimate]) -> list[Estimate]:
    """Return the estimates of the narrowest kinship that has any, in a stable order."""
    for kin in setting.kin():
        near = [known[place] for place in sorted(known) if kin in place[1].kin()]
        if near:
            return near
    return []


def shared(servers: Sequence[Server]) -> list[Server]:
    """Return the servers, each with what was learnt on others with the same device.

    What a server has measured itself stays; a setting that only others have seen is taken from
    all of them, and so are the wider ones: any model of an engine, any engine.
    """
    own: dict[Setting, list[Estimate]] = {}
    for server in sorted(servers, key=lambda server: server.name):
        for setting, belief in server.calibration.items():
            own.setdefault(setting, []).append(belief)
    kin: dict[Setting, list[Estimate]] = {}
    for setting in sorted(own):
        for wider in setting.kin():
            kin.setdefault(wider, []).extend(own[setting])
    by_device: dict[str, dict[Setting, Estimate]] = {}
    for setting, beliefs in kin.items():
        by_device.setdefault(setting.device, {})[setting] = pooled(beliefs)
    return [_lent(server, by_device) for server in servers]


def _lent(server: Server, by_device: Mapping[str, Mapping[Setting, Estimate]]) -> Server:
    lent: dict[Setting, Estimate] = {}
    for device in server.devices:
        lent |= by_device.get(device.name, {})
    return replace(server, calibration={**lent, **server.calibration}) if lent else server


class _Times:
    """Predicted times of some observations as arrays: kernels in a row, each with its owner."""

    def __init__(self, observations: Sequence[Observation]) -> None:
        kernels = [
            (owner, flops / seen.at.flops, moved / seen.at.bandwidth, seen.at.processor)
            for owner, seen in enumerate(observations)
            for flops, moved in seen.effort.kernels
        ]
        owner, compute, traffic, processor = zip(*kernels, strict=True)
        self._owner: Ints = np.array(owner)
        self._compute: Floats = np.array(compute)
        self._traffic: Floats = np.array(traffic)
        self._processor = np.array(processor)
        self._layers: Floats = np.array([seen.effort.layers for seen in observations])

    def logs(self, logs: Floats) -> tuple[Floats, Floats]:
        """Return the log seconds (N,) at these log efficiencies and their slopes (N, 3)."""
        compute, memory, layer = np.exp(logs)
        arithmetic, traffic = self._compute / compute, self._traffic / memory
        longer = np.maximum(arithmetic, traffic)
        kernel = np.where(self._processor, longer, np.hypot(arithmetic, traffic))
        # Shares of the kernel's time that fall if one of the two gets faster.
        safe = np.maximum(kernel, np.finfo(float).tiny)
        by_compute = np.where(
            self._processor, np.where(arithmetic >= traffic, kernel, 0.0), arithmetic**2 / safe
        )
        fixed = self._layers * layer
        total = self._sum(kernel) + fixed
        shares = np.stack([-self._sum(by_compute), -self._sum(kernel - by_compute), fixed], axis=1)
        return np.log(total), shares / total[:, None]

    def _sum(self, kernels: Floats) -> Floats:
        count = len(self._layers)
        return np.bincount(self._owner, weights=kernels, minlength=count).astype(float)


def _matrix(triangle: Sequence[float]) -> Floats:
    """Return a symmetric matrix from its lower triangle."""
    a, b, c, d, e, f = triangle
    return np.array([[a, b, d], [b, c, e], [d, e, f]])


def _estimate(logs: Floats, covariance: Floats, samples: int) -> Estimate:
    a, b, c = logs.tolist()
    symmetric = (covariance + covariance.T) / 2
    p, q, r, s, t, u = symmetric[np.tril_indices(3)].tolist()
    return Estimate((a, b, c), (p, q, r, s, t, u), samples)
