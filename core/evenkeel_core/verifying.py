"""The one verifier of plans: every solver, every test and the planner itself use it.

It believes nothing but the plan and the problem: what a solver says of its own result is not
asked. It returns violations in words; nothing means that the plan is good.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evenkeel_core import checks, likeness
from evenkeel_core.jobs import Inference, Job, Task, Template
from evenkeel_core.plans import Assignment, Plan
from evenkeel_core.problems import NOWHERE, Floats, Ints, Problem, coupled, demands, transfer
from evenkeel_core.quantities import Vector
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import Edge, Subtask, Variant
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
    cost = problem.cost_at(np.arange(assignment.size), assignment)
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
    over = _over(assignment, times.start, times.end, demand, problem.capacity)
    for server in assignment[over]:
        yield f"{problem.servers[server]} is over its capacity at some moment"


def _over(place: Ints, start: Floats, end: Floats, demand: Ints, capacity: Ints) -> Ints:
    """Return for each server over its capacity the first that starts when it is.

    `place` numbers the rows of `capacity`; all servers are looked at together.
    """
    moments, where = np.concatenate([end, start]), np.concatenate([place, place])
    change = np.concatenate([-demand, demand])
    begins = np.repeat([0, 1], place.size)
    # At one moment what ends gives back before what starts takes.
    order = np.lexsort((begins, moments, where))
    taken = change[order].cumsum(axis=0)
    # Everything given back, a server leaves nothing to the next in this sum.
    over = (taken > capacity[where[order]]).any(axis=1) & (begins[order] == 1)
    found = order[over] - place.size
    each: Ints = found[np.unique(place[found], return_index=True)[1]]
    return each


def _order(problem: Problem, assignment: Ints, times: Timetable) -> Iterator[str]:
    source, target = problem.edge[problem.dependency].T
    data = problem.edge_bytes[problem.dependency]
    seconds = transfer(problem, assignment[source], assignment[target], data)
    for edge in np.flatnonzero(times.start[target] < times.end[source] + seconds - SLACK):
        first, second = problem.subtasks[source[edge]], problem.subtasks[target[edge]]
        yield f"{second} starts before the output of {first} is there"


def _coupled(problem: Problem, times: Timetable) -> Iterator[str]:
    for unit in coupled(problem)[0]:
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
    tasks: Mapping[str, Sequence[Subtask]]
    variants: Mapping[str, Variant | None]
    """What each subtask runs as on its server; None where it can not."""

    def end(self, name: str) -> float:
        """Return when a subtask ends."""
        return self.places[name].start + self.places[name].seconds

    def members(self, task: str) -> Sequence[Subtask]:
        """Return the subtasks of a task."""
        return self.tasks.get(task, ())


def _case(plan: Plan, job: Job, servers: Sequence[Server]) -> _Case:
    tasks: dict[str, list[Subtask]] = {}
    for subtask in plan.graph.subtasks:
        tasks.setdefault(subtask.task, []).append(subtask)
    places = {assignment.subtask: assignment for assignment in plan.assignments}
    by_name = {server.name: server for server in servers}
    return _Case(
        plan,
        job,
        {subtask.name: subtask for subtask in plan.graph.subtasks},
        places,
        by_name,
        tasks,
        _variants(plan.graph.subtasks, places, by_name),
    )


def _variants(
    subtasks: Sequence[Subtask],
    places: Mapping[str, Assignment],
    servers: Mapping[str, Server],
) -> dict[str, Variant | None]:
    """Ask once for subtasks and servers that are alike what the subtask runs as there."""
    used = [
        servers[name] for name in sorted({place.server for place in places.values()} & {*servers})
    ]
    outfits = likeness.outfits(subtasks, used).number.tolist()
    outfit = {server.name: number for server, number in zip(used, outfits, strict=True)}
    found: dict[str, Variant | None] = {}
    known: dict[tuple[int, int], Variant | None] = {}
    for subtask, need in zip(subtasks, likeness.needs(subtasks).number.tolist(), strict=True):
        place = places.get(subtask.name)
        if place is None or place.server not in outfit:
            continue
        key = need, outfit[place.server]
        if key not in known:
            known[key] = checks.variant(subtask, servers[place.server])
        found[subtask.name] = known[key]
    return found


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
    case = _case(plan, job, servers)
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
            continue
        subtask = case.subtasks[name]
        reason = checks.reason(subtask, server, checks.STANDING)
        if reason is None and case.variants[name] is None:
            reason = checks.reason(subtask, server)
        if reason is not None:
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
    demands = [variant.demand if variant else {} for variant in map(case.variants.get, case.places)]
    resources = sorted({name for demand in demands for name in demand})
    used = sorted({place.server for place in case.places.values()})
    number = {server: row for row, server in enumerate(used)}
    over = _over(
        np.array([number[place.server] for place in case.places.values()], dtype=np.int64),
        np.round([place.start for place in case.places.values()], 6),
        # A set holds its servers until its last member has ended.
        np.round([ends[case.subtasks[name].group] for name in case.places], 6),
        _table(demands, resources),
        _table([case.servers[server].plannable for server in used], resources),
    )
    names = list(case.places)
    for place in over.tolist():
        yield f"{case.places[names[place]].server} is over its capacity when {names[place]} starts"


def _table(vectors: Sequence[Vector], resources: Sequence[str]) -> Ints:
    """Return vectors as rows of a table, a column a resource."""
    rows = [[vector.get(name, 0) for name in resources] for vector in vectors]
    return np.array(rows, dtype=np.int64).reshape(len(vectors), len(resources))


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
