"""Subtasks: what the method assigns to servers, one pod each."""

from dataclasses import dataclass, field, replace

from evenkeel_core.jobs import Constraints
from evenkeel_core.quantities import MEMORY, Bytes, Vector, Work


@dataclass(frozen=True, slots=True)
class Variant:
    """How a subtask would run on servers that offer one kind of device."""

    resource: str
    """``cpu``, the extended resource of the accelerator it uses, or empty: it needs neither."""
    demand: Vector
    device: str = ""
    """Name of the device it is sized for; empty fits every device of the resource."""


@dataclass(frozen=True, slots=True)
class Subtask:
    """One pod to be: a shard, one stage of one pipeline, or a user's template."""

    name: str
    """Unique in the job and a DNS label: ``TASK-INDEX`` or ``TASK-REPLICA-sSTAGE``."""
    task: str
    group: str
    """The coupled set it starts and ends with; its own name when it stands alone."""
    index: int
    """Number of its group in the job: what ``status.completed`` counts."""
    work: Work
    variants: tuple[Variant, ...]
    """In the order of preference; a server uses the first it has the devices for."""
    constraints: Constraints = field(default_factory=Constraints)
    server: str | None = None
    """The only server it may run on, because it was sized for it or the user named it."""
    layers: tuple[int, int] | None = None
    """First layer and one past the last, for a stage; None when the whole model runs here."""
    requests: tuple[int, int] | None = None
    """First request and one past the last of the task's input, for a shard."""
    weight_bytes: Bytes = Bytes(0)
    kv_bytes: Bytes = Bytes(0)
    output_bytes: Bytes = Bytes(0)


def raised(subtask: Subtask, memory: float) -> Subtask:
    """Return a subtask that asks for so many times the memory, as its task was killed for less."""
    if memory == 1.0:
        return subtask
    variants = tuple(
        replace(variant, demand={**variant.demand, MEMORY: int(variant.demand[MEMORY] * memory)})
        if MEMORY in variant.demand
        else variant
        for variant in subtask.variants
    )
    return replace(subtask, variants=variants)


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` starts after `source` has ended and its `data` bytes have arrived."""

    source: str
    target: str
    data: Bytes


@dataclass(frozen=True, slots=True)
class TaskGraph:
    """A job cut into subtasks: the DAG of step 2."""

    subtasks: tuple[Subtask, ...]
    edges: tuple[Edge, ...] = ()
    notes: tuple[str, ...] = ()
    """Why each model was cut as it was: sentences for people."""
