"""From a job and servers to a plan: the steps of the method, in order.

decompose → cost matrix → factorise → partition → game → timetable → verify → explain. Pure: what
it needs of the world comes in as arguments, and the same arguments give the same plan.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evenkeel_core import (
    costs,
    decomposing,
    factorising,
    game,
    levelling,
    partitioning,
    pricing,
    scheduling,
    timetabling,
    verifying,
)
from evenkeel_core.bands import why_uneven
from evenkeel_core.factorising import Factors
from evenkeel_core.jobs import Job, Objective
from evenkeel_core.plans import Assignment, Factorisation, Plan, Refusal, Terms
from evenkeel_core.problems import NOWHERE, Floats, Ints, Mask, Problem, alike, part, throughput
from evenkeel_core.quantities import Seconds
from evenkeel_core.reasons import Reason
from evenkeel_core.refusing import why_not
from evenkeel_core.servers import Server
from evenkeel_core.shortlisting import shortlists
from evenkeel_core.subtasks import Subtask, TaskGraph, raised
from evenkeel_core.timetabling import Timetable

WORTH = 0.01
"""Part of a job's length for which an equilibrium is left: predictions are wrong by more."""


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
    effort: int = 300_000
    """Units looked at to schedule subtasks that wait for one another: less than a second."""


EARLIER = 1e-3
"""Share by which another plan must end earlier to be worth prices of its own."""


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
    servers = sorted(servers, key=lambda server: server.name)
    if not servers:
        refusal = Refusal(job.key, Reason.NO_SERVERS, Reason.NO_SERVERS.sentence)
        return Plan(job.key, TaskGraph(()), (), (refusal,))
    graph = decomposing.decompose(job, servers)
    if not isinstance(graph, TaskGraph):
        return Plan(job.key, TaskGraph(()), (), graph)
    return place(job, graph, servers, loads, settings=settings)


def place(
    job: Job,
    graph: TaskGraph,
    servers: Sequence[Server],
    loads: Mapping[str, float] | None = None,
    *,
    settings: PlanSettings | None = None,
) -> Plan:
    """Plan a job that is cut already: the second half of `plan`.

    Parameters
    ----------
    job : Job
    graph : TaskGraph
        From `evenkeel_core.decomposing.decompose`, or of several jobs together.
    servers : sequence of Server
    loads : mapping, optional
    settings : PlanSettings, optional
        As for `plan`.

    Returns
    -------
    Plan
        With refusals and no assignment where a subtask fits nowhere.
    """
    settings = settings or PlanSettings()
    servers = sorted(servers, key=lambda server: server.name)
    problem = costs.problem(job, graph, servers, loads or {})
    refusals = _refusals(graph, problem, servers)
    if refusals:
        return Plan(job.key, TaskGraph(()), (), refusals)
    made = _solve(job, graph, _rated(problem), settings)
    if settings.band is not None and made.imbalance > settings.band:
        made = replace(made, unreached=why_uneven(made, servers, loads or {}, settings.band))
    return _verified(made, job, servers)


def _rated(problem: Problem) -> Problem:
    """Return the problem with the rates the servers have for this job's subtasks.

    All of a server's hardware together is more than one job gets of it: a subtask uses one of
    its devices, and memory may end before they do.
    """
    return replace(problem, rate=throughput(problem))


def _priced_as(plan: Plan, problem: Problem) -> Problem:
    """Return the problem with the rates of a plan, where it knew the server.

    What is kept of the plan was put where it is at these prices, and is scored by them.
    """
    known = dict(zip(plan.servers, plan.rates, strict=True))
    rates = zip(problem.servers, problem.rate.tolist(), strict=True)
    return replace(problem, rate=np.array([known.get(name, rate) for name, rate in rates]))


def _refusals(graph: TaskGraph, problem: Problem, servers: Sequence[Server]) -> tuple[Refusal, ...]:
    """Explain each task that has a subtask without any server; alike ones are named once."""
    nowhere: Mask = ~np.any(np.isfinite(problem.seconds), axis=1)
    lost = np.flatnonzero(nowhere[problem.row])
    first: dict[str, Subtask] = {}
    for index in lost.tolist():
        first.setdefault(graph.subtasks[index].task, graph.subtasks[index])
    return tuple(why_not(subtask, servers) for subtask in first.values())


@dataclass(frozen=True, slots=True)
class _Solution:
    state: game.Equilibrium
    times: Timetable
    balance: float
    from_factors: float
    rate: Floats
    """R_i that the game was played with."""


def _merit(objective: Objective, problem: Problem, state: Ints, times: Timetable) -> float:
    """Return what is made small: the end of the last subtask, or of the mean one.

    Each ends after what others have on its server.
    """
    end = times.end + (problem.load / problem.rate)[state]
    return float(np.mean(end) if objective is Objective.LATENCY else np.max(end, initial=0.0))


def _settled(
    problem: Problem, begin: Ints, balance: float, scale: float, from_factors: float
) -> _Solution:
    """Play from an assignment to the equilibrium and time it."""
    state = game.equilibrium(problem, begin, balance=balance, scale=scale)
    times = timetabling.timetable(problem, state.assignment)
    return _Solution(state, times, balance, from_factors, problem.rate)


SWAPPED = 500
"""Subtasks up to which every state is improved by swaps; of more, only the best one."""


def _best(
    objective: Objective,
    problem: Problem,
    factors: Factors,
    scale: float,
    balances: Sequence[float],
) -> _Solution:
    """Return the state that serves the objective best, of those that each λ·ĉ leads to."""
    tried = []
    for weight in balances:
        balance = weight / scale
        begin = partitioning.start(problem, factors, balance=balance, scale=scale)
        cost = partitioning.total_cost(problem, begin)
        tried.append(_settled(problem, begin, balance, scale, cost))

    def late(found: _Solution) -> float:
        return _merit(objective, problem, found.state.assignment, found.times)

    tried.sort(key=late)
    # Swaps lower the potential; whether they serve the objective is seen only when timed.
    for found in tried[: len(tried) if len(problem.subtasks) <= SWAPPED else 1]:
        sets = partitioning.improve(
            problem, found.state.assignment, balance=found.balance, scale=scale
        )
        tried.append(_settled(problem, sets, found.balance, scale, found.from_factors))
    # The sets of each λ are a partition from the factors alone: the least costly counts.
    least = min(found.from_factors for found in tried)
    return replace(min(tried, key=late), from_factors=least)


def _levelled(problem: Problem, found: _Solution, scale: float, band: float) -> _Solution:
    """Double λ until the relative loads are within the band, as far as that goes."""
    state, balance = game.adjust(
        problem, found.state, balance=found.balance, scale=scale, band=band
    )
    times = timetabling.timetable(problem, state.assignment)
    return replace(found, state=state, balance=balance, times=times)


def _scheduled(
    job: Job, problem: Problem, best: _Solution, scale: float, effort: int, *, priced: bool
) -> _Solution:
    """Return the schedule that sees who waits for whom, where it serves the objective better.

    Else the best equilibrium, that which best response reaches from the schedule among them. A
    schedule gets the prices that make it one too, where there are any and they are not fixed.
    """
    found = scheduling.schedule(problem, effort=effort) if problem.dependency.any() else None
    if found is None:
        return best

    def late(one: _Solution) -> float:
        return _merit(job.objective, problem, one.state.assignment, one.times)

    balance, places = best.balance, found.assignment
    beside = game.equilibrium(problem, places, balance=balance, scale=scale)
    times = timetabling.timetable(problem, beside.assignment, priority=-found.times.start)
    best = min(best, replace(best, state=beside, times=times), key=late)
    height = game.potential(problem, places, balance=balance, scale=scale)
    stable = game.is_stable(problem, places, balance=balance, scale=scale)
    state = game.Equilibrium(places, height, stable, 0, (height,))
    seen = replace(best, state=state, times=found.times)
    if late(seen) >= (1 - WORTH) * late(best):
        return best
    return seen if stable or priced else _priced(problem, seen, places, scale) or seen


def _earlier(job: Job, problem: Problem, found: _Solution, scale: float) -> _Solution:
    """Return a plan that ends earlier, with the prices that make it an equilibrium."""
    offers = [levelling.end_early(problem, found.state.assignment)]
    if job.objective is Objective.LATENCY:
        together = levelling.run_together(problem)
        offers += [] if together is None else [together]
    offers = [places for places in offers if (places != found.state.assignment).any()]
    if not offers:
        return found
    timed = [(places, timetabling.timetable(problem, places)) for places in offers]
    early, times = min(timed, key=lambda offer: _merit(job.objective, problem, *offer))
    now = _merit(job.objective, problem, found.state.assignment, found.times)
    if _merit(job.objective, problem, early, times) >= now * (1 - EARLIER):
        return found
    return _priced(problem, replace(found, times=times), early, scale) or found


def _priced(problem: Problem, found: _Solution, places: Ints, scale: float) -> _Solution | None:
    """Return an assignment as the equilibrium that prices make of it, None where none do."""
    supported = pricing.support(problem, places, balance=found.balance, scale=scale)
    if supported is None:
        return None
    rate, balance = supported
    state = game.equilibrium(replace(problem, rate=rate), places, balance=balance, scale=scale)
    return replace(found, state=state, balance=balance, rate=rate)


def _refuse_broken(job: Job, problem: Problem, found: _Solution) -> None:
    violations = verifying.verify_assignment(problem, found.state.assignment, found.times)
    if violations:
        raise UnverifiedPlanError(
            f"the assignment of {job.key} breaks a rule: {'; '.join(violations[:3])}"
        )


def _solve(
    job: Job,
    graph: TaskGraph,
    problem: Problem,
    settings: PlanSettings,
    *,
    priced: bool = False,
) -> Plan:
    """Plan subtasks that fit somewhere; with `priced`, at the rates they have."""
    factors = factorising.factorise(problem)
    # Pairs nobody measured are played for by what the factors say of them.
    problem = partitioning.estimated(problem, factors)
    scale = game.scale_of(problem)
    best = _best(job.objective, problem, factors, scale, settings.balances)
    best = _scheduled(job, problem, best, scale, settings.effort, priced=priced)
    if settings.band is not None:
        best = _levelled(problem, best, scale, settings.band)
    elif not priced:
        best = _earlier(job, problem, best, scale)
    _refuse_broken(job, problem, best)
    problem = replace(problem, rate=best.rate)
    assignments = _assignments(graph, problem, best, scale, settings.shortlist)
    table = _cost_table(problem)
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


def _cost_table(problem: Problem) -> _CostTable:
    """Return each distinct row and column once, in the order of appearance.

    A plan goes on record whole: thousands of servers of a few kinds must not make it large.
    """
    columns, kinds = alike(problem.seconds.T)
    rows, firsts = alike(problem.seconds[:, kinds])
    return _CostTable(
        tuple(rows[problem.row].tolist()),
        tuple(columns[problem.kind].tolist()),
        tuple(map(tuple, problem.seconds[np.ix_(firsts, kinds)].tolist())),
    )


def _assignments(
    graph: TaskGraph, problem: Problem, solution: _Solution, scale: float, shortlist: int
) -> tuple[Assignment, ...]:
    state = solution.state.assignment
    found = shortlists(problem, state, balance=solution.balance, scale=scale, count=shortlist)
    seconds = problem.cost_at(np.arange(state.size), state)
    names = problem.servers
    return tuple(
        Assignment(
            subtask=subtask.name,
            server=names[order[0]],
            seconds=Seconds(took),
            start=Seconds(start),
            terms=Terms(*terms),
            shortlist=tuple(names[server] for server in order if server != NOWHERE),
            runner_up=names[runner] if runner != NOWHERE else None,
            regret=regret,
        )
        for subtask, took, start, terms, order, runner, regret in zip(
            graph.subtasks,
            seconds.tolist(),
            solution.times.start.tolist(),
            found.terms.tolist(),
            found.servers.tolist(),
            found.runner_up.tolist(),
            found.regret.tolist(),
            strict=True,
        )
    )


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
    memory: Mapping[str, float] | None = None,
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
    memory : mapping, optional
        Factors on the memory that tasks ask for, by their names; the graph of the plan keeps what
        was asked at first.
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
    factors = memory or {}
    asked = tuple(raised(subtask, factors.get(subtask.task, 1.0)) for subtask in graph.subtasks)
    wanted = replace(graph, subtasks=asked)
    problem = _priced_as(previous, _rated(costs.problem(job, wanted, servers, loads or {})))
    anew = np.array([subtask.group in groups for subtask in asked])
    subtasks = tuple(s for s, new in zip(asked, anew, strict=True) if new)
    chosen = _shunning(part(problem, anew), subtasks, avoid or {})
    nowhere: Mask = ~np.any(np.isfinite(chosen.seconds), axis=1)
    if nowhere.any():
        refusal = why_not(subtasks[int(np.argmax(nowhere[chosen.row]))], servers)
        return replace(previous, assignments=(), refusals=(refusal,))
    solved = _solve(job, TaskGraph(subtasks), chosen, settings, priced=True)
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


def _shunning(
    problem: Problem, subtasks: Sequence[Subtask], avoid: Mapping[str, Collection[str]]
) -> Problem:
    """Return the problem without the servers to avoid, where others are left."""
    if not any(subtask.group in avoid for subtask in subtasks):
        return problem
    cost = problem.cost
    for row, subtask in enumerate(subtasks):
        shunned = np.isin(problem.servers, list(avoid.get(subtask.group, ())))
        if np.isfinite(cost[row, ~shunned]).any():
            cost[row, shunned] = np.inf
    finite = np.isfinite(cost)
    return problem.with_pairs(
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
    there = np.isfinite(problem.cost_at(np.arange(state.size), state)) & (state != NOWHERE)
    starts = np.array([places[subtask.name].start for subtask in graph.subtasks], dtype=float)
    times = timetabling.timetable(
        part(problem, there), state[there].astype(np.int64), priority=-starts[there]
    )
    starts[there] = times.start
    assignments = tuple(
        replace(places[subtask.name], start=Seconds(start))
        for subtask, start in zip(graph.subtasks, starts.tolist(), strict=True)
    )
    table = _cost_table(problem)
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
