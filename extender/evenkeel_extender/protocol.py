"""What kube-scheduler sends and wants back: Go's names, as its extender types spell them.

Only names go over the wire (``nodeCacheCapable``). Scores are whole numbers from 0 to 10.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from evenkeel_core.reasons import Reason
from evenkeel_extender import pods
from evenkeel_extender.pods import Pod

MOST = 10
"""Score of the one best node."""


class MalformedError(ValueError):
    """A body that is none of kube-scheduler's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a verb is asked: a pod and the nodes in question."""

    pod: Pod
    nodes: tuple[str, ...]


class _Args(msgspec.Struct, gc=False):
    Pod: msgspec.Raw
    NodeNames: list[str] | None = None


class FilterResult(msgspec.Struct, gc=False):
    """Answer of filter. A null list of names would mean that none is left, so it is never null."""

    NodeNames: list[str]
    FailedNodes: dict[str, str]
    """Refused for now: another pod's end may help."""
    FailedAndUnresolvableNodes: dict[str, str]
    """Refused whatever ends."""


class HostPriority(msgspec.Struct, gc=False):
    """One node's score."""

    Host: str
    Score: int


_args = msgspec.json.Decoder(_Args)
_encoder = msgspec.json.Encoder()


def decode(body: bytes) -> Asked:
    """Return what the body of a verb asks.

    Raises
    ------
    MalformedError
        If it is not what kube-scheduler sends; says what is wrong where.
    """
    try:
        args = _args.decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise MalformedError(f"the body is no ExtenderArgs: {error}") from None
    try:
        pod = pods.decode(args.Pod)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"Pod can not be read: {error}") from None
    if args.NodeNames is None:
        raise MalformedError("NodeNames is missing: the extender needs nodeCacheCapable: true")
    return Asked(pod, tuple(dict.fromkeys(args.NodeNames)))


def filter_result(nodes: Iterable[str], refused: Mapping[str, Reason]) -> FilterResult:
    """Return the answer of filter: what is left of the nodes, and why the others are not."""
    result = FilterResult([], {}, {})
    for name in nodes:
        reason = refused.get(name)
        if reason is None:
            result.NodeNames.append(name)
            continue
        passing = reason is Reason.BUSY
        failed = result.FailedNodes if passing else result.FailedAndUnresolvableNodes
        failed[name] = f"evenkeel: {reason}: {reason.sentence}"
    return result


def encode(answer: Any) -> bytes:
    """Return an answer as kube-scheduler reads it."""
    return _encoder.encode(answer)
