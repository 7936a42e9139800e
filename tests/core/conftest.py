"""Random problems for the tests of the solvers, all of them feasible, all from a seed."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from evenkeel_core.jobs import Overlap
from evenkeel_core.pipelines import Candidate
from evenkeel_core.problems import NOWHERE, Problem

MakeProblem = Callable[..., Problem]


def problem_from(
    cost: list[list[float]],
    *,
    work: list[float] | None = None,
    rate: list[float] | None = None,
    capacity: int = 1,
    edges: list[tuple[int, int, float]] | None = None,
    group: list[int] | None = None,
    pinned: list[int] | None = None,
    dependency: bool = True,
) -> Problem:
    """Return a problem written out by hand: one resource, each subtask takes one of it."""
    seconds = np.array(cost, dtype=float)
    tasks, servers = seconds.shape
    joined = edges or []
    return Problem.of_pairs(
        subtasks=tuple(f"t{number}" for number in range(tasks)),
        servers=tuple(f"s{number}" for number in range(servers)),
        resources=("slots",),
        cost=seconds,
        compute=seconds.copy(),
        measured=np.isfinite(seconds),
        demand=np.ones((tasks, 1, 1), dtype=np.int64),
        kind=np.zeros(servers, dtype=np.int64),
        capacity=np.full((servers, 1), capacity, dtype=np.int64),
        work=np.array(work or [1.0] * tasks, dtype=float),
        rate=np.array(rate or [1.0] * servers, dtype=float),
        load=np.zeros(servers),
        group=np.array(group or list(range(tasks)), dtype=np.int64),
        pinned=np.array(pinned or [NOWHERE] * tasks, dtype=np.int64),
        edge=np.array([edge[:2] for edge in joined], dtype=np.int64).reshape(-1, 2),
        edge_bytes=np.array([edge[2] for edge in joined], dtype=float),
        dependency=np.full(len(joined), dependency),
        link_bandwidth=np.ones(servers),
        link_latency=np.zeros(servers),
    )


def random_problem(
    seed: int,
    *,
    tasks: int = 12,
    servers: int = 5,
    kinds: int | None = None,
    rank: int = 2,
    edges: float = 0.0,
    sets: int = 0,
    pinned_sets: bool = False,
    pins: float = 0.0,
    measured: float = 1.0,
    infeasible: float = 0.1,
) -> Problem:
    """Return a random problem in which every unit fits some server.

    The log of its compute times has the given rank beyond row and column means; `edges` and
    `infeasible` are densities, `sets` the number of coupled pairs among the first subtasks.
    """
    draw = np.random.default_rng(seed)
    kinds = min(servers, kinds or servers)
    kind = np.concatenate([np.arange(kinds), draw.integers(0, kinds, servers - kinds)])
    capacity = draw.integers(20, 61, (kinds, 3))
    demand = np.repeat(draw.integers(1, 10, (tasks, 1, 3)), kinds, axis=1)
    demand += draw.integers(0, 2, (1, kinds, 3))

    work = 10 * np.exp(draw.normal(0, 0.7, tasks))
    speed = np.exp(draw.normal(0, 0.7, kinds))
    special = draw.normal(0, 0.3, (tasks, rank)) @ draw.normal(0, 0.6, (rank, kinds))
    compute = (work[:, None] / speed * np.exp(special))[:, kind]
    possible = draw.random((tasks, servers)) >= infeasible
    possible[np.arange(tasks), draw.integers(0, servers, tasks)] = True

    group = np.arange(tasks)
    group[1 : 2 * sets : 2] = group[: 2 * sets : 2]
    pinned = np.where(draw.random(tasks) < pins, draw.integers(0, servers, tasks), NOWHERE)
    if pinned_sets:
        pinned[: 2 * sets] = np.arange(2 * sets) % servers
    possible[: 2 * sets] = True
    fixed = np.flatnonzero(pinned != NOWHERE)
    possible[fixed] = False
    possible[fixed, pinned[fixed]] = True

    first, second = np.triu_indices(tasks, k=1)
    chosen = (draw.random(first.size) < edges) & (group[first] != group[second])
    # Between units edges go from lower to higher groups, so that sets make no circle.
    chosen &= group[first] < group[second]
    coupled = np.arange(0, 2 * sets, 2)
    edge = np.concatenate(
        [
            np.column_stack([first[chosen], second[chosen]]),
            np.column_stack([coupled, coupled + 1]),
        ]
    )
    compute = np.where(possible, compute, np.inf)
    return Problem.of_pairs(
        subtasks=tuple(f"t{number:04}" for number in range(tasks)),
        servers=tuple(f"s{number:04}" for number in range(servers)),
        resources=("cpu", "memory", "slots"),
        cost=compute + draw.uniform(0, 5, servers),
        compute=compute,
        measured=possible & (draw.random((tasks, servers)) < measured),
        demand=demand,
        kind=kind,
        capacity=capacity[kind],
        work=work,
        rate=speed[kind],
        load=draw.uniform(0, 20, servers),
        group=group,
        pinned=pinned,
        edge=edge.astype(np.int64),
        edge_bytes=draw.uniform(1e6, 1e9, len(edge)),
        dependency=np.arange(len(edge)) < np.count_nonzero(chosen),
        link_bandwidth=draw.choice([125e6, 1.25e9], servers),
        link_latency=draw.uniform(1e-4, 1e-3, servers),
    )


@pytest.fixture(scope="session")
def problem_of() -> MakeProblem:
    """Return `problem_from`: a problem from its cost matrix."""
    return problem_from


@pytest.fixture(scope="session")
def make_problem() -> MakeProblem:
    """Return `random_problem`: a random problem from a seed."""
    return random_problem


def every_pipeline(
    layers: int, candidates: Sequence[Candidate], overlap: Overlap
) -> Iterator[tuple[int, float]]:
    """Yield every pipeline over all of these servers: number of stages and seconds.

    Written from the definition: every order, every place to cut, each stage in its role.
    """
    last = len(candidates) - 1
    for servers in itertools.permutations(candidates):
        for ends in itertools.combinations(range(1, layers), last):
            held = [after - before for before, after in itertools.pairwise((0, *ends, layers))]
            seconds = [
                float(server.seconds[(place == 0) + 2 * (place == last), count])
                if count < server.seconds.shape[1]
                else math.inf
                for place, (server, count) in enumerate(zip(servers, held, strict=True))
            ]
            yield len(seconds), sum(seconds) if overlap is Overlap.SUM else max(seconds)


def random_candidates(seed: int, *, servers: int, holding: int = 5) -> list[Candidate]:
    """Return servers whose seconds follow no rule: not rising, with gaps, other by role."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(servers):
        shape = (4, int(draw.integers(1, holding + 1)) + 1)
        seconds = draw.integers(1, 10, shape).astype(float)
        found.append(Candidate(f"s{number}", np.where(draw.random(shape) < 0.8, seconds, np.inf)))
    return found


@pytest.fixture(scope="session")
def enumerate_pipelines() -> Callable[..., Iterator[tuple[int, float]]]:
    """Return `every_pipeline`: all there are over some servers."""
    return every_pipeline


@pytest.fixture(scope="session")
def make_candidates() -> Callable[..., list[Candidate]]:
    """Return `random_candidates`: servers for pipelines from a seed."""
    return random_candidates
