"""Model facts from safetensors headers and the ``config.json`` beside them.

A header tells every tensor's type, shape and place, so stored bytes are exact; how many heads
attend and what they cache only the config knows.

References
----------
Format and its rules: README of huggingface/safetensors (header of at most 100 MB there; sizes
here suit the largest published files many times over).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from evenkeel_core.models import (
    MAX_WEIGHTS,
    InvalidModel,
    Layer,
    Model,
    alike,
    from_config,
    stored_as,
)
from evenkeel_core.quantities import Bytes

ReadAt = Callable[[int, int], bytes]

MAX_HEADER = 16 * 2**20
"""Bytes of JSON: room for some 100,000 tensors; a file of DeepSeek-V3 has 600."""
MAX_VALUES = 2**20
"""Values in it: JSON of many empty lists would grow twentyfold in memory."""

BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
KINDS: Mapping[str, str] = {"F8_E4M3": "FP8", "F8_E5M2": "FP8", "F4": "MXFP4"}
"""Our names of quantisations, where the format's differ."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file."""

    name: str
    type: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data of one file."""

    tensors: tuple[Tensor, ...]
    data: int
    """Offset of the data in the file."""


def header(read: ReadAt | bytes, *, size: int | None = None) -> Header:
    """Read the header of one safetensors file.

    Parameters
    ----------
    read : callable or bytes
        Reads so many bytes at an offset, or is the file's beginning.
    size : int, optional
        Bytes of the whole file, where known: it must be exactly the tensors.

    Raises
    ------
    InvalidModel
        If it is no such file, or breaks a rule of the format; says which tensor.

    Notes
    -----
    O(bytes of the header).
    """
    if isinstance(read, bytes):
        return header(_within(read), size=size)
    length = read(0, 8)
    if len(length) < 8:
        raise InvalidModel("byte 0: the file ends before its header")
    count = int.from_bytes(length[:8], "little")
    if not 2 <= count <= MAX_HEADER:
        raise InvalidModel(f"byte 0: a header of {count} bytes; is it a safetensors file?")
    text = read(8, count)[:count]
    if len(text) < count:
        raise InvalidModel(f"byte {8 + len(text)}: the file ends within its header")
    found = _parsed(text)
    found.pop("__metadata__", None)
    placed = sorted(
        (_tensor(name, entry) for name, entry in found.items()), key=lambda each: each[0]
    )
    end = 0
    for (begin, past), tensor in placed:
        if begin != end:
            raise InvalidModel(f"{_brief(tensor.name)}: begins at {begin}, not at {end}")
        end = past
    data = 8 + count
    if size is not None and data + end != size:
        raise InvalidModel(f"tensors end at byte {data + end}, the file at {size}; is it whole?")
    return Header(tuple(tensor for _, tensor in placed), data)


def _within(data: bytes) -> ReadAt:
    return lambda at, size: data[at : at + size]


def _parsed(text: bytes) -> dict[str, Any]:
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise InvalidModel(f"byte 8: the header has more than {MAX_VALUES} values")
    try:
        found = json.loads(text.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidModel):
            raise
        raise InvalidModel(f"byte 8: the header is no JSON: {_reason(error)}") from None
    if not isinstance(found, dict):
        raise InvalidModel("byte 8: the header is no JSON object")
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "nested too deep" if isinstance(error, RecursionError) else "not in UTF-8"


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise InvalidModel("byte 8: a name is there twice")
    return found


def _brief(name: str) -> str:
    return "tensor " + ascii(name[:96])[1:-1]


def _tensor(name: str, entry: object) -> tuple[tuple[int, int], Tensor]:
    """Return a tensor and where it begins and ends in the data."""
    if not isinstance(entry, dict):
        raise InvalidModel(f"{_brief(name)}: must be an object")
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in BITS:
        raise InvalidModel(f"{_brief(name)}: dtype is not known")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise InvalidModel(f"{_brief(name)}: shape and data_offsets must be whole numbers")
    bits = BITS[kind]
    for dimension in shape:
        bits *= dimension
        if bits > 8 * MAX_WEIGHTS:
            raise InvalidModel(f"{_brief(name)}: more than {MAX_WEIGHTS} bytes")
    begin, end = offsets
    if end - begin != -(-bits // 8):
        raise InvalidModel(
            f"{_brief(name)}: {end - begin} bytes of data, shape and dtype make {-(-bits // 8)}"
        )
    return (begin, end), Tensor(name, kind, tuple(shape), end - begin)


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= MAX_WEIGHTS
        for item in value
    )


# The model


_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.([0-9]{1,4})\.")
_ELSEWHERE = re.compile(r"(^|\.)(vision|visual|audio|multi_modal|mm_|image)")
_EXPERT = re.compile(r"\.experts\.")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.")


def model(
    headers: Sequence[Header],
    config: Mapping[str, Any],
    *,
    name: str,
    weights: str,
    source: str = "",
) -> Model:
    """Return the model whose files have these headers.

    Parameters
    ----------
    headers : sequence of Header
        Of all its files.
    config : mapping
        Its ``config.json``.
    name, weights, source : str
        As in `evenkeel_core.models.from_config`.

    Raises
    ------
    InvalidModel
        If a tensor stands in two files, a layer has none, or the config can't be right.

    Notes
    -----
    Towers that see or hear count with the embedding: they run before the first layer. Layers
    past those of the config only predict further tokens and are not counted.
    """
    tensors = [tensor for each in headers for tensor in each.tensors]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidModel("two files hold the same tensor")
    if sum(tensor.bytes for tensor in tensors) > MAX_WEIGHTS:
        raise InvalidModel(f"more than {MAX_WEIGHTS} bytes of weights")
    kind = stored_as(config) or _commonest(tensors)
    shape = from_config(
        config, name=name, bits=16, weights=weights, quantization=kind, source=source
    )
    before, blocks, head = _places(tensors, shape.layers)
    each = shape.each or (Layer(Bytes(0), shape.kv_bytes_per_token),) * shape.layers
    each = tuple(
        replace(layer, bytes=Bytes(sum(tensor.bytes for tensor in block)))
        for layer, block in zip(each, blocks, strict=True)
    )
    experts = sum(t.bytes for block in blocks for t in block if _EXPERT.search(t.name))
    return replace(
        shape,
        layer_bytes=Bytes(round(sum(layer.bytes for layer in each) / shape.layers)),
        embedding_bytes=Bytes(before),
        head_bytes=Bytes(head),
        expert_bytes=Bytes(experts // shape.layers // max(1, shape.experts)),
        each=() if alike(each) else each,
    )


def _commonest(tensors: Sequence[Tensor]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.bytes
    kind = max(sorted(sizes), key=lambda kind: sizes[kind], default="")
    return KINDS.get(kind, kind)


def _places(tensors: Sequence[Tensor], layers: int) -> tuple[int, list[list[Tensor]], int]:
    """Return the bytes before the layers, each layer's tensors, and the bytes of the head."""
    blocks: list[list[Tensor]] = [[] for _ in range(layers)]
    before = head = 0
    for tensor in tensors:
        match = _LAYER.search(tensor.name)
        if _ELSEWHERE.search(tensor.name) or (match is None and not _HEAD.search(tensor.name)):
            before += tensor.bytes
        elif match is None:
            head += tensor.bytes
        elif int(match[1]) < layers:
            blocks[int(match[1])].append(tensor)
    empty = next((number for number, block in enumerate(blocks) if not block), None)
    if empty is not None:
        raise InvalidModel(f"there is no tensor of layer {empty}; are all files there?")
    return before, blocks, head
