"""Which servers a subtask may still go to when its own is taken: the best others, in order.

kube-scheduler looks at a few servers only, and a plan says what came second. Both are asked for
every subtask of a plan at once, so the least loaded servers of each sort stand for their sort:
the best few of all are the first few of the best few sorts.
"""

from dataclasses import dataclass

import numpy as np

from evenkeel_core import game
from evenkeel_core.problems import NOWHERE, Array, Floats, Ints, Mask, Problem, blocks, sort_of


@dataclass(frozen=True, slots=True)
class Shortlists:
    """For each subtask, how its server compares with the others, all else staying put."""

    terms: Floats
    """(T, 3) cost, edge and load term of the utility on the subtask's own server."""
    servers: Ints
    """(T, count) its own server and the best others that ask the same of it, in order; NOWHERE
    where there are no more. A pod's requests are fixed when it is created."""
    runner_up: Ints
    """(T,) the best other server of all; NOWHERE where there is none."""
    regret: Floats
    """(T,) utility lost by taking the runner-up instead; 0 where there is none."""


def shortlists(
    problem: Problem, assignment: Ints, *, balance: float, scale: float, count: int
) -> Shortlists:
    """Compare every subtask's server with the others.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        A server for every subtask.
    balance, scale : float
        λ and ĉ of the utility.
    count : int
        Servers on a shortlist at most, the subtask's own included.

    Returns
    -------
    Shortlists
        Ties go to the lowest number.

    Notes
    -----
    O(T · (K + count² log count)) for subtasks without edges, O(S log S) for each that has some.
    """
    size = len(problem.subtasks)
    found = Shortlists(
        terms=np.stack(_terms(problem, assignment, balance, scale), axis=1),
        servers=np.full((size, max(1, count)), NOWHERE),
        runner_up=np.full(size, NOWHERE),
        regret=np.zeros(size),
    )
    found.servers[:, 0] = assignment
    free = problem.pinned == NOWHERE
    edged = np.zeros(size, dtype=bool)
    edged[problem.edge] = True
    sorts = _Sorts(problem, assignment, balance, scale, count)
    plain, wired = np.flatnonzero(free & ~edged), np.flatnonzero(free & edged)
    for block in blocks(plain.size, sorts.first.size):
        sorts.compare(plain[block], found)
    for block in blocks(wired.size, len(problem.servers)):
        chosen = wired[block]
        parts = game.utilities(problem, assignment, balance=balance, scale=scale, subtasks=chosen)
        for subtask, utility in zip(chosen.tolist(), parts[0] + parts[1] + parts[2], strict=True):
            _compare(problem, assignment, subtask, utility, found)
    return found


def _terms(
    problem: Problem, assignment: Ints, balance: float, scale: float
) -> tuple[Floats, Floats, Floats]:
    """Return the terms of each subtask's utility on its own server, each (T,)."""
    every = np.arange(assignment.size)
    edges = np.zeros(assignment.size)
    if problem.edge.size:
        # An edge counts for both of its ends.
        seconds = game.edge_seconds(problem, assignment)
        for end in problem.edge.T:
            np.add.at(edges, end, seconds)
    load = game.loads(problem, assignment)[assignment] - problem.work
    cost, rate = problem.cost_at(every, assignment), problem.rate[assignment]
    return game.terms(cost, edges, problem.work, load, rate, balance=balance, scale=scale)


class _Sorts:
    """Servers that differ in nothing but their load, each sort from its least loaded on."""

    def __init__(
        self, problem: Problem, assignment: Ints, balance: float, scale: float, count: int
    ) -> None:
        self._problem, self._assignment = problem, assignment
        self._scale = scale
        self._others = max(1, count) - 1
        self._sort, self.first = sort_of(problem, problem.rate)
        self._kind = problem.kind[self.first]
        self._slope = balance / problem.rate[self.first]
        # One more than are wanted: a subtask's own server may be among them.
        depth = self._others + 2
        load = game.loads(problem, assignment)
        order = np.lexsort((load, self._sort))
        begin = np.searchsorted(self._sort[order], np.arange(self.first.size))
        place = np.arange(order.size) - begin[self._sort[order]]
        near = place < depth
        self._ranked = np.full((self.first.size, depth), NOWHERE)
        self._load = np.full((self.first.size, depth), np.inf)
        where = self._sort[order[near]], place[near]
        self._ranked[where] = order[near]
        self._load[where] = load[order[near]]
        # The sort that comes p-th can not give more than what the p before it leave open.
        self._pick = np.array(
            [(p, r) for p in range(self._others) for r in range(self._others - p + 1)],
            dtype=np.int64,
        ).reshape(-1, 2)

    def compare(self, subtasks: Ints, found: Shortlists) -> None:
        """Fill in the rows of subtasks without edges."""
        here = self._assignment[subtasks]
        cost = self._problem.seconds[self._problem.row[subtasks]][:, self._kind] / self._scale
        cost += self._problem.work[subtasks][:, None] * self._slope
        price = cost + self._slope * self._load[:, 0]
        rows, own = np.arange(subtasks.size), self._sort[here]
        head = np.broadcast_to(self._ranked[:, 0], price.shape).copy()
        second = self._ranked[own, 0] == here
        price[rows[second], own[second]] = (
            cost[rows, own] + self._slope[own] * self._load[own, 1]
        )[second]
        head[rows[second], own[second]] = self._ranked[own, 1][second]

        least = price.min(axis=1, initial=np.inf)
        some = np.isfinite(least)
        best = np.where(price == least[:, None], head, len(self._problem.servers)).min(axis=1)
        found.runner_up[subtasks[some]] = best[some]
        utility = found.terms[subtasks].sum(axis=1)
        found.regret[subtasks[some]] = (utility + least)[some]
        if self._others:
            price[~self._alike(subtasks, here)] = np.inf
            found.servers[subtasks, 1:] = self._nearest(cost, price, here)

    def _alike(self, subtasks: Ints, here: Ints) -> Mask:
        """Return on which sorts each subtask asks for the same as where it is."""
        need, kind = self._problem.need[subtasks], self._problem.kind[here]
        pairs, of = np.unique(np.stack([need, kind]), axis=1, return_inverse=True)
        needs = self._problem.needs[pairs[0]]
        same = needs[:, self._kind] == needs[np.arange(pairs.shape[1]), pairs[1]][:, None]
        found: Mask = same.all(axis=2)[of.reshape(-1)]
        return found

    def _nearest(self, cost: Floats, price: Floats, here: Ints) -> Ints:
        """Return the best servers in order, (subtasks, others), by the price of each sort."""
        wanted = min(self._others, price.shape[1])
        sorts = _least(price, wanted)
        sorts = np.take_along_axis(
            sorts, np.argsort(np.take_along_axis(price, sorts, axis=1), axis=1, kind="stable"), 1
        )
        p, r = self._pick[self._pick[:, 0] < wanted].T
        chosen = sorts[:, p]
        server, load = self._ranked[chosen, r], self._load[chosen, r]
        price = np.take_along_axis(np.where(np.isfinite(price), cost, np.inf), chosen, axis=1)
        price += self._slope[chosen] * load
        price[(server == here[:, None]) | (server == NOWHERE)] = np.inf
        order = np.lexsort((server, price))[:, : self._others]
        found = np.full((here.size, self._others), NOWHERE)
        found[:, : order.shape[1]] = np.where(
            np.isfinite(np.take_along_axis(price, order, axis=1)),
            np.take_along_axis(server, order, axis=1),
            NOWHERE,
        )
        return found


def _least(values: Floats, count: int) -> Ints:
    """Return the columns of the least values of each row, in their order; ties to the first."""
    limit = np.partition(values, count - 1, axis=1)[:, count - 1 : count]
    less, equal = values < limit, values == limit
    keep = less | (equal & (np.cumsum(equal, axis=1) <= count - less.sum(axis=1)[:, None]))
    return np.nonzero(keep)[1].reshape(len(values), count)


def _compare(
    problem: Problem, assignment: Ints, subtask: int, utility: Floats, found: Shortlists
) -> None:
    """Fill in the row of one subtask by its utility on every server."""
    here = int(assignment[subtask])
    runner = _best(utility, here, 1)
    if runner.size:
        found.runner_up[subtask] = runner[0]
        found.regret[subtask] = utility[here] - utility[runner[0]]
    taken = problem.needs[problem.need[subtask], problem.kind]
    alike = (taken == taken[here]).all(axis=1)
    order = _best(np.where(alike, utility, -np.inf), here, found.servers.shape[1] - 1)
    found.servers[subtask, 1 : order.size + 1] = order


def _best(utility: Array, here: int, count: int) -> Ints:
    """Return the best other servers in order, ties by number."""
    others = utility.copy()
    others[here] = -np.inf
    possible = int(np.isfinite(others).sum())
    order: Ints = np.argsort(-others, kind="stable")[: min(count, possible)]
    return order
