"""Step 3, first half: low-rank factors of the compute times.

What is factorised is the logarithm of compute seconds: a time is about the work of the subtask
over the speed of the server, so its logarithm is a sum of a row and a column term, and what
remains is how servers differ in what they are good at. Load and transfer times are added
afterwards; they are not low rank (design, section 4).

The factors always do three things: they fill pairs nobody measured, with a confidence; they
make classes of alike subtasks and alike servers; they give the starting partition.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenkeel_core.problems import Floats, Ints, Problem, alike, blocks

Mask = NDArray[np.bool_]

ENERGY = 0.99
"""Share of the centred energy the rank must explain; the rest is taken for noise."""
MAX_RANK = 8
"""Kinds of difference between servers: compute, bandwidth, capacity, and some to spare."""
RIDGE = 1e-4
"""Pulls factors of barely measured rows to zero, that is to the means. A hundred times as much
helped noisy measured times a little and spoiled the completion of exact low-rank ones."""
NEAR = 0.05
"""Difference of two rows, in log seconds, at which what one shows beyond the factors still counts
for the other: five percent, about what measuring a time twice differs by."""
DOUBT = 0.1
"""Of a neighbour: with the nearest alone its residual counts for a tenth less than it is."""
ROWS = 2000
"""Distinct rows up to which neighbours are asked: each is compared with each."""
BEARS = 0.8
"""A higher rank must lower the cross-validation score to this share, else it fits noise. Tried
on noisy random matrices: without it the rank came out one too high and the gaps a third worse."""
SWEEPS = 50
"""Of alternating least squares at most."""
SETTLED = 1e-3
"""Relative change of the squared residual at which the sweeps stop."""
NOTHING = 1e-18
"""Mean square of log seconds that is rounding, not a difference."""
ENTRIES = 1 << 18
"""Entries up to which all are fitted together; of more, this many are, evenly chosen, and every
other row and column is fitted to them once: a few factors are known from a few hundred lines."""
LANDMARKS = 256
"""Columns that are chosen then; the rows are many more."""
DECIMALS = 9
"""Of log seconds that must agree for two rows to be factorised as one."""
ALIKE = 0.02
"""Root mean square of the difference of log seconds within one class: two percent."""


@dataclass(frozen=True, slots=True)
class Factors:
    """log compute ≈ mean + row + column + U Vᵀ; arrays over T subtasks and S servers."""

    task_factors: Floats
    """(T, rank) U: what the subtask asks for more than others of its size."""
    server_factors: Floats
    """(S, rank) V: what the server is good at for its speed."""
    mean: float
    """Of log seconds."""
    row: Floats
    """(T,) how much longer than the mean the subtask takes, in log seconds."""
    column: Floats
    """(S,) how much slower than the mean the server is, in log seconds."""
    rank: int
    explained: float
    """Share of the energy beyond the means that U Vᵀ explains, on measured pairs."""
    error: float
    """Root mean square of the relative error of the fit, on measured pairs."""
    computing: Floats
    """(A, K) `completed` by the rows and kinds of the problem."""
    known: Mask
    """(A, K) what was factorised: measured, or as given where nothing is."""
    filled: Mask
    """(A, K) what `computing` has from the factors."""
    support: tuple[Floats, Floats]
    """Known pairs of each row (A,) and of each kind (K,), counted by servers and subtasks."""
    task_class: Ints
    """(T,) class of subtasks that may run on the same servers and suit them alike; they may
    differ in size."""
    server_class: Ints
    """(S,) class of servers that may run the same subtasks equally fast."""
    pairs: tuple[Ints, Ints]
    """The row of each subtask (T,) and the kind of each server (S,), as in the problem."""

    @property
    def completed(self) -> Floats:
        """(T, S) compute seconds.

        As given where measured or where nothing of the row or column is, from the factors and
        what alike subtasks show beyond them elsewhere; inf where the subtask may not run.
        """
        row, kind = self.pairs
        found: Floats = self.computing[row[:, None], kind]
        return found

    @property
    def confidence(self) -> Floats:
        """(T, S) 1 where measured, less where filled, 0 where as given or infeasible."""
        support = np.minimum(self.support[0][:, None], self.support[1])
        belief = support / (support + self.rank + 1) * max(0.0, self.explained) / (1 + self.error)
        row, kind = self.pairs
        by_class = np.where(self.known, 1.0, np.where(self.filled, belief, 0.0))
        found: Floats = by_class[row[:, None], kind]
        return found


def factorise(problem: Problem, *, energy: float = ENERGY, max_rank: int = MAX_RANK) -> Factors:
    """Factorise the log compute seconds of a problem.

    Parameters
    ----------
    problem : Problem
        `compute` is factorised where `measured`; its other finite entries are filled. With
        nothing measured at all, the figures given count as measured.
    energy : float
        Share of the energy beyond the means that the rank must explain, in (0, 1].
    max_rank : int
        At least 1.

    Returns
    -------
    Factors

    Raises
    ------
    ValueError
        If `energy` or `max_rank` is out of its range.

    Notes
    -----
    Alternating least squares with a ridge on U and V but not on the means (else the answer
    would depend on the unit of time), started from the singular value decomposition of the
    matrix whose gaps are filled with the means, so deterministic [1]_. Equal rows and equal
    columns are factorised once. O(sweeps · rows · columns · rank²); rows and columns that are
    all measured need no sweep. Of a large matrix `ENTRIES` are fitted so, and one pass fits the
    others to them. With gaps the rank ends where generalised cross-validation [2]_
    says that more would fit noise. What the factors miss of a gap is taken from the rows whose
    fitted times are the same within a few percent, weighted by a Gaussian: factors for the whole,
    neighbours for the rest [3]_.

    References
    ----------
    .. [1] T. Hastie, R. Mazumder, J. Lee and R. Zadeh, "Matrix completion and low-rank SVD via
       fast alternating least squares", JMLR 16 (2015), 3367-3402.
    .. [2] G. H. Golub, M. Heath and G. Wahba, "Generalized cross-validation as a method for
       choosing a good ridge parameter", Technometrics 21 (1979), 215-223.
    .. [3] Y. Koren, "Factorization meets the neighborhood: a multifaceted collaborative filtering
       model", KDD 2008, 426-434.
    """
    if not 0 < energy <= 1:
        raise ValueError(f"`energy` must be in (0, 1], not {energy}")
    if max_rank < 1:
        raise ValueError(f"`max_rank` must be at least 1, not {max_rank}")
    given = problem.computing
    feasible = np.isfinite(given) & (given > 0)
    known = feasible & problem.believed
    if not known.any():
        known = feasible
    logs = np.log(given, out=np.zeros(given.shape), where=known)
    # How many subtasks and servers each entry stands for.
    tasks = np.bincount(problem.row, minlength=len(given)).astype(float)
    servers = np.bincount(problem.kind, minlength=given.shape[1]).astype(float)

    rows, columns = _equal(logs, known, feasible), _equal(logs.T, known.T, feasible.T)
    some = np.ix_(_first(rows), _first(columns))
    distinct, seen = logs[some], known[some]
    fit = _fit_all(distinct, seen, energy, max_rank)
    task_class = _classes(fit.left[:, :-1], fit.right[:, :-1], feasible[some])
    server_class = _classes(fit.right, fit.left_with_one, feasible[some].T)

    support = known @ servers, tasks @ known
    filled = feasible & ~known & (np.minimum(support[0][:, None], support[1]) > 0)
    shown = _shown_by_neighbours(fit, distinct, seen) if filled.any() else None
    left, right = fit.left[rows], fit.right[columns]
    computing = given.copy() if filled.any() else given
    energies = np.zeros(3)
    for block in blocks(*given.shape):
        between = left[block, :-1] @ right[:, :-1].T
        fitted = between + left[block, -1:] + right[:, -1]
        residual = np.where(known[block], logs[block] - fitted, 0.0)
        beyond = np.where(known[block], residual + between, 0.0)
        for number, each in enumerate((residual, beyond, np.expm1(residual))):
            energies[number] += tasks[block] @ each**2 @ servers
        if shown is not None:
            gaps = filled[block]
            computing[block][gaps] = np.exp((fitted + shown[rows[block]][:, columns])[gaps])
    size = float(tasks @ support[0])
    task, server = left[problem.row], right[problem.kind]
    row, column = task[:, -1], server[:, -1]
    return Factors(
        task_factors=task[:, :-1],
        server_factors=server[:, :-1],
        mean=float(row.mean() + column.mean()) if row.size and column.size else 0.0,
        row=row - row.mean() if row.size and column.size else row,
        column=column - column.mean() if row.size and column.size else column,
        rank=fit.rank,
        explained=_explained(energies[0], energies[1], tasks.sum() * servers.sum()),
        error=float(np.sqrt(energies[2] / max(1.0, size))),
        computing=computing,
        known=known,
        filled=filled,
        support=support,
        task_class=task_class[rows][problem.row],
        server_class=server_class[columns][problem.kind],
        pairs=(problem.row, problem.kind),
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """y ≈ left[:, :-1] right[:, :-1]ᵀ + left[:, -1] + right[:, -1]."""

    left: Floats
    """(rows, rank + 1) U and the row means."""
    right: Floats
    """(columns, rank + 1) V and the column means."""
    rank: int

    @property
    def left_with_one(self) -> Floats:
        """What multiplies `right`: U and ones."""
        return _with_one(self.left[:, :-1])


def _fit_all(matrix: Floats, known: Mask, energy: float, max_rank: int) -> _Fit:
    """Fit some rows and columns of a large matrix, and the others to what these show."""
    if matrix.size <= ENTRIES:
        return _fit(matrix, known, energy, max_rank)
    across = min(matrix.shape[1], LANDMARKS)
    some = _evenly(len(matrix), ENTRIES // across), _evenly(matrix.shape[1], across)
    fit = _fit(matrix[np.ix_(*some)], known[np.ix_(*some)], energy, max_rank)
    right = _solve_columns(matrix[some[0]], known[some[0]], fit.left)
    left = np.empty((len(matrix), fit.rank + 1))
    for block in blocks(*matrix.shape):
        weight = known[block].astype(float)
        left[block] = _solve(matrix[block] - right[:, -1], weight, right[:, :-1])
    lost = np.flatnonzero(~known[some[0]].any(axis=0))
    if lost.size:  # of which no chosen row knows anything
        right[lost] = _solve_columns(matrix[:, lost], known[:, lost], left)
    return _Fit(left, right, fit.rank)


def _evenly(size: int, count: int) -> Ints:
    """Return so many places of a range, evenly spread, or all of them."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).astype(np.int64))


def _solve_columns(matrix: Floats, known: Mask, left: Floats) -> Floats:
    return _solve((matrix - left[:, -1:]).T, known.T.astype(float), left[:, :-1])


def _fit(matrix: Floats, known: Mask, energy: float, max_rank: int) -> _Fit:
    """Fit means and factors, of the smallest rank that explains the energy.

    With gaps, of a smaller rank where the known entries do not bear that many.
    """
    weight = known.astype(float)
    left, right = _alternate(matrix, weight, np.zeros((matrix.shape[1], 1)))
    centred = np.where(known, matrix - left[:, -1:] - right[:, -1], 0.0)
    highest = min(max_rank, *matrix.shape)
    if np.sum(centred**2) <= NOTHING * matrix.size:
        return _Fit(left, right, 1)
    if known.all():
        squares, vectors = _principal(centred)
        share = np.cumsum(squares) / squares.sum()
        rank = min(highest, int(np.searchsorted(share, energy - 1e-12)) + 1)
        vectors = vectors[:, :rank]
        return _Fit(_join(centred @ vectors, left[:, -1]), _join(vectors, right[:, -1]), rank)
    best, doubt = _Fit(left, right, 1), _doubt(centred, known, 0)
    for rank in range(1, highest + 1):
        between = best.left[:, :-1] @ best.right[:, :-1].T
        filled = np.where(known, matrix - best.left[:, -1:] - best.right[:, -1], between)
        vectors = _principal(filled)[1][:, :rank]
        left, right = _alternate(matrix, weight, _join(vectors, best.right[:, -1]))
        residual = matrix - left[:, -1:] - right[:, -1] - left[:, :-1] @ right[:, :-1].T
        residual = np.where(known, residual, 0.0)
        now = _doubt(residual, known, rank)
        if now > BEARS * doubt:
            break
        best, doubt = _Fit(left, right, rank), now
        if _share(residual, centred) >= energy - 1e-12:
            break
    return best


def _shown_by_neighbours(fit: _Fit, matrix: Floats, known: Mask) -> Floats:
    """Return what alike rows show beyond the factors, log seconds, (rows, columns); 0 for none."""
    if known.all() or len(matrix) > ROWS:
        return np.zeros(matrix.shape)
    fitted = fit.left[:, :-1] @ fit.right[:, :-1].T + fit.left[:, -1:] + fit.right[:, -1]
    place = (fitted - fitted.mean(axis=0)) / np.sqrt(max(1, fitted.shape[1]))
    size = np.sum(place**2, axis=1)
    square = (size[:, None] + size - 2 * place @ place.T).clip(min=0.0)
    weight = np.exp(-square / (2 * NEAR**2))
    np.fill_diagonal(weight, 0.0)
    residual = np.where(known, matrix - fitted, 0.0)
    return np.asarray((weight @ residual) / (weight @ known + DOUBT), dtype=np.float64)


def _doubt(residual: Floats, known: Mask, rank: int) -> float:
    """Return the generalised cross-validation score: the residual over what is left free.

    A higher rank always fits the known entries better; beyond the rank of the truth it fits
    their noise, and the gaps get worse. inf where as much is fitted as is known.
    """
    count = int(np.count_nonzero(known))
    free = count - (rank + 1) * (sum(known.shape) - rank - 1)
    return float(np.sum(residual**2)) * count / free**2 if free > 0 else np.inf


def _principal(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the squared singular values, largest first, and the right singular vectors.

    Through the smaller of the two Gram matrices; signs are fixed by the largest component.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    squares, vectors = np.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    squares, vectors = squares[::-1].clip(min=0.0), vectors[:, ::-1]
    if wide:
        vectors = matrix.T @ vectors / np.sqrt(np.maximum(squares, 1e-300))
    largest = np.argmax(np.abs(vectors), axis=0)
    signs = np.where(vectors[largest, np.arange(largest.size)] < 0, -1.0, 1.0)
    return squares, vectors * signs


def _alternate(
    matrix: Floats,
    weight: Floats,
    columns: Floats,
) -> tuple[Floats, Floats]:
    """Alternate the ridge solutions of rows and columns until the residual settles."""
    before = np.inf
    for _ in range(SWEEPS):
        rows = _solve(matrix - columns[:, -1], weight, columns[:, :-1])
        columns = _solve((matrix - rows[:, -1:]).T, weight.T, rows[:, :-1])
        fitted = rows[:, :-1] @ columns[:, :-1].T + rows[:, -1:] + columns[:, -1]
        after = float(np.sum((weight * (matrix - fitted)) ** 2))
        if after >= (1 - SETTLED) * before or after <= NOTHING * matrix.size:
            break
        before = after
    return rows, columns


def _solve(target: Floats, weight: Floats, fixed: Floats) -> Floats:
    """Return each row's ridge solution against fixed factors, its mean last and unpenalised."""
    regressors = _with_one(fixed)
    size = regressors.shape[1]
    pairs = (regressors[:, :, None] * regressors[:, None, :]).reshape(len(regressors), size * size)
    # The mean gets a trace of ridge, for rows of which nothing is known.
    ridge = np.array([RIDGE] * (size - 1) + [1e-12])
    gram = (weight @ pairs).reshape(-1, size, size) + np.diag(ridge)
    side = (weight * target) @ regressors
    solved: Floats = np.asarray(np.linalg.solve(gram, side[:, :, None]), dtype=np.float64)
    return solved[:, :, 0]


def _with_one(factors: Floats) -> Floats:
    return _join(factors, np.ones(len(factors)))


def _join(factors: Floats, means: Floats) -> Floats:
    return np.append(factors, means.reshape(-1, 1), axis=1)


def _share(residual: Floats, energy: Floats) -> float:
    """Return the share of the energy that is not in the residual."""
    return _explained(float(np.sum(residual**2)), float(np.sum(energy**2)), energy.size)


def _explained(residual: float, energy: float, size: float) -> float:
    """Return the share of squares that is not in the residual; 1 where there are none."""
    return 1.0 if energy <= NOTHING * size else max(0.0, 1.0 - float(residual / energy))


def _equal(logs: Floats, *masks: Mask) -> Ints:
    """Give equal rows the same number, in the order of their first."""
    return alike(np.round(logs, DECIMALS), *masks)[0]


def _first(numbers: Ints) -> Ints:
    """Return the position of the first of each number."""
    return np.unique(numbers, return_index=True)[1]


def _classes(factors: Floats, others: Floats, feasible: Mask) -> Ints:
    """Give rows of the same feasibility and nearly the same fitted values the same number.

    Distances are root mean squares over the other side, measured in the few coordinates of the
    factors; the first row not in a class opens the next.
    """
    # |(u - v) R|² with Rᵀ R the mean of the outer products of the other side's factors.
    squares, axes = np.linalg.eigh(others.T @ others / max(1, len(others)))
    place = factors @ (axes * np.sqrt(squares.clip(min=0.0)))
    pattern = _equal(np.zeros((len(factors), 0)), feasible)
    number = np.full(len(factors), -1, dtype=np.int64)
    count = 0
    for row in range(len(factors)):
        if number[row] < 0:
            near = np.sum((place - place[row]) ** 2, axis=1) <= ALIKE**2
            number[near & (pattern == pattern[row]) & (number < 0)] = count
            count += 1
    return number
