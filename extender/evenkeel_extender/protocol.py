"""What kube-scheduler sends and wants back: Go's names, as its extender types spell them.

Only names go over the wire (``nodeCacheCapable``). Scores are whole numbers from 0 to 10.
"""

from typing import Any

import msgspec

MOST = 10
"""Score of the one best node."""


class Args(msgspec.Struct, gc=False):
    """Body of both verbs."""

    Pod: dict[str, Any]
    NodeNames: list[str] | None = None


class FilterResult(msgspec.Struct, gc=False):
    """Answer of filter. A null list of names would mean that none is left, so it is never null."""

    NodeNames: list[str]
    FailedNodes: dict[str, str]
    """Refused for now: another pod's end may help."""
    FailedAndUnresolvableNodes: dict[str, str]
    """Refused whatever else ends."""
    Error: str = ""


class HostPriority(msgspec.Struct, gc=False):
    """One node's score."""

    Host: str
    Score: int


_args = msgspec.json.Decoder(Args)
_encoder = msgspec.json.Encoder()


class MalformedError(ValueError):
    """A body that is none of kube-scheduler's."""


def decode(body: bytes) -> Args:
    """Return the body of a verb.

    Raises
    ------
    MalformedError
        If it is not what kube-scheduler sends.
    """
    try:
        args = _args.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MalformedError(f"the body is no ExtenderArgs: {error}") from None
    metadata, spec = args.Pod.get("metadata"), args.Pod.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        raise MalformedError("Pod must have metadata and spec")
    if not isinstance(metadata.get("uid"), str) or not metadata["uid"]:
        raise MalformedError("Pod.metadata.uid is missing")
    for key in ("labels", "annotations"):
        if not isinstance(metadata.get(key) or {}, dict):
            raise MalformedError(f"Pod.metadata.{key} must be an object")
    if args.NodeNames is None:
        raise MalformedError("NodeNames is missing: the extender needs nodeCacheCapable: true")
    return args


def encode(answer: Any) -> bytes:
    """Return an answer as kube-scheduler reads it."""
    return _encoder.encode(answer)
