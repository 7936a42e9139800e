"""The one verifier of plans: every solver, every test and the planner itself use it.

It believes nothing but the plan and the problem: what a solver says of its own result is not
asked. It returns violations in words; nothing means that the plan is good.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evenkeel_core import checks
from evenkeel_core.jobs import Inference, Job, Task, Template
from evenkeel_core.plans import Assignment, Plan
from evenkeel_core.problems import NOWHERE, Ints, Problem, demands, transfer, units
from evenkeel_core.quantities import Vector, fits, minus, plus
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import Edge, Subtask
from evenkeel_core.timetabling import Timetable, durations, overfull

SLACK = 1e-6
"""Seconds by which two times may differ and still count as the same: rounding of sums."""


def verify_assignment(
    problem: Problem, assignment: Ints, times: Timetable | None = None
) -> tuple[str, ...]:
    """Return what is wrong with an assignment, in words; empty when it is good.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray, shape (T,)
        A server number for every subtask.
    times : Timetable, optional
        If given, durations, capacity at every moment, dependencies and coupled starts too.

    Returns
    -------
    tuple of str
    """
    if assignment.shape != (len(problem.subtasks),):
        return (f"{assignment.shape} servers for {len(problem.subtasks)} subtasks",)
    found = list(_places(problem, assignment))
    if not found and times is not None:
        found += _lengths(problem, assignment, times)
        found += _capacity(problem, assignment, times)
        found += _order(problem, assignment, times)
        found += _coupled(problem, times)
    return tuple(found)


def _places(problem: Problem, assignment: Ints) -> Iterator[str]:
    missing = (assignment < 0) | (assignment >= len(problem.servers))
    for subtask in np.flatnonzero(missing):
        yield f"{problem.subtasks[subtask]} has no server"
    if missing.any():
        return
    cost = problem.cost[np.arange(assignment.size), assignment]
    elsewhere = (problem.pinned != NOWHERE) & (problem.pinned != assignment)
    small = np.zeros(assignment.size, dtype=bool)
    small[overfull(problem, assignment)] = True
    for wrong, words in (
        (~np.isfinite(cost), "may not run on"),
        (elsewhere, "is pinned elsewhere than"),
        (small, "does not fit, with its set,"),
    ):
        for subtask in np.flatnonzero(wrong):
            server = problem.servers[assignment[subtask]]
            yield f"{problem.subtasks[subtask]} {words} {server}"


def _lengths(problem: Problem, assignment: Ints, times: Timetable) -> Iterator[str]:
    least = durations(problem, assignment)
    wrong = ~(times.start >= 0) | ~(times.end >= times.start + least - SLACK)
    for subtask in np.flatnonzero(wrong):
        yield f"{problem.subtasks[subtask]} has less time than it takes"
    if abs(times.makespan - times.end.max(initial=0.0)) > SLACK:
        yield f"the makespan is not the end of the last subtask: {times.makespan}"


def _capacity(problem: Problem, assignment: Ints, times: Timetable) -> Iterator[str]:
    demand = demands(problem, assignment)
    for server in np.unique(assignment):
        here = np.flatnonzero(assignment == server)
        moments = np.concatenate([times.end[here], times.start[here]])
        change = np.concatenate([-demand[here], demand[here]])
        # At one moment what ends gives back before what starts takes.
        order = np.lexsort((np.repeat([0, 1], here.size), moments))
        if (change[order].cumsum(axis=0) > problem.capacity[server]).any():
            yield f"{problem.servers[server]} is over its capacity at some moment"


def _order(problem: Problem, assignment: Ints, times: Timetable) -> Iterator[str]:
    source, target = problem.edge[problem.dependency].T
    data = problem.edge_bytes[problem.dependency]
    seconds = transfer(problem, assignment[source], assignment[target], data)
    for edge in np.flatnonzero(times.start[target] < times.end[source] + seconds - SLACK):
        first, second = problem.subtasks[source[edge]], problem.subtasks[target[edge]]
        yield f"{second} starts before the output of {first} is there"


def _coupled(problem: Problem, times: Timetable) -> Iterator[str]:
    for unit in units(problem):
        if np.ptp(times.start[unit]) > SLACK:
            names = ", ".join(problem.subtasks[member] for member in unit)
            yield f"the coupled set {names} does not start together"


@dataclass(frozen=True, slots=True)
class _Case:
    """A plan with what it is verified against, by name."""

    plan: Plan
    job: Job
    subtasks: Mapping[str, Subtask]
    places: Mapping[str, Assignment]
    servers: Mapping[str, Server]

    def end(self, name: str) -> float:
        """Return when a subtask ends."""
        return self.places[name].start + self.places[name].seconds

    def members(self, task: str) -> list[Subtask]:
        """Return the subtasks of a task."""
        return [subtask for subtask in self.plan.graph.subtasks if subtask.task == task]


def verify(plan: Plan, job: Job, servers: Sequence[Server]) -> tuple[str, ...]:
    """Return what is wrong with a plan, in words; empty when it is good.

    Every subtask is assigned exactly once; every request is in exactly one group and every
    layer in exactly one stage of each; hard checks hold; what runs at a time fits its server;
    tasks start after those they depend on, with the transfers; coupled sets start together; every
    assignment explains itself.

    Parameters
    ----------
    plan : Plan
    job : Job
        What the plan is for.
    servers : sequence of Server
        Those it was made for.

    Returns
    -------
    tuple of str
        What later checks need is checked first; where that fails the later ones are not asked.
    """
    if not plan.feasible:
        return ("a plan with refusals has assignments",) if plan.assignments else ()
    case = _Case(
        plan,
        job,
        {subtask.name: subtask for subtask in plan.graph.subtasks},
        {assignment.subtask: assignment for assignment in plan.assignments},
        {server.name: server for server in servers},
    )
    for stage in CHECKS:
        found = tuple(sentence for check in stage for sentence in check(case))
        if found:
            return found
    return ()


def _every_subtask_once(case: _Case) -> Iterator[str]:
    counts = Counter(assignment.subtask for assignment in case.plan.assignments)
    for name in case.subtasks:
        if counts[name] != 1:
            yield f"{name} is assigned {counts[name]} times"
    for name in sorted(counts.keys() - case.subtasks.keys()):
        yield f"{name} is assigned but no subtask"
    if len(case.subtasks) != len(case.plan.graph.subtasks):
        yield "two subtasks share a name"


def _every_task(case: _Case) -> Iterator[str]:
    tasks = {task.name for task in case.job.tasks}
    for subtask in case.plan.graph.subtasks:
        if subtask.task not in tasks:
            yield f"{subtask.name} belongs to {subtask.task}, which is no task of the job"
    for task in case.job.tasks:
        members = case.members(task.name)
        groups = {member.group for member in members}
        if not members:
            yield f"{task.name} has no subtask"
        elif isinstance(task.work, Template) and task.shards not in (None, len(groups)):
            yield f"{task.name} has {len(groups)} subtasks for {task.shards} shards"


def _numbers(case: _Case) -> Iterator[str]:
    numbers: dict[int, str] = {}
    groups: dict[str, int] = {}
    for subtask in case.plan.graph.subtasks:
        if groups.setdefault(subtask.group, subtask.index) != subtask.index:
            yield f"{subtask.group} has two numbers"
        elif numbers.setdefault(subtask.index, subtask.group) != subtask.group:
            yield f"{subtask.group} and {numbers[subtask.index]} share the number {subtask.index}"


def _hard_checks(case: _Case) -> Iterator[str]:
    for name, place in case.places.items():
        server = case.servers.get(place.server)
        if server is None:
            yield f"{name} is on {place.server}, which is no server"
        elif (reason := checks.reason(case.subtasks[name], server)) is not None:
            yield f"{name} may not run on {place.server}: {reason}"


def _explanations(case: _Case) -> Iterator[str]:
    for name, place in case.places.items():
        if place.shortlist[:1] != (place.server,):
            yield f"the shortlist of {name} does not begin with {place.server}"
        elif len(set(place.shortlist)) != len(place.shortlist):
            yield f"the shortlist of {name} names a server twice"
        elif not (math.isfinite(place.terms.utility) and place.terms.utility <= 0):
            yield f"the utility of {name} is {place.terms.utility}"


def _capacities(case: _Case) -> Iterator[str]:
    """Compare the demand of what runs at the same time with what each server has."""
    ends: dict[str, float] = {}
    for name in case.places:
        group = case.subtasks[name].group
        ends[group] = max(ends.get(group, 0.0), case.end(name))
    events: dict[str, list[tuple[float, int, str]]] = {}
    for name, place in case.places.items():
        # A set holds its servers until its last member has ended.
        until = ends[case.subtasks[name].group]
        events.setdefault(place.server, []).extend([(place.start, 1, name), (until, 0, name)])
    for server, queue in sorted(events.items()):
        taken: Vector = {}
        room = case.servers[server].plannable
        for _, begins, name in sorted(queue, key=lambda event: (round(event[0], 6), event[1])):
            variant = checks.variant(case.subtasks[name], case.servers[server])
            demand = variant.demand if variant else {}
            taken = plus(taken, demand) if begins else minus(taken, demand)
            if begins and not fits(taken, room):
                yield f"{server} is over its capacity when {name} starts"
                break


def _times(case: _Case) -> Iterator[str]:
    for name, place in case.places.items():
        if not (place.start >= 0 and place.seconds >= 0 and math.isfinite(case.end(name))):
            yield f"{name} starts at {place.start} for {place.seconds} seconds"
    last = max((case.end(name) for name in case.places), default=0.0)
    if not abs(last - case.plan.makespan) <= SLACK * max(1.0, last):
        yield f"the makespan is {case.plan.makespan}, but the last subtask ends at {last}"


def _starts(case: _Case) -> Iterator[str]:
    starts: dict[str, set[float]] = {}
    for name, place in case.places.items():
        starts.setdefault(case.subtasks[name].group, set()).add(round(place.start, 6))
    for group, moments in starts.items():
        if len(moments) > 1:
            yield f"the coupled set {group} does not start together"
    for edge in case.plan.graph.edges:
        if not {edge.source, edge.target} <= case.subtasks.keys():
            yield f"an edge joins {edge.source} and {edge.target}, which are not both subtasks"
        elif case.places[edge.target].start < case.end(edge.source) + _moved(case, edge) - SLACK:
            yield f"{edge.target} starts before the output of {edge.source} is there"


def _moved(case: _Case, edge: Edge) -> float:
    source = case.servers[case.places[edge.source].server]
    target = case.servers[case.places[edge.target].server]
    if source.name == target.name:
        return 0.0
    bandwidth = min(source.link_bandwidth, target.link_bandwidth)
    return source.link_latency + target.link_latency + edge.data / bandwidth


def _dependencies(case: _Case) -> Iterator[str]:
    """Compare whole tasks, from the job itself: the graph's edges could be incomplete."""
    for task in case.job.tasks:
        first = min(case.places[member.name].start for member in case.members(task.name))
        for name in task.depends_on:
            if first < max(case.end(member.name) for member in case.members(name)) - SLACK:
                yield f"{task.name} starts before {name} has ended"


def _requests(case: _Case) -> Iterator[str]:
    """Each request in exactly one group; the stages of one replica share theirs."""
    for task, work in _inference(case.job):
        parts = {(m.requests or (0, 0), m.group) for m in case.members(task.name)}
        if len({group for _, group in parts}) != len(parts):
            yield f"{task.name}: the stages of a replica have different requests"
        at = 0
        for (first, end), group in sorted(parts):
            if first != at or end < first:
                yield f"{task.name}: request {min(first, at)} is in no shard or in two, at {group}"
            at = max(at, end)
        if at != work.requests.count:
            yield f"{task.name}: {work.requests.count} requests, but the shards end at {at}"


def _layers(case: _Case) -> Iterator[str]:
    for task, work in _inference(case.job):
        stages: dict[str, list[tuple[int, int]]] = {}
        for member in case.members(task.name):
            whole = (0, work.model.layers)
            stages.setdefault(member.group, []).append(member.layers or whole)
        for group, ranges in stages.items():
            at = 0
            for first, end in sorted(ranges):
                if first != at or end <= first:
                    yield f"{task.name}: layer {min(first, at)} is in no stage or in two of {group}"
                at = max(at, end)
            if at != work.model.layers:
                yield f"{task.name}: {group} ends at layer {at} of {work.model.layers}"


def _inference(job: Job) -> Iterator[tuple[Task, Inference]]:
    for task in job.tasks:
        if isinstance(task.work, Inference):
            yield task, task.work


CHECKS = (
    (_every_subtask_once, _every_task, _numbers),  # the plan is one of this job at all
    (_hard_checks, _explanations, _times, _requests, _layers),  # each assignment for itself
    (_capacities, _starts, _dependencies),  # all of them together
)
"""Each stage of checks needs that the one before found nothing."""
