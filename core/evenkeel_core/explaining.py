"""A plan in rows: for people as tables, for programs as JSON. Nothing is decided here.

For every subtask: where, for how long, by which terms of the utility, what came second and how
much worse it was. For every server: how much of it is used. Without a plan: why, and what would
help.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenkeel_core.plans import Assignment, Plan, Refusal, Terms, costs
from evenkeel_core.reasons import Reason
from evenkeel_core.subtasks import Subtask

TIE = 1e-9
"""Share of the utility below which a difference is rounding."""
SAME = 0.05
"""Seconds that a table with one decimal does not show."""


@dataclass(frozen=True, slots=True)
class Row:
    """One subtask of a plan with its reasons."""

    name: str
    task: str
    group: str
    server: str
    layers: tuple[int, int] | None
    requests: tuple[int, int] | None
    start: float
    """Seconds after the start of the job."""
    seconds: float
    terms: Terms
    runner_up: str | None
    runner_up_seconds: float | None
    """What it would take on the runner-up."""
    regret: float
    shortlist: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Share:
    """What a plan gives to one server."""

    server: str
    subtasks: int
    busy: float
    """Seconds, summed over its subtasks; those of one server may overlap."""
    end: float
    """Seconds after the start of the job at which its last subtask ends."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One server a subtask could have had."""

    server: str
    place: int | None
    """Position in the shortlist, from 1; None where it is not on it."""
    seconds: float | None
    """None where a hard check fails."""


def rows(plan: Plan) -> tuple[Row, ...]:
    """Return one row a subtask, in the order of the graph."""
    subtasks = {subtask.name: subtask for subtask in plan.graph.subtasks}
    table = costs(plan)
    return tuple(
        _row(table[number], assignment, subtasks[assignment.subtask])
        for number, assignment in zip(plan.rows, plan.assignments, strict=True)
    )


def _row(taken: Mapping[str, float], assignment: Assignment, subtask: Subtask) -> Row:
    other = assignment.runner_up
    # A server that has gone since has no column any more.
    there = None if other is None else _finite(taken.get(other, math.inf))
    return Row(
        name=assignment.subtask,
        task=subtask.task,
        group=subtask.group,
        server=assignment.server,
        layers=subtask.layers,
        requests=subtask.requests,
        start=assignment.start,
        seconds=assignment.seconds,
        terms=assignment.terms,
        runner_up=other,
        runner_up_seconds=there,
        regret=assignment.regret,
        shortlist=assignment.shortlist,
        why=_why(assignment, subtask, there),
    )


def _why(assignment: Assignment, subtask: Subtask, there: float | None) -> str:
    """Return the reason in words."""
    if subtask.layers is not None:
        first, end = subtask.layers
        return f"layers {first} to {end - 1} were sized for {assignment.server}"
    if subtask.server is not None:
        return f"{assignment.server} is the only server it may run on"
    if assignment.runner_up is None:
        return "no other server may run it"
    other = assignment.runner_up
    if abs(assignment.regret) <= TIE * abs(assignment.terms.utility):
        return f"no better than {other}: a tie"
    if assignment.regret < 0:
        return f"{other} would serve it better, but not the job as a whole"
    slower = 0.0 if there is None else there - assignment.seconds
    if slower > SAME:
        return f"takes {slower:.1f} s less than on {other}"
    if slower < -SAME:
        return f"takes {-slower:.1f} s more than on {other}, which has more to do already"
    load, edges = assignment.terms.load, assignment.terms.edges
    return f"as fast as on {other}, where " + ("more waits" if load <= edges else "data is further")


def shares(plan: Plan) -> tuple[Share, ...]:
    """Return what each server that has something to do is given, the busiest first."""
    found: dict[str, list[Assignment]] = {}
    for assignment in plan.assignments:
        found.setdefault(assignment.server, []).append(assignment)
    return tuple(
        sorted(
            (
                Share(
                    server,
                    len(own),
                    sum(assignment.seconds for assignment in own),
                    max(assignment.start + assignment.seconds for assignment in own),
                )
                for server, own in found.items()
            ),
            key=lambda share: (-share.busy, share.server),
        )
    )


def alternatives(plan: Plan, subtask: str) -> tuple[Alternative, ...]:
    """Return every server for one subtask: the shortlist first, then by seconds.

    Raises
    ------
    ValueError
        If the plan has no such `subtask`.
    """
    position = next((n for n, a in enumerate(plan.assignments) if a.subtask == subtask), None)
    if position is None:
        raise ValueError(f"`subtask` {subtask} is none of the plan's {len(plan.assignments)}")
    order = {server: n for n, server in enumerate(plan.assignments[position].shortlist, start=1)}
    found = [
        Alternative(server, order.get(server), _finite(seconds))
        for server, seconds in costs(plan)[plan.rows[position]].items()
    ]
    return tuple(
        sorted(
            found,
            key=lambda item: (
                item.place or math.inf,
                math.inf if item.seconds is None else item.seconds,
                item.server,
            ),
        )
    )


def document(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data for JSON; infinite numbers are absent."""
    factors = plan.factorisation
    return {
        "job": plan.job,
        "feasible": plan.feasible,
        "reason": str(Reason.PLANNED if plan.feasible else plan.refusals[0].reason),
        "makespanSeconds": plan.makespan,
        "stable": plan.stable,
        "potential": plan.potential,
        "scaleSeconds": plan.scale,
        "balance": plan.balance,
        "imbalance": plan.imbalance,
        "factorisation": None
        if factors is None
        else {
            "rank": factors.rank,
            "explained": factors.explained,
            "error": factors.error,
            "costFromFactors": factors.cost_from_factors,
            "costFinal": factors.cost_final,
        },
        "notes": list(plan.graph.notes),
        "subtasks": [_entry(row) for row in rows(plan)],
        "servers": [
            {
                "name": share.server,
                "subtasks": share.subtasks,
                "busySeconds": share.busy,
                "endSeconds": share.end,
            }
            for share in shares(plan)
        ],
        "unreached": None if plan.unreached is None else _refusal(plan.unreached),
        "refusals": [_refusal(refusal) for refusal in plan.refusals],
    }


def _refusal(refusal: Refusal) -> dict[str, Any]:
    return {
        "subtask": refusal.subtask,
        "reason": str(refusal.reason),
        "message": refusal.message,
        "resource": refusal.resource,
        "missing": refusal.missing,
        "remedy": refusal.remedy,
        "server": refusal.server,
        "obstacles": [str(reason) for reason in refusal.obstacles],
        "lacking": dict(refusal.lacking),
    }


def _entry(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "task": row.task,
        "group": row.group,
        "server": row.server,
        "layers": list(row.layers) if row.layers else None,
        "requests": list(row.requests) if row.requests else None,
        "startSeconds": row.start,
        "predictedSeconds": row.seconds,
        "utility": row.terms.utility,
        "terms": {"cost": row.terms.cost, "edges": row.terms.edges, "load": row.terms.load},
        "runnerUp": row.runner_up,
        "runnerUpSeconds": row.runner_up_seconds,
        "regret": row.regret,
        "shortlist": list(row.shortlist),
        "why": row.why,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def matrix(plan: Plan) -> dict[str, Any]:
    """Return the cost matrix by classes: seconds, None where a subtask may not run.

    ``servers`` has the members of each class of servers, ``subtasks`` of each class of subtasks.
    """
    servers: dict[int, list[str]] = {}
    for server, column in zip(plan.servers, plan.columns, strict=True):
        servers.setdefault(column, []).append(server)
    subtasks: dict[int, list[str]] = {}
    for assignment, row in zip(plan.assignments, plan.rows, strict=True):
        subtasks.setdefault(row, []).append(assignment.subtask)
    return {
        "servers": [servers[column] for column in sorted(servers)],
        "subtasks": [subtasks[row] for row in sorted(subtasks)],
        "seconds": [[_finite(value) for value in plan.costs[row]] for row in sorted(subtasks)],
    }
