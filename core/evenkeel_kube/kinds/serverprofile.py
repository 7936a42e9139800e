"""The kind ServerProfile: what a server is, beyond what its Node says. One a node, same name.

The agent owns ``hardware`` and ``models`` of the status, the operator ``calibration``; people
write the spec.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from evenkeel_kube.kinds.schema import Amounts, Api, Condition, Sha256, Text

Rate = Annotated[float, Field(ge=0, le=1e18)]
Share = Annotated[float, Field(ge=0, le=1)]


class Accelerator(Api):
    """Accelerators of one kind."""

    product: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="As the device table or the node label calls it."
    )
    resource: Annotated[str, Field(min_length=3, max_length=128, pattern="^[^/]+/[^/]+$")] = Field(
        default="nvidia.com/gpu", description="Extended resource that requests one."
    )
    count: Annotated[int, Field(ge=0, le=64)] | None = None
    """How many there are."""
    memory_bytes: Annotated[int, Field(ge=0, le=2**50)] | None = Field(
        default=None, description="Of one device."
    )
    flops: Rate | None = Field(default=None, description="Dense 16-bit FLOP/s of one device.")
    bandwidth: Rate | None = Field(default=None, description="Bytes/s of one device's memory.")


class Processor(Api):
    """The processors together."""

    product: Annotated[str, Field(max_length=128)] | None = None
    """Product, e.g. EPYC-7763."""
    features: Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=128)] = Field(
        default=[]
    )
    """CPU features, e.g. avx2."""
    flops: Rate | None = Field(default=None, description="Dense FLOP/s of all cores.")
    bandwidth: Rate | None = Field(default=None, description="Bytes/s of the memory.")


class Hardware(Api):
    """What the server can do."""

    processor: Processor | None = None
    memory_bytes: Annotated[int, Field(ge=0, le=2**60)] | None = None
    """Main memory."""
    accelerators: Annotated[list[Accelerator], Field(max_length=16)] | None = None
    """Accelerators by kind."""
    link_bandwidth: Rate | None = Field(default=None, description="Bytes/s of the network link.")
    link_latency_seconds: Annotated[float, Field(ge=0, le=60)] | None = None
    """Latency of the link to other servers, one way."""
    load_bandwidth: Rate | None = Field(
        default=None, description="Bytes/s at which weights are read into memory."
    )
    engine_variants: Annotated[
        list[Literal["cpu", "cpuBaseline", "cuda", "rocm", "vulkan"]], Field(max_length=8)
    ] = Field(default=[])
    """Builds of the engine that run here."""


class Reserve(Api):
    """What is never planned."""

    amounts: Amounts = Field(default={}, description="By resource; default 10 % of CPU and memory.")


class Spec(Api):
    """What people know better than the probe."""

    overrides: Hardware | None = None
    reserve: Reserve | None = None
    excluded: bool = Field(default=False, description="Plan nothing on this server.")


class Figure(Api):
    """Where one figure comes from."""

    name: Text
    """What is figured."""
    source: Text
    """Where it comes from."""
    confidence: Share = 1.0
    """How far it is believed, 0 to 1."""


class ProbedHardware(Hardware):
    """What the agent found."""

    probe_time: Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})] | (
        None
    ) = None
    """Time of the last probe."""
    figures: Annotated[list[Figure], Field(max_length=64)] = Field(default=[])
    """Where each figure comes from and how far it is believed."""


class Estimate(Api):
    """Measured efficiencies of one model on one engine and one device."""

    model: Text
    """The model it was observed with: its weights file, or its name."""
    engine: Text
    """The engine it was observed with."""
    device: Annotated[str, Field(max_length=128)] | None = Field(
        default=None,
        description="As the device table or the node label calls it; default the server's first.",
    )
    tensor: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="Devices that every layer was split over."
    )
    compute: Annotated[float, Field(gt=0, le=1)]
    """Share of the peak compute rate that is reached."""
    memory: Annotated[float, Field(gt=0, le=1)]
    """Share of the memory bandwidth that is reached."""
    layer_seconds: Annotated[float, Field(ge=0, le=60)]
    """Fixed seconds a layer."""
    uncertainty: Annotated[float, Field(ge=0, le=100)]
    """Standard deviation of the log of the estimate."""
    covariance: (
        Annotated[list[Annotated[float, Field(ge=-1e4, le=1e4)]], Field(min_length=6, max_length=6)]
        | None
    ) = Field(
        default=None,
        description="Of the logs of the three, lower triangle; default from the uncertainty.",
    )
    samples: Annotated[int, Field(ge=0)]
    """Observations it rests on."""


class PresentModel(Api):
    """Weights on the server."""

    name: Text
    """Name of the file."""
    sha256: Sha256 | None = None
    """Its checksum."""
    size_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0
    """Its size."""


class Load(Api):
    """What the server is busy with."""

    queue_seconds: Annotated[float, Field(ge=0)] = 0
    """Seconds of work that wait."""
    observed_time: Annotated[str, Field(max_length=40)] | None = None
    """Time of the observation."""


class Status(Api):
    """What was measured."""

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
    """What is known of the server, and what not."""
    hardware: ProbedHardware | None = None
    calibration: Annotated[list[Estimate], Field(max_length=256)] | None = None
    """Rates learnt from observed times."""
    models: Annotated[list[PresentModel], Field(max_length=256)] | None = None
    """Models present on its disk."""
    load: Load | None = None


class ServerProfile(Api):
    """What a server is, beyond what its Node says."""

    model_config = ConfigDict(extra="ignore")
    spec: Spec = Field(default=Spec())
    status: Status | None = None


COLUMNS = (
    ("Processor", "string", ".status.hardware.processor.product", "Processors", 0),
    ("Accelerator", "string", ".status.hardware.accelerators[0].product", "First kind", 0),
    ("Queue", "number", ".status.load.queueSeconds", "Seconds of queued work", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Since it was created", 0),
)
