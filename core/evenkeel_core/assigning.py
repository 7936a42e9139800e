"""Search for assignments of least cost within capacities.

A start is a dive into the Lagrangian relaxation, new after some dual steps. From it the search
descends by shifts (a subtask goes elsewhere), swaps (two change places) and chains (one takes
another's place, which goes on to a third server). Too much on a server is allowed at a price,
which rises until nothing is too much. What the relaxation leaves open is then solved exactly, as
far as time allows.

Sources: Yagiura, Ibaraki and Glover, An Ejection Chain Approach for the Generalized Assignment
Problem (INFORMS Journal on Computing 2004), for chains and prices that adapt; the knapsack
relaxation as guide and the restricted exact solution at the end are as in kernel search
(Angelelli, Mansini and Speranza, Computers & OR 2010).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evenkeel_core import packings
from evenkeel_core.diving import dive
from evenkeel_core.exchanging import Board
from evenkeel_core.packings import Dual, Mask, Packing, Relaxation
from evenkeel_core.problems import Floats, Ints

ROUNDS = 50
"""Dives without a time limit."""
STEPS = 5
"""Dual steps between two dives."""
NOISE = 0.1
"""How much of chance there is in how often a pair is packed, so that dives differ."""
KICKS = 5
"""Small disturbances of each start: 3, 8 and 20 differed by little, and few leave time for
dives."""
FAILURES = 60
"""Descents a start may end with too much somewhere before it is given up."""
WARM = 0.15
"""Part of the time that only climbs the bound: starts from a poor bound are poor."""
SEARCH = 0.6
"""Part of the time before what is left is solved exactly, where that pays."""
MARGIN = 0.92
"""Part of the time limit that is planned with: one step or HiGHS may run over by the rest."""
LATEST = 0.3
"""Weight of the latest round in how long one is expected to take."""
KERNEL = 1.8
"""Pairs a subtask in the first exact solution, doubled as long as they are solved in time."""
LARGE = 300
"""Subtasks above which HiGHS found nothing better within seconds, and the search has all."""
NODES = 2000
"""Branches of the exact solution without a time limit."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """The best assignment found."""

    assignment: Ints
    """(T,) server of each subtask."""
    cost: float
    bound: float
    """No assignment costs less."""
    linear: float
    """The weaker bound that the linear relaxation gives, to compare with."""
    proven: bool
    """No other assignment costs less than this one."""


def assign(
    packing: Packing,
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    time_limit: float = np.inf,
    clock: Callable[[], float] | None = None,
) -> Assigned | None:
    """Return the best assignment found, None if none was.

    Parameters
    ----------
    packing : Packing
    rounds : int
        Dives, each after some dual steps, when no clock is given: equal input then gives equal
        output.
    seed : int
        Of the dives and disturbances.
    time_limit : float
        Seconds, with a clock.
    clock : callable, optional
        Returns seconds, e.g. ``time.perf_counter``; the search goes on until the time is over.

    Notes
    -----
    Deterministic without a clock. A dual step is O(S · capacity cells · core), a dive some
    dozens of them on ever fewer subtasks, a move of the descents O(T · T / S), all vectorised.
    """
    if not packing.cost.shape[0]:
        return Assigned(np.zeros(0, dtype=np.int64), 0.0, 0.0, 0.0, proven=True)
    timer = _Timer(clock, time_limit, rounds)
    relaxation = packings.relax(packing)
    if relaxation is None:
        return None
    search = _Search(packing, relaxation, seed)
    exact = packing.cost.shape[0] <= LARGE
    while not (timer.ends(SEARCH if exact else 1.0) or search.optimal()):
        search.round(warming=timer.spent() < WARM)
        timer.round()
    if exact:
        _finish(search, timer)
    return search.found()


class _Timer:
    """How much of the time, or of the rounds, is spent: 0 to 1."""

    def __init__(self, clock: Callable[[], float] | None, limit: float, rounds: int) -> None:
        self._clock = clock
        self._limit = limit * MARGIN
        self._begin = clock() if clock else 0.0
        self._rounds = rounds
        self._done = 0
        self._look = 0.0
        self._usual = 0.0

    def round(self) -> None:
        """Note the end of a round, and how long it took."""
        self._done += 1
        look = self.spent()
        self._usual += LATEST * (look - self._look - self._usual)
        self._look = look

    def ends(self, part: float) -> bool:
        """Tell whether another round might end after this part of the time or the rounds."""
        ahead = self._usual if self._clock else 0.0
        return self._look + ahead >= part

    def spent(self) -> float:
        if self._clock is None:
            return self._done / max(self._rounds, 1)
        return (self._clock() - self._begin) / self._limit

    def solve(self, packing: Packing, kept: Mask) -> tuple[Ints | None, bool]:
        """Solve within what is left."""
        if self._clock is None:
            return packings.solve(packing, kept, node_limit=NODES)
        left = max((1.0 - self.spent()) * self._limit, 0.0)
        return packings.solve(packing, kept, time_limit=left)

    def over(self) -> bool:
        return self._clock is not None and self.spent() >= 1.0


class _Search:
    """The best assignment so far, and the bound that guides to the next."""

    def __init__(self, packing: Packing, relaxation: Relaxation, seed: int) -> None:
        self.packing = packing
        self.dual = Dual(packing, relaxation)
        self.linear = relaxation.bound
        self.best: Ints | None = None
        self.cost = np.inf
        self.reduced = packing.cost + np.einsum("tsk,sk->ts", packing.demand, relaxation.price)
        self.reduced -= self.reduced.min(axis=1, keepdims=True)
        self.proven = False
        self._random = np.random.default_rng(seed)
        self._guess = relaxation.bound * 1.01 + 1e-9
        self._price = _first_price(packing, relaxation)
        whole = packing.cost[np.isfinite(packing.cost)]
        self._whole = bool((whole == np.floor(whole)).all())

    def optimal(self) -> bool:
        """Tell whether the bound proves the best assignment to be one."""
        if self.best is None:
            return False
        least = self.dual.bound
        if self._whole:
            least = np.ceil(least - 1e-6)
        self.proven = self.proven or self.cost <= least + 1e-9 * max(abs(self.cost), 1.0)
        return bool(self.proven)

    def round(self, *, warming: bool) -> None:
        """Climb a step of the bound, and descend from the sets it packed."""
        for _ in range(STEPS):
            self.dual.advance(self._guess if self.best is None else self.cost)
        if not warming:
            self._descend(dive(self.dual, self._random, NOISE))

    def take(self, assignment: Ints) -> None:
        """Keep an assignment that is better."""
        cost = packings.total(self.packing, assignment)
        if cost < self.cost and packings.feasible(self.packing, assignment):
            self.best, self.cost = assignment.copy(), cost

    def _descend(self, start: Ints) -> None:
        board = Board(self.packing, start, self._price)
        cost, kept, kicks, failures = np.inf, start, 0, 0
        while kicks < KICKS and failures < FAILURES:
            board.descend()
            if board.raise_prices():
                failures += 1
                continue
            kicks += 1
            found = packings.total(self.packing, board.place)
            if found < cost - 1e-9:
                cost, kept = found, board.place.copy()
                kicks = min(kicks, KICKS // 2)
            else:
                board.reset(kept)
            self._kick(board)
        if np.isfinite(cost):
            self.take(kept)

    def _kick(self, board: Board) -> None:
        """Move one or two subtasks to servers that packed them in the last steps."""
        count = int(self._random.integers(1, 3))
        size = board.place.size
        for subtask in self._random.choice(size, min(count, size), replace=False).tolist():
            likely = np.where(np.isfinite(self.packing.cost[subtask]), 0.02, 0.0)
            likely += np.where(likely > 0, self.dual.mean[:, subtask], 0.0)
            server = int(self._random.choice(likely.size, p=likely / likely.sum()))
            board.move(subtask, server)

    def found(self) -> Assigned | None:
        """Return the best."""
        if self.best is None:
            return None
        bound = min(self.dual.bound, self.cost)
        return Assigned(self.best, self.cost, bound, self.linear, self.optimal())


def _first_price(packing: Packing, relaxation: Relaxation) -> Floats:
    """Return what one unit too much costs at first, shape (S, K)."""
    finite = np.isfinite(packing.cost)
    cost = np.where(finite, np.abs(packing.cost), 0.0).sum()
    taken = np.where(finite[:, :, None], packing.demand, 0.0).sum(axis=(0, 1))
    usual = cost / np.where(taken > 0, taken, 1.0)
    price: Floats = np.maximum(relaxation.price * 1.5, 0.1 * usual)
    return price


def _finish(search: _Search, timer: _Timer) -> None:
    """Solve what the relaxation leaves open exactly: the likeliest pairs first, then more."""
    pairs = KERNEL * search.packing.cost.shape[0]
    while not search.optimal() and not timer.over():
        kept, everything = _open(search, int(pairs))
        found, proven = timer.solve(search.packing, kept)
        if found is not None:
            search.take(found)
        if not proven or everything:
            search.proven = proven and everything
            return
        pairs *= 2


def _open(search: _Search, pairs: int) -> tuple[Mask, bool]:
    """Return the likeliest pairs, and whether no better assignment can use another."""
    packing = search.packing
    open_to: Mask = np.isfinite(packing.cost)
    if search.best is not None:
        open_to &= search.reduced <= search.cost - search.linear
    mean = search.dual.mean.T
    # Equally usual pairs are told apart by their reduced cost, which decides nothing else.
    likely = np.where(open_to, mean - 1e-3 / (1.0 + 1.0 / (search.reduced + 1e-9)), -np.inf)
    everything = int(open_to.sum()) <= pairs
    kept = open_to
    if not everything:
        kept = likely >= np.partition(likely, -pairs, axis=None)[-pairs]
    if search.best is not None:
        kept = kept.copy()
        kept[np.arange(kept.shape[0]), search.best] = True
    alone = ~kept.any(axis=1)
    kept[alone, likely[alone].argmax(axis=1)] = True
    return kept, everything
