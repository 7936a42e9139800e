"""Descent by shifts, swaps and chains, with too much on a server allowed at a price.

All changes of cost are kept as arrays and renewed only for servers that a move touched: a step
costs T · T / S and not T · T.
"""

import numpy as np

from evenkeel_core.packings import Mask, Packing, slack
from evenkeel_core.problems import Array, Floats, Ints

LEAST = 1e-9
"""A change of cost above minus this is rounding."""
DEARER, CHEAPER = 1.3, 0.85
"""The price of too much on a server: raised where there is, lowered where there is none."""


class Board:
    """An assignment, and what each exchange would change of its cost.

    Attributes
    ----------
    place : ndarray, shape (T,)
        The server of each subtask.
    """

    def __init__(self, packing: Packing, place: Ints, price: Floats) -> None:
        subtasks, servers = packing.cost.shape
        self._capacity = packing.capacity
        self._slack = slack(packing)
        self._cost = np.ascontiguousarray(packing.cost.T)
        self._demand = np.ascontiguousarray(packing.demand.transpose(2, 1, 0))  # (K, S, T)
        self._price = price.copy()
        self.place = place.copy()
        self._load = np.zeros(packing.capacity.shape)
        np.add.at(self._load, place, packing.demand[np.arange(subtasks), place])
        self._enter = np.empty((servers, subtasks))
        """Change at a server if a subtask came in; inf at its own."""
        self._leave = np.empty(subtasks)
        """Change at its server if a subtask left."""
        self._trade = np.empty((subtasks, subtasks))
        """Change at a subtask's server if it left and another, the column, came in."""
        self._low = np.full(subtasks, np.inf)
        """The best change if a subtask is pushed out, by whom: with the pusher's leaving."""
        self._pusher = np.zeros(subtasks, dtype=np.int64)
        self._dirty: Mask = np.ones(servers, dtype=bool)

    def descend(self) -> None:
        """Make exchanges until none lowers the cost with its prices."""
        while self._dirty.any():
            servers = np.flatnonzero(self._dirty)
            tenants = np.flatnonzero(self._dirty[self.place])
            self._renew(servers, tenants)
            self._dirty[:] = False
            self._exchange(*self._candidates(tenants))

    def raise_prices(self) -> bool:
        """Raise the price where there is too much; tell whether there is."""
        over = self._load > self._capacity + self._slack
        self._price[over] *= DEARER
        self._dirty |= over.any(axis=1)
        return bool(over.any())

    def move(self, subtask: int, server: int) -> None:
        """Put a subtask elsewhere, whatever it costs, and make both servers' room cheaper."""
        ends = [self.place[subtask], server]
        self._put(subtask, server)
        self._price[ends] *= CHEAPER

    def reset(self, place: Ints) -> None:
        """Go back to another assignment; prices stay."""
        for subtask in np.flatnonzero(self.place != place).tolist():
            self._put(subtask, int(place[subtask]))

    def _put(self, subtask: int, server: int) -> None:
        old = int(self.place[subtask])
        self._load[old] -= self._demand[:, old, subtask]
        self._load[server] += self._demand[:, server, subtask]
        self.place[subtask] = server
        self._dirty[[old, server]] = True

    def _renew(self, servers: Ints, tenants: Ints) -> None:
        """Compute anew what the load, the price or the set of these servers enters into."""
        place, over = self.place[tenants], self._load - self._capacity
        cost = self._cost[place, tenants]
        enter, leave = self._cost[servers].copy(), -cost
        trade = self._cost[place] - cost[:, None]
        for demand, excess, price in zip(self._demand, over.T, self._price.T, strict=True):
            paid = price * np.maximum(excess, 0.0)
            held = excess[place] - demand[place, tenants]
            more = np.maximum(excess[servers, None] + demand[servers], 0.0)
            enter += price[servers, None] * more - paid[servers, None]
            leave += price[place] * np.maximum(held, 0.0) - paid[place]
            other = np.maximum(held[:, None] + demand[place], 0.0)
            trade += price[place, None] * other - paid[place, None]
        trade[place[:, None] == self.place] = np.inf
        self._enter[servers], self._leave[tenants], self._trade[tenants] = enter, leave, trade
        self._enter[place, tenants] = np.inf
        self._renew_pushers(tenants)

    def _renew_pushers(self, tenants: Ints) -> None:
        touched = np.zeros(self.place.size, dtype=bool)
        touched[tenants] = True
        stale = np.flatnonzero(touched | touched[self._pusher])
        pushed = self._trade[stale] + self._leave
        self._pusher[stale] = pushed.argmin(axis=1)
        self._low[stale] = pushed[np.arange(stale.size), self._pusher[stale]]
        rest = np.flatnonzero(~(touched | touched[self._pusher]))
        if not (rest.size and tenants.size):
            return
        pushed = self._trade[np.ix_(rest, tenants)] + self._leave[tenants]
        best = pushed.argmin(axis=1)
        low = pushed[np.arange(rest.size), best]
        lower = low < self._low[rest]
        self._low[rest[lower]], self._pusher[rest[lower]] = low[lower], tenants[best[lower]]

    def _candidates(self, tenants: Ints) -> tuple[Floats, Array]:
        """Return the changes < 0 and, a row each, (subtask, server, other or -1, its server)."""
        shift = self._enter + self._leave
        swap = self._trade[tenants] + self._trade[:, tenants].T
        onward = self._enter.argmin(axis=0)
        chain = self._low + self._enter[onward, np.arange(onward.size)]
        server, subtask = np.nonzero(shift < -LEAST)
        row, other = np.nonzero(swap < -LEAST)
        pushed = np.flatnonzero((chain < -LEAST) & (self.place[self._pusher] != onward))
        nobody = np.full(subtask.size, -1)
        first, third = tenants[row], self._pusher[pushed]
        moves = np.concatenate([
            np.stack([subtask, server, nobody, nobody], axis=1),
            np.stack([first, self.place[other], other, self.place[first]], axis=1),
            np.stack([third, self.place[pushed], pushed, onward[pushed]], axis=1),
        ])  # fmt: skip
        changes = np.concatenate([shift[server, subtask], swap[row, other], chain[pushed]])
        return changes, moves

    def _exchange(self, changes: Floats, moves: Array) -> None:
        """Make the best moves of those that touch no server twice."""
        few = 4 * self._dirty.size
        if changes.size > few:
            best = np.argpartition(changes, few)[:few]
            changes, moves = changes[best], moves[best]
        for subtask, server, other, onward in moves[np.argsort(changes, kind="stable")].tolist():
            ends = {int(self.place[subtask]), server, onward if other >= 0 else server}
            if any(self._dirty[end] for end in ends):
                continue
            self._put(subtask, server)
            if other >= 0:
                self._put(other, onward)
