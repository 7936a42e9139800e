"""The plan on record: a ConfigMap the job owns, so that a restart goes on with the same plan.

It also holds the attempt number of every group. An attempt is written here before its pods are
created, so that an outcome of an older attempt can be told from one that counts.
"""

import base64
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from evenkeel_core.plans import Plan
from evenkeel_kube import names, pods

KEY = "plan"
MAX_BYTES = 900 * 1024
"""Of the compressed plan: a ConfigMap may hold 1 MiB."""
MAX_DECODED_BYTES = 64 * 1024**2
"""Of the plan itself, so that a ConfigMap someone else wrote can not fill the memory."""


NAME_LENGTH = 253
"""Of an object's name."""


class RecordError(ValueError):
    """The ConfigMap does not hold a plan of this release."""


class Record(msgspec.Struct, frozen=True):
    """A plan with what happened to it since."""

    revision: int
    """Grows by one with every replanning of any part."""
    plan: Plan
    attempts: dict[str, int] = {}
    """Group to its current attempt; an absent group is at its first."""
    failures: dict[str, int] = {}
    """Group to the failures that were its own fault."""
    retries: dict[str, int] = {}
    """Group to its free retries."""
    avoid: dict[str, list[str]] = {}
    """Group to servers that failed it."""
    memory: dict[str, float] = {}
    """Task to the factor on its memory estimate, raised when it was killed for memory."""


def encode(record: Record) -> str:
    """Return the record as the text of a ``binaryData`` value.

    Raises
    ------
    ValueError
        If the compressed plan is larger than a ConfigMap may hold.
    """
    packed = zlib.compress(msgspec.msgpack.encode(record), level=6)
    if len(packed) > MAX_BYTES:
        raise ValueError(f"the plan takes {len(packed)} bytes compressed, more than {MAX_BYTES}")
    return base64.b64encode(packed).decode("ascii")


def decode(text: str) -> Record:
    """Return the record that `encode` wrote.

    Raises
    ------
    RecordError
        If `text` is not what `encode` writes.
    """
    try:
        inflater = zlib.decompressobj()
        packed = inflater.decompress(base64.b64decode(text, validate=True), MAX_DECODED_BYTES)
        if not inflater.eof:
            raise RecordError("the plan on record is cut off or larger than any plan")
        record = msgspec.msgpack.decode(packed, type=Record)
    except (ValueError, zlib.error, msgspec.MsgspecError) as error:
        raise RecordError(f"the plan on record can not be read: {error}") from error
    if not _whole(record.plan):
        raise RecordError("the plan on record contradicts itself")
    return record


def _whole(plan: Plan) -> bool:
    """Tell whether a plan speaks of the same subtasks everywhere: somebody may have edited it."""
    subtasks = {subtask.name for subtask in plan.graph.subtasks}
    placed = [assignment.subtask for assignment in plan.assignments]
    ends = {end for edge in plan.graph.edges for end in (edge.source, edge.target)}
    return (
        subtasks == set(placed)
        and len(placed) == len(plan.graph.subtasks) == len(plan.rows)
        and ends <= subtasks
        and len(plan.servers) == len(plan.columns) == len(plan.rates)
    )


def name(job: str) -> str:
    """Return the name of the ConfigMap of a job's plan."""
    whole = f"{job}-plan"
    if len(whole) <= NAME_LENGTH:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{job[: NAME_LENGTH - 14].rstrip('-.')}-{digest}-plan"


def manifest(job: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """Return the ConfigMap of an InferenceJob's plan, owned by the job."""
    metadata = job["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": {
                names.LABEL_PLAN: "true",
                names.LABEL_JOB_UID: metadata["uid"],
                "app.kubernetes.io/managed-by": "evenkeel",
            },
            "ownerReferences": [pods.owner(job)],
        },
        "binaryData": {KEY: encode(record)},
    }
