"""Dives: whole assignments out of the Lagrangian relaxation, a few subtasks fixed at a time.

What the knapsacks agree on is fixed, then they are packed anew with what is left, at worths that
follow. So the last subtasks are still placed by what all servers can hold, where rounding all of
them at once ends with too much on some.

Source: Sadykov, Vanderbeck, Pessoa, Tahiri and Uchoa, Primal Heuristics for Branch and Price
(INFORMS Journal on Computing 2019), with subgradient steps for their column generation.
"""

import numpy as np

from evenkeel_core.packings import Dual, knapsacks
from evenkeel_core.problems import Ints

PART = 0.05
"""Part of the open subtasks fixed between dual steps: half of it gave little and took twice as
long."""
SURE = 0.98
"""All pairs packed this often are fixed at once."""
STEPS = 2
"""Dual steps after each fixing."""
MEMORY = 0.3
"""Weight of the newest knapsacks: they change faster than while nothing is fixed."""
REACH = (3e-4, 3e-3)
"""Length of a step, as part of the bound: a dive draws its own between these. Where the bound is
near the optimum short ones were better, where it is far long ones."""


def dive(dual: Dual, random: np.random.Generator, noise: float) -> Ints:
    """Return the server of each subtask, shape (T,); some may hold too much.

    Parameters
    ----------
    dual : Dual
        Not changed.
    random : numpy.random.Generator
    noise : float
        What at most is added to how often a pair was packed, 0 to 1, so that dives differ.
    """
    dived = _Dive(dual, float(np.exp(random.uniform(*np.log(REACH)))))
    while dived.open.size and dived.fix(random, noise):
        for _ in range(STEPS):
            if not dived.open.size or dived.settled():
                break
    dived.place[dived.open] = dived.mean[:, dived.open].argmax(axis=0)
    return dived.place


class _Dive:
    """What is fixed, and the relaxation of the rest."""

    def __init__(self, dual: Dual, reach: float) -> None:
        self._dual = dual
        self._reach = reach * abs(dual.bound)
        self._worth = dual.worth.copy()
        self._left = dual.capacity.copy()
        self.mean = np.where(np.isfinite(dual.cost), dual.mean, -1.0)
        self.place = np.full(self._worth.size, -1)
        self.open = np.arange(self._worth.size)

    def fix(self, random: np.random.Generator, noise: float) -> bool:
        """Fix what is packed most often where it fits; tell whether anything was."""
        mean = self.mean[:, self.open]
        mean = mean + noise * random.random(mean.shape) * (mean > 0)
        weight = self._dual.weight[:, self.open]
        mean = np.where(weight <= self._left[:, None], mean, -1.0)
        server = mean.argmax(axis=0)
        often = mean.max(axis=0)
        number = max(int(np.ceil(PART * often.size)), int((often > SURE).sum()))
        fixed = False
        for at in np.argsort(-often, kind="stable")[:number].tolist():
            if often[at] >= 0 and weight[server[at], at] <= self._left[server[at]]:
                self.place[self.open[at]] = server[at]
                self._left[server[at]] -= weight[server[at], at]
                fixed = True
        self.open = np.flatnonzero(self.place < 0)
        return fixed

    def settled(self) -> bool:
        """Take a dual step for the open subtasks; tell whether each is packed once."""
        at, dual = self.open, self._dual
        profit = self._worth[at] - dual.cost[:, at]
        packed, _ = knapsacks(profit, dual.weight[:, at], self._left)
        missing = 1.0 - packed.sum(axis=0)
        square = float(missing @ missing)
        if not square:
            self.mean[:, at] = packed
            return True
        self.mean[:, at] += MEMORY * (packed - self.mean[:, at])
        self._worth[at] += self._reach / square * missing
        return False
