"""Jobs as the planner sees them: what a user asked for, with every default filled in.

`evenkeel_kube.jobs` makes these from an InferenceJob; nothing here knows Kubernetes objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from evenkeel_core.models import Model
from evenkeel_core.quantities import Bytes, Seconds, Vector


class Objective(StrEnum):
    """What a plan makes small or large."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"


class CostModel(StrEnum):
    """Which matrix the method factorises and minimises."""

    AUTO = "Auto"
    """Seconds for inference; the user's estimated seconds x demand shares for templates."""
    SECONDS = "Seconds"
    SHARES = "Shares"
    """The claim's own matrix: demand over availability, weighted."""


class Engine(StrEnum):
    """What runs a model."""

    LLAMACPP = "llamacpp"
    VLLM = "vllm"
    SIMULATOR = "simulator"


class Overlap(StrEnum):
    """Whether the stages of one decode step work at the same time."""

    SUM = "sum"
    """They take turns (llama.cpp RPC): a step takes the sum of the stages and the hops."""
    SLOWEST = "slowest"
    """They overlap (vLLM): in steady state a step takes as long as the slowest stage."""


OVERLAP: Mapping[Engine, Overlap] = {
    Engine.LLAMACPP: Overlap.SUM,
    Engine.VLLM: Overlap.SLOWEST,
    Engine.SIMULATOR: Overlap.SUM,
}

MAX_SUBTASKS = 2000
"""Pods of one job; above, the job is refused with the remedy (design section 8)."""
MAX_STAGES = 16
"""Stages of one pipeline: llama.cpp's own limit of RPC servers."""


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration of the job's pods; empty key with operator Exists tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Expression:
    """One requirement on a label or, with `field` true, on ``metadata.name``."""

    key: str
    operator: str
    """In, NotIn, Exists, DoesNotExist, Gt or Lt."""
    values: tuple[str, ...] = ()
    field: bool = False


Term = tuple[Expression, ...]
"""All expressions hold; a list of terms holds when one of them does."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Where a user lets a task run."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    required: tuple[Term, ...] = ()
    """Required node affinity: OR-ed terms; empty means anywhere."""
    preferred: tuple[tuple[int, Term], ...] = ()
    """Preferred node affinity: weight 1 to 100 and its term."""


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of an inference task, as lengths in tokens.

    `lengths` holds one ``(input, output)`` pair a request in input order when they are known
    one by one; else the means stand for all.
    """

    count: int
    mean_input: float
    mean_output: float
    lengths: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """The shape of the work one replica must hold at a time."""

    max_input_tokens: int = 2048
    max_output_tokens: int = 256
    concurrency: int = 4


@dataclass(frozen=True, slots=True)
class Parallelism:
    """How often a model is cut and copied; None lets the planner choose."""

    pipeline: int | None = None
    tensor: int | None = None
    data: int | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a pipeline cut by hand."""

    server: str
    layers: int


@dataclass(frozen=True, slots=True)
class Inference:
    """Requests put through a model."""

    model: Model
    engine: Engine
    requests: Requests
    workload: Workload = Workload()
    parallelism: Parallelism = Parallelism()
    stages: tuple[Stage, ...] = ()
    overhead: Vector = field(default_factory=dict)
    """Floor of the demand, from the user's ``resources.requests``."""
    limits: Vector = field(default_factory=dict)
    """Cap of the demand, from the user's ``resources.limits``."""
    time_scale: float = 1.0
    """Simulator only: simulated seconds that pass in one real second."""


@dataclass(frozen=True, slots=True)
class Template:
    """A user's pod, run as it is."""

    demand: Vector
    """Sum of its containers' requests (the larger of those and the init containers')."""
    estimated_seconds: Seconds
    migratable: bool = False
    retry_on_node_loss: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """A node of the user's DAG, before it is cut into subtasks."""

    name: str
    work: Inference | Template
    shards: int | None = 1
    """Copies of the task over parts of its input; None lets the planner choose."""
    depends_on: tuple[str, ...] = ()
    output_bytes: Bytes = Bytes(0)
    """Of all shards together, moved along every edge out of the task."""
    constraints: Constraints = Constraints()


@dataclass(frozen=True, slots=True)
class Job:
    """One InferenceJob."""

    key: str
    """``namespace/name``."""
    uid: str
    tasks: tuple[Task, ...]
    """Earlier tasks first: a task depends on earlier ones only."""
    priority: int = 0
    created: float = 0.0
    """Seconds since the epoch by the API server's clock; only compared with other jobs'."""
    objective: Objective = Objective.THROUGHPUT
    cost_model: CostModel = CostModel.AUTO
