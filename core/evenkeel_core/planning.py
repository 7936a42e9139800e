"""From a job and servers to a plan: the steps of the method, in order.

decompose → cost matrix → factorise → partition → game → timetable → verify → explain. Pure: what
it needs of the world comes in as arguments, and the same arguments give the same plan.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evenkeel_core import (
    costs,
    decomposing,
    factorising,
    game,
    partitioning,
    timetabling,
    verifying,
)
from evenkeel_core.jobs import Job, Objective
from evenkeel_core.plans import Assignment, Factorisation, Plan, Refusal, Terms
from evenkeel_core.problems import NOWHERE, Floats, Problem, throughput
from evenkeel_core.quantities import Seconds
from evenkeel_core.reasons import Reason
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import Subtask, TaskGraph
from evenkeel_core.timetabling import Timetable


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a planner may be told."""

    shortlist: int = 8
    """Servers named for each subtask: kube-scheduler looks at so many and no more."""
    balances: tuple[float, ...] = (1.0, 2.0, 0.5, 4.0)
    """λ·ĉ that are tried: how many scaled seconds of cost one scaled second of queue is worth.
    The plan that serves the objective best is kept; the first wins ties."""
    band: float | None = None
    """Largest relative load over the mean that is wanted, >= 1; None leaves it to the costs."""


class UnverifiedPlanError(RuntimeError):
    """A solver returned a plan that breaks a rule: a defect of this package, never the user's."""


def plan(
    job: Job,
    servers: Sequence[Server],
    loads: Mapping[str, float] | None = None,
    *,
    settings: PlanSettings | None = None,
) -> Plan:
    """Plan a job.

    Parameters
    ----------
    job : Job
    servers : sequence of Server
        Those that may be planned, in any order.
    loads : mapping, optional
        Reference seconds of other work already committed, by server.
    settings : PlanSettings, optional

    Returns
    -------
    Plan
        With refusals and no assignment where a subtask fits nowhere.
    """
    settings = settings or PlanSettings()
    servers = sorted(servers, key=lambda server: server.name)
    if not servers:
        refusal = Refusal(job.key, Reason.NO_SERVERS, Reason.NO_SERVERS.sentence)
        return Plan(job.key, TaskGraph(()), (), (refusal,))
    graph = decomposing.decompose(job, servers)
    if not isinstance(graph, TaskGraph):
        return Plan(job.key, TaskGraph(()), (), graph)
    problem = costs.problem(job, graph, servers, loads or {})
    refusals = _refusals(graph, problem, servers)
    if refusals:
        return Plan(job.key, TaskGraph(()), (), refusals)
    made = _solve(job, graph, _rated(problem), settings)
    return _verified(made, job, servers)


def _rated(problem: Problem) -> Problem:
    """Return the problem with the rates the servers have for this job's subtasks.

    All of a server's hardware together is more than one job gets of it: a subtask uses one of
    its devices, and memory may end before they do.
    """
    return replace(problem, rate=throughput(problem))


def _refusals(graph: TaskGraph, problem: Problem, servers: Sequence[Server]) -> tuple[Refusal, ...]:
    """Explain each task that has a subtask without any server; alike ones are named once."""
    lost = np.flatnonzero(~np.isfinite(problem.cost).any(axis=1))
    first: dict[str, Subtask] = {}
    for index in lost.tolist():
        first.setdefault(graph.subtasks[index].task, graph.subtasks[index])
    return tuple(decomposing.why_not(subtask, servers) for subtask in first.values())


@dataclass(frozen=True, slots=True)
class _Solution:
    state: game.Equilibrium
    times: Timetable
    balance: float
    from_factors: float


def _merit(objective: Objective, solution: _Solution) -> float:
    """Return what is made small: the end of the last subtask, or of the mean one."""
    if objective is Objective.LATENCY:
        return float(np.mean(solution.times.end))
    return solution.times.makespan


def _levelled(problem: Problem, found: _Solution, scale: float, band: float) -> _Solution:
    """Double λ until the relative loads are within the band, as far as that goes."""
    state, balance = game.adjust(
        problem, found.state, balance=found.balance, scale=scale, band=band
    )
    times = timetabling.timetable(problem, state.assignment)
    return replace(found, state=state, balance=balance, times=times)


def _refuse_broken(job: Job, problem: Problem, found: _Solution) -> None:
    violations = verifying.verify_assignment(problem, found.state.assignment, found.times)
    if violations:
        raise UnverifiedPlanError(
            f"the assignment of {job.key} breaks a rule: {'; '.join(violations[:3])}"
        )


def _solve(job: Job, graph: TaskGraph, problem: Problem, settings: PlanSettings) -> Plan:
    factors = factorising.factorise(problem)
    # Pairs nobody measured are played for by what the factors say of them.
    estimated = partitioning.estimated(problem, factors)
    problem = replace(problem, cost=estimated, compute=factors.completed)
    scale = game.scale_of(problem)
    tried = []
    for weight in settings.balances:
        balance = weight / scale
        begin = partitioning.start(problem, factors, balance=balance, scale=scale)
        sets = partitioning.partition(problem, factors, balance=balance, scale=scale)
        state = game.equilibrium(problem, sets, balance=balance, scale=scale)
        times = timetabling.timetable(problem, state.assignment)
        tried.append(_Solution(state, times, balance, partitioning.total_cost(problem, begin)))
    best = min(tried, key=lambda solution: _merit(job.objective, solution))
    if settings.band is not None:
        best = _levelled(problem, best, scale, settings.band)
    _refuse_broken(job, problem, best)
    assignments = _assignments(graph, problem, best, scale, settings.shortlist)
    table = _cost_table(problem.cost)
    return Plan(
        job=job.key,
        graph=graph,
        assignments=assignments,
        factorisation=Factorisation(
            factors.rank,
            factors.explained,
            factors.error,
            best.from_factors,
            partitioning.total_cost(problem, best.state.assignment),
        ),
        potential=best.state.potential,
        stable=best.state.stable,
        scale=Seconds(scale),
        balance=best.balance,
        imbalance=game.imbalance(problem, best.state.assignment),
        makespan=Seconds(best.times.makespan),
        servers=problem.servers,
        rates=tuple(problem.rate.tolist()),
        columns=table.columns,
        costs=table.costs,
        rows=table.rows,
    )


@dataclass(frozen=True, slots=True)
class _CostTable:
    """The distinct rows and columns of a cost matrix, and where each came from."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    costs: tuple[tuple[float, ...], ...]


def _cost_table(cost: Floats) -> _CostTable:
    """Return each distinct row and column once, in the order of appearance.

    A plan goes on record whole: thousands of servers of a few kinds must not make it large.
    """
    columns, firsts = _classes(cost.T)
    rows, kinds = _classes(cost[:, firsts])
    return _CostTable(rows, columns, tuple(map(tuple, cost[np.ix_(kinds, firsts)].tolist())))


def _classes(lines: Floats) -> tuple[tuple[int, ...], list[int]]:
    """Return the class of each line among the distinct ones, and the first line of each class."""
    numbers: dict[bytes, int] = {}
    firsts: list[int] = []
    found = []
    for index, line in enumerate(np.ascontiguousarray(lines)):
        key = line.tobytes()
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(index)
        found.append(numbers[key])
    return tuple(found), firsts


def _assignments(
    graph: TaskGraph, problem: Problem, solution: _Solution, scale: float, shortlist: int
) -> tuple[Assignment, ...]:
    state = solution.state.assignment
    parts = game.utilities(problem, state, balance=solution.balance, scale=scale)
    total = parts[0] + parts[1] + parts[2]
    found = []
    for index, subtask in enumerate(graph.subtasks):
        here, utility = int(state[index]), total[index]
        runner = _best(utility, here, 2)[1:]
        # A pod's requests are fixed when it is created: only servers where the subtask asks for
        # the same can take its place.
        taken = problem.demand[index, problem.kind]
        alike = (taken == taken[here]).all(axis=1)
        count = shortlist if subtask.server is None else 1
        order = _best(np.where(alike, utility, -np.inf), here, count)
        found.append(
            Assignment(
                subtask=subtask.name,
                server=problem.servers[here],
                seconds=Seconds(float(problem.cost[index, here])),
                start=Seconds(float(solution.times.start[index])),
                terms=Terms(*(float(part[index, here]) for part in parts)),
                shortlist=tuple(problem.servers[server] for server in order),
                runner_up=problem.servers[runner[0]] if runner else None,
                regret=float(utility[here] - utility[runner[0]]) if runner else 0.0,
            )
        )
    return tuple(found)


def _best(utility: Floats, here: int, count: int) -> list[int]:
    """Return the planned server and the best others in order, ties by number."""
    others = utility.copy()
    others[here] = -np.inf
    possible = int(np.isfinite(others).sum())
    order = np.argsort(-others, kind="stable")[: min(count - 1, possible)]
    return [here, *order.tolist()]


def _verified(made: Plan, job: Job, servers: Sequence[Server]) -> Plan:
    violations = verifying.verify(made, job, servers)
    if violations:
        raise UnverifiedPlanError(
            f"the plan of {job.key} breaks a rule: {'; '.join(violations[:3])}"
        )
    return made


def replan(
    job: Job,
    previous: Plan,
    groups: Collection[str],
    servers: Sequence[Server],
    loads: Mapping[str, float] | None = None,
    *,
    avoid: Mapping[str, Collection[str]] | None = None,
    settings: PlanSettings | None = None,
) -> Plan:
    """Decide some groups of a plan anew and keep every other assignment.

    Parameters
    ----------
    job : Job
        As it was planned.
    previous : Plan
        A feasible plan of the job.
    groups : collection of str
        Groups to decide anew. A replica of a pipeline is cut anew; its name, number and
        requests stay.
    servers : sequence of Server
    loads : mapping, optional
        Reference seconds committed to each server, of other jobs and of this one's groups that
        are kept and not done.
    avoid : mapping, optional
        Servers each group should stay away from, while there are others.
    settings : PlanSettings, optional

    Returns
    -------
    Plan
        With refusals and no assignment where a group fits nowhere now.

    Raises
    ------
    ValueError
        If `groups` names a group the plan does not have.
    """
    settings = settings or PlanSettings()
    servers = sorted(servers, key=lambda server: server.name)
    members = {subtask.group for subtask in previous.graph.subtasks}
    if not set(groups) <= members:
        raise ValueError(f"`groups` has {sorted(set(groups) - members)}, which the plan has not")
    if not servers:
        refusal = Refusal(job.key, Reason.NO_SERVERS, Reason.NO_SERVERS.sentence)
        return replace(previous, assignments=(), refusals=(refusal,))
    graph, refusals = _regraph(job, previous, set(groups), servers, avoid or {})
    if refusals:
        return replace(previous, assignments=(), refusals=refusals)
    problem = _rated(costs.problem(job, graph, servers, loads or {}))
    anew = np.array([subtask.group in groups for subtask in graph.subtasks])
    subtasks = tuple(s for s, new in zip(graph.subtasks, anew, strict=True) if new)
    part = _shunning(_only(problem, anew), subtasks, avoid or {})
    lost = ~np.isfinite(part.cost).any(axis=1)
    if lost.any():
        refusal = decomposing.why_not(subtasks[int(np.argmax(lost))], servers)
        return replace(previous, assignments=(), refusals=(refusal,))
    solved = _solve(job, TaskGraph(subtasks), part, settings)
    return _merged(previous, solved, graph, problem)


def _regraph(
    job: Job,
    previous: Plan,
    groups: set[str],
    servers: Sequence[Server],
    avoid: Mapping[str, Collection[str]],
) -> tuple[TaskGraph, tuple[Refusal, ...]]:
    """Return the graph with the pipelines among the groups cut anew."""
    tasks = {task.name: task for task in job.tasks}
    old: dict[str, list[Subtask]] = {}
    for subtask in previous.graph.subtasks:
        old.setdefault(subtask.group, []).append(subtask)
    subtasks: list[Subtask] = []
    for group, members in old.items():
        if group not in groups or members[0].layers is None or members[0].requests is None:
            # As the tasks may run now: what a claim allows changes when it is bound.
            subtasks += (replace(m, constraints=tasks[m.task].constraints) for m in members)
            continue
        shunned = set(avoid.get(group, ()))
        taken = {s.server for s in previous.graph.subtasks if s.group not in groups}
        wanted = [server for server in servers if server.name not in shunned]
        # Alone on its servers if it can be, away from what it should avoid if it can be.
        alone = [server for server in wanted if server.name not in taken]
        for offered in (alone, wanted, servers):
            cut = decomposing.recut(
                tasks[members[0].task],
                group,
                members[0].index,
                members[0].requests,
                offered,
                job.objective,
            )
            if not isinstance(cut, Refusal):
                break
        if isinstance(cut, Refusal):
            return previous.graph, (cut,)
        subtasks += cut
    # Other members than before: the edges into and out of the replica change with them.
    edges = tuple(decomposing.edges(job.tasks, subtasks))
    return replace(previous.graph, subtasks=tuple(subtasks), edges=edges), ()


Mask = NDArray[np.bool_]


def _only(problem: Problem, chosen: Mask) -> Problem:
    """Return the problem of some subtasks alone, with the edges between them."""
    number = np.cumsum(chosen) - 1
    within = chosen[problem.edge].all(axis=1)
    return replace(
        problem,
        subtasks=tuple(np.array(problem.subtasks, dtype=object)[chosen].tolist()),
        cost=problem.cost[chosen],
        compute=problem.compute[chosen],
        measured=problem.measured[chosen],
        demand=problem.demand[chosen],
        work=problem.work[chosen],
        group=problem.group[chosen],
        pinned=problem.pinned[chosen],
        edge=number[problem.edge[within]].astype(np.int64),
        edge_bytes=problem.edge_bytes[within],
        dependency=problem.dependency[within],
    )


def _shunning(
    problem: Problem, subtasks: Sequence[Subtask], avoid: Mapping[str, Collection[str]]
) -> Problem:
    """Return the problem without the servers to avoid, where others are left."""
    cost = problem.cost.copy()
    for row, subtask in enumerate(subtasks):
        shunned = np.isin(problem.servers, list(avoid.get(subtask.group, ())))
        if np.isfinite(cost[row, ~shunned]).any():
            cost[row, shunned] = np.inf
    finite = np.isfinite(cost)
    return replace(
        problem,
        cost=cost,
        compute=np.where(finite, problem.compute, np.inf),
        measured=problem.measured & finite,
    )


def _merged(previous: Plan, solved: Plan, graph: TaskGraph, problem: Problem) -> Plan:
    """Return the old plan with the newly decided assignments in their places.

    A kept assignment whose server has gone since stays as it was: it is done, or will be decided
    anew in its turn.
    """
    places = {assignment.subtask: assignment for assignment in previous.assignments}
    places |= {assignment.subtask: assignment for assignment in solved.assignments}
    number = {name: index for index, name in enumerate(problem.servers)}
    state = np.array([number.get(places[s.name].server, NOWHERE) for s in graph.subtasks])
    there = np.isfinite(problem.cost[np.arange(state.size), state]) & (state != NOWHERE)
    times = timetabling.timetable(_only(problem, there), state[there].astype(np.int64))
    starts = np.array([places[subtask.name].start for subtask in graph.subtasks], dtype=float)
    starts[there] = times.start
    assignments = tuple(
        replace(places[subtask.name], start=Seconds(start))
        for subtask, start in zip(graph.subtasks, starts.tolist(), strict=True)
    )
    table = _cost_table(problem.cost)
    return replace(
        previous,
        graph=graph,
        assignments=assignments,
        makespan=Seconds(max(place.start + place.seconds for place in assignments)),
        servers=problem.servers,
        rates=tuple(problem.rate.tolist()),
        columns=table.columns,
        costs=table.costs,
        rows=table.rows,
        stable=solved.stable,
    )


def committed(plan: Plan, groups: Collection[str]) -> dict[str, float]:
    """Return the reference seconds that some groups of a plan commit to each server."""
    subtasks = {subtask.name: subtask for subtask in plan.graph.subtasks}
    found: dict[str, float] = {}
    for assignment in plan.assignments:
        subtask = subtasks[assignment.subtask]
        if subtask.group in groups:
            found[assignment.server] = found.get(assignment.server, 0.0) + subtask.work
    return found
