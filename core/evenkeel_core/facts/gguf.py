"""Model facts from the header of a GGUF file, versions 2 and 3.

A header is untrusted: a file may come from anywhere. It is read forwards in pieces of fixed
size, every count and length is checked before it is used, and whatever is wrong is one
`InvalidModel` that says where. Memory stays below a few times `MAX_HEADER`, time is linear in the
bytes read.

References
----------
Format: docs/gguf.md of ggml-org/ggml. Block sizes, types and keys: ``gguf/constants.py`` of the
package gguf 0.19. What a reader must refuse: ``ggml/src/gguf.cpp`` of ggml-org/llama.cpp.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evenkeel_core.models import (
    KV_BYTES,
    MAX_LAYERS,
    MAX_NUMBER,
    MAX_WEIGHTS,
    InvalidModel,
    Layer,
    Model,
    alike,
    windows,
)
from evenkeel_core.quantities import Bytes

ReadAt = Callable[[int, int], bytes]
"""Returns the bytes at an offset, at most so many; fewer at the end of the file."""

MAGIC = b"GGUF"
MAX_HEADER = 64 * 2**20
"""Bytes: several times the largest vocabulary with its merges (Gemma 3: about 15 MB)."""
PIECE = 2**20
"""Bytes read at a time."""
MAX_KEYS = 2**16
MAX_TENSORS = 2**16
MAX_NAME = 256
"""Bytes of a tensor's name; ggml stops at 64."""
MAX_KEY = 2**16 - 1
MAX_TEXTS = 2**21
"""In lists: Gemma 3 has 262,144 tokens and twice as many merges."""
MAX_TEXT = 2**16
"""Bytes of a text that is kept; a longer one is passed over."""
MAX_DIMENSIONS = 4

TYPES: Mapping[int, tuple[str, int, int]] = {
    # Number: name, elements of a block, bytes of a block.
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
}  # fmt: skip
"""``general.file_type``: the mix a file was quantised to."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A list of numbers as it stands in the file: Python's own would take ten times as much."""

    data: bytes
    code: str

    def __len__(self) -> int:
        return len(self.data) // struct.calcsize("<" + self.code)

    def __iter__(self) -> Iterator[int | float | bool]:
        return (value for (value,) in struct.iter_unpack("<" + self.code, self.data))


_SCALARS: Mapping[int, struct.Struct] = {
    number: struct.Struct("<" + code)
    for number, code in enumerate("BbHhIif?")  # 0 to 7
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}
_STRING, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

Value = int | float | bool | str | Numbers


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """As ggml counts them: the row first."""
    type: str
    offset: int
    """From the start of the data."""
    bytes: int

    @property
    def elements(self) -> int:
        """Return how many weights it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data of one GGUF file."""

    version: int
    metadata: Mapping[str, Value]
    """Numbers, texts of moderate length, and lists of at most `MAX_LAYERS` numbers."""
    tensors: tuple[Tensor, ...]
    data: int
    """Offset of the data in the file."""
    part: int = 0
    """Of a model split over several files, from 0."""
    parts: int = 1


class _Cursor:
    """Reads a file forwards in pieces and not further than a header may reach."""

    def __init__(self, read: ReadAt) -> None:
        self._read = read
        self._piece = b""
        self._start = 0
        self._texts = 0
        self.at = 0

    def _need(self, size: int, what: str) -> int:
        """Have the next `size` bytes in the piece; return where they begin in it."""
        if self.at + size > MAX_HEADER:
            raise InvalidModel(f"byte {self.at}, {what}: the header is over {MAX_HEADER} bytes")
        begin = self.at - self._start
        if not 0 <= begin <= len(self._piece) - size:
            self._piece = self._read(self.at, max(size, PIECE))
            self._start, begin = self.at, 0
            if len(self._piece) < size:
                raise InvalidModel(f"byte {self.at}, {what}: the file ends here")
        return begin

    def take(self, size: int, what: str) -> bytes:
        begin = self._need(size, what)
        self.at += size
        return self._piece[begin : begin + size]

    def number(self, kind: struct.Struct, what: str) -> int:
        begin = self._need(kind.size, what)
        self.at += kind.size
        value: int = kind.unpack_from(self._piece, begin)[0]
        return value

    def skip(self, size: int, what: str) -> None:
        """Pass over bytes; that they are there shows when the next ones are read."""
        if self.at + size > MAX_HEADER:
            raise InvalidModel(f"byte {self.at}, {what}: the header is over {MAX_HEADER} bytes")
        self.at += size

    def skip_texts(self, count: int, what: str) -> None:
        """Pass over texts. A vocabulary has some 100,000: this loop is the time of a header."""
        self._texts += count
        if self._texts > MAX_TEXTS:
            raise InvalidModel(f"byte {self.at - 8}, {what}: more than {MAX_TEXTS} texts")
        unpack = _U64.unpack_from
        while count:
            begin = self._need(8, what)
            piece, last = self._piece, len(self._piece) - 8
            while count and begin <= last:
                begin += 8 + unpack(piece, begin)[0]
                count -= 1
            self.at = self._start + begin
            if self.at > MAX_HEADER:
                raise InvalidModel(f"{what}: the header is over {MAX_HEADER} bytes")

    def text(self, most: int, what: str) -> str:
        where, size = self.at, self.number(_U64, what)
        if size > most:
            raise InvalidModel(f"byte {where}, {what}: {size} bytes long, at most {most} may be")
        try:
            return self.take(size, what).decode()
        except UnicodeDecodeError:
            raise InvalidModel(f"byte {where}, {what}: is no text in UTF-8") from None


def header(read: ReadAt | bytes, *, size: int | None = None) -> Header:
    """Read the header of one GGUF file.

    Parameters
    ----------
    read : callable or bytes
        Reads the file, or is its beginning.
    size : int, optional
        Bytes of the whole file, where known: tensors must lie within.

    Raises
    ------
    InvalidModel
        If it is no GGUF, or breaks a rule of the format; says at which byte.

    Notes
    -----
    O(bytes of the header); the vocabulary is passed over, not kept.
    """
    if isinstance(read, bytes):
        return header(_within(read), size=size)
    cursor = _Cursor(read)
    if cursor.take(4, "magic") != MAGIC:
        raise InvalidModel("byte 0: is no GGUF file")
    version = cursor.number(_U32, "version")
    if version not in (2, 3):
        big = " (big-endian?)" if version and version & 0xFFFF == 0 else ""
        raise InvalidModel(f"byte 4: GGUF version {version}{big}; versions 2 and 3 are read")
    tensors = _count(cursor, "number of tensors", MAX_TENSORS)
    keys = _count(cursor, "number of keys", MAX_KEYS)
    metadata = _metadata(cursor, keys)
    table = _tensors(cursor, tensors)
    alignment = _natural(metadata, "general.alignment", 32)
    if alignment < 1 or alignment & (alignment - 1) or alignment > 2**20:
        raise InvalidModel(f"general.alignment: {alignment} is no power of two")
    data = -(-cursor.at // alignment) * alignment
    _lay_out(table, alignment, None if size is None else size - data)
    part = _natural(metadata, "split.no", 0)
    parts = _natural(metadata, "split.count", 1) or 1
    if part >= parts:
        raise InvalidModel(f"split.no: part {part} of {parts}")
    return Header(version, metadata, tuple(table), data, part, parts)


def _within(data: bytes) -> ReadAt:
    return lambda at, size: data[at : at + size]


def _count(cursor: _Cursor, what: str, most: int) -> int:
    where, count = cursor.at, cursor.number(_U64, what)
    if count > most:
        raise InvalidModel(f"byte {where}, {what}: {count}, at most {most} may be")
    return count


def _metadata(cursor: _Cursor, keys: int) -> dict[str, Value]:
    found: dict[str, Value] = {}
    seen: set[str] = set()
    for number in range(keys):
        where = cursor.at
        key = cursor.text(MAX_KEY, f"key {number}")
        if key in seen:
            raise InvalidModel(f"byte {where}: key {_brief(key)} is there twice")
        seen.add(key)
        value = _value(cursor, f"key {_brief(key)}")
        if value is not None:
            found[key] = value
    return found


def _brief(name: str) -> str:
    return ascii(name[:64])[1:-1]


def _value(cursor: _Cursor, what: str) -> Value | None:
    """Return a value, None where it is too long to be kept."""
    kind = cursor.number(_U32, what)
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], what)
    if kind == _STRING:
        size = cursor.number(_U64, what)
        if size > MAX_TEXT:
            cursor.skip(size, what)
            return None
        return cursor.take(size, what).decode(errors="replace")
    if kind != _ARRAY:
        raise InvalidModel(f"byte {cursor.at - 4}, {what}: there is no type {kind}")
    return _array(cursor, what)


def _array(cursor: _Cursor, what: str) -> Value | None:
    kind, count = cursor.number(_U32, what), cursor.number(_U64, what)
    if kind == _STRING:
        cursor.skip_texts(count, what)
        return None
    if kind not in _SCALARS:
        said = "an array of arrays" if kind == _ARRAY else f"an array of type {kind}"
        raise InvalidModel(f"byte {cursor.at - 12}, {what}: {said}; llama.cpp reads none")
    item = _SCALARS[kind]
    if count > MAX_LAYERS:
        cursor.skip(count * item.size, what)
        return None
    return Numbers(cursor.take(count * item.size, what), item.format.removeprefix("<"))


def _tensors(cursor: _Cursor, count: int) -> list[Tensor]:
    found: list[Tensor] = []
    seen: set[str] = set()
    total = 0
    for number in range(count):
        where = cursor.at
        name = cursor.text(MAX_NAME, f"tensor {number}")
        if name in seen:
            raise InvalidModel(f"byte {where}: tensor {_brief(name)} is there twice")
        seen.add(name)
        tensor = _tensor(cursor, name, f"tensor {_brief(name)}")
        total += tensor.bytes
        if total > MAX_WEIGHTS:
            raise InvalidModel(f"byte {where}: more than {MAX_WEIGHTS} bytes of weights")
        found.append(tensor)
    return found


def _tensor(cursor: _Cursor, name: str, what: str) -> Tensor:
    dimensions = cursor.number(_U32, what)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise InvalidModel(f"byte {cursor.at - 4}, {what}: {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions, what))
    kind = cursor.number(_U32, what)
    if kind not in TYPES:
        raise InvalidModel(f"byte {cursor.at - 4}, {what}: type {kind} is not known")
    type_, block, size = TYPES[kind]
    elements = math.prod(shape)
    if not 1 <= elements <= MAX_WEIGHTS:
        raise InvalidModel(f"{what}: {elements:.3g} elements")
    if shape[0] % block:
        raise InvalidModel(f"{what}: rows of {shape[0]} are no blocks of {block} ({type_})")
    offset = cursor.number(_U64, what)
    return Tensor(name, shape, type_, offset, elements // block * size)


def _lay_out(tensors: Sequence[Tensor], alignment: int, room: int | None) -> None:
    """Refuse tensors that overlap, are not aligned or reach beyond the file."""
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        what = f"tensor {_brief(tensor.name)}"
        if tensor.offset % alignment:
            raise InvalidModel(f"{what}: offset {tensor.offset} is no multiple of {alignment}")
        if tensor.offset < end:
            raise InvalidModel(f"{what}: overlaps the one before it")
        end = tensor.offset + tensor.bytes
        if room is not None and end > room:
            raise InvalidModel(f"{what}: lies beyond the end of the file; is it whole?")


def _natural(metadata: Mapping[str, Value], key: str, default: int) -> int:
    return _checked(metadata.get(key, default), key)


def _checked(value: Value, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise InvalidModel(f"{_brief(key)}: must be a whole number from 0 to {MAX_NUMBER}")
    return value


# The model


PERIODS: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4,
}  # fmt: skip
"""Architectures of which llama.cpp keeps a window on all layers but the last of each period."""
_BLOCK = re.compile(r"blk\.([0-9]{1,4})\.(.+)")
_EXPERTS = re.compile(r"ffn_(gate|up|down|gate_up)_exps\.")


def model(headers: Sequence[Header], *, name: str, weights: str, source: str = "") -> Model:
    """Return the model whose files have these headers.

    Parameters
    ----------
    headers : sequence of Header
        Of one file, or of all parts of a split model in any order.
    name : str
        For where the file states none.
    weights : str
        File name under which servers report it.
    source : str
        Kept as it is.

    Raises
    ------
    InvalidModel
        If a part is missing, if the files hold no language model, or if what they state does
        not agree.

    Notes
    -----
    Bytes are sums over the tensor table, so they are exact for every mix of types. Blocks that
    only predict further tokens (``nextn_predict_layers``) are not loaded by llama.cpp and not
    counted.
    """
    first, tensors = _whole(headers)
    stated = _Stated(first.metadata)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    vocabulary = _vocabulary(shapes, stated)
    before, blocks, head = _places(tensors, stated.layers)
    each = tuple(
        stated.layer(number, blocks[number], window)
        for number, window in enumerate(stated.windows())
    )
    counted = [_parameters(block, stated) for block in blocks]
    experts = [t for block in blocks for t in block if _EXPERTS.search(t.name)]
    layers = stated.layers
    stored = sum(tensor.bytes for tensor in experts)
    return Model(
        name=str(first.metadata.get("general.name") or name)[:256],
        layers=layers,
        hidden=stated.hidden,
        heads=stated.heads,
        kv_heads=max(1, *stated.kv_heads),
        head_dim=stated.head_dim(),
        vocabulary=vocabulary,
        layer_parameters=sum(both[0] for both in counted) // layers,
        active_layer_parameters=sum(both[1] for both in counted) // layers,
        layer_bytes=Bytes(round(sum(layer.bytes for layer in each) / layers)),
        embedding_bytes=Bytes(before),
        head_bytes=Bytes(head),
        kv_bytes_per_token=Bytes(sum(layer.kv_bytes_per_token for layer in each) // layers),
        experts=stated.experts,
        experts_used=stated.used,
        expert_bytes=Bytes(stored // layers // stated.experts if stated.experts else 0),
        context=stated.number("context_length") or 4096,
        weights=weights,
        each=() if alike(each) else each,
        quantization=_quantization(first.metadata, tensors),
        source=source,
    )


def _whole(headers: Sequence[Header]) -> tuple[Header, list[Tensor]]:
    """Return the first part and all tensors."""
    parts = sorted(headers, key=lambda header: header.part)
    if not parts:
        raise InvalidModel("there is no header")
    count = parts[0].parts
    if [part.part for part in parts] != list(range(count)):
        there = {part.part for part in parts}
        lacking = next((n for n in range(count) if n not in there), count)
        raise InvalidModel(f"is split into {count} files: part {lacking + 1} is missing")
    tensors = [tensor for part in parts for tensor in part.tensors]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise InvalidModel("two parts hold the same tensor")
    if not tensors:
        raise InvalidModel("holds no tensors: a vocabulary only")
    stated = parts[0].metadata.get("split.tensors.count", len(tensors))
    if stated != len(tensors):
        raise InvalidModel(f"split.tensors.count: {stated}, but there are {len(tensors)}")
    if sum(tensor.bytes for tensor in tensors) > MAX_WEIGHTS:
        raise InvalidModel(f"more than {MAX_WEIGHTS} bytes of weights")
    return parts[0], tensors


class _Stated:
    """What the metadata say, with the names of the formulas."""

    def __init__(self, metadata: Mapping[str, Value]) -> None:
        self._metadata = metadata
        self.architecture = metadata.get("general.architecture")
        if not isinstance(self.architecture, str) or not self.architecture:
            raise InvalidModel("general.architecture: is missing")
        if metadata.get("general.type", "model") != "model":
            raise InvalidModel("general.type: holds no model but an addition to one")
        self.hidden = self.required("embedding_length")
        blocks, unused = self.required("block_count"), self.number("nextn_predict_layers")
        self.layers = blocks - unused
        if not 1 <= self.layers <= MAX_LAYERS:
            raise InvalidModel(f"{self.key('block_count')}: {self.layers} layers")
        heads = self.each("attention.head_count", 1)
        self.heads = max(1, *heads)
        self.kv_heads = self.each("attention.head_count_kv", heads)
        self.key_dim = self.number("attention.key_length") or max(1, self.hidden // self.heads)
        self.value_dim = self.number("attention.value_length") or self.key_dim
        if self.heads * (self.key_dim + self.value_dim) > MAX_NUMBER:
            raise InvalidModel(f"{_brief(self.key('attention'))}: {self.heads} heads are too large")
        self.experts = self.number("expert_count")
        self.used = self.number("expert_used_count") if self.experts else 0
        if self.experts and not 1 <= self.used <= self.experts:
            raise InvalidModel(f"{self.key('expert_used_count')}: {self.used} of {self.experts}")

    def key(self, name: str) -> str:
        return f"{self.architecture}.{name}"

    def number(self, name: str) -> int:
        return _natural(self._metadata, self.key(name), 0)

    def required(self, name: str) -> int:
        number = self.number(name)
        if number < 1:
            raise InvalidModel(f"{_brief(self.key(name))}: is missing")
        return number

    def each(self, name: str, default: int | list[int]) -> list[int]:
        """Return a number of every layer: some files state one for all, some one each."""
        value = self._metadata.get(self.key(name))
        if value is None:
            return [default] * self.layers if isinstance(default, int) else default
        if not isinstance(value, Numbers):
            return [self.number(name)] * self.layers
        return [_checked(number, self.key(name)) for number in self.listed(name, value)]

    def listed(self, name: str, value: Numbers) -> list[int | float | bool]:
        """Return the numbers of the layers that count."""
        if len(value) < self.layers:
            raise InvalidModel(f"{_brief(self.key(name))}: {len(value)} of {self.layers} layers")
        return list(value)[: self.layers]

    def windows(self) -> list[int]:
        """Return how far back each layer looks, 0 for everything."""
        window = self.number("attention.sliding_window")
        name = "attention.sliding_window_pattern"
        pattern = self._metadata.get(self.key(name))
        if isinstance(pattern, Numbers):
            return [window if slides else 0 for slides in self.listed(name, pattern)]
        period = self.number(name)
        return windows(self.layers, window, period or PERIODS.get(str(self.architecture), 0))

    def head_dim(self) -> int:
        """Return what one head multiplies of a token: the mean of keys and values."""
        keys = self.number("attention.key_length_mla") or self.key_dim
        values = self.number("attention.value_length_mla") or self.value_dim
        return max(1, (keys + values) // 2)

    def layer(self, number: int, tensors: Sequence[Tensor], window: int) -> Layer:
        """Return one layer: its stored bytes, and what it caches of a token."""
        cached = self._cached(number, window) if self._caches(number, tensors) else 0
        if cached > MAX_NUMBER:
            raise InvalidModel(f"layer {number}: caches {cached} values of a token")
        return Layer(
            Bytes(sum(tensor.bytes for tensor in tensors)), Bytes(cached * KV_BYTES), window
        )

    def _caches(self, number: int, tensors: Sequence[Tensor]) -> bool:
        """Tell whether a layer keeps keys and values: recurrent ones keep a state instead."""
        if number >= self.layers - self.number("attention.shared_kv_layers"):
            return False
        names = {tensor.name.split(".", 2)[2] for tensor in tensors}
        recurrent = any(name.startswith(("ssm_", "time_mix_")) for name in names)
        return not recurrent or "attn_k.weight" in names

    def _cached(self, number: int, window: int) -> int:
        latent = self.number("attention.kv_lora_rank")
        if latent and self.number("attention.key_length_mla"):
            # Converted for absorbed latent attention: one compressed row, read as keys and values.
            return latent + self.number("rope.dimension_count")
        keys, values = self.key_dim, self.value_dim
        if window:
            keys = self.number("attention.key_length_swa") or keys
            values = self.number("attention.value_length_swa") or values
        return self.kv_heads[number] * (keys + values)


def _vocabulary(shapes: Mapping[str, tuple[int, ...]], stated: _Stated) -> int:
    shape = shapes.get("token_embd.weight", ())
    vocabulary = shape[1] if len(shape) > 1 else stated.number("vocab_size")
    if not 1 <= vocabulary <= MAX_NUMBER:
        raise InvalidModel("token_embd.weight: is missing, or no table of tokens")
    return vocabulary


def _places(tensors: Sequence[Tensor], layers: int) -> tuple[int, list[list[Tensor]], int]:
    """Return the bytes before the layers, each layer's tensors, and the bytes of the head."""
    blocks: list[list[Tensor]] = [[] for _ in range(layers)]
    before = head = 0
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    for tensor in tensors:
        match = _BLOCK.fullmatch(tensor.name)
        if match is None and tensor.name.startswith("output") and not tied:
            head += tensor.bytes
        elif match is None:
            before += tensor.bytes
        elif int(match[1]) < layers:
            blocks[int(match[1])].append(tensor)
    empty = next((number for number, block in enumerate(blocks) if not block), None)
    if empty is not None:
        raise InvalidModel(f"there is no tensor of layer {empty}")
    return before, blocks, head


def _parameters(tensors: Sequence[Tensor], stated: _Stated) -> tuple[int, int]:
    """Return the parameters of a layer: all, and those one token uses."""
    total = sum(tensor.elements for tensor in tensors)
    experts = sum(tensor.elements for tensor in tensors if _EXPERTS.search(tensor.name))
    if not stated.experts:
        return total, total
    return total, total - experts + experts * stated.used // stated.experts


def _quantization(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> str:
    """Return the mix the file states, else the type that most bytes are in."""
    stated = metadata.get("general.file_type")
    if isinstance(stated, int) and stated in FILE_TYPES:
        return FILE_TYPES[stated]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.bytes
    return max(sorted(sizes), key=lambda kind: sizes[kind])


def parts(name: str) -> Iterator[str]:
    """Yield the names of all files of a model, in order: several where it is split."""
    match = re.fullmatch(r"(.*-)([0-9]{5})(-of-)([0-9]{5})(\.[A-Za-z]+)", name)
    if match is None:
        yield name
        return
    for number in range(1, int(match[4]) + 1):
        yield f"{match[1]}{number:05d}{match[3]}{match[4]}{match[5]}"
