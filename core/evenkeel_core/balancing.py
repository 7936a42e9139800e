"""Step 5: the loads as a dynamical system, and the flows that level them.

x_i = L_i/R_i are relative loads, in seconds of queue. Three things change them:

    dx/dt = -α x + β (x̄ - x) - R⁻¹ K x + a

decay (what is drained), spontaneous balancing (what replicas pull from a shared queue) and
migration (K is the Laplacian of the conductances κ_ij). x̄ is the capacity-weighted mean of the
connected component, so Σ R_i x_i is conserved by the second and the third term. Only the third
makes migrations. The system is linear: it is solved in closed form.
"""

from dataclasses import dataclass

import numpy as np

from evenkeel_core.problems import Floats, Ints


@dataclass(frozen=True, slots=True)
class Dynamics:
    """The parameters of the system.

    Attributes
    ----------
    rate : ndarray of shape (n_servers,)
        R_i, reference work per second, > 0.
    conductance : ndarray of shape (n_servers, n_servers)
        κ_ij, symmetric, >= 0, in reference work per second for each second of difference.
    decay : float
        α, per second, >= 0.
    pull : float
        β, per second, >= 0.
    arrivals : ndarray of shape (n_servers,)
        a_i, seconds of queue that arrive per second.
    """

    rate: Floats
    conductance: Floats
    decay: float = 0.0
    pull: float = 0.0
    arrivals: Floats | None = None

    def __post_init__(self) -> None:
        """Refuse what is no such system."""
        if not (self.rate > 0).all():
            raise ValueError("`rate` must be positive")
        if (self.conductance < 0).any() or not np.allclose(self.conductance, self.conductance.T):
            raise ValueError("`conductance` must be symmetric and not negative")
        if self.decay < 0 or self.pull < 0:
            raise ValueError("`decay` and `pull` must not be negative")


def components(conductance: Floats) -> Ints:
    """Return the number of the connected component of each server, shape (n_servers,)."""
    from scipy.sparse import csr_array  # noqa: PLC0415 - slow to import, rarely needed
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    return np.asarray(connected_components(csr_array(conductance > 0), directed=False)[1], np.int64)


def mean_load(rate: Floats, x: Floats, component: Ints) -> Floats:
    """Return x̄: for each server the capacity-weighted mean of its component."""
    work = np.bincount(component, weights=rate * x)
    mean: Floats = (work / np.bincount(component, weights=rate))[component]
    return mean


def laplacian(conductance: Floats) -> Floats:
    """Return K: the degrees on the diagonal less the conductances."""
    off = conductance - np.diag(np.diag(conductance))
    matrix: Floats = np.diag(off.sum(axis=1)) - off
    return matrix


def derivative(dynamics: Dynamics, x: Floats) -> Floats:
    """Return dx/dt in seconds of queue per second, shape (n_servers,)."""
    component = components(dynamics.conductance)
    migration = laplacian(dynamics.conductance) @ x / dynamics.rate
    change = -dynamics.decay * x - migration
    change += dynamics.pull * (mean_load(dynamics.rate, x, component) - x)
    if dynamics.arrivals is not None:
        change = change + dynamics.arrivals
    result: Floats = change
    return result


@dataclass(frozen=True, slots=True)
class Flows:
    """What the system does over a horizon.

    Attributes
    ----------
    final : ndarray of shape (n_servers,)
        x at the end.
    moved : ndarray of shape (n_servers, n_servers)
        Net work that migrates from i to j in reference seconds; antisymmetric.
    """

    final: Floats
    moved: Floats


def integrate(dynamics: Dynamics, x: Floats, horizon: float) -> Flows:
    """Return loads and migrated work after `horizon` seconds, in closed form.

    Parameters
    ----------
    dynamics : Dynamics
    x : ndarray of shape (n_servers,)
        Relative loads now, seconds of queue.
    horizon : float
        Seconds, > 0.

    Notes
    -----
    With y = R^½ x the matrix of the system is symmetric, so one eigendecomposition gives both
    the state and its integral; O(n_servers³), meant for up to 500 servers or classes of them.
    The mean's term keeps the symmetry: R^½ 1 is an eigenvector of every part.
    """
    if horizon <= 0:
        raise ValueError(f"`horizon` must be positive, not {horizon}")
    root = np.sqrt(dynamics.rate)
    values, vectors = np.linalg.eigh(_symmetric(dynamics, root))
    state = vectors.T @ (root * x)
    arrivals = np.zeros_like(x) if dynamics.arrivals is None else dynamics.arrivals
    source = vectors.T @ (root * arrivals)
    growth = np.exp(values * horizon)
    first = _first_integral(values, horizon)
    second = _second_integral(values, horizon)
    final = vectors @ (growth * state + first * source) / root
    area = vectors @ (first * state + second * source) / root
    # Work crosses i → j at κ_ij (x_i - x_j): its integral needs only the integrals of x.
    moved = dynamics.conductance * (area[:, None] - area)
    return Flows(final, moved)


def _symmetric(dynamics: Dynamics, root: Floats) -> Floats:
    count = len(root)
    component = components(dynamics.conductance)
    matrix = -laplacian(dynamics.conductance) / np.outer(root, root)
    matrix -= (dynamics.decay + dynamics.pull) * np.eye(count)
    together = component[:, None] == component
    weight = np.bincount(component, weights=dynamics.rate)[component]
    matrix += dynamics.pull * together * np.outer(root, root) / weight
    symmetric: Floats = (matrix + matrix.T) / 2
    return symmetric


def _first_integral(values: Floats, horizon: float) -> Floats:
    """Return ∫₀ᵗ exp(v s) ds; t where v is zero."""
    small = np.abs(values * horizon) < 1e-8
    safe = np.where(small, 1.0, values)
    result: Floats = np.where(
        small, horizon * (1 + values * horizon / 2), np.expm1(safe * horizon) / safe
    )
    return result


def _second_integral(values: Floats, horizon: float) -> Floats:
    """Return ∫₀ᵗ ∫₀ˢ exp(v u) du ds; t²/2 where v is zero."""
    small = np.abs(values * horizon) < 1e-5
    safe = np.where(small, 1.0, values)
    exact = (np.expm1(safe * horizon) - safe * horizon) / safe**2
    series = horizon**2 / 2 * (1 + values * horizon / 3)
    result: Floats = np.where(small, series, exact)
    return result
