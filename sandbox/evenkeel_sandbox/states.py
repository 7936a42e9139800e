"""What a sandbox is on this machine: written before anything is made, read to take it down."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from evenkeel_sandbox.failures import ForeignRecordError
from evenkeel_sandbox.networks import Network, Subnet
from evenkeel_sandbox.places import sandboxes
from evenkeel_sandbox.specs import TIMINGS, RealNode, Timing

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class State:
    """Every name under which the sandbox makes something, so that `down` needs nothing else."""

    name: str
    number: int
    """Four digits that no other sandbox of this machine has, for the names the kernel sees."""
    address: str
    """Where the API server listens."""
    network: str | None
    """The sandbox's own network, or None when it has no real nodes."""
    ports: Mapping[str, int]
    nodes: tuple[RealNode, ...]
    timing: Timing
    binaries: Mapping[str, str] = field(default_factory=dict)
    checkout: str = ""
    """The source tree it was started from: several share a cache."""

    @property
    def subnet(self) -> Subnet:
        """The addresses of the real nodes."""
        if self.network is None:
            raise ValueError("`network` is None: this sandbox has no real nodes")
        return Subnet(Network(self.network))

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.address}:{self.ports['kube-apiserver']}"

    @property
    def bridge(self) -> str:
        """Name of the bridge; the kernel takes 15 characters."""
        return f"evenkeel{self.number}"

    def link(self, index: int) -> str:
        """Return the host's end of a node's cable."""
        return f"evenkeel{self.number}n{index}"

    def machine(self, node: str) -> str:
        """Return the name of a node's network namespace and control groups."""
        return f"evenkeel{self.number}-{node}"

    def indexed(self) -> Iterator[tuple[int, RealNode]]:
        """Yield the real nodes with their numbers, from 1."""
        return enumerate(self.nodes, start=1)


def folder(name: str) -> Path:
    """Return where the sandbox keeps its files.

    Every path of a sandbox is made here, and `down` removes what it is given as root: a name that
    is a path, or none, must not get past this.
    """
    if not valid(name):
        raise ValueError("`name` must be a lower-case DNS label of at most 20 characters")
    return sandboxes() / name


def valid(name: str) -> bool:
    """Tell whether a sandbox can have this name."""
    return _NAME.fullmatch(name) is not None


def write(state: State) -> None:
    """Put the state on record, whole or not at all, and on the disk before we go on."""
    path = folder(state.name) / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_suffix(".new")
    with scratch.open("w") as file:
        json.dump(asdict(state), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def read(name: str) -> State | None:
    """Return the state on record, None where there is none.

    Raises
    ------
    ForeignRecordError
        If another release wrote it and left out what this one needs.
    """
    raw = _raw(name)
    return None if raw is None else _state(name, raw)


def remains(name: str) -> State | None:
    """Return what is on record, however little, for `down`; None where that is next to nothing."""
    try:
        raw = _raw(name)
        return None if raw is None else _state(name, {**_LEAST, **raw})
    except ForeignRecordError:
        return None


_LEAST: Mapping[str, Any] = {
    "address": "",
    "network": None,
    "ports": {},
    "nodes": (),
    "timing": asdict(TIMINGS["moderate"]),
}
"""What `down` can do without; without the number it can't know the names the kernel sees."""


def _raw(name: str) -> Any:
    path = folder(name) / "state.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def _state(name: str, raw: Any) -> State:
    try:
        nodes = tuple(RealNode(**known(RealNode, node)) for node in raw["nodes"])
        timing = Timing(**known(Timing, raw["timing"]))
        said = {**known(State, raw), "name": name, "nodes": nodes, "timing": timing}
        return State(**said)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ForeignRecordError(
            f"the record of sandbox {name} is not one of this release ({error}); remove the "
            f"sandbox with `evenkeel sandbox down --name {name}`"
        ) from None


def known(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a class has fields for: a newer release may have written more."""
    return {field.name: raw[field.name] for field in fields(kind) if field.name in raw}


def everyone() -> list[State]:
    """Return the states of all sandboxes of this user, by name, as far as they can be read."""
    names = sorted(path.parent.name for path in sandboxes().glob("*/state.json"))
    return [state for name in names if valid(name) and (state := remains(name))]
