"""What the status of a job and of its pods says, for those who follow it. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

Object = Mapping[str, Any]

ENDED = ("Succeeded", "Failed")
"""States that a job does not leave."""


def condition(job: Object, kind: str) -> Object:
    """Return a condition of a job; empty where it is not set."""
    found = (job.get("status") or {}).get("conditions") or ()
    return next((item for item in found if item["type"] == kind), {})


def state(job: Object) -> str:
    """Return how far a job is, in one word."""
    return str((job.get("status") or {}).get("state") or "Pending")


def seconds(pod: Object) -> float | None:
    """Return how long a pod's containers ran, None before their end.

    From the first start to the last end, as the node reports them: in whole seconds.
    """
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    ended = [(item.get("state") or {}).get("terminated") or {} for item in statuses]
    if not ended or any(_never(item.get("startedAt")) for item in ended):
        return None
    start = min(datetime.fromisoformat(item["startedAt"]) for item in ended)
    end = max(datetime.fromisoformat(item["finishedAt"]) for item in ended)
    return (end - start).total_seconds()


def _never(stamp: str | None) -> bool:
    """Tell whether a time stands for none: the runtime writes 1970 for what never started."""
    return not stamp or stamp.startswith("1970-")


def indexes(text: str | None) -> frozenset[int]:
    """Return the numbers of index ranges such as ``0-3,7``; what is no range is left out."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
