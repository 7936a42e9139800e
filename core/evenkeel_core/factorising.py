"""Step 3, first half: low-rank factors of the compute times.

What is factorised is the logarithm of compute seconds: a time is about the work of the subtask
over the speed of the server, so its logarithm is a sum, rank one, and what remains after the
means are taken out is how servers differ in what they are good at. Load and transfer times are
added afterwards; they are not low rank (design, section 4).

The factors always do three things: they fill pairs nobody measured, with a confidence; they
make classes of alike subtasks and alike servers; they give the starting partition.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenkeel_core.problems import Floats, Ints, Problem

ENERGY = 0.99
"""Share of the centred energy the rank must explain."""
MAX_RANK = 8
"""Kinds of difference between servers: compute, bandwidth, capacity, and some to spare."""
RIDGE = 1e-3
"""Pulls factors of barely measured rows to zero, that is to the means."""
SWEEPS = 30
ALIKE = 6
"""Decimals of log seconds that must agree for two rows to be one class: a millionth."""


@dataclass(frozen=True, slots=True)
class Factors:
    """log compute ≈ mean + row + column + U Vᵀ.

    Attributes
    ----------
    task_factors, server_factors : ndarray of shape (n_subtasks, rank), (n_servers, rank)
        U and V.
    mean : float
    row, column : ndarray of shape (n_subtasks,), (n_servers,)
        Deviations from the mean: how much work, how slow a server.
    rank : int
    explained : float
        Share of the centred energy of the measured entries that the factors explain.
    error : float
        Root mean square of the relative error of the measured entries.
    completed : ndarray of shape (n_subtasks, n_servers)
        Compute seconds: as measured where they were, from the factors elsewhere; inf where the
        subtask may not run.
    confidence : ndarray of shape (n_subtasks, n_servers)
        1 where measured, less where filled, 0 where infeasible.
    task_class, server_class : ndarray of shape (n_subtasks,), (n_servers,)
        Number of the class of alike rows and columns; alike subtasks may differ in their work.
    """

    task_factors: Floats
    server_factors: Floats
    mean: float
    row: Floats
    column: Floats
    rank: int
    explained: float
    error: float
    completed: Floats
    confidence: Floats
    task_class: Ints
    server_class: Ints


def factorise(problem: Problem, *, energy: float = ENERGY, max_rank: int = MAX_RANK) -> Factors:
    """Factorise the log compute seconds of a problem.

    Parameters
    ----------
    problem : Problem
        `compute` is factorised where `measured`; its other finite entries are filled.
    energy : float, default=0.99
        Share of the centred energy the rank must explain.
    max_rank : int, default=8

    Returns
    -------
    Factors

    Raises
    ------
    ValueError
        If `energy` is not in (0, 1] or `max_rank` is less than 1.

    Notes
    -----
    Alternating least squares with a ridge on the classes, started from the truncated singular
    value decomposition of the centred matrix with zeros for what is missing, so deterministic
    up to the sign of singular vectors, which does not matter to U Vᵀ.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"`energy` must be in (0, 1], not {energy}")
    if max_rank < 1:
        raise ValueError(f"`max_rank` must be at least 1, not {max_rank}")
    feasible = np.isfinite(problem.compute) & (problem.compute > 0)
    known = feasible & problem.measured
    if not known.any():
        known = feasible  # nothing measured at all: the model's own figures are what there is
    logs = np.log(np.where(feasible, problem.compute, 1.0))
    mean, row, column = _means(logs, known)
    centred = np.where(known, logs - mean - row[:, None] - column, 0.0)
    task_class, server_class = _classes(centred, known), _classes(centred.T, known.T)
    left, right, rank = _factors_of_classes(
        centred, known, task_class, server_class, energy, max_rank
    )
    fitted = left @ right.T
    explained, error = _quality(centred, fitted, known)
    filled = np.exp(mean + row[:, None] + column + fitted)
    completed = np.where(known, problem.compute, np.where(feasible, filled, np.inf))
    confidence = np.where(known, 1.0, np.where(feasible, _belief(known, explained), 0.0))
    return Factors(
        left, right, mean, row, column, rank, explained, error, completed, confidence,
        task_class, server_class,
    )  # fmt: skip


def _means(logs: Floats, known: NDArray[np.bool_]) -> tuple[float, Floats, Floats]:
    """Return the mean and the deviations of rows and columns over the known entries.

    Not penalised: without that the answer would depend on the unit of time.
    """
    weight = known.astype(float)
    mean = float((logs * weight).sum() / weight.sum())
    row, column = np.zeros(logs.shape[0]), np.zeros(logs.shape[1])
    rows, columns = np.maximum(weight.sum(axis=1), 1), np.maximum(weight.sum(axis=0), 1)
    for _ in range(20):
        before = row
        row = ((logs - mean - column) * weight).sum(axis=1) / rows
        column = ((logs - mean - row[:, None]) * weight).sum(axis=0) / columns
        if np.abs(row - before).max(initial=0.0) < 1e-12:
            break
    return mean, row, column


def _classes(centred: Floats, known: NDArray[np.bool_]) -> Ints:
    """Number the classes of rows that agree in what is known and in its values."""
    signature = np.where(known, np.round(centred, ALIKE) + 0.0, np.nan)
    packed = np.ascontiguousarray(np.nan_to_num(signature, nan=1e9))
    rows = packed.view([("", packed.dtype, (packed.shape[1],))]).ravel() if packed.size else packed
    if not packed.size:
        return np.zeros(len(packed), dtype=np.int64)
    _, first, number = np.unique(
        np.array([value.tobytes() for value in rows]), return_index=True, return_inverse=True
    )
    # Classes are numbered by their first member, so that names do not depend on values.
    order = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    result: Ints = order[number].astype(np.int64)
    return result


def _factors_of_classes(
    centred: Floats,
    known: NDArray[np.bool_],
    task_class: Ints,
    server_class: Ints,
    energy: float,
    max_rank: int,
) -> tuple[Floats, Floats, int]:
    """Factorise one row and column of each class and hand the factors to all members."""
    rows = np.unique(task_class, return_index=True)[1]
    columns = np.unique(server_class, return_index=True)[1]
    small, mask = centred[np.ix_(rows, columns)], known[np.ix_(rows, columns)]
    left, values, right = np.linalg.svd(small, full_matrices=False)
    rank = _rank(values, energy, max_rank)
    root = np.sqrt(values[:rank])
    factors = _alternate(small, mask, left[:, :rank] * root, (right[:rank].T) * root)
    return factors[0][task_class], factors[1][server_class], rank


def _rank(values: Floats, energy: float, max_rank: int) -> int:
    """Return the smallest rank that explains the energy: what is left is taken for noise."""
    square = values**2
    if square.sum() <= 1e-12 * max(1, square.size):
        return 1
    share = np.cumsum(square) / square.sum()
    return int(min(max_rank, np.searchsorted(share, energy - 1e-12) + 1, values.size))


def _alternate(
    matrix: Floats, mask: NDArray[np.bool_], left: Floats, right: Floats
) -> tuple[Floats, Floats]:
    if mask.all():
        return left, right  # nothing is missing: the decomposition is already the best
    for _ in range(SWEEPS):
        left = _solve(matrix, mask, right)
        right = _solve(matrix.T, mask.T, left)
    return left, right


def _solve(matrix: Floats, mask: NDArray[np.bool_], fixed: Floats) -> Floats:
    """Return the ridge solution of each row against fixed factors, all rows at once."""
    weight = mask.astype(float)
    gram = np.einsum("rc,ck,cl->rkl", weight, fixed, fixed)
    gram += RIDGE * np.eye(fixed.shape[1])
    side = (matrix * weight) @ fixed
    solved: Floats = np.linalg.solve(gram, side[:, :, None])[:, :, 0]
    return solved


def _quality(centred: Floats, fitted: Floats, known: NDArray[np.bool_]) -> tuple[float, float]:
    residual = (centred - fitted)[known]
    total = float((centred[known] ** 2).sum())
    explained = 1.0 - float((residual**2).sum()) / total if total > 1e-12 else 1.0
    return explained, float(np.sqrt(np.mean(np.expm1(residual) ** 2)))


def _belief(known: NDArray[np.bool_], explained: float) -> Floats:
    """Return how far filled entries are to be believed: by what is known of row and column."""
    rows, columns = known.mean(axis=1), known.mean(axis=0)
    belief: Floats = max(0.0, explained) * np.sqrt(np.outer(rows, columns))
    return belief
