"""Writers of model files: headers of any size without the data they speak of."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

Tensors = Sequence[tuple[str, tuple[int, ...], int]]
"""Name, shape with the row first, number of the ggml type."""


def _text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """Return a typed value: whole numbers as 32 bits where they fit, lists by their first item."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value) if 0 <= value < 2**32 else struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    first = _value(value[0]) if value else struct.pack("<I", 4)
    items = b"".join(_value(item)[4:] for item in value)
    return struct.pack("<I", 9) + first[:4] + struct.pack("<Q", len(value)) + items


def gguf_header(
    metadata: Mapping[str, Any],
    tensors: Tensors,
    sizes: Mapping[int, tuple[int, int]],
    version: int = 3,
) -> bytes:
    """Return a GGUF header; `sizes` has elements and bytes of a block by type."""
    alignment = metadata.get("general.alignment", 32)
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    out += b"".join(_text(key) + _value(value) for key, value in metadata.items())
    offset = 0
    for name, shape, kind in tensors:
        out += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        out += struct.pack("<IQ", kind, offset)
        elements, block = 1, sizes[kind]
        for dimension in shape:
            elements *= dimension
        offset += -(-(elements // block[0] * block[1]) // alignment) * alignment
    return out + b"\0" * (-len(out) % alignment)


def safetensors_header(tensors: Mapping[str, tuple[str, Sequence[int], int]]) -> bytes:
    """Return a safetensors header: type, shape and bits of a value by name."""
    offset, entries = 0, {}
    for name, (kind, shape, bits) in tensors.items():
        size = bits
        for dimension in shape:
            size *= dimension
        entries[name] = {
            "dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size // 8]
        }  # fmt: skip
        offset += size // 8
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.fixture(scope="session")
def write_gguf() -> Callable[..., bytes]:
    """Return the writer of GGUF headers."""
    return gguf_header


@pytest.fixture(scope="session")
def write_safetensors() -> Callable[..., bytes]:
    """Return the writer of safetensors headers."""
    return safetensors_header
