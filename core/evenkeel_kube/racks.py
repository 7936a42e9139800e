"""Servers files: a rack described by hand, as Nodes and ServerProfiles.

One file serves `evenkeel plan --servers` and `evenkeel sandbox up --servers`. It holds a list of
servers in the short form, v1 Nodes and ServerProfiles (``kubectl get nodes -o yaml`` is one such
file), or documents of both. The short form becomes the Node and the profile that an agent would
write, so that there is one way from hardware to a `Server`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from evenkeel_core import facts
from evenkeel_core.servers import Server
from evenkeel_kube import amounts, devices, documents, names, nodes
from evenkeel_kube.kinds.schema import Api, Labels, ObjectName
from evenkeel_kube.kinds.schema import Text as ShortText
from evenkeel_kube.kinds.serverprofile import Estimate, ServerProfile

Object = dict[str, Any]

MAX_SERVERS = 10_000
GIGABIT = 1e9 / 8
GIGABYTE = 1e9
MEBIBYTE = 2**20
RESOURCES = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Huawei": "huawei.com/Ascend910"}
"""The extended resource each vendor's device plugin serves."""


def _quantity(value: object) -> str:
    """Take a number for the quantity it looks like: YAML reads ``cpu: 64`` as one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # pydantic collects ValueErrors only.
        raise ValueError(f"`{value}` is not a quantity such as 500m, 2 or 16Gi")  # noqa: TRY004
    if amounts.parse(value) < 0:
        raise ValueError(f"`{value}` is negative")
    return str(value)


Quantity = Annotated[str, BeforeValidator(_quantity)]


class InvalidServers(ValueError):
    """A servers file that breaks a rule: says which server, which field, which rule."""


class Gpus(Api):
    """Accelerators of one kind."""

    product: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="A row of the device table, or the node label's value: L4, NVIDIA-L4, MI300X."
    )
    count: Annotated[int, Field(ge=1, le=64)] = 1
    resource: Annotated[str, Field(pattern="^[^/]+/[^/]+$", max_length=128)] | None = None
    memory: Quantity | None = Field(default=None, description="Of one, where the table has no row.")


class ShortTaint(Api):
    """A taint of the Node."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    value: Annotated[str, Field(max_length=63)] = ""
    effect: Annotated[str, Field(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")] = (
        "NoSchedule"
    )


class ShortServer(Api):
    """One server, or several alike, in the short form."""

    name: ObjectName = Field(description="With `replicas`, the numbers -1, -2, … follow.")
    replicas: Annotated[int, Field(ge=1, le=MAX_SERVERS)] | None = None
    cpu: Quantity | None = Field(default=None, description="Cores.")
    memory: Quantity | None = None
    processor: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="A row of the device table: EPYC-7763, Xeon-Gold-6330."
    )
    gpus: Gpus | Annotated[list[Gpus], Field(max_length=16)] | None = None
    disk: Quantity = "1Ti"
    disk_gigabytes_per_second: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None, description="At which weights are read."
    )
    link_gigabits: Annotated[float, Field(gt=0, le=10_000)] | None = Field(
        default=None, description="Per second, of the network link."
    )
    link_milliseconds: Annotated[float, Field(ge=0, le=60_000)] | None = Field(
        default=None, description="One way to the switch."
    )
    models: Annotated[list[ShortText], Field(max_length=256)] = Field(
        default=[], description="Weights that are on its disk, by file name."
    )
    calibration: Annotated[list[Estimate], Field(max_length=256)] = Field(
        default=[], description="What was learnt of it, as in a ServerProfile's status."
    )
    reserve: dict[str, Quantity] | None = Field(default=None, description="Never planned.")
    labels: Labels = Field(default={})
    taints: Annotated[list[ShortTaint], Field(max_length=32)] = Field(default=[])
    capacity: dict[str, Quantity] = Field(
        default={}, description="Further resources; cpu and memory may stand here too."
    )


PARTS: Mapping[str, type[Api]] = {"taints": ShortTaint, "calibration": Estimate}
"""Parts of the short form that are lists, beside `gpus`."""


@dataclass(frozen=True, slots=True)
class Rack:
    """The objects a servers file describes."""

    nodes: tuple[Object, ...]
    profiles: tuple[Object, ...]

    def servers(self) -> list[Server]:
        """Return what the planner knows of them, sorted by name."""
        return nodes.servers(self.nodes, self.profiles)


def read(text: str) -> Rack:
    """Return the rack a servers file describes.

    Parameters
    ----------
    text : str
        YAML or JSON.

    Raises
    ------
    InvalidServers
        If a rule is broken; the message names the server, the field and the rule.
    """
    try:
        read = documents.load(text)
    except documents.InvalidYaml as error:
        raise InvalidServers(str(error)) from None
    found, profiles = [], []
    for where, entry in _entries(read):
        if not isinstance(entry, Mapping):
            raise InvalidServers(f"{where}: must be a mapping with a name, not {entry!r}")
        if entry.get("kind") == "ServerProfile":
            profiles.append(_profile(entry, where))
        elif entry.get("kind") == "Node":
            found.append(_node(entry, where))
        elif "kind" in entry:
            raise InvalidServers(f"{where}: kind must be Node or ServerProfile, or leave it out")
        else:
            for node, profile in _short(entry, where):
                found.append(node)
                profiles.append(profile)
    _distinct(found)
    return Rack(tuple(found), tuple(profiles))


def _entries(read: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield every entry with where it stands: lists and v1 Lists are opened."""
    for number, document in enumerate(read, start=1):
        where = f"document {number}" if len(read) > 1 else "servers"
        if isinstance(document, Mapping) and str(document.get("kind", "")).endswith("List"):
            document = document.get("items")
        if isinstance(document, Mapping) and set(document) == {"servers"}:
            document = document["servers"]
        if isinstance(document, Sequence) and not isinstance(document, str):
            yield from ((f"{where}[{index}]", entry) for index, entry in enumerate(document))
        else:
            yield where, document


def _named(entry: Mapping[str, Any], where: str) -> Object:
    metadata = entry.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise InvalidServers(f"{where}: metadata.name is missing")
    return dict(entry)


def _node(entry: Mapping[str, Any], where: str) -> Object:
    node = _named(entry, where)
    name = node["metadata"]["name"]
    try:
        _NodeShape.model_validate(node)
    except ValidationError as error:
        raise InvalidServers(f"{name}: {_first(error)}") from None
    status = node.get("status") or {}
    stated = status.get("allocatable") or status.get("capacity") or {}
    for resource in ("cpu", "memory"):
        if resource not in stated:
            raise InvalidServers(f"{name}: status.allocatable.{resource} is missing")
    try:
        amounts.vector(stated)
    except ValueError as error:
        raise InvalidServers(f"{name}: status.allocatable: {error}") from None
    return node


class _Open(BaseModel):
    """A part of a v1 object: what is not read is not looked at."""

    model_config = ConfigDict(extra="ignore")


class _TaintShape(_Open):
    key: str
    value: str = ""
    effect: str = ""


class _NodeSpecShape(_Open):
    taints: list[_TaintShape] | None = None
    unschedulable: bool | None = None


class _ConditionShape(_Open):
    type: str
    status: str


class _StatusShape(_Open):
    allocatable: dict[str, Any] | None = None
    capacity: dict[str, Any] | None = None
    conditions: list[_ConditionShape] | None = None


class _MetadataShape(_Open):
    name: ObjectName
    labels: dict[str, str] | None = None


class _NodeShape(_Open):
    """What is read of a Node; a Node of a file has passed no API server."""

    metadata: _MetadataShape
    spec: _NodeSpecShape | None = None
    status: _StatusShape | None = None


def _profile(entry: Mapping[str, Any], where: str) -> Object:
    profile = _named(entry, where)
    try:
        ServerProfile.model_validate({key: profile.get(key) or {} for key in ("spec", "status")})
    except ValidationError as error:
        raise InvalidServers(f"{profile['metadata']['name']}: {_first(error)}") from None
    return profile


def _distinct(found: Sequence[Object]) -> None:
    if not found:
        raise InvalidServers("there is no server in it")
    seen: set[str] = set()
    for node in found:
        name = node["metadata"]["name"]
        if name in seen:
            raise InvalidServers(f"{name}: name: two servers are called so")
        seen.add(name)
    if len(found) > MAX_SERVERS:
        raise InvalidServers(f"{len(found)} servers; at most {MAX_SERVERS} can be planned")


# The short form


def _short(entry: Mapping[str, Any], where: str) -> Iterator[tuple[Object, Object]]:
    said = entry.get("name") if isinstance(entry.get("name"), str) else where
    try:
        server = ShortServer.model_validate(entry)
    except ValidationError as error:
        raise InvalidServers(f"{said}: {_first(error)}") from None
    try:
        capacity = _capacity(server)
    except ValueError as error:
        raise InvalidServers(f"{said}: {error}") from None
    kinds = _kinds(server)
    numbers = range(1, server.replicas + 1) if server.replicas else (None,)
    for number in numbers:
        name = server.name if number is None else f"{server.name}-{number}"
        yield (
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": _labels(server, kinds, name)},
                "spec": {"taints": [taint.model_dump() for taint in server.taints]},
                "status": {"capacity": capacity, "allocatable": capacity},
            },
            {
                "apiVersion": names.API_VERSION,
                "kind": "ServerProfile",
                "metadata": {"name": name},
                "spec": {"reserve": {"amounts": server.reserve}} if server.reserve else {},
                "status": {
                    "hardware": _hardware(server, kinds),
                    "models": [{"name": model} for model in server.models],
                    "calibration": [
                        learnt.model_dump(by_alias=True, exclude_none=True)
                        for learnt in server.calibration
                    ],
                },
            },
        )


def _first(error: ValidationError) -> str:
    """Return the first thing wrong, as field and rule."""
    first = error.errors(include_url=False)[0]
    # Members of a union have their type in the path; users have written none.
    parts = [part for part in first["loc"] if not re.search(r"[\[(]|^Gpus$", str(part))]
    field = ".".join(str(part) for part in parts)
    if first["type"] == "extra_forbidden":
        part = ShortServer if len(parts) == 1 else PARTS.get(str(parts[0]), Gpus)
        return f"{field} is no field of a server; there are {', '.join(sorted(_aliases(part)))}"
    said = first["msg"].removeprefix("Value error, ")
    said = re.sub(" or instance of .*", "", said)
    return f"{field}: {said[:1].lower()}{said[1:]}"


def _aliases(kind: type[Api]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _capacity(server: ShortServer) -> dict[str, str]:
    stated = {"cpu": server.cpu, "memory": server.memory, "ephemeral-storage": server.disk}
    found = {"pods": "110", **{name: str(n) for name, n in stated.items() if n is not None}}
    found |= {name: str(amount) for name, amount in server.capacity.items()}
    for kind in _listed(server):
        found[_resource(kind)] = str(kind.count)
    for needed in ("cpu", "memory"):
        if needed not in found:
            raise ValueError(f"{needed} is missing; give an amount such as 64 or 256Gi")
    return found


def _listed(server: ShortServer) -> list[Gpus]:
    if server.gpus is None:
        return []
    return server.gpus if isinstance(server.gpus, list) else [server.gpus]


def _resource(kind: Gpus) -> str:
    if kind.resource:
        return kind.resource
    row = facts.device(kind.product)
    if row is None or row["vendor"] not in RESOURCES:
        raise ValueError(
            f"gpus.product: {kind.product} is not in the device table; give gpus.resource (such "
            "as nvidia.com/gpu) and gpus.memory with it"
        )
    if row["kind"] == "cpu":
        raise ValueError(f"gpus.product: {kind.product} is a processor; write processor: instead")
    return RESOURCES[row["vendor"]]


def _kinds(server: ShortServer) -> list[Object]:
    """Return the accelerators as a profile lists them."""
    found = []
    for kind in _listed(server):
        row = facts.device(kind.product)
        memory = amounts.parse(kind.memory) if kind.memory else facts.memory(row) if row else 0
        item = {"product": row["name"] if row else kind.product, "resource": _resource(kind)}
        found.append({**item, "count": kind.count, "memoryBytes": int(memory)})
    return found


def _labels(server: ShortServer, kinds: Sequence[Object], name: str) -> dict[str, str]:
    """Return the labels that vendors' discovery would set, under the user's own."""
    found = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    if server.processor:
        found[devices.CPU_MODEL] = server.processor.replace("+", "")
    for kind in kinds:
        row = facts.device(kind["product"])
        label = row["node_label_value"] if row else kind["product"]
        if kind["resource"].startswith("nvidia.com/"):
            found[devices.NVIDIA_PRODUCT] = label
            found[devices.NVIDIA_MEMORY] = str(kind["memoryBytes"] // MEBIBYTE)
        elif kind["resource"].startswith("amd.com/"):
            found[devices.AMD_PRODUCTS[0]] = label
    return {**found, **server.labels}


def _hardware(server: ShortServer, kinds: Sequence[Object]) -> Object:
    found: Object = {"accelerators": list(kinds)} if kinds else {}
    if server.processor:
        found["processor"] = {"product": server.processor}
    if server.link_gigabits is not None:
        found["linkBandwidth"] = server.link_gigabits * GIGABIT
    if server.link_milliseconds is not None:
        found["linkLatencySeconds"] = server.link_milliseconds / 1000
    if server.disk_gigabytes_per_second is not None:
        found["loadBandwidth"] = server.disk_gigabytes_per_second * GIGABYTE
    return found
