"""Assignments at least cost within capacities: the problem, its relaxations and their prices.

The generalised assignment problem with several resources: every subtask goes to one server, no
server takes more than it has, the sum of costs is least. Two relaxations bound it from below and
price what is scarce: the linear one, and the Lagrangian one in which each server solves a
knapsack of its own. The second sees what the first does not, that a server's set is whole.

Sources: Martello and Toth, Knapsack Problems (1990), chapter 7; Fisher, The Lagrangian
Relaxation Method (Management Science 1981).
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from evenkeel_core.problems import Array, Floats, Ints

Mask = NDArray[np.bool_]
CELLS = 1000
"""Steps of a capacity in the knapsacks when demands are no small whole numbers: rounding demands
down by a thousandth of a server loosens the bound by less than the search leaves."""
PATIENCE = 8
"""Dual steps without a better bound before the step is shortened."""
SHORTER = 0.7
"""By how much: both figures as in Fisher's account, where halving after longer waits is usual;
shorter waits and milder cuts reached the same bounds in half the steps."""
SHORTEST = 0.03
MEMORY = 0.05
"""Weight of the newest knapsacks in the running mean of them."""
TURN = 0.3
"""Weight of the newest subgradient in the direction of a step. Without the mean of the last ones,
or when set back to the best worths, 160 steps did not leave a degenerate linear optimum."""
NEAR = 8
"""Subtasks either side of the first that does not fit, tried for a better set."""
_PAIRS = [(NEAR, NEAR), *((one, NEAR) for one in range(NEAR)), *combinations(range(NEAR), 2)]
_OUT = np.array([[2 * NEAR if at == NEAR else at for at in pair] for pair in _PAIRS])
_INTO = np.array([[NEAR + at for at in pair] for pair in _PAIRS])


@dataclass(frozen=True, slots=True)
class Packing:
    """What to assign. Axes: T subtasks, S servers, K resources. Arrays are read-only."""

    cost: Floats
    """(T, S) any unit; inf where a subtask may not go."""
    demand: Floats
    """(T, S, K) what the subtask takes of the server, >= 0."""
    capacity: Floats
    """(S, K), >= 0."""

    def __post_init__(self) -> None:
        """Bar what no empty server could hold, and make the arrays read-only.

        Raises
        ------
        ValueError
            If the shapes do not belong together or there is no resource.
        """
        subtasks, servers = self.cost.shape
        if not self.capacity.shape[-1]:
            raise ValueError("`capacity` has no resource")
        if self.demand.shape != (subtasks, servers, self.capacity.shape[-1]):
            raise ValueError(f"`demand` has shape {self.demand.shape} and not (T, S, K)")
        if self.capacity.shape[0] != servers:
            raise ValueError(f"`capacity` is of {self.capacity.shape[0]} servers, not {servers}")
        held = (self.demand <= self.capacity + slack(self)).all(axis=2)
        object.__setattr__(self, "cost", np.where(held, self.cost, np.inf))
        for name in self.__slots__:
            getattr(self, name).flags.writeable = False


def slack(packing: Packing) -> Floats:
    """Return the excess over each capacity that is rounding and not too much, shape (S, K)."""
    return 1e-9 * np.maximum(packing.capacity, 1.0)


def loads(packing: Packing, assignment: Ints) -> Floats:
    """Return what each server's set takes of it, shape (S, K)."""
    total = np.zeros(packing.capacity.shape)
    np.add.at(total, assignment, packing.demand[np.arange(assignment.size), assignment])
    return total


def feasible(packing: Packing, assignment: Ints) -> bool:
    """Tell whether every subtask is where it may be and no server has too much."""
    if not np.isfinite(packing.cost[np.arange(assignment.size), assignment]).all():
        return False
    return bool((loads(packing, assignment) <= packing.capacity + slack(packing)).all())


def total(packing: Packing, assignment: Ints) -> float:
    """Return the cost of an assignment."""
    return float(packing.cost[np.arange(assignment.size), assignment].sum())


@dataclass(frozen=True, slots=True)
class Relaxation:
    """What the linear relaxation says."""

    share: Floats
    """(T, S) part of each subtask on each server; rows sum to 1."""
    bound: float
    """No assignment costs less."""
    price: Floats
    """(S, K) what one more unit of a resource would save, >= 0."""
    worth: Floats
    """(T,) what leaving out a subtask would save."""


def relax(packing: Packing) -> Relaxation | None:
    """Solve the linear relaxation by HiGHS; None if even parts of subtasks do not fit."""
    subtasks, servers = packing.cost.shape
    row, column = np.nonzero(np.isfinite(packing.cost))
    if np.unique(row).size < subtasks:
        return None
    found: Any = linprog(
        packing.cost[row, column],
        A_ub=_capacity_rows(packing, row, column),
        b_ub=packing.capacity.ravel(),
        A_eq=_once(row, subtasks),
        b_eq=np.ones(subtasks),
        bounds=(0, 1),
        method="highs-ds",
    )
    if found.status != 0:
        return None
    share = np.zeros((subtasks, servers))
    share[row, column] = found.x
    price = np.maximum(-found.ineqlin.marginals.reshape(packing.capacity.shape), 0.0)
    return Relaxation(share, float(found.fun), price, found.eqlin.marginals)


def _once(row: Ints, subtasks: int) -> Any:  # linprog's stubs know no sparse matrices
    """Return the constraints that each subtask is assigned, a row a subtask."""
    return sparse.csr_array((np.ones(row.size), (row, np.arange(row.size))), (subtasks, row.size))


def _capacity_rows(packing: Packing, row: Ints, column: Ints) -> Any:
    """Return the capacity constraints, a row a server and resource."""
    servers, resources = packing.capacity.shape
    taken = packing.demand[row, column]
    where = column[:, None] * resources + np.arange(resources)
    pair = np.broadcast_to(np.arange(row.size)[:, None], where.shape)
    shape = (servers * resources, row.size)
    return sparse.csr_array((taken.ravel(), (where.ravel(), pair.ravel())), shape)


class Dual:
    """The Lagrangian relaxation, climbed step by step by subgradients.

    Each subtask has a worth; each server packs the set worth most to it. A subtask that many
    pack is worth less in the next step, one that nobody packs more. Of several resources the one
    that costs most in the linear relaxation is packed exactly, the others at its prices.
    """

    def __init__(self, packing: Packing, relaxation: Relaxation) -> None:
        paid = (relaxation.price * packing.capacity).sum(axis=0)
        binding = int(np.argmax(paid)) if paid.size else 0
        price = relaxation.price.copy()
        price[:, binding] = 0.0
        self._constant = float((price * packing.capacity).sum())
        self.cost: Floats = (packing.cost + np.einsum("tsk,sk->ts", packing.demand, price)).T
        """(S, T) with what the other resources cost."""
        self.weight, self.capacity = _grid(packing, binding)
        self._worth = relaxation.worth.copy()
        self.worth: Floats = self._worth
        """(T,) those of the best bound."""
        self._step = 1.0
        self._stalled = 0
        self._course = np.zeros(self._worth.size)
        self.bound = relaxation.bound
        """The best bound so far."""
        self.packed: Mask = np.zeros(self.cost.shape, dtype=bool)
        """(S, T) the sets of the last step."""
        self.mean: Floats = relaxation.share.T.copy()
        """(S, T) running mean of the sets: near the optimum of the strong relaxation."""

    def advance(self, target: float) -> None:
        """Take one step towards `target`, the cost of the best assignment known.

        O(S · capacity · core), where the core is the subtasks whose place in a server's set the
        linear bound of its knapsack leaves open.
        """
        self.packed, value = knapsacks(self._worth - self.cost, self.weight, self.capacity)
        bound = float(self._worth.sum() - value.sum()) - self._constant
        self.mean += MEMORY * (self.packed - self.mean)
        if bound > self.bound + 1e-9 * abs(self.bound):
            self.bound, self.worth, self._stalled = bound, self._worth, 0
        else:
            self._stalled += 1
            if self._stalled >= PATIENCE:
                self._step, self._stalled = max(self._step * SHORTER, SHORTEST), 0
        missing = 1.0 - self.packed.sum(axis=0)
        square = float(missing @ missing)
        self._course += TURN * (missing - self._course)
        if square:
            reach = max(target - bound, 1e-4 * abs(bound))
            self._worth = self._worth + self._step * 0.5 * reach / square * self._course


def _grid(packing: Packing, resource: int) -> tuple[Ints, Ints]:
    """Return demands (S, T) and capacities (S,) in whole cells; demands rounded down."""
    demand, capacity = packing.demand[:, :, resource].T, packing.capacity[:, resource]
    whole = bool((demand == np.floor(demand)).all())
    if whole and capacity.max(initial=0) <= 2 * CELLS:
        return demand.astype(np.int64), np.floor(capacity).astype(np.int64)
    per = CELLS / np.where(capacity > 0, capacity, 1.0)
    cells = np.floor(demand * per[:, None] + 1e-9)
    return cells.astype(np.int64), np.full(capacity.size, CELLS, dtype=np.int64)


def knapsacks(profit: Floats, weight: Ints, capacity: Ints) -> tuple[Mask, Floats]:
    """Pack every server's knapsack exactly.

    Parameters
    ----------
    profit : ndarray, shape (S, T)
        -inf where a subtask may not go.
    weight : ndarray of int, shape (S, T)
    capacity : ndarray of int, shape (S,)

    Returns
    -------
    tuple of ndarray
        The sets, shape (S, T), and their profits, shape (S,).

    Notes
    -----
    What the linear bound decides is decided by it; the rest, the core, by dynamic programming
    over capacity, all servers at a time (Martello and Toth, chapter 2).
    """
    servers = np.arange(profit.shape[0])
    useful = (profit > 0) & (weight <= capacity[:, None])
    size = int(useful.sum(axis=1).max(initial=0))
    value = np.where(useful, profit, 0.0)
    ratio = np.where(useful, value / np.maximum(weight, 1e-9), -1.0)
    order = np.argsort(-ratio, axis=1, kind="stable")[:, :size]
    rows = servers[:, None]
    useful, value = useful[rows, order], value[rows, order]
    cells = np.where(useful, weight[rows, order], 0)
    surely, core = _core(useful, value, cells, capacity)
    left = capacity - (cells * surely).sum(axis=1)
    chosen = surely | _packed(np.where(core, value, 0.0), cells, core, left)
    packed = np.zeros(profit.shape, dtype=bool)
    packed[rows, order] = chosen
    return packed, (value * chosen).sum(axis=1)


def _core(useful: Mask, value: Floats, cells: Ints, capacity: Ints) -> tuple[Mask, Mask]:
    """Return what is in every best set, and what may be; columns by falling value a cell."""
    servers = np.arange(capacity.size)
    if not useful.size:
        return useful, useful
    weights, values = np.cumsum(cells, axis=1), np.cumsum(value, axis=1)
    fits = weights <= capacity[:, None]
    everything = fits.all(axis=1)
    first = np.minimum(fits.sum(axis=1), useful.shape[1] - 1)  # that does not fit
    before = values[servers, first] - value[servers, first]
    room = capacity - (weights[servers, first] - cells[servers, first])
    rate = value[servers, first] / np.maximum(cells[servers, first], 1)
    rate = np.where(everything, 0.0, rate)
    reduced = value - rate[:, None] * cells
    gap = np.where(everything, 0.0, _lost(reduced, cells, first, room, rate))[:, None]
    gap = gap + 1e-9 * (before[:, None] + 1.0)
    return useful & (reduced > gap), useful & (np.abs(reduced) <= gap)


def _lost(reduced: Floats, cells: Ints, first: Ints, room: Ints, rate: Floats) -> Floats:
    """Return what whole sets lose against the linear bound, (S,), by the best of simple sets.

    Of those next to the first that does not fit, at most two go out and two come in.
    """
    servers = np.arange(room.size)[:, None]
    column = first[:, None] + np.arange(-NEAR, NEAR)
    there = (column >= 0) & (column < reduced.shape[1])
    column = np.clip(column, 0, reduced.shape[1] - 1)
    inside = there & (cells[servers, column] > 0)
    # The last column stands for nobody.
    loss = np.pad(np.where(inside, np.abs(reduced[servers, column]), np.inf), ((0, 0), (0, 1)))
    size = np.pad(cells[servers, column], ((0, 0), (0, 1)))
    out, into = ([array[:, side].sum(axis=2) for array in (loss, size)] for side in (_OUT, _INTO))
    left = room[:, None, None] + out[1][:, :, None] - into[1][:, None, :]
    lost = out[0][:, :, None] + into[0][:, None, :] + rate[:, None, None] * left
    least: Floats = np.where(left >= 0, lost, np.inf).min(axis=(1, 2))
    return least


def _packed(value: Floats, cells: Ints, core: Mask, room: Ints) -> Mask:
    """Pack the core by dynamic programming over the room, all servers at a time."""
    size = int(core.sum(axis=1).max(initial=0))
    chosen = np.zeros(core.shape, dtype=bool)
    if not size:
        return chosen
    servers = np.arange(room.size)
    columns = np.argsort(~core, axis=1, kind="stable")[:, :size]
    inside = core[servers[:, None], columns]
    # What only pads a server's list is worth less than nothing, so that it is never taken.
    worth = np.where(inside, value[servers[:, None], columns], -1.0)
    needs = np.where(inside, cells[servers[:, None], columns], 0)
    # Left of each row is as much of -inf as the largest need can reach back.
    reach, width = int(needs.max()), int(room.max()) + 1
    row = np.full((room.size, reach + width), -np.inf)
    best, flat = row[:, reach:], row.reshape(-1)
    best[:] = 0.0
    took = np.zeros((size, *best.shape), dtype=bool)
    cell = servers[:, None] * row.shape[1] + reach + np.arange(width)
    for step in range(size):
        filled = flat[cell - needs[:, step : step + 1]]
        filled += worth[:, step : step + 1]
        np.greater(filled, best, out=took[step])
        np.maximum(filled, best, out=best)
    at = room.copy()
    for step in range(size - 1, -1, -1):
        taken = took[step, servers, at]
        chosen[servers[taken], columns[taken, step]] = True
        at = at - np.where(taken, needs[:, step], 0)
    return chosen


def solve(
    packing: Packing, kept: Mask, *, time_limit: float | None = None, node_limit: int | None = None
) -> tuple[Ints | None, bool]:
    """Return the best assignment within the kept pairs by HiGHS, and whether it is proven.

    Parameters
    ----------
    packing : Packing
    kept : ndarray of bool, shape (T, S)
        Pairs that may be used, one a subtask at least; a subtask with one is fixed there.
    time_limit : float, optional
        Seconds.
    node_limit : int, optional
        Branches.
    """
    fixed = np.flatnonzero(kept.sum(axis=1) == 1)
    free = np.flatnonzero(kept.sum(axis=1) != 1)
    assignment = kept.argmax(axis=1)
    room = packing.capacity.copy()
    np.subtract.at(room, assignment[fixed], packing.demand[fixed, assignment[fixed]])
    if not free.size:
        return (assignment if (room >= -slack(packing)).all() else None), True
    index, column = np.nonzero(kept[free])
    row = free[index]
    options: Any = {"mip_rel_gap": 0.0}
    options |= {} if time_limit is None else {"time_limit": time_limit}
    options |= {} if node_limit is None else {"node_limit": node_limit}
    found = milp(
        packing.cost[row, column],
        integrality=np.ones(row.size, dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(_once(index, free.size), 1, 1),
            LinearConstraint(_capacity_rows(packing, row, column), -np.inf, room.ravel()),
        ],
        options=options,
    )
    if found.x is None:
        return None, found.status == 2
    on: Array = found.x > 0.5
    assignment[row[on]] = column[on]
    return assignment, found.status == 0
