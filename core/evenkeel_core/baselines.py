"""What the method is compared with: every claim can be checked against these in one run.

Each takes a `Problem` and returns the server number of each subtask, NOWHERE where it may run
on none. Pins are honoured. None of them looks at the potential of the game.
"""

from collections.abc import Callable

import numpy as np

from evenkeel_core.problems import NOWHERE, Floats, Ints, Problem
from evenkeel_core.timetabling import upward_rank

Baseline = Callable[[Problem], Ints]


def _feasible(problem: Problem, subtask: int) -> Ints:
    """Return the servers a subtask may run on, in the order of their numbers."""
    servers = np.flatnonzero(np.isfinite(problem.cost[subtask]))
    pinned = problem.pinned[subtask]
    return servers if pinned == NOWHERE else servers[servers == pinned]


def _one_by_one(
    problem: Problem, choose: Callable[[int, Ints, Ints], int], order: Ints | None = None
) -> Ints:
    """Give each subtask the server that `choose(subtask, servers, assignment)` names."""
    assignment = np.full(len(problem.subtasks), NOWHERE, dtype=np.int64)
    for subtask in range(len(problem.subtasks)) if order is None else order.tolist():
        servers = _feasible(problem, subtask)
        if servers.size:
            assignment[subtask] = choose(subtask, servers, assignment)
    return assignment


def random(problem: Problem, generator: np.random.Generator | None = None) -> Ints:
    """Any server that may run the subtask, each as likely."""
    draw = generator or np.random.default_rng(0)
    return _one_by_one(problem, lambda _, servers, __: int(draw.choice(servers)))


def round_robin(problem: Problem) -> Ints:
    """The feasible servers in turn."""
    return _one_by_one(problem, lambda t, servers, _: int(servers[t % servers.size]))


def best_fit(problem: Problem) -> Ints:
    """The server that has least left once the subtask is there, over all resources."""
    taken = np.zeros_like(problem.capacity)

    def choose(subtask: int, servers: Ints, _: Ints) -> int:
        demand = problem.demand[subtask, problem.kind[servers]]
        room = (problem.capacity[servers] - taken[servers] - demand) / np.maximum(
            problem.capacity[servers], 1
        )
        # What is over its capacity waits: such servers come last, the least over first.
        over = np.minimum(room, 0).sum(axis=1)
        best = int(servers[np.lexsort((room.sum(axis=1), -over))[0]])
        taken[best] += problem.demand[subtask, problem.kind[best]]
        return best

    return _one_by_one(problem, choose)


def default_scheduler(problem: Problem) -> Ints:
    """kube-scheduler's default scores: least allocated plus balanced allocation."""
    taken = np.zeros_like(problem.capacity)

    def choose(subtask: int, servers: Ints, _: Ints) -> int:
        demand = problem.demand[subtask, problem.kind[servers]]
        share = (taken[servers] + demand) / np.maximum(problem.capacity[servers], 1)
        score = (1 - share).clip(min=0).mean(axis=1) + 1 - share.std(axis=1)
        best = int(servers[np.argmax(score)])
        taken[best] += problem.demand[subtask, problem.kind[best]]
        return best

    return _one_by_one(problem, choose)


def even_split(problem: Problem) -> Ints:
    """As many subtasks to each server as to any other."""
    count = np.zeros(len(problem.servers))

    def choose(_: int, servers: Ints, __: Ints) -> int:
        best = int(servers[np.argmin(count[servers])])
        count[best] += 1
        return best

    return _one_by_one(problem, choose)


def _proportional(problem: Problem, share: Floats) -> Ints:
    """Work to each server in proportion to a share, whatever its speed."""
    given = np.zeros(len(problem.servers))

    def choose(subtask: int, servers: Ints, _: Ints) -> int:
        after = (given[servers] + problem.work[subtask]) / np.maximum(share[servers], 1e-12)
        best = int(servers[np.argmin(after)])
        given[best] += problem.work[subtask]
        return best

    return _one_by_one(problem, choose)


def memory_proportional(problem: Problem) -> Ints:
    """Work in proportion to the servers' memory, as exo and llama.cpp's default cut do."""
    if "memory" not in problem.resources:
        return even_split(problem)
    return _proportional(problem, problem.capacity[:, problem.resources.index("memory")].astype(float))


def water_filling(problem: Problem) -> Ints:
    """Work in proportion to the servers' rate, as Parallax fills layers."""
    return _proportional(problem, problem.rate)


def shared_queue(problem: Problem) -> Ints:
    """Whichever server is free first takes the next subtask, whatever it costs there."""
    free_at = problem.load / problem.rate

    def choose(subtask: int, servers: Ints, _: Ints) -> int:
        best = int(servers[np.argmin(free_at[servers])])
        free_at[best] += problem.cost[subtask, best]
        return best

    return _one_by_one(problem, choose)


def heft(problem: Problem) -> Ints:
    """Upward rank, then the earliest finish, a subtask at a time on each server, with insertion.

    References
    ----------
    Topcuoglu, Hariri, Wu, IEEE TPDS 13(3), 2002. DOI 10.1109/71.993206.
    """
    rank = upward_rank(problem)
    order = np.argsort(-rank, kind="stable")
    # A source ranks at least as high as its target, but not higher where both cost nothing.
    end = np.zeros(len(problem.subtasks))
    slots: list[list[tuple[float, float]]] = [[] for _ in problem.servers]
    incoming: dict[int, list[tuple[int, float]]] = {}
    for (source, target), moved, orders in zip(
        problem.edge.tolist(), problem.edge_bytes.tolist(), problem.dependency.tolist(), strict=True
    ):
        if orders:
            incoming.setdefault(target, []).append((source, moved))

    def choose(subtask: int, servers: Ints, assignment: Ints) -> int:
        ready = np.zeros(servers.size)
        for source, moved in incoming.get(subtask, ()):
            here = assignment[source]
            transfer = (
                problem.link_latency[here]
                + problem.link_latency[servers]
                + moved / np.minimum(problem.link_bandwidth[here], problem.link_bandwidth[servers])
            )
            ready = np.maximum(ready, end[source] + np.where(servers == here, 0.0, transfer))
        costs = problem.cost[subtask, servers]
        starts = np.array(
            [
                _gap(slots[server], at, cost)
                for server, at, cost in zip(servers, ready, costs, strict=True)
            ]
        )
        best = int(np.argmin(starts + costs))
        end[subtask] = starts[best] + costs[best]
        slots[int(servers[best])].append((float(starts[best]), float(end[subtask])))
        slots[int(servers[best])].sort()
        return int(servers[best])

    return _one_by_one(problem, choose, order)


def _gap(taken: list[tuple[float, float]], ready: float, length: float) -> float:
    """Return the earliest start, not before `ready`, at which a server is free so long."""
    at = ready
    for begin, end in taken:
        if at + length <= begin:
            break
        at = max(at, end)
    return at


ALL: dict[str, Baseline] = {
    "random": random,
    "round_robin": round_robin,
    "best_fit": best_fit,
    "default_scheduler": default_scheduler,
    "heft": heft,
    "even_split": even_split,
    "memory_proportional": memory_proportional,
    "water_filling": water_filling,
    "shared_queue": shared_queue,
}
