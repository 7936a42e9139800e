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
    """The parameters of the system."""

    rate: Floats
    """(S,) R_i, reference work per second, > 0."""
    conductance: Floats
    """(S, S) κ_ij, symmetric, >= 0: work that migrates per second for each second of difference;
    0 where nothing can move. The diagonal does not count."""
    decay: float = 0.0
    """α, per second, >= 0."""
    pull: float = 0.0
    """β, per second, >= 0; 0 where nothing is shared."""
    arrivals: Floats | None = None
    """(S,) a_i, seconds of queue that arrive per second; None for none."""

    def __post_init__(self) -> None:
        """Refuse what is no such system."""
        if not (self.rate > 0).all():
            raise ValueError("`rate` must be positive")
        if self.conductance.shape != (self.rate.size, self.rate.size):
            raise ValueError(f"`conductance` must have shape {(self.rate.size, self.rate.size)}")
        if (self.conductance < 0).any() or not np.allclose(self.conductance, self.conductance.T):
            raise ValueError("`conductance` must be symmetric and not negative")
        if self.decay < 0 or self.pull < 0:
            raise ValueError("`decay` and `pull` must not be negative")


@dataclass(frozen=True, slots=True)
class Flows:
    """What the system does over a horizon."""

    final: Floats
    """(S,) x at the end, seconds of queue."""
    moved: Floats
    """(S, S) net work that migrates from i to j, reference seconds; antisymmetric."""


def conductances(seconds: Floats) -> Floats:
    """Return κ from what it costs to move a unit of load: 1/cost, the larger cost of both ways.

    Parameters
    ----------
    seconds : ndarray, shape (S, S)
        Seconds to move a reference second of work from i to j, > 0; inf where it can not move.

    Returns
    -------
    ndarray, shape (S, S)
        Symmetric, 0 on the diagonal.
    """
    if not (seconds[~np.eye(len(seconds), dtype=bool)] > 0).all():
        raise ValueError("`seconds` must be positive off the diagonal")
    both = np.maximum(seconds, seconds.T).astype(float)
    np.fill_diagonal(both, np.inf)
    conductance: Floats = 1.0 / both
    return conductance


def components(conductance: Floats) -> Ints:
    """Return the number of the connected component of each server, shape (S,)."""
    from scipy.sparse.csgraph import connected_components  # slow to import

    joined = (conductance > 0).astype(float)
    return np.asarray(connected_components(joined, directed=False)[1], dtype=np.int64)


def mean_load(rate: Floats, x: Floats, component: Ints) -> Floats:
    """Return x̄: for each server the capacity-weighted mean of its component, shape (S,)."""
    work = np.bincount(component, weights=rate * x)
    mean: Floats = (work / np.bincount(component, weights=rate))[component]
    return mean


def laplacian(conductance: Floats) -> Floats:
    """Return K: the degrees on the diagonal less the conductances, shape (S, S)."""
    off = conductance - np.diag(np.diag(conductance))
    matrix: Floats = np.diag(off.sum(axis=1)) - off
    return matrix


def derivative(dynamics: Dynamics, x: Floats) -> Floats:
    """Return dx/dt in seconds of queue per second, shape (S,).

    Σ R_i of the second and third term is zero over each component: they move work, and neither
    makes nor loses any.
    """
    component = components(dynamics.conductance)
    change = -dynamics.decay * x
    change += dynamics.pull * (mean_load(dynamics.rate, x, component) - x)
    change -= laplacian(dynamics.conductance) @ x / dynamics.rate
    return change if dynamics.arrivals is None else change + dynamics.arrivals


def integrate(dynamics: Dynamics, x: Floats, horizon: float) -> Flows:
    """Return loads and migrated work after a horizon, in closed form.

    Parameters
    ----------
    dynamics : Dynamics
    x : ndarray, shape (S,)
        Relative loads now, seconds of queue.
    horizon : float
        Seconds, > 0.

    Returns
    -------
    Flows
        Without decay and arrivals, x tends to the capacity-weighted mean of each component.

    Raises
    ------
    ValueError
        If `horizon` is not positive or `x` has another length than the system.

    Notes
    -----
    With y = R^½ x the matrix of the system is symmetric: R^½ 1 over a component is an
    eigenvector of each of its parts. So one eigendecomposition gives both the state and its
    integral, as in the diffusion schemes of load balancing [1]_. O(S³): meant for up to 500
    servers, or for classes of them.

    References
    ----------
    .. [1] G. Cybenko, "Dynamic load balancing for distributed memory multiprocessors", Journal
       of Parallel and Distributed Computing 7 (1989), 279-301,
       :doi:`10.1016/0743-7315(89)90021-X`.
    """
    if not horizon > 0:
        raise ValueError(f"`horizon` must be positive, not {horizon}")
    if x.shape != dynamics.rate.shape:
        raise ValueError(f"`x` must have shape {dynamics.rate.shape}")
    root = np.sqrt(dynamics.rate)
    values, vectors = np.linalg.eigh(_symmetric(dynamics, root))
    state = vectors.T @ (root * x)
    source = np.zeros_like(state)
    if dynamics.arrivals is not None:
        source = vectors.T @ (root * dynamics.arrivals)
    first, second = _first_integral(values, horizon), _second_integral(values, horizon)
    final = vectors @ (np.exp(values * horizon) * state + first * source) / root
    area = vectors @ (first * state + second * source) / root
    # Work crosses from i to j at κ_ij (x_i - x_j): its integral needs only the integrals of x.
    return Flows(final, dynamics.conductance * (area[:, None] - area))


def _symmetric(dynamics: Dynamics, root: Floats) -> Floats:
    """Return the matrix of dy/dt for y = R^½ x."""
    component = components(dynamics.conductance)
    together = component[:, None] == component
    weight = np.bincount(component, weights=dynamics.rate)[component]
    matrix = -laplacian(dynamics.conductance) / np.outer(root, root)
    matrix -= (dynamics.decay + dynamics.pull) * np.eye(root.size)
    matrix += dynamics.pull * together * np.outer(root, root) / weight
    symmetric: Floats = (matrix + matrix.T) / 2
    return symmetric


def _first_integral(values: Floats, horizon: float) -> Floats:
    """Return ∫₀ᵗ exp(v s) ds for each v; its series where v t is tiny."""
    small = np.abs(values * horizon) < 1e-8
    safe = np.where(small, -1.0, values)
    series = horizon * (1 + values * horizon / 2)
    return np.where(small, series, np.expm1(safe * horizon) / safe)


def _second_integral(values: Floats, horizon: float) -> Floats:
    """Return ∫₀ᵗ ∫₀ˢ exp(v u) du ds for each v; its series where v t is tiny."""
    small = np.abs(values * horizon) < 1e-5
    safe = np.where(small, -1.0, values)
    series = horizon**2 / 2 * (1 + values * horizon / 3)
    return np.where(small, series, (np.expm1(safe * horizon) - safe * horizon) / safe**2)
