"""Safetensors headers: exact bytes with the config beside them, and one error."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core.facts import safetensors
from evenkeel_core.models import InvalidModel, Model

Object = dict[str, Any]
Tensors = dict[str, tuple[str, Sequence[int], int]]
Write = Callable[[Mapping[str, Any]], bytes]
CONFIG = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 100, "torch_dtype": "bfloat16",
}  # fmt: skip


def tiny(kind: str = "BF16", bits: int = 16, layers: int = 2) -> Tensors:
    found: Tensors = {"model.embed_tokens.weight": (kind, (100, 64), bits)}
    for n in range(layers):
        found[f"model.layers.{n}.self_attn.q_proj.weight"] = (kind, (64, 64), bits)
        found[f"model.layers.{n}.mlp.down_proj.weight"] = (kind, (64, 128), bits)
    return {
        **found,
        "model.norm.weight": (kind, (64,), bits),
        "lm_head.weight": (kind, (100, 64), bits),
    }


def read(*files: bytes, config: Object | None = None) -> Model:
    headers = [safetensors.header(data) for data in files]
    return safetensors.model(headers, config or CONFIG, name="tiny", weights="tiny")


def test_bytes_are_exact_and_the_rest_is_the_configs(write_safetensors: Write) -> None:
    model = read(write_safetensors(tiny()))
    assert model.layer_bytes == 2 * (64 * 64 + 64 * 128)
    assert model.embedding_bytes == 2 * (100 * 64 + 64)
    assert model.head_bytes == 2 * 100 * 64
    assert (model.quantization, model.kv_bytes_per_token, model.each) == ("BF16", 128, ())
    assert model.bytes == sum(
        bits // 8 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        for _, shape, bits in tiny().values()
    )


def test_several_files_are_one_model(write_safetensors: Write) -> None:
    names = list(tiny())
    halves = [{name: tiny()[name] for name in part} for part in (names[:3], names[3:])]
    assert read(*map(write_safetensors, halves)) == read(write_safetensors(tiny()))
    with pytest.raises(InvalidModel, match="no tensor of layer 1; are all files there"):
        read(write_safetensors(halves[0]))
    with pytest.raises(InvalidModel, match="two files hold the same tensor"):
        read(*[write_safetensors(tiny())] * 2)


def test_experts_towers_and_layers_beyond_the_last(write_safetensors: Write) -> None:
    tensors = tiny("F8_E4M3", 8, layers=3)
    tensors["model.layers.1.mlp.experts.0.up_proj.weight"] = ("F8_E4M3", (64, 32), 8)
    tensors["model.layers.1.mlp.experts.1.up_proj.weight"] = ("F8_E4M3", (64, 32), 8)
    tensors["vision_tower.encoder.layers.0.fc.weight"] = ("F8_E4M3", (64, 1000), 8)
    config = {
        **CONFIG, "n_routed_experts": 2, "num_experts_per_tok": 1, "first_k_dense_replace": 1,
        "moe_intermediate_size": 32, "quantization_config": {"quant_method": "fp8"},
    }  # fmt: skip
    model = read(write_safetensors(tensors), config=config)
    assert model.quantization == "FP8"
    assert [layer.bytes for layer in model.each] == [12_288, 12_288 + 2 * 2048]
    assert model.expert_bytes == 2 * 2048 // 2 // 2
    assert model.embedding_bytes == 6400 + 64 + 64_000


def test_a_head_that_is_not_stored_is_tied(write_safetensors: Write) -> None:
    tensors = tiny()
    del tensors["lm_head.weight"]
    assert read(write_safetensors(tensors)).tied


def packed(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def entry(**changes: Any) -> bytes:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return packed(json.dumps({"a": tensor}).encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file ends before its header"),
        (struct.pack("<Q", 2**62), "a header of 4611686018427387904 bytes"),
        (struct.pack("<Q", 100) + b"{}", "byte 10: the file ends within its header"),
        (packed(b"{]"), "is no JSON: .* at character 1"),
        (packed(b"[" * 100_000), "nested too deep"),
        (packed(b"[" * 2_000_000), "more than 1048576 values"),
        (packed(b"\xff\xff"), "not in UTF-8"),
        (packed(b"[]"), "no JSON object"),
        (packed(b'{"a": 1, "a": 1}'), "a name is there twice"),
        (packed(b'{"a": 1}'), "tensor a: must be an object"),
        (packed(b'{"a": ' + b"1" * 5000 + b"}"), "no JSON"),
        (entry(dtype="F3"), "tensor a: dtype is not known"),
        (entry(dtype=["F32"]), "tensor a: dtype is not known"),
        (entry(shape=[2.0]), "must be whole numbers"),
        (entry(shape=[-2]), "must be whole numbers"),
        (entry(shape=[True, 2]), "must be whole numbers"),
        (entry(data_offsets=[0]), "must be whole numbers"),
        (entry(data_offsets=[8, 0]), "-8 bytes of data"),
        (entry(shape=[3]), "8 bytes of data, shape and dtype make 12"),
        (entry(shape=[2**40] * 1000), "more than"),
        (entry(data_offsets=[8, 16]), "begins at 8, not at 0"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        safetensors.header(data)


def test_the_file_must_end_with_its_tensors() -> None:
    data = entry()
    assert safetensors.header(data, size=len(data) + 8).tensors[0].bytes == 8
    with pytest.raises(InvalidModel, match="is it whole"):
        safetensors.header(data, size=len(data) + 7)


@settings(deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_a_model_or_the_one_error(raw: bytes, text: bytes) -> None:
    for data in (raw, packed(text), packed(b'{"a":' + text + b"}")):
        try:
            read(data)
        except InvalidModel:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.sampled_from(["dtype", "shape", "data_offsets"]), json_values, st.text(max_size=8))
def test_any_json_is_a_model_or_the_one_error(field: str, value: Any, name: str) -> None:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], field: value}
    try:
        read(packed(json.dumps({name: tensor}).encode()))
    except InvalidModel:
        return


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 9999), st.binary(min_size=1, max_size=5)), min_size=1, max_size=3
    )
)
def test_a_mutated_header_is_a_model_or_the_one_error(
    write_safetensors: Write, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(write_safetensors(tiny()))
    for place, new in changes:
        at = place % len(data)
        data[at : at + len(new)] = new
    try:
        model = read(bytes(data))
    except InvalidModel:
        return
    assert 0 <= model.bytes <= 2**50
