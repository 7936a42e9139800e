"""GGUF headers: exact bytes of real shapes, and one error for whatever is wrong."""

import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core.facts import gguf
from evenkeel_core.models import InvalidModel, Model

SIZES = {number: (block, size) for number, (_, block, size) in gguf.TYPES.items()}
F32, F16, Q4_K, Q5_K, Q6_K, Q8_0 = 0, 1, 12, 13, 14, 8
Write = Callable[..., bytes]
Tensors = list[tuple[str, tuple[int, ...], int]]
Object = dict[str, Any]


def stated(architecture: str = "llama", **more: Any) -> Object:
    shape = {
        "block_count": 2, "embedding_length": 64, "attention.head_count": 4,
        "attention.head_count_kv": 2, "context_length": 2048,
    }  # fmt: skip
    numbers = {f"{architecture}.{key}": value for key, value in {**shape, **more}.items()}
    return {"general.architecture": architecture, **numbers}


def tiny(layers: int = 2, kind: int = F32) -> Tensors:
    blocks: Tensors = [
        (f"blk.{n}.{name}.weight", shape, kind)
        for n in range(layers)
        for name, shape in (("attn_q", (64, 64)), ("attn_k", (64, 32)), ("ffn_up", (64, 128)))
    ]
    return [("token_embd.weight", (64, 100), kind), *blocks, ("output.weight", (64, 100), kind)]


def read(data: bytes, **more: Any) -> Model:
    return gguf.model([gguf.header(data, **more)], name="tiny", weights="tiny.gguf")


def llama(vocabulary: int, hidden: int, inner: int, layers: int, narrow: int) -> Tensors:
    """Return Llama 3.1's tensors as llama.cpp quantises them to Q4_K_M.

    Half of the layers keep values and down projections in six bits, as does the head.
    """

    def kind(n: int) -> int:
        eighth = layers // 8
        return Q6_K if n < eighth or n >= 7 * eighth or (n - eighth) % 3 == 2 else Q4_K

    tensors: Tensors = [("token_embd.weight", (hidden, vocabulary), Q4_K)]
    for n in range(layers):
        for name, shape, stored in (
            ("attn_norm", (hidden,), F32), ("ffn_norm", (hidden,), F32),
            ("attn_q", (hidden, hidden), Q4_K), ("attn_k", (hidden, narrow), Q4_K),
            ("attn_v", (hidden, narrow), kind(n)), ("attn_output", (hidden, hidden), Q4_K),
            ("ffn_gate", (hidden, inner), Q4_K), ("ffn_up", (hidden, inner), Q4_K),
            ("ffn_down", (inner, hidden), kind(n)),
        ):  # fmt: skip
            tensors.append((f"blk.{n}.{name}.weight", shape, stored))
    return [
        *tensors, ("rope_freqs.weight", (64,), F32), ("output_norm.weight", (hidden,), F32),
        ("output.weight", (hidden, vocabulary), Q6_K),
    ]  # fmt: skip


def test_the_bytes_are_those_llama_cpp_loads(write_gguf: Write) -> None:
    """Its log says of Meta-Llama-3.1-8B-Instruct-Q4_K_M: model buffer size = 4685.30 MiB."""
    metadata = stated(
        **{"block_count": 32, "embedding_length": 4096, "attention.head_count": 32,
           "attention.head_count_kv": 8, "context_length": 131072},
    ) | {"general.file_type": 15, "general.name": "Meta Llama 3.1 8B Instruct"}  # fmt: skip
    model = read(write_gguf(metadata, llama(128_256, 4096, 14_336, 32, 1024), SIZES))
    assert f"{model.bytes / 2**20:.2f}" == "4685.30"
    assert (model.name, model.quantization) == ("Meta Llama 3.1 8B Instruct", "Q4_K_M")
    assert (model.layers, model.heads, model.kv_heads, model.head_dim) == (32, 32, 8, 128)
    assert (model.vocabulary, model.context) == (128_256, 131_072)
    assert model.layer_parameters == model.active_layer_parameters == 218_112_000
    assert model.kv_bytes_per_token * model.layers == 128 * 1024
    assert not model.tied
    # Half of the layers are in six bits where it matters: they are heavier.
    assert len({layer.bytes for layer in model.each}) == 2
    assert model.stored(0, 32) == sum(layer.bytes for layer in model.each)
    assert model.stored(4, 8) == sum(layer.bytes for layer in model.each[4:8])
    assert model.cached(0, 32, tokens=1000, sequences=4) == 4000 * 128 * 1024


def test_the_engines_own_header_of_a_tiny_model(write_gguf: Write) -> None:
    """147,968 bytes a layer: hidden 64, 4 heads, 2 of keys, inner 128, as llama.cpp says."""
    tensors: Tensors = [("token_embd.weight", (64, 259), F32)]
    for n in range(8):
        shapes = {
            "attn_norm": (64,), "ffn_norm": (64,), "attn_q": (64, 64), "attn_k": (64, 32),
            "attn_v": (64, 32), "attn_output": (64, 64), "ffn_gate": (64, 128),
            "ffn_up": (64, 128), "ffn_down": (128, 64),
        }  # fmt: skip
        tensors += [(f"blk.{n}.{name}.weight", shape, F32) for name, shape in shapes.items()]
    model = read(write_gguf(stated(block_count=8), tensors, SIZES))
    assert model.layer_bytes == 147_968
    assert model.each == ()
    assert model.kv_bytes_per_token * 8 * 65_536 == 64 * 2**20


def test_a_tied_head_is_stored_once_and_needed_at_both_ends(write_gguf: Write) -> None:
    tensors = [*tiny()[:-1], ("output_norm.weight", (64,), F32)]
    model = read(write_gguf(stated(), tensors, SIZES))
    assert model.tied
    assert model.head_bytes == 0
    assert model.embedding_bytes == 64 * 100 * 4 + 64 * 4
    assert model.ends_bytes == 2 * model.embedding_bytes


def test_experts_are_counted_once_for_a_token(write_gguf: Write) -> None:
    tensors = tiny()
    for n in range(2):
        tensors += [
            (f"blk.{n}.ffn_gate_inp.weight", (64, 8), F32),
            (f"blk.{n}.ffn_up_exps.weight", (64, 32, 8), Q8_0),
            (f"blk.{n}.ffn_down_exps.weight", (32, 64, 8), Q8_0),
        ]
    model = read(write_gguf(stated(expert_count=8, expert_used_count=2), tensors, SIZES))
    assert (model.experts, model.experts_used) == (8, 2)
    assert model.expert_bytes == 2 * 64 * 32 // 32 * 34
    assert model.layer_parameters - model.active_layer_parameters == 6 * 2 * 64 * 32


def kv(write_gguf: Write, architecture: str, tensors: Tensors | None = None, **more: Any) -> Model:
    return read(write_gguf(stated(architecture, **more), tensors or tiny(), SIZES))


@pytest.mark.parametrize(
    ("more", "cached"),
    [
        # Converted for absorbed attention (576 values), and not: 128 heads of 192 and 128, as
        # llama.cpp's log of DeepSeek-R1 says: n_embd_k_gqa = 24576, n_embd_v_gqa = 16384.
        ({"key_length": 576, "value_length": 512, "key_length_mla": 192, "head_count_kv": 1}, 576),
        ({"key_length": 192, "value_length": 128, "head_count_kv": 128}, 24_576 + 16_384),
    ],
)
def test_latent_attention_is_cached_as_the_file_was_converted(
    write_gguf: Write, more: Object, cached: int
) -> None:
    attention = {f"attention.{key}": value for key, value in more.items()}
    attention |= {"attention.kv_lora_rank": 512, "rope.dimension_count": 64}
    model = kv(write_gguf, "deepseek2", **attention)
    assert model.kv_bytes_per_token == 2 * cached


def test_a_window_caps_what_its_layers_keep(write_gguf: Write) -> None:
    gemma = kv(write_gguf, "gemma2", **{"attention.sliding_window": 4096})
    assert [layer.window for layer in gemma.each] == [4096, 0]
    whole = gemma.kv_bytes_per_token * 32_768
    assert gemma.cached(0, 2, tokens=32_768) == whole + gemma.kv_bytes_per_token * 4096
    # Beside the windows of all sequences there is room for one batch, in steps of 256 tokens.
    held = gemma.cached(0, 1, tokens=32_768, sequences=3, batch=500)
    assert held == gemma.kv_bytes_per_token * (3 * 4096 + 512)
    assert gemma.cached(0, 1, tokens=100) == gemma.kv_bytes_per_token * 100
    # llama.cpp knows no window for this architecture: everything is cached.
    assert kv(write_gguf, "llama", **{"attention.sliding_window": 4096}).each == ()


@pytest.mark.parametrize("pattern", [[True, False], 2])
def test_which_layers_slide_may_stand_in_the_file(write_gguf: Write, pattern: object) -> None:
    more = {"attention.sliding_window": 128, "attention.sliding_window_pattern": pattern}
    assert [layer.window for layer in kv(write_gguf, "any", **more).each] == [128, 0]


def test_layers_that_cache_less_or_nothing(write_gguf: Write) -> None:
    model = kv(write_gguf, "openelm", **{"attention.head_count_kv": [1, 2]})
    assert [layer.kv_bytes_per_token for layer in model.each] == [64, 128]
    recurrent = [("token_embd.weight", (64, 100), F32), ("blk.0.ssm_in.weight", (64, 64), F32)]
    model = kv(write_gguf, "jamba", [*recurrent, ("blk.1.attn_k.weight", (64, 32), F32)])
    assert [layer.kv_bytes_per_token for layer in model.each] == [0, 128]
    model = kv(write_gguf, "gemma3n", **{"attention.shared_kv_layers": 1})
    assert [layer.kv_bytes_per_token for layer in model.each] == [128, 0]


def test_blocks_that_only_predict_further_tokens_do_not_count(write_gguf: Write) -> None:
    model = kv(write_gguf, "glm4moe", tiny(3), block_count=3, nextn_predict_layers=1)
    assert model.layers == 2
    assert model.each == ()


# Split files


def halves(write_gguf: Write) -> tuple[bytes, bytes]:
    split = {"split.count": 2, "split.tensors.count": 8}
    tensors = tiny()
    return (
        write_gguf({**stated(), **split, "split.no": 0}, tensors[:3], SIZES),
        write_gguf({**split, "split.no": 1}, tensors[3:], SIZES),
    )


def test_a_split_model_is_the_sum_of_its_files(write_gguf: Write) -> None:
    headers = [gguf.header(half) for half in halves(write_gguf)]
    found = gguf.model(headers[::-1], name="n", weights="w")
    whole = gguf.model([gguf.header(write_gguf(stated(), tiny(), SIZES))], name="n", weights="w")
    assert found == whole
    with pytest.raises(InvalidModel, match="split into 2 files: part 2 is missing"):
        gguf.model(headers[:1], name="n", weights="w")
    with pytest.raises(InvalidModel, match="split into 2 files: part 1 is missing"):
        gguf.model(headers[1:], name="n", weights="w")
    with pytest.raises(InvalidModel, match="part"):
        gguf.model([headers[0], headers[0]], name="n", weights="w")


def test_the_names_of_the_parts() -> None:
    assert list(gguf.parts("a-00001-of-00003.gguf")) == [
        f"a-0000{n}-of-00003.gguf" for n in (1, 2, 3)
    ]
    assert list(gguf.parts("a.gguf")) == ["a.gguf"]


# What is wrong


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


KEY = number(1) + b"k"
HEAD = b"GGUF" + struct.pack("<I", 3)
ONE_KEY = HEAD + number(0) + number(1) + KEY
ONE_TENSOR = HEAD + number(1) + number(0) + KEY


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "byte 0, magic: the file ends here"),
        (b"GGML" + bytes(40), "byte 0: is no GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "GGUF version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (HEAD + number(2**63) + number(0), "number of tensors: 9223372036854775808"),
        (HEAD + number(0) + number(2**40), "number of keys: 1099511627776"),
        (HEAD + number(0) + number(9), "byte 24, key 0: the file ends here"),
        (HEAD + number(0) + number(1) + number(2**62), "byte 24, key 0: 4611686018427387904 bytes"),
        (HEAD + number(0) + number(1) + number(2) + b"\xff\xfe", "is no text in UTF-8"),
        (ONE_KEY + struct.pack("<I", 77), "there is no type 77"),
        (ONE_KEY + struct.pack("<IQ", 8, 2**63), "over 67108864 bytes"),
        (ONE_KEY + struct.pack("<IIQ", 9, 9, 1), "array of arrays"),
        (ONE_KEY + struct.pack("<IIQ", 9, 8, 2**50), "more than 2097152 texts"),
        (ONE_KEY + struct.pack("<IIQ", 9, 10, 2**61), "over 67108864 bytes"),
        (ONE_KEY + struct.pack("<IIQQ", 9, 8, 2, 2**60), "over 67108864"),
        (HEAD + number(0) + number(2) + 2 * (KEY + struct.pack("<IB", 0, 1)), "k is there twice"),
        (ONE_TENSOR + struct.pack("<I", 9), "tensor k: 9 dimensions"),
        (ONE_TENSOR + struct.pack("<IQII", 1, 8, 99, 0), "type 99 is not known"),
        (ONE_TENSOR + struct.pack("<IQQIQ", 2, 2**60, 2**60, 0, 0), "elements"),
        (ONE_TENSOR + struct.pack("<IQIQ", 1, 8, 12, 0), "no blocks of 256"),
        (ONE_TENSOR + struct.pack("<IQIQ", 1, 8, 0, 7), "no multiple of 32"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(data: bytes, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        gguf.header(data)


def test_tensors_must_lie_apart_and_in_the_file(write_gguf: Write) -> None:
    data = write_gguf(stated(), tiny(), SIZES)
    header = gguf.header(data)
    whole = header.data + sum(tensor.bytes for tensor in header.tensors)
    assert read(data, size=whole)
    with pytest.raises(InvalidModel, match="beyond the end of the file"):
        gguf.header(data, size=whole - 1)
    row = struct.pack("<IQIQ", 1, 8, 0, 0)
    twice = HEAD + number(2) + number(0) + number(1) + b"a" + row + number(1) + b"b" + row
    with pytest.raises(InvalidModel, match="tensor b: overlaps"):
        gguf.header(twice)
    with pytest.raises(InvalidModel, match="tensor a is there twice"):
        gguf.header(twice.replace(b"b", b"a"))


@pytest.mark.parametrize(
    ("metadata", "tensors", "said"),
    [
        ({}, tiny(), "general.architecture: is missing"),
        ({"general.architecture": "llama"}, tiny(), "llama.embedding_length: is missing"),
        (stated() | {"general.type": "adapter"}, tiny(), "no model but an addition"),
        (stated(block_count=3), tiny(), "no tensor of layer 2"),
        (stated(block_count=2**31), tiny(), "layers"),
        (stated(nextn_predict_layers=2), tiny(), "0 layers"),
        (stated(embedding_length="wide"), tiny(), "must be a whole number"),
        (stated(embedding_length=-64), tiny(), "must be a whole number"),
        (stated(expert_count=8, expert_used_count=9), tiny(), "9 of 8"),
        (stated(**{"attention.head_count_kv": [1]}), tiny(), "1 of 2 layers"),
        (stated(**{"attention.head_count": 2**31}), tiny(), "too large"),
        (stated(), [], "holds no tensors"),
        (stated(), tiny()[1:], "token_embd.weight: is missing"),
        (stated() | {"general.alignment": 33}, [], "no power of two"),
        (stated() | {"split.no": 1}, tiny(), "part 1 of 1"),
        (stated() | {"split.tensors.count": 9}, tiny(), "9, but there are 8"),
    ],
)
def test_what_can_not_be_a_model_is_refused(
    write_gguf: Write, metadata: Object, tensors: Tensors, said: str
) -> None:
    with pytest.raises(InvalidModel, match=said):
        read(write_gguf(metadata, tensors, SIZES))


# Bounds


def test_a_vocabulary_of_real_size_takes_a_fraction_of_a_second(write_gguf: Write) -> None:
    words = [f"word-{n}" for n in range(50_000)]
    data = write_gguf({**stated(), "tokenizer.ggml.tokens": words}, tiny(), SIZES)
    asked: list[int] = []

    def read_at(at: int, size: int) -> bytes:
        asked.append(size)
        return data[at : at + size]

    began = time.process_time()
    assert read(data).layers == 2
    assert time.process_time() - began < 0.5
    assert gguf.model([gguf.header(read_at)], name="n", weights="w").layers == 2
    assert max(asked) <= gguf.PIECE


ROWS = 2**12
MOST = {"keys": gguf.MAX_KEYS, "tensors": gguf.MAX_TENSORS, "texts": gguf.MAX_TEXTS}


def hostile(kind: str) -> bytes:
    """Return a file with many rows of one kind, and an end that is wrong."""
    if kind == "texts":
        return ONE_KEY + struct.pack("<IIQ", 9, 8, ROWS) + bytes(8 * ROWS)
    names = (number(8) + f"{n:08}".encode() for n in range(ROWS))
    if kind == "keys":
        rows = (name + struct.pack("<IIQ", 9, 0, 8) + bytes(8) for name in names)
        return HEAD + number(0) + number(ROWS + 1) + b"".join(rows)
    rows = (name + struct.pack("<IQIQ", 1, 8, 0, 0) for name in names)
    return HEAD + number(ROWS + 1) + number(0) + b"".join(rows)


@pytest.mark.parametrize("kind", MOST)
def test_memory_stays_bounded(kind: str) -> None:
    """What a row keeps, times the most rows there may be, is not much."""
    data = hostile(kind)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModel):
            read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (peak - len(data)) / ROWS * MOST[kind] < 64 * 2**20


def test_the_longest_lists_take_a_second() -> None:
    start = ONE_KEY + struct.pack("<IIQ", 9, 8, gguf.MAX_TEXTS)

    def read_at(at: int, size: int) -> bytes:
        return (start[at : at + size] + bytes(size))[:size]

    began = time.process_time()
    assert gguf.header(read_at).tensors == ()
    assert time.process_time() - began < 3


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_model_or_the_one_error(data: bytes) -> None:
    for start in (b"", HEAD, HEAD + number(1) + number(1)):
        try:
            read(start + data)
        except InvalidModel:
            continue


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=9), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_a_mutated_header_is_a_model_or_the_one_error(
    write_gguf: Write, changes: list[tuple[int, bytes, bool]], end: int, cut: bool
) -> None:
    metadata = stated(
        **{"expert_count": 2, "expert_used_count": 1, "attention.head_count_kv": [2, 2]}
    )
    data = bytearray(write_gguf({**metadata, "tokenizer.ggml.tokens": ["a", "b"]}, tiny(), SIZES))
    for place, new, insert in changes:
        at = place % len(data)
        data[at : at if insert else at + len(new)] = new
    try:
        model = read(bytes(data[: end % len(data)] if cut else data))
    except InvalidModel:
        return
    assert 0 < model.bytes <= 2**50
    assert len(model.each) in (0, model.layers)


@given(st.integers(1, 5), st.sampled_from([F32, F16, Q8_0]), st.sampled_from([2, 3]))
def test_what_was_written_is_read(write_gguf: Write, layers: int, kind: int, version: int) -> None:
    tensors = tiny(layers, kind)
    metadata = stated(block_count=layers) | {"other": -5, "float": 0.5, "text": "é", "list": [1, 2]}
    header = gguf.header(write_gguf(metadata, tensors, SIZES, version))
    assert [(tensor.name, tensor.shape) for tensor in header.tensors] == [t[:2] for t in tensors]
    assert {key: header.metadata[key] for key in ("other", "float", "text")} == {
        "other": -5, "float": 0.5, "text": "é"
    }  # fmt: skip
    assert list(header.metadata["list"]) == [1, 2]  # type: ignore[arg-type]
    block, size = SIZES[kind]
    assert [tensor.bytes for tensor in header.tensors] == [
        shape[0] * shape[1] // block * size for _, shape, _ in tensors
    ]
