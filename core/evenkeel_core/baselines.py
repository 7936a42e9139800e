"""What the method is compared with: every claim can be checked against these in one run.

Each takes a `Problem` and returns the server of each subtask, NOWHERE where it may run on none.
Hard checks, pins and the room of coupled sets are honoured, so that all are judged by the same
verifier; else each does what it is named after and nothing better.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from evenkeel_core import inserting
from evenkeel_core.problems import (
    NOWHERE,
    Array,
    Floats,
    Ints,
    Problem,
    allowed,
    units,
)
from evenkeel_core.quantities import CPU, MEMORY

Baseline = Callable[[Problem], Ints]
Choice = Callable[[int, Ints], int]
"""Picks one of the servers a subtask may go to; both are numbers."""


def random(problem: Problem, seed: int = 0) -> Ints:
    """Place each subtask on any server that may run it, each as likely."""
    generator = np.random.default_rng(seed)
    return _one_by_one(problem, lambda _, servers: int(generator.choice(servers)))


def round_robin(problem: Problem) -> Ints:
    """Go round the servers, skipping those that may not run the subtask."""
    turn = 0

    def choose(_: int, servers: Ints) -> int:
        nonlocal turn
        server = int(servers[np.searchsorted(servers, turn) % servers.size])
        turn = server + 1
        return server

    return _one_by_one(problem, choose)


def even_split(problem: Problem) -> Ints:
    """Give each server as many subtasks as any other."""
    return _proportional(problem, np.ones(len(problem.subtasks)), np.ones(len(problem.servers)))


def memory_proportional(problem: Problem) -> Ints:
    """Give each server work in proportion to its memory, as exo cuts a model over its ring [1]_.

    References
    ----------
    .. [1] exo-explore/exo, ``ring_memory_weighted_partitioning_strategy.py``.
    """
    if MEMORY not in problem.resources:
        return even_split(problem)
    memory = problem.capacity[:, problem.resources.index(MEMORY)].astype(float)
    return _proportional(problem, problem.work, memory)


def water_filling(problem: Problem) -> Ints:
    """Fill the lowest relative load first, the heaviest subtask first."""
    heaviest = np.argsort(-problem.work, kind="stable").tolist()
    return _proportional(problem, problem.work, problem.rate, problem.load, heaviest)


def best_fit(problem: Problem) -> Ints:
    """Take the server with the least left over; the head of the queue waits for room."""
    return _as_room_falls_free(problem, lambda left, size: -(left / size).sum(axis=1))


def default_scheduler(problem: Problem) -> Ints:
    """Score like kube-scheduler: least allocated plus balanced allocation, 100 points each [1]_.

    Its other default plugins give the same points to all servers where nobody asks for more.

    References
    ----------
    .. [1] kubernetes/kubernetes, ``pkg/scheduler/framework/plugins/noderesources``.
    """
    columns = [k for k, name in enumerate(problem.resources) if name in (CPU, MEMORY)]
    columns = columns or list(range(len(problem.resources)))

    def score(left: Floats, size: Floats) -> Floats:
        free = left[:, columns] / size[:, columns]
        least = np.floor(np.floor(free * 100).mean(axis=1))
        points: Floats = least + np.floor((1 - free.std(axis=1)) * 100)
        return points

    return _as_room_falls_free(problem, score)


def min_cost_flow(problem: Problem) -> Ints:
    """Assign by least cost over places and waves, within the shortest deadline that allows it.

    A server offers its places in waves; the k-th wave of a subtask costs k times its seconds
    there, which is the flow that makes the mean end least [1]_. Pairs that would end after the
    deadline are left out; it is halved towards the shortest that leaves a flow. Coupled sets are
    no part of the flow; they sit evenly, and pins are kept. For hundreds of subtasks, not more:
    the table has a column for each place and wave.

    References
    ----------
    .. [1] W. A. Horn, "Minimizing average flow time with parallel machines", Operations Research
       21 (1973), 846-847, :doi:`10.1287/opre.21.3.846`.
    """
    assignment = even_split(problem)
    alone = np.array([int(u[0]) for u in units(problem) if u.size == 1], dtype=np.int64)
    cost = np.where(allowed(problem), problem.cost, np.inf)[alone]
    alone, cost = alone[np.isfinite(cost).any(axis=1)], cost[np.isfinite(cost).any(axis=1)]
    if not alone.size:
        return assignment
    low, high = 0.0, max(float(np.where(np.isfinite(cost), cost, 0.0).max()) * alone.size, 1e-9)
    places = _places(problem, alone)
    for _ in range(HALVINGS):
        middle = float(np.sqrt(max(low, high / 1e6) * high))
        found = _flow(cost, places, middle)
        if found is None:
            low = middle
        else:
            high, assignment[alone] = middle, found
    return assignment


HALVINGS = 30
"""Of the logarithm of a deadline: from a millionfold to less than a ten-millionth."""


def _places(problem: Problem, subtasks: Ints) -> Ints:
    """Return how many of its subtasks a server holds at a time, by what they take in the mean."""
    size = np.maximum(problem.capacity, 1)
    may = allowed(problem)[subtasks]
    taken = (problem.demand[subtasks][:, problem.kind] / size).max(axis=2)
    share = np.where(may, taken, 0.0).sum(axis=0) / np.maximum(may.sum(axis=0), 1)
    places: Ints = np.floor(1 / np.maximum(share, 1 / len(subtasks)) + 1e-9).astype(np.int64)
    return np.maximum(1, places)


def _flow(cost: Floats, places: Ints, deadline: float) -> Ints | None:
    """Return the server of each subtask in the flow of least cost, None if none ends in time."""
    least = np.where(np.isfinite(cost), cost, np.inf).min(axis=0)
    with np.errstate(divide="ignore"):
        waves = np.minimum(np.floor(deadline / least), np.ceil(len(cost) / places)).astype(np.int64)
    server = np.repeat(np.arange(places.size), places * waves)
    first = np.repeat(np.cumsum(places * waves) - places * waves, places * waves)
    wave = (np.arange(server.size) - first) // places[server] + 1
    after = cost[:, server] * wave
    after = np.where(after <= deadline, after, np.inf)
    if server.size < len(cost) or not np.isfinite(after).any(axis=1).all():
        return None
    try:
        row, column = linear_sum_assignment(after)
    except ValueError:  # no complete assignment
        return None
    found: Ints = server[column[np.argsort(row)]]
    return found


def pull_queue(problem: Problem) -> Ints:
    """Let each server take the next subtask that fits whenever it has room: a shared queue.

    Pinned and coupled subtasks are no part of the queue; they sit evenly.
    """
    pulled = {int(unit[0]) for unit in units(problem) if unit.size == 1}
    queue = np.array([t for t in sorted(pulled) if problem.pinned[t] == NOWHERE], dtype=np.int64)
    assignment = even_split(problem)
    assignment[queue] = NOWHERE
    may, free = allowed(problem), problem.capacity.copy()
    # (moment, pulls so far, server, what ended): the server that has pulled least goes first.
    events = [(0.0, 0, server, NOWHERE) for server in range(len(problem.servers))]
    while events and queue.size:
        now, pulls, server, ended = heapq.heappop(events)
        demand = problem.needs[problem.need, problem.kind[server]]
        if ended != NOWHERE:
            free[server] += demand[ended]
        fits = may[queue, server] & (demand[queue] <= free[server]).all(axis=1)
        if fits.any():
            place = int(np.argmax(fits))
            taken = int(queue[place])
            queue = np.delete(queue, place)
            assignment[taken] = server
            free[server] -= demand[taken]
            end = now + float(problem.cost_at(taken, server))
            heapq.heappush(events, (end, pulls + 1, server, taken))
            heapq.heappush(events, (now, pulls + 1, server, NOWHERE))
    return assignment


def heft(problem: Problem) -> Ints:
    """Take the servers of Heterogeneous Earliest Finish Time: `inserting.heft` has its times."""
    return inserting.heft(problem).assignment


ALL: dict[str, Baseline] = {
    "random": random,
    "round_robin": round_robin,
    "even_split": even_split,
    "memory_proportional": memory_proportional,
    "water_filling": water_filling,
    "best_fit": best_fit,
    "default_scheduler": default_scheduler,
    "min_cost_flow": min_cost_flow,
    "pull_queue": pull_queue,
    "heft": heft,
}
"""Every baseline by name, the simplest first."""


def _one_by_one(problem: Problem, choose: Choice, order: Iterable[int] | None = None) -> Ints:
    """Give each subtask the server that `choose` picks from those it may go to."""
    assignment = np.full(len(problem.subtasks), NOWHERE, dtype=np.int64)
    may = allowed(problem)
    mates = {int(t): unit for unit in units(problem) if unit.size > 1 for t in unit}
    for subtask in range(len(problem.subtasks)) if order is None else order:
        servers = np.flatnonzero(may[subtask])
        if subtask in mates:
            servers = servers[_beside(problem, subtask, mates[subtask], servers, assignment)]
        if servers.size:
            assignment[subtask] = choose(subtask, servers)
    return assignment


def _beside(problem: Problem, subtask: int, mates: Ints, servers: Ints, assignment: Ints) -> Array:
    """Return which servers hold a subtask beside the members of its set that are there."""
    taken = problem.needs[problem.need[subtask], problem.kind[servers]]
    for mate in mates[assignment[mates] != NOWHERE].tolist():
        taken[servers == assignment[mate]] += problem.needs[
            problem.need[mate], problem.kind[assignment[mate]]
        ]
    fits: Array = (taken <= problem.capacity[servers]).all(axis=1)
    return fits


def _proportional(
    problem: Problem,
    amount: Floats,
    share: Floats,
    given: Floats | None = None,
    order: Iterable[int] | None = None,
) -> Ints:
    """Hand out an amount of each subtask so that servers get it in proportion to a share."""
    total = np.zeros(len(problem.servers)) if given is None else given.copy()

    def choose(subtask: int, servers: Ints) -> int:
        after = (total[servers] + amount[subtask]) / np.maximum(share[servers], 1e-12)
        server = int(servers[np.argmin(after)])
        total[server] += amount[subtask]
        return server

    return _one_by_one(problem, choose, order)


def _as_room_falls_free(problem: Problem, score: Callable[[Floats, Floats], Floats]) -> Ints:
    """Place units in their order by the room left at the moment; the first that waits blocks.

    `score` gets what would be left and the capacity, both (servers, R).
    """
    assignment = np.full(len(problem.subtasks), NOWHERE, dtype=np.int64)
    may, size = allowed(problem), np.maximum(problem.capacity, 1).astype(float)
    free = problem.capacity.copy()
    running: list[tuple[float, int]] = []
    now = 0.0
    for unit in units(problem):
        while not _seated(problem, unit, assignment, may, free, size, score) and running:
            now = running[0][0]
            for subtask in _ended(running, now):
                free[assignment[subtask]] += _taken(problem, subtask, assignment)
        for subtask in unit[assignment[unit] != NOWHERE].tolist():
            end = now + float(problem.cost_at(subtask, assignment[subtask]))
            heapq.heappush(running, (end, subtask))
    return assignment


def _seated(
    problem: Problem,
    unit: Ints,
    assignment: Ints,
    may: Array,
    free: Ints,
    size: Floats,
    score: Callable[[Floats, Floats], Floats],
) -> bool:
    """Seat all members of a unit where they score best, or none; change `free`."""
    for position, subtask in enumerate(unit.tolist()):
        servers = np.flatnonzero(may[subtask])
        left = free[servers] - problem.needs[problem.need[subtask], problem.kind[servers]]
        fits = (left >= 0).all(axis=1)
        servers, left = servers[fits], left[fits]
        if not servers.size:
            for other in unit[:position].tolist():
                free[assignment[other]] += _taken(problem, other, assignment)
                assignment[other] = NOWHERE
            return False
        server = int(servers[np.argmax(score(left.astype(float), size[servers]))])
        assignment[subtask] = server
        free[server] -= _taken(problem, subtask, assignment)
    return True


def _taken(problem: Problem, subtask: int, assignment: Ints) -> Ints:
    taken: Ints = problem.needs[problem.need[subtask], problem.kind[assignment[subtask]]]
    return taken


def _ended(running: list[tuple[float, int]], now: float) -> Iterator[int]:
    while running and running[0][0] <= now:
        yield heapq.heappop(running)[1]
