"""What the planner knows of a model: sizes per layer, from its file or from the name table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evenkeel_core.quantities import Bytes

KV_BYTES = 2
"""Bytes of one cached value: engines cache in 16 bits unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model's shape, in the symbols of the transformer literature.

    Bytes are those of the weights as stored (quantised); parameters are counts.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    layer_parameters: int
    """Of one layer, all experts included."""
    active_layer_parameters: int
    """Of one layer, those one token uses."""
    layer_bytes: Bytes
    """Stored weights of one layer."""
    embedding_bytes: Bytes
    """Stored token embedding: held by the first stage."""
    head_bytes: Bytes
    """Stored output head: held by the last stage; equals the embedding where they are tied."""
    kv_bytes_per_token: Bytes
    """16-bit keys and values of one token in one layer."""
    experts: int = 0
    """0 for a dense model."""
    experts_used: int = 0
    expert_bytes: Bytes = Bytes(0)
    """Stored weights of one expert of one layer."""
    context: int = 4096
    """Tokens it was trained for."""
    weights: str = ""
    """File name under which servers report these weights, quantisation included."""

    @property
    def bytes(self) -> Bytes:
        """All stored weights."""
        return Bytes(self.layers * self.layer_bytes + self.embedding_bytes + self.head_bytes)


def from_config(
    config: Mapping[str, Any], *, name: str, bits: float, weights: str | None = None
) -> Model:
    """Make a model from the fields of its ``config.json``.

    Parameters
    ----------
    config : mapping
        Keys as published with the weights: ``hidden_size``, ``num_hidden_layers``,
        ``num_attention_heads``, ``num_key_value_heads``, ``head_dim``, ``intermediate_size``,
        ``vocab_size``, ``tie_word_embeddings``; for experts ``moe_num_experts``,
        ``moe_top_k``, ``moe_intermediate_size``, ``moe_shared_experts``,
        ``moe_first_dense_layers``; for latent attention ``kv_lora_rank``, ``q_lora_rank``,
        ``qk_nope_head_dim``, ``qk_rope_head_dim``, ``v_head_dim``. Absent or empty is zero.
    name : str
    bits : float
        Stored bits per weight.
    weights : str, optional
        File name of the weights; by default what `name` ends with.

    Raises
    ------
    ValueError
        If `config` lacks a field every model has; the message names it.

    References
    ----------
    Parameter counts as in the parameter counter of microsoft/vidur, extended by experts and
    latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
    """
    shape = _Shape(config)
    attention, dense, expert = shape.attention(), shape.mlp(), shape.expert()
    layers, moe = shape.layers, shape.sparse_layers()
    norms = 2 * shape.hidden
    router = shape.hidden * shape.experts
    shared = shape.shared * expert
    everything = layers * (attention + norms) + (layers - moe) * dense
    active = everything + moe * (shape.used * expert + shared + router)
    everything += moe * (shape.experts * expert + shared + router)
    embedding = Bytes(round(shape.vocabulary * shape.hidden * bits / 8))
    return Model(
        name=name,
        layers=layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocabulary=shape.vocabulary,
        layer_parameters=everything // layers,
        active_layer_parameters=active // layers,
        layer_bytes=Bytes(round(everything * bits / 8 / layers)),
        embedding_bytes=embedding,
        head_bytes=Bytes(0) if shape.tied else embedding,
        kv_bytes_per_token=Bytes(shape.cache() * KV_BYTES),
        experts=shape.experts,
        experts_used=shape.used,
        expert_bytes=Bytes(round(moe * expert * bits / 8 / layers)),
        context=shape.number("max_position_embeddings") or 4096,
        weights=name.rpartition("/")[2] if weights is None else weights,
    )


class _Shape:
    """The fields of a config, checked and with the names of the formulas."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self.hidden = self.required("hidden_size")
        self.layers = self.required("num_hidden_layers")
        self.heads = self.required("num_attention_heads")
        self.kv_heads = self.number("num_key_value_heads") or self.heads
        self.head_dim = self.number("head_dim") or self.hidden // self.heads
        self.vocabulary = self.required("vocab_size")
        self.inner = self.required("intermediate_size")
        self.tied = str(config.get("tie_word_embeddings", "")).lower() == "true"
        self.experts = self.number("moe_num_experts")
        self.used = self.number("moe_top_k")
        self.shared = self.number("moe_shared_experts")

    def number(self, key: str) -> int:
        value = self._config.get(key)
        if value in (None, ""):
            return 0
        try:
            number = int(str(value))
        except ValueError:
            raise ValueError(f"`config.{key}` must be a whole number, not {value!r}") from None
        if number < 0:
            raise ValueError(f"`config.{key}` must not be negative")
        return number

    def required(self, key: str) -> int:
        number = self.number(key)
        if number < 1:
            raise ValueError(f"`config.{key}` is missing: it must be a positive whole number")
        return number

    def attention(self) -> int:
        latent = self.number("kv_lora_rank")
        if not latent:
            return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        nope, rope = self.number("qk_nope_head_dim"), self.number("qk_rope_head_dim")
        value, query = self.number("v_head_dim"), self.number("q_lora_rank")
        across = self.heads * (nope + rope)
        queries = query * (self.hidden + across) if query else self.hidden * across
        keys = self.hidden * (latent + rope) + latent * self.heads * (nope + value)
        return queries + keys + self.heads * value * self.hidden

    def cache(self) -> int:
        """Values cached for one token in one layer."""
        latent = self.number("kv_lora_rank")
        if latent:
            return latent + self.number("qk_rope_head_dim")
        return 2 * self.kv_heads * self.head_dim

    def mlp(self) -> int:
        return 3 * self.hidden * self.inner

    def expert(self) -> int:
        return 3 * self.hidden * self.number("moe_intermediate_size")

    def sparse_layers(self) -> int:
        return self.layers - self.number("moe_first_dense_layers") if self.experts else 0
