"""Which jobs may start: by priority, then by age, as far as the API server can bear.

Admission is only about who is planned and gets pods. Who may use which server first is decided
when gates are opened (`evenkeel_core.releasing`): there no later job delays an earlier one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

MAX_LIVE = 10_000
"""Subtasks that have a pod at the same time: the planning size of the design."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A job that is not finished."""

    key: str
    priority: int
    created: str
    """Creation time as the API server wrote it: compared, never subtracted."""
    subtasks: int
    """Pods it has or would have; 1 where it has no plan yet."""
    suspended: bool = False


def queue(jobs: Iterable[Queued]) -> list[Queued]:
    """Return the jobs in the order in which they may start."""
    waiting = (job for job in jobs if not job.suspended)
    return sorted(waiting, key=lambda job: (-job.priority, job.created, job.key))


def admitted(jobs: Iterable[Queued], *, most: int = MAX_LIVE) -> frozenset[str]:
    """Return the jobs that may be planned and have pods: the first that fit together.

    The first is always among them; none passes one that does not fit.
    """
    found: list[str] = []
    live = 0
    for job in queue(jobs):
        if found and live + job.subtasks > most:
            break
        live += job.subtasks
        found.append(job.key)
    return frozenset(found)
