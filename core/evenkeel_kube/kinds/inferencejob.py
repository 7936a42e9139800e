"""The kind InferenceJob.

The simplest job is a model and two prompts. Fields that this release does not bring to life yet
are here, validated and documented; a job that needs one says so in its condition Accepted.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from evenkeel_kube.kinds.schema import (
    Amounts,
    Api,
    Condition,
    Image,
    Labels,
    Loose,
    ObjectName,
    Path,
    Sha256,
    Text,
    rule,
    ruled,
)

MAX_PROMPTS = 1000
MAX_PROMPT = 8192
MAX_TASKS = 64
MAX_STAGES = 16
MAX_SHARDS = 2000
MAX_PLAN_ROWS = 64


def _counted(count: int | str) -> int | str:
    if isinstance(count, int) and not 1 <= count <= MAX_SHARDS:
        raise ValueError(f"must be auto or from 1 to {MAX_SHARDS}")
    return count


Count = Annotated[
    int | Literal["auto"],
    AfterValidator(_counted),
    Field(
        # Plain bounds and not CEL: its estimated cost, times the tasks, exceeds the budget.
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "minimum": 1,
            "maximum": 2000,
            "pattern": "^auto$",
            "maxLength": 4,
        },
    ),
]
"""Exactly so many, or what the planner finds best."""


class Model(Api):
    """The weights and what is known of them."""

    model_config = ruled(
        rule(
            "!self.uri.startsWith('hf://')",
            "model.uri: hf:// needs the internet; put the file on the servers and use "
            "file://NAME, or on a volume and use pvc://CLAIM/PATH",
            fieldPath=".uri",
        ),
        rule(
            "self.uri.startsWith('hf://') || self.uri.matches('^(file|pvc|oci)://[A-Za-z0-9].*$')",
            "model.uri must begin with file://, pvc:// or oci:// and name something",
            fieldPath=".uri",
        ),
        rule(
            "!self.uri.startsWith('file://') || !self.uri.contains('..')",
            "model.uri: a file:// name must not contain '..'",
            fieldPath=".uri",
        ),
        rule(
            "!self.uri.startsWith('pvc://') || self.uri.matches('^pvc://[a-z0-9.-]+/.+$')",
            "model.uri: pvc:// must be pvc://CLAIM/PATH",
            fieldPath=".uri",
        ),
    )
    uri: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="file://NAME below the agents' models folder, pvc://CLAIM/PATH or oci://IMAGE."
    )
    format: Literal["gguf", "safetensors"] | None = Field(
        default=None, description="Format of the weights; read from the file where it can be."
    )
    sha256: Sha256 | None = Field(
        default=None, description="Checksum of the file; a server whose file differs is not used."
    )
    quantization: Annotated[str, Field(max_length=16, pattern=r"^[A-Za-z0-9_]+$")] | None = Field(
        default=None, description="Quantisation such as Q4_K_M, where the name does not say it."
    )
    config: Loose | None = Field(
        default=None,
        description="The model's shape by the names of its config.json (hidden_size, "
        "num_hidden_layers, …), where neither file nor name tells it.",
    )
    size_bytes: Annotated[int, Field(ge=1, le=2**50)] | None = Field(
        default=None, description="Size of the weights in bytes, where the file can't be read."
    )


class Images(Api):
    """Image of each engine variant; the chart has defaults."""

    cpu: Image | None = None
    """For servers with AVX2."""
    cpu_baseline: Image | None = None
    """For servers without AVX2."""
    cuda: Image | None = None
    """For NVIDIA GPUs."""
    rocm: Image | None = None
    """For AMD GPUs."""
    vulkan: Image | None = None
    """For GPUs reached through Vulkan."""


class EnvVar(Api):
    """One environment variable of the engine."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value."""


class Runtime(Api):
    """What runs the model."""

    model_config = ruled(
        rule(
            "!has(self.timeScale) || self.engine == 'simulator'",
            "runtime.timeScale is for engine simulator only",
            fieldPath=".timeScale",
        ),
        rule(
            "!has(self.seed) || self.engine == 'simulator'",
            "runtime.seed is for engine simulator only",
            fieldPath=".seed",
        ),
    )
    engine: Literal["llamacpp", "vllm", "simulator"] = Field(
        default="llamacpp",
        description="simulator takes the time a model would take and answers nothing.",
    )
    images: Images | None = None
    args: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=64)] = Field(
        default=[], description="Further arguments of the engine."
    )
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(
        default=[], description="Environment of the engine."
    )
    time_scale: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None, description="Simulator: simulated seconds in one real second; default 1."
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        default=None, description="Simulator: seed of the factor between predicted and real time."
    )


class Parallelism(Api):
    """How often a model is cut and copied."""

    pipeline: Count = Field(default="auto", description="Stages of one replica.")
    tensor: Count = Field(default="auto", description="Ways every layer is split (vllm).")
    data: Count = Field(default="auto", description="Replicas, or shards of the requests.")


class Stage(Api):
    """One stage of a pipeline cut by hand."""

    node_name: ObjectName = Field(description="The server that holds it.")
    layers: Annotated[int, Field(ge=1, le=1024)] = Field(description="How many layers it holds.")


class Workload(Api):
    """What one replica must hold at a time."""

    max_input_tokens: Annotated[int, Field(ge=1, le=2_000_000)] = 2048
    """Tokens of the longest request."""
    max_output_tokens: Annotated[int, Field(ge=1, le=2_000_000)] = 256
    """Tokens of the longest answer."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=4, description="Requests a replica works on at the same time."
    )


class ClaimPath(Api):
    """A file on a PersistentVolumeClaim of the job's namespace."""

    claim_name: ObjectName
    """A PersistentVolumeClaim in the namespace of the job."""
    path: Path
    """Path within the claim."""


class ConfigMapKey(Api):
    """A key of a ConfigMap of the job's namespace."""

    name: ObjectName
    """A ConfigMap in the namespace of the job."""
    key: Annotated[str, Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")] = "requests.jsonl"
    """Its key that holds the lines."""


class RequestDefaults(Api):
    """Fields of requests that lack them."""

    max_tokens: Annotated[int, Field(ge=1, le=2_000_000)] | None = None
    """Tokens of the answer at most."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; 0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of probability that is sampled from."""
    seed: int | None = None
    """Seed of the sampling."""
    system: Annotated[str, Field(max_length=MAX_PROMPT)] | None = Field(
        default=None, description="System message put before plain prompts."
    )


class Input(Api):
    """The requests, as OpenAI batch JSONL or plain prompts."""

    model_config = ruled(
        rule(
            "[has(self.prompts), has(self.configMapRef), has(self.persistentVolumeClaim)]"
            ".filter(x, x).size() == 1",
            "input must have exactly one of prompts, configMapRef and persistentVolumeClaim",
        )
    )
    prompts: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]],
            Field(min_length=1, max_length=MAX_PROMPTS),
        ]
        | None
    ) = Field(default=None, description="Plain prompts; they become chat requests 0, 1, ….")
    config_map_ref: ConfigMapKey | None = Field(
        default=None, description="Requests in a ConfigMap, one JSON object a line."
    )
    persistent_volume_claim: ClaimPath | None = Field(
        default=None, description="Requests in a file on a claim, one JSON object a line."
    )
    defaults: RequestDefaults | None = None


class Output(Api):
    """Where results go."""

    model_config = ruled(
        rule(
            "!(has(self.persistentVolumeClaim) && has(self.configMap))",
            "output must have at most one of persistentVolumeClaim and configMap",
        )
    )
    persistent_volume_claim: ClaimPath | None = None
    config_map: ObjectName | None = Field(
        default=None, description="A ConfigMap, up to 900 KiB; default JOB-results."
    )


class Resources(Api):
    """Floor and cap of what the planner asks for each pod of an engine."""

    requests: Amounts = Field(default={}, description="Floor.")
    limits: Amounts = Field(default={}, description="Cap.")


class RequestTemplate(Api):
    """A request made from a line of the workspace, with named fields put in."""

    body: Loose = Field(description="The request; {field} is replaced by the line's field.")


class TaskInput(Api):
    """Requests of an inference task of a DAG."""

    workspace_path: Path = Field(description="File below /workspace, one JSON object a line.")
    request_template: RequestTemplate | None = None


class TaskOutput(Api):
    """Results of an inference task of a DAG."""

    workspace_path: Path = Field(description="File below /workspace that is written.")


class TaskInference(Api):
    """Requests put through a model as one task of a DAG."""

    model: Model
    runtime: Runtime = Field(default=Runtime())
    parallelism: Parallelism = Field(default=Parallelism())
    workload: Workload = Field(default=Workload())
    input: TaskInput
    output: TaskOutput


def _text(description: str, most: int) -> dict[str, Any]:
    return {"type": "string", "description": description, "maxLength": most}


class PodTemplate(Api):
    """A user's pod, as in a Job's ``spec.template``."""

    model_config = ruled(
        rule(
            "has(self.spec.containers) && self.spec.containers.size() >= 1",
            "template.spec.containers: at least one container is needed",
        ),
        rule(
            "!has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Never'",
            "template.spec.restartPolicy must be Never: Evenkeel retries by itself",
        ),
        rule(
            "!has(self.spec.schedulerName)",
            "template.spec.schedulerName must not be set: Evenkeel sets its own",
        ),
        rule(
            "!has(self.spec.nodeName)",
            "template.spec.nodeName must not be set: use nodeSelector kubernetes.io/hostname",
        ),
    )
    metadata: "TemplateMetadata | None" = None
    spec: Loose = Field(
        description="A pod spec; its own fields are validated when the pod is created.",
        json_schema_extra={
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {
                "containers": {
                    "type": "array",
                    "description": "As of a Pod.",
                    "maxItems": 16,
                    "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
                "restartPolicy": _text("Never; what failed is started anew as a pod.", 16),
                "schedulerName": _text("To be left out: Evenkeel's own is set.", 253),
                "nodeName": _text("To be left out: use nodeSelector kubernetes.io/hostname.", 253),
            },
        },
    )


class TemplateMetadata(Api):
    """Labels and annotations of the pods of a template."""

    labels: Labels = Field(default={})
    """Labels of the pods."""
    annotations: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)
    ] = Field(default={})
    """Annotations of the pods."""


class Task(Api):
    """A node of the user's DAG."""

    model_config = ruled(
        rule(
            "has(self.template) != has(self.inference)",
            "tasks[]: a task must have exactly one of template and inference",
        ),
        rule(
            "!has(self.retryOnNodeLoss) || !self.retryOnNodeLoss || has(self.template)",
            "tasks[].retryOnNodeLoss is for template tasks only",
            fieldPath=".retryOnNodeLoss",
        ),
        rule(
            "!has(self.dependsOn) || !(self.name in self.dependsOn)",
            "tasks[].dependsOn must not name the task itself",
            fieldPath=".dependsOn",
        ),
    )
    name: Annotated[
        str, Field(min_length=1, max_length=32, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    ]
    """Name of the task within the job."""
    template: PodTemplate | None = Field(default=None, description="A pod that is run as it is.")
    inference: TaskInference | None = Field(
        default=None, description="Requests put through a model."
    )
    shards: Count = Field(default=1, description="Copies; the index is in EVENKEEL_SHARD.")
    depends_on: Annotated[
        list[Annotated[str, Field(max_length=32)]],
        Field(max_length=MAX_TASKS, json_schema_extra={"x-kubernetes-list-type": "set"}),
    ] = Field(default=[], description="Earlier tasks that must have succeeded.")
    estimated_seconds: Annotated[float, Field(gt=0, le=31_536_000)] = Field(
        default=60.0, description="How long one shard of a template takes."
    )
    output_bytes: Annotated[int, Field(ge=0, le=2**50)] = Field(
        default=0, description="What all shards together hand to the tasks that depend on it."
    )
    migratable: bool = Field(
        default=False, description="A running pod may be stopped and started elsewhere."
    )
    retry_on_node_loss: bool = Field(
        default=False,
        description="Start it anew while an unreachable node may still be running it.",
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="Failures of one shard; default the job's."
    )


class Workspace(Api):
    """A volume shared by the tasks, mounted at /workspace."""

    persistent_volume_claim: "ClaimName"


class ClaimName(Api):
    """A PersistentVolumeClaim of the job's namespace."""

    claim_name: ObjectName
    """A PersistentVolumeClaim in the namespace of the job."""


class Spec(Api):
    """What is wanted."""

    model_config = ruled(
        rule(
            "has(self.tasks) != has(self.input)",
            "spec must have exactly one of input and tasks",
        ),
        rule(
            "!has(self.input) || has(self.model)",
            "spec.model is needed with spec.input",
        ),
        rule(
            "!has(self.tasks) || !has(self.model)",
            "spec.model must not be set with spec.tasks: each inference task has its own",
        ),
        rule(
            "!has(self.tasks) || !has(self.stages)",
            "spec.stages must not be set with spec.tasks",
        ),
        rule(
            "!has(self.tasks) || self.tasks.all(i, t, !has(t.dependsOn) || t.dependsOn.all(d, "
            "self.tasks.exists(j, e, j < i && e.name == d)))",
            "spec.tasks[].dependsOn must name earlier tasks of the list: put a task after those it "
            "depends on",
        ),
        rule(
            "!has(self.stages) || !has(self.parallelism) || !has(self.parallelism.pipeline) || "
            "type(self.parallelism.pipeline) == string || "
            "self.parallelism.pipeline == self.stages.size()",
            "spec.stages and spec.parallelism.pipeline disagree on the number of stages",
        ),
        *(
            rule(
                f"has(self.{field}) == has(oldSelf.{field}) && "
                f"(!has(self.{field}) || self.{field} == oldSelf.{field})",
                f"spec.{field} can't be changed: delete the job and create it anew",
            )
            for field in (
                "model", "input", "output", "tasks", "stages", "parallelism", "workload",
                "runtime", "objective", "costModel", "resources", "backoffLimit",
                "nodeSelector", "tolerations", "affinity", "workspace",
            )
        ),
    )  # fmt: skip
    model: Model | None = None
    runtime: Runtime = Field(default=Runtime())
    parallelism: Parallelism = Field(default=Parallelism())
    stages: Annotated[list[Stage], Field(min_length=1, max_length=MAX_STAGES)] | None = Field(
        default=None, description="A pipeline cut by hand, in the order of the layers."
    )
    workload: Workload = Field(default=Workload())
    objective: Literal["throughput", "latency"] = "throughput"
    """What is made best: Throughput ends the last subtask early, Latency the mean one."""
    cost_model: Literal["Auto", "Seconds", "Shares"] = Field(
        default="Auto", description="The matrix that is factorised: seconds, or demand shares."
    )
    rebalance: Literal["Off", "Observe", "Act"] = Field(
        default="Observe", description="Whether running subtasks may be moved to level the loads."
    )
    input: Input | None = None
    output: Output | None = None
    tasks: (
        Annotated[
            list[Task],
            Field(
                min_length=1,
                max_length=MAX_TASKS,
                json_schema_extra={
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                },
            ),
        ]
        | None
    ) = Field(default=None, description="A DAG of tasks, earlier ones first.")
    workspace: Workspace | None = None
    resources: Resources | None = None
    node_selector: Labels | None = None
    """Labels a server must have."""
    tolerations: Annotated[list["JobToleration"], Field(max_length=32)] | None = None
    """Taints of servers that are tolerated."""
    affinity: Loose | None = Field(default=None, description="Affinity of the job's pods.")
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods."""
    image_pull_secrets: Annotated[list["SecretName"], Field(max_length=8)] | None = None
    """Secrets for pulling the images."""
    priority_class_name: ObjectName | None = Field(
        default=None, description="Jobs of higher priority are planned first."
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        default=3, description="Failures of one subtask that are the subtask's own fault."
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """Seconds after its start in which the job must end, else it fails."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        default=None, description="The job is deleted so long after its end; its output stays."
    )
    gang_timeout_seconds: Annotated[int, Field(ge=5, le=3600)] = Field(
        default=60, description="A coupled set that is not wholly bound by then starts anew."
    )
    suspend: bool = Field(default=False, description="Stop the pods, keep what is done.")


class JobToleration(Api):
    """A toleration of the job's pods."""

    key: Annotated[str, Field(max_length=317)] = ""
    """Key of the taint; every key where it is left out and operator is Exists."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Equal or Exists."""
    value: Annotated[str, Field(max_length=63)] = ""
    """Value of the taint, for operator Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taint; every effect where it is left out."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds a NoExecute taint is tolerated; always where it is left out."""


class SecretName(Api):
    """A secret for pulling images."""

    name: ObjectName
    """A Secret in the namespace of the job."""


class RequestCounts(Api):
    """How many requests there are and what became of them."""

    total: int = 0
    """Requests there are."""
    completed: int = 0
    """Requests that were answered."""
    failed: int = 0
    """Requests that got an error."""


class SubtaskCounts(Api):
    """How many subtasks there are and how far they are."""

    total: int = 0
    """Subtasks there are."""
    waiting: int = 0
    """Subtasks that do not run yet."""
    running: int = 0
    """Subtasks that run."""
    succeeded: int = 0
    """Subtasks that succeeded."""
    failed: int = 0
    """Subtasks that failed for good."""


class InspectedModel(Api):
    """What was found out about the model."""

    name: Text = ""
    """Name of the model."""
    layers: int = 0
    """How many layers it has."""
    size_bytes: int = 0
    """Size of the weights."""
    source: Text = ""
    """Where the facts come from."""


class InspectedInput(Api):
    """What was found out about the input."""

    requests: int = 0
    """How many requests there are."""
    mean_input_tokens: float = 0
    """Mean tokens of a request."""
    mean_output_tokens: float = 0
    """Mean tokens expected of an answer."""


class PlannedSubtask(Api):
    """One row of the plan."""

    name: Text
    """Name of the subtask."""
    server: Text
    """The server it is planned for."""
    layers: Text = ""
    """The layers it holds, FIRST-END."""
    weight_bytes: int = 0
    """Weights it holds."""
    predicted_seconds: float = 0
    """What it should take there."""


class Factorisation(Api):
    """What the low-rank step did."""

    rank: int
    """Rank of the factors."""
    explained: float
    """Share of the energy beyond the means that the factors explain."""
    error: float
    """Root mean square of the relative error of the fit."""
    cost_from_factors: float
    """Cost of the start that the factors gave, seconds."""
    cost_final: float
    """Cost of the plan, seconds."""


class PlanSummary(Api):
    """The plan, summed up; the whole of it is in the ConfigMap."""

    revision: int = 0
    """Goes up with every new plan."""
    config_map: Text = ""
    """ConfigMap that holds the whole plan."""
    subtasks: Annotated[list[PlannedSubtask], Field(max_length=MAX_PLAN_ROWS)] = Field(default=[])
    """The first subtasks of the plan."""
    total_subtasks: int = 0
    """Subtasks of the plan."""
    makespan_seconds: float = 0
    """Predicted seconds until the last subtask ends."""
    potential: float = 0
    """The game's potential at the end."""
    stable: bool = False
    """No server could claim a subtask that would be better off."""
    factorisation: Factorisation | None = None


class Migrations(Api):
    """What was moved while it ran."""

    count: int = 0
    """Migrations so far."""
    last: Text = ""
    """Time of the last one."""


Time = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Ranges = Annotated[str, Field(max_length=16384)]


class Status(Api):
    """What is."""

    observed_generation: int | None = None
    """Generation of the spec that the status is about."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = Field(default=[])
    """How far the job is, and why not farther."""
    state: Text | None = Field(
        default=None, description="The conditions in one word, for the printer column only."
    )
    queue_position: int | None = Field(default=None, description="Jobs that go first.")
    start_time: Time | None = None
    """Time at which the first subtask ran."""
    completion_time: Time | None = None
    """Time at which the job ended."""
    estimated_completion_time: Time | None = None
    """Time at which it should end."""
    request_counts: RequestCounts | None = None
    subtask_counts: SubtaskCounts | None = None
    completed: Ranges | None = Field(
        default=None, description="Numbers of the subtasks that succeeded, as 0-3,7."
    )
    failed: Ranges | None = Field(
        default=None, description="Numbers of the subtasks that failed for good."
    )
    failures: Annotated[dict[str, int], Field(max_length=2000)] | None = Field(
        default=None, description="Own-fault failures of each group that had any."
    )
    retries: Annotated[dict[str, int], Field(max_length=2000)] | None = Field(
        default=None, description="Free retries of each group that had any."
    )
    model: InspectedModel | None = None
    input: InspectedInput | None = None
    plan: PlanSummary | None = None
    predicted_tokens_per_second: float | None = None
    """Rate the plan predicts."""
    observed_tokens_per_second: float | None = None
    """Rate that was observed."""
    migrations: Migrations | None = None
    output_location: Text | None = None
    """Where the results are."""


class InferenceJob(Api):
    """Requests put through a model, or a DAG of tasks, over unlike servers."""

    model_config = ConfigDict(extra="ignore")
    spec: Spec
    status: Status | None = None


COLUMNS = (
    ("State", "string", ".status.state", "Where the job is", 0),
    ("Queue", "integer", ".status.queuePosition", "Jobs that go first", 1),
    ("Done", "integer", ".status.subtaskCounts.succeeded", "Subtasks that succeeded", 0),
    ("Subtasks", "integer", ".status.subtaskCounts.total", "Subtasks there are", 0),
    ("Makespan", "number", ".status.plan.makespanSeconds", "Predicted seconds", 0),
    ("Reason", "string", ".status.conditions[?(@.type=='Planned')].reason", "Of the plan", 1),
    ("Age", "date", ".metadata.creationTimestamp", "Since it was created", 0),
)
