"""Plans as the extender looks things up in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from evenkeel_core.plans import Assignment, Plan, costs
from evenkeel_core.subtasks import Subtask
from evenkeel_kube import names, nodes, plans


@dataclass(frozen=True, slots=True)
class Planned:
    """A subtask with the plan it is in."""

    plan: Plan
    subtask: Subtask
    assignment: Assignment
    costs: Mapping[str, float]
    """Seconds on each server."""
    rates: Mapping[str, float]
    """Reference seconds per second that each server has for this job."""
    neighbours: tuple[tuple[str, int], ...]
    """Label of each subtask it shares an edge with, and the bytes that go along it."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The plan of one job."""

    job: str
    """``namespace/uid`` of the job."""
    subtasks: Mapping[str, Planned]
    """By the label that the pods carry."""


class _Metadata(msgspec.Struct):
    name: str
    labels: dict[str, str]
    namespace: str = ""
    owners: list[dict[str, Any]] = msgspec.field(name="ownerReferences", default_factory=list)


class _ConfigMap(msgspec.Struct):
    metadata: _Metadata
    binary: dict[str, str] = msgspec.field(name="binaryData", default_factory=dict)


_decoder = msgspec.json.Decoder(_ConfigMap)


def decode(data: bytes) -> JobPlan:
    """Return the plan of a ConfigMap's JSON.

    Raises
    ------
    ValueError
        If there is none that can be read; msgspec's own errors are ValueErrors too.
    """
    found = _decoder.decode(data)
    record = plans.decode(found.binary.get(plans.KEY, ""))
    metadata = found.metadata
    job = nodes.owner(metadata.namespace, metadata.labels, metadata.owners)
    names_ = {plans.name(owner["name"]) for owner in metadata.owners if owner.get("name")}
    if not job or metadata.name not in names_:
        raise ValueError("it is not the plan of an InferenceJob that controls it")
    try:
        return job_plan(job, record)
    except (LookupError, TypeError) as error:
        raise ValueError(f"the plan contradicts itself: {error!r}") from error


def job_plan(job: str, record: plans.Record) -> JobPlan:
    """Return what is looked up in a plan on record."""
    plan = record.plan
    subtasks = {subtask.name: subtask for subtask in plan.graph.subtasks}
    neighbours: dict[str, list[tuple[str, int]]] = {name: [] for name in subtasks}
    for edge in plan.graph.edges:
        neighbours[edge.source].append((names.label(edge.target), edge.data))
        neighbours[edge.target].append((names.label(edge.source), edge.data))
    rows = costs(plan)
    rates = dict(zip(plan.servers, plan.rates, strict=True))
    found: dict[str, Planned] = {}
    for place, row in zip(plan.assignments, plan.rows, strict=True):
        subtask = subtasks[place.subtask]
        near = tuple(neighbours[place.subtask])
        found[names.label(place.subtask)] = Planned(plan, subtask, place, rows[row], rates, near)
    return JobPlan(job, found)
