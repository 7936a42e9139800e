"""The one verifier of plans: every solver, every test and the planner itself use it.

It believes nothing but the plan and the problem: what a solver says of its own result is not
asked. It returns violations in words; nothing means that the plan is good.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from evenkeel_core import checks
from evenkeel_core.jobs import Inference, Job, Template
from evenkeel_core.plans import Assignment, Plan
from evenkeel_core.problems import NOWHERE, Ints, Problem
from evenkeel_core.quantities import Vector, fits, plus
from evenkeel_core.servers import Server
from evenkeel_core.subtasks import Subtask, Variant
from evenkeel_core.timetabling import Timetable

SLACK = 1e-6
"""Seconds by which two times may differ and still count as the same: rounding of sums."""


def verify_assignment(
    problem: Problem, assignment: Ints, times: Timetable | None = None
) -> tuple[str, ...]:
    """Return what is wrong with an assignment, in words.

    Parameters
    ----------
    problem : Problem
    assignment : ndarray of shape (n_subtasks,)
    times : Timetable, optional
        If given, capacity at every moment, dependencies and coupled starts are verified too.
    """
    if assignment.shape != (len(problem.subtasks),):
        return (f"{assignment.shape} servers for {len(problem.subtasks)} subtasks",)
    found = list(_places(problem, assignment))
    if not found and times is not None:
        found += _capacity(problem, assignment, times)
        found += _order(problem, assignment, times)
        found += _coupled(problem, times)
    return tuple(found)


def _places(problem: Problem, assignment: Ints) -> Iterator[str]:
    servers = len(problem.servers)
    for number, name in enumerate(problem.subtasks):
        server = int(assignment[number])
        if not 0 <= server < servers:
            yield f"{name} has no server"
        elif not math.isfinite(problem.cost[number, server]):
            yield f"{name} may not run on {problem.servers[server]}"
        elif problem.pinned[number] not in (NOWHERE, server):
            yield f"{name} is pinned elsewhere than {problem.servers[server]}"
        elif (problem.demand[number, problem.kind[server]] > problem.capacity[server]).any():
            yield f"{name} does not fit {problem.servers[server]}"


def _capacity(problem: Problem, assignment: Ints, times: Timetable) -> Iterator[str]:
    demand = problem.demand[np.arange(len(assignment)), problem.kind[assignment]]
    for server in np.unique(assignment):
        here = np.flatnonzero(assignment == server)
        moments = np.concatenate([times.end[here], times.start[here]])
        change = np.concatenate([-demand[here], demand[here]])
        # At one moment what ends gives back before what starts takes.
        order = np.lexsort((np.repeat([0, 1], len(here)), moments))
        if (change[order].cumsum(axis=0) > problem.capacity[server]).any():
            yield f"{problem.servers[server]} is over its capacity at some moment"


def _order(problem: Problem, assignment: Ints, times: Timetable) -> Iterator[str]:
    edges = problem.edge[problem.dependency]
    source, target = edges[:, 0], edges[:, 1]
    here, there = assignment[source], assignment[target]
    seconds = problem.link_latency[here] + problem.link_latency[there]
    seconds = seconds + problem.edge_bytes[problem.dependency] / np.minimum(
        problem.link_bandwidth[here], problem.link_bandwidth[there]
    )
    earliest = times.end[source] + np.where(here == there, 0.0, seconds)
    for edge in np.flatnonzero(times.start[target] < earliest - SLACK):
        first, second = problem.subtasks[source[edge]], problem.subtasks[target[edge]]
        yield f"{second} starts before the output of {first} is there"


def _coupled(problem: Problem, times: Timetable) -> Iterator[str]:
    for group in np.unique(problem.group):
        members = np.flatnonzero(problem.group == group)
        if np.ptp(times.start[members]) > SLACK:
            names = ", ".join(problem.subtasks[member] for member in members)
            yield f"the coupled set {names} does not start together"


def verify(plan: Plan, job: Job, servers: Sequence[Server]) -> tuple[str, ...]:
    """Return what is wrong with a plan, in words.

    Every subtask exactly once, every request in exactly one shard, every layer in exactly one
    stage of each replica, hard checks, demand within the server at every moment, the order of
    the DAG, coupled sets whole.
    """
    if not plan.feasible:
        return ("a plan with refusals has assignments",) if plan.assignments else ()
    by_name = {server.name: server for server in servers}
    subtasks = {subtask.name: subtask for subtask in plan.graph.subtasks}
    places = {assignment.subtask: assignment for assignment in plan.assignments}
    found = list(_every_subtask_once(plan, subtasks))
    if found:
        return tuple(found)
    found += _hard_checks(places, subtasks, by_name)
    if not found:
        found += _rooms(places, subtasks, by_name)
    found += _starts(plan, places, subtasks)
    for task in job.tasks:
        members = [subtask for subtask in plan.graph.subtasks if subtask.task == task.name]
        if isinstance(task.work, Inference):
            found += _requests(task.name, members, task.work.requests.count)
            found += _layers(task.name, members, task.work.model.layers)
        elif isinstance(task.work, Template) and len(members) != (task.shards or 1):
            found.append(f"{task.name} has {len(members)} subtasks for {task.shards} shards")
    return tuple(found)


def _every_subtask_once(plan: Plan, subtasks: dict[str, Subtask]) -> Iterator[str]:
    counts = Counter(assignment.subtask for assignment in plan.assignments)
    for name in subtasks:
        if counts[name] != 1:
            yield f"{name} is assigned {counts[name]} times"
    for name in counts.keys() - subtasks.keys():
        yield f"{name} is assigned but no subtask"
    if len(subtasks) != len(plan.graph.subtasks):
        yield "two subtasks share a name"


def _variant(subtask: Subtask, server: Server) -> Variant | None:
    return checks.variant(subtask, server)


def _hard_checks(
    places: dict[str, Assignment], subtasks: dict[str, Subtask], servers: dict[str, Server]
) -> Iterator[str]:
    for name, place in places.items():
        server = servers.get(place.server)
        if server is None:
            yield f"{name} is on {place.server}, which is no server"
        elif (reason := checks.reason(subtasks[name], server)) is not None:
            yield f"{name} may not run on {place.server}: {reason}"
        elif place.shortlist[:1] != (place.server,):
            yield f"the shortlist of {name} does not begin with {place.server}"


def _rooms(
    places: dict[str, Assignment], subtasks: dict[str, Subtask], servers: dict[str, Server]
) -> Iterator[str]:
    """Demand of what runs at the same time, against what each server has."""
    events: dict[str, list[tuple[float, int, str]]] = {}
    for name, place in places.items():
        queue = events.setdefault(place.server, [])
        queue += [(place.start, 1, name), (place.start + place.seconds, 0, name)]
    for server, queue in events.items():
        taken: Vector = {}
        for _, begins, name in sorted(queue, key=lambda event: (round(event[0], 6), event[1])):
            variant = _variant(subtasks[name], servers[server])
            demand = variant.demand if variant else {}
            signed = demand if begins else {key: -value for key, value in demand.items()}
            taken = plus(taken, signed)
            if begins and not fits(taken, servers[server].plannable):
                yield f"{server} is over its capacity when {name} starts"
                break


def _starts(
    plan: Plan, places: dict[str, Assignment], subtasks: dict[str, Subtask]
) -> Iterator[str]:
    for edge in plan.graph.edges:
        source, target = places.get(edge.source), places.get(edge.target)
        if source is None or target is None:
            yield f"an edge joins {edge.source} and {edge.target}, which are not both subtasks"
        elif target.start < source.start + source.seconds - SLACK:
            yield f"{edge.target} starts before {edge.source} ends"
    starts: dict[str, set[float]] = {}
    for name, place in places.items():
        starts.setdefault(subtasks[name].group, set()).add(round(place.start, 6))
    for group, moments in starts.items():
        if len(moments) > 1:
            yield f"the coupled set {group} does not start together"


def _requests(task: str, members: list[Subtask], count: int) -> Iterator[str]:
    """Each request in exactly one group; the stages of one replica share theirs."""
    ranges = sorted({(m.group, m.requests or (0, 0)) for m in members}, key=lambda item: item[1])
    at = 0
    for group, (first, end) in ranges:
        if first != at:
            yield f"{task}: request {min(first, at)} is in no shard or in two (at {group})"
        at = end
    if at != count:
        yield f"{task}: {count} requests, but the shards end at {at}"


def _layers(task: str, members: list[Subtask], layers: int) -> Iterator[str]:
    stages: dict[str, list[tuple[int, int]]] = {}
    for member in members:
        stages.setdefault(member.group, []).append(member.layers or (0, layers))
    for group, ranges in stages.items():
        at = 0
        for first, end in sorted(ranges):
            if first != at or end <= first:
                yield f"{task}: layer {min(first, at)} is in no stage or in two of {group}"
            at = end
        if at != layers:
            yield f"{task}: the stages of {group} end at layer {at} of {layers}"
