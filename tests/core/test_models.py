"""Shapes from a config: what each kind of model stores and caches, and one error."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel_core import facts
from evenkeel_core.models import InvalidModel, Model, from_config, stored_as

Object = dict[str, Any]
LLAMA = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14_336, "vocab_size": 128_256,
    "tie_word_embeddings": False, "max_position_embeddings": 131_072,
}  # fmt: skip


def shape(config: Object, **changes: Any) -> Model:
    return from_config({**config, **changes}, name="m", bits=16)


def billions(model: Model) -> float:
    return model.bytes / 2e9


# The published configs, by the names their makers use.

MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14_336,
    "vocab_size": 32_000, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "intermediate_size": 18_432,
    "vocab_size": 129_280, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048, "n_shared_experts": 1, "first_k_dense_replace": 3,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "tie_word_embeddings": False, "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
QWEN2_MOE = {
    "model_type": "qwen2_moe", "hidden_size": 2048, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 5632,
    "vocab_size": 151_936, "num_experts": 60, "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
    "decoder_sparse_step": 1, "sliding_window": 32_768, "use_sliding_window": False,
}  # fmt: skip
GPT_OSS_20B = {
    "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
    "intermediate_size": 2880, "vocab_size": 201_088, "num_local_experts": 32,
    "experts_per_token": 4, "sliding_window": 128, "tie_word_embeddings": False,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
GEMMA_3_27B = {
    "model_type": "gemma3", "text_config": {
        "model_type": "gemma3_text", "hidden_size": 5376, "num_hidden_layers": 62,
        "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
        "intermediate_size": 21_504, "vocab_size": 262_144, "sliding_window": 1024,
    },
}  # fmt: skip
LLAMA_4_SCOUT = {
    "model_type": "llama4", "text_config": {
        "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 8192, "intermediate_size_mlp": 16_384, "vocab_size": 202_048,
        "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
        "attention_chunk_size": 8192,
        "layer_types": (["chunked_attention"] * 3 + ["full_attention"]) * 12,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "stored", "active"),
    [
        # Parameters as their makers publish them, in 10^9; those of a token with both ends of the
        # model (OpenAI's 3.6 is without the embedding).
        (LLAMA, 8.03, 8.03),
        (MIXTRAL, 46.7, 12.9),
        (DEEPSEEK_V3, 671, 37),
        (QWEN2_MOE, 14.3, 2.7),
        (GPT_OSS_20B, 20.9, 3.6 + 0.58),
        (GEMMA_3_27B, 27.0, 27.0),
        (LLAMA_4_SCOUT, 107.8, 17.2),
    ],
    ids=["llama", "mixtral", "deepseek", "qwen2-moe", "gpt-oss", "gemma-3", "llama-4"],
)
def test_parameters_are_the_published_ones(config: Object, stored: float, active: float) -> None:
    model = shape(config)
    assert billions(model) == pytest.approx(stored, rel=0.01)
    ends = (model.embedding_bytes + model.head_bytes) / 2
    used = model.layers * model.active_layer_parameters + ends
    assert used / 1e9 == pytest.approx(active, rel=0.02)


def test_latent_attention_caches_one_row() -> None:
    """70,272 bytes a token: (512 + 64) values in 61 layers, as in the table."""
    model = shape(DEEPSEEK_V3)
    assert model.cached(0, 61, tokens=1) == 70_272
    assert (model.kv_bytes_per_token, model.head_dim) == (1152, 160)


def test_dense_first_layers_are_lighter() -> None:
    model = shape(DEEPSEEK_V3)
    sizes = [layer.bytes for layer in model.each]
    assert len(set(sizes[:3])) == len(set(sizes[3:])) == 1
    assert sizes[3] > 15 * sizes[0]
    assert model.stored(0, 61) == sum(sizes)
    assert model.stored(0, 61) / 61 == pytest.approx(model.layer_bytes)


@pytest.mark.parametrize(
    ("config", "sliding", "window"),
    [(GPT_OSS_20B, 12, 128), (GEMMA_3_27B, 52, 1024), (LLAMA_4_SCOUT, 36, 8192)],
    ids=["gpt-oss", "gemma-3", "llama-4"],
)
def test_windows_cap_the_cache(config: Object, sliding: int, window: int) -> None:
    model = shape(config)
    assert [layer.window for layer in model.each].count(window) == sliding
    tokens, each = 65_536, model.kv_bytes_per_token
    held = max(window, 256)  # the least step there is
    full = model.layers - sliding
    assert model.cached(0, model.layers, tokens=tokens) == each * (full * tokens + sliding * held)
    assert model.cached(0, model.layers, tokens=64) == each * model.layers * 64


def test_layers_by_name_and_by_period_agree() -> None:
    config = {**GPT_OSS_20B, "layer_types": None}
    assert shape(config) == shape(GPT_OSS_20B)
    gemma = {**GEMMA_3_27B["text_config"], "model_type": "", "sliding_window_pattern": 6}  # type: ignore[dict-item]
    assert shape(gemma, tie_word_embeddings=True) == shape(GEMMA_3_27B)


@pytest.mark.parametrize("changes", [
    {"sliding_window": 4096},
    {"sliding_window": 4096, "model_type": "gemma2", "use_sliding_window": False},
    {"layer_types": ["full_attention"] * 32, "sliding_window": 4096},
])  # fmt: skip
def test_without_layers_that_slide_everything_is_cached(changes: Object) -> None:
    assert shape(LLAMA, **changes).each == ()


def test_layers_with_a_state_cache_nothing() -> None:
    model = shape(LLAMA, layer_types=(["linear_attention"] * 3 + ["full_attention"]) * 8)
    assert model.cached(0, 32, tokens=10) == model.cached(0, 4, tokens=10) * 8
    assert model.cached(0, 3, tokens=10) == 0


def test_the_head_is_tied_as_stated_else_as_the_kind_does() -> None:
    assert shape(LLAMA, tie_word_embeddings="True").tied
    assert not shape(LLAMA, tie_word_embeddings="").tied
    assert shape(GEMMA_3_27B).tied
    assert not shape(GEMMA_3_27B, tie_word_embeddings=False).tied


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (DEEPSEEK_V3, "FP8"), (GPT_OSS_20B, "MXFP4"), ({"torch_dtype": "bfloat16"}, "BF16"),
        ({"text_config": {"dtype": "float16"}}, "F16"), ({}, None),
        ({"quantization_config": {"quant_method": ["x"]}}, None),
    ],
)  # fmt: skip
def test_a_config_says_how_it_is_stored(config: Object, kind: str | None) -> None:
    assert stored_as(config) == kind
    assert kind is None or kind in facts.BITS_PER_WEIGHT


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 5000}, r"num_hidden_layers` must be at most 4096"),
        ({"num_hidden_layers": None}, r"num_hidden_layers` is missing"),
        ({"hidden_size": -1}, r"hidden_size` must not be negative"),
        ({"hidden_size": 10**400}, r"hidden_size` must be at most"),
        ({"hidden_size": 1.5}, r"hidden_size` must be a whole number, not 1.5"),
        ({"hidden_size": True}, r"hidden_size` must be a whole number, not True"),
        ({"hidden_size": {"a": 1}}, r"hidden_size` must be a whole number, not dict"),
        ({"hidden_size": "9" * 9999}, r"hidden_size` must be a whole number, not '9{39}$"),
        ({"hidden_size": 2**31, "intermediate_size": 2**31}, "more weights than any model"),
        ({"num_attention_heads": 2**20, "head_dim": 2**20}, "too large"),
        ({"num_experts": 4}, "uses 0 of 4 experts"),
        ({"num_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 33}, "33 dense"),
        ({"layer_types": ["full_attention"]}, "has not all of 32 layers"),
    ],
)
def test_what_can_not_be_is_refused_by_name(changes: Object, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        shape(LLAMA, **changes)


KEYS = sorted({
    key for config in (LLAMA, MIXTRAL, DEEPSEEK_V3, QWEN2_MOE, GPT_OSS_20B, LLAMA_4_SCOUT)
    for key in (*config, *config.get("text_config", ()))  # type: ignore[call-overload]
})  # fmt: skip
values = (
    st.none() | st.booleans() | st.integers(-2, 300) | st.integers(-(2**80), 2**80) | st.floats()
    | st.text(max_size=6) | st.lists(st.text(max_size=4) | st.integers(), max_size=40)
    | st.dictionaries(st.sampled_from(KEYS), st.integers(-1, 2**33), max_size=4)
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([LLAMA, MIXTRAL, DEEPSEEK_V3, QWEN2_MOE, GPT_OSS_20B, GEMMA_3_27B, {}]),
    st.dictionaries(st.sampled_from(KEYS), values, max_size=4),
)
def test_any_config_is_a_model_or_the_one_error(config: Object, changes: Object) -> None:
    try:
        model = shape(config, **changes)
    except InvalidModel:
        return
    assert 0 < model.bytes <= 2**50
    assert model.active_layer_parameters <= model.layer_parameters
    assert model.cached(0, model.layers, tokens=10) >= 0
    assert len(model.each) in (0, model.layers)
