"""What the planner knows of a model: sizes per layer, from its file or from the name table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evenkeel_core.quantities import Bytes

KV_BYTES = 2
"""Bytes of one cached value: engines cache in 16 bits unless told otherwise."""
CACHE_STEP = 256
"""Tokens a window's cache is rounded up to, as llama.cpp does."""
MAX_LAYERS = 4096
MAX_NUMBER = 2**31
"""Of any size or count a file states: what is larger is no model but a mistake, or an attack."""
MAX_WEIGHTS = Bytes(2**50)
"""Of all weights, as the CRD bounds them; sums of what one server holds stay in 64 bits."""


class InvalidModel(ValueError):
    """A model file or config that can't be right: says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a model whose layers differ."""

    bytes: Bytes
    """Stored weights."""
    kv_bytes_per_token: Bytes
    """16-bit keys and values of one token; 0 for a layer that caches none."""
    window: int = 0
    """Tokens it looks back at most; 0 where it attends to all."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model's shape, in the symbols of the transformer literature.

    Bytes are those of the weights as stored (quantised); parameters are counts. Where layers
    differ, the figures of one layer are means, and `each` has every layer's own.
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
    """Stored token embedding and what else precedes the layers: held by the first stage."""
    head_bytes: Bytes
    """Stored output head: held by the last stage; 0 where it is tied to the embedding."""
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
    each: tuple[Layer, ...] = ()
    """Layer by layer, first to last; empty where they are alike."""
    quantization: str = ""
    """As the file or its name says, such as Q4_K_M."""
    source: str = ""
    """Where these facts come from, for people."""

    @property
    def bytes(self) -> Bytes:
        """All stored weights."""
        return Bytes(self.stored(0, self.layers) + self.embedding_bytes + self.head_bytes)

    @property
    def tied(self) -> bool:
        """Tell whether the output head is the token embedding."""
        return not self.head_bytes

    @property
    def ends_bytes(self) -> Bytes:
        """Weights of both ends of the model; a tied head is stored at both where they part."""
        return Bytes(self.embedding_bytes + (self.head_bytes or self.embedding_bytes))

    def stored(self, first: int, end: int) -> Bytes:
        """Return the stored weights of layers `first` to `end` (exclusive)."""
        if not self.each:
            return Bytes((end - first) * self.layer_bytes)
        return Bytes(sum(layer.bytes for layer in self.each[first:end]))

    def cached(
        self, first: int, end: int, *, tokens: int, sequences: int = 1, batch: int = 0
    ) -> Bytes:
        """Return the bytes of keys and values that layers `first` to `end` (exclusive) keep.

        Parameters
        ----------
        first, end : int
        tokens : int
            Of one sequence.
        sequences : int
            At a time.
        batch : int
            Tokens computed at a time: a window's cache has room for them beside the window.

        References
        ----------
        llama.cpp caps the cache of sliding layers at the window of each sequence and one batch,
        rounded up to 256 tokens.
        """
        held = tokens * sequences
        if not self.each:
            return Bytes((end - first) * held * self.kv_bytes_per_token)
        return Bytes(
            sum(
                layer.kv_bytes_per_token * _held(held, layer.window * sequences + batch)
                if layer.window
                else layer.kv_bytes_per_token * held
                for layer in self.each[first:end]
            )
        )


def _held(tokens: int, most: int) -> int:
    return min(tokens, -(-most // CACHE_STEP) * CACHE_STEP)


def alike(layers: Sequence[Layer]) -> bool:
    """Tell whether all layers are the same and none has a window: a mean then says it all."""
    return not layers or (len(set(layers)) == 1 and not layers[0].window)


def from_config(
    config: Mapping[str, Any],
    *,
    name: str,
    bits: float,
    weights: str | None = None,
    quantization: str = "",
    source: str = "",
) -> Model:
    """Make a model from the fields of its ``config.json``.

    Parameters
    ----------
    config : mapping
        As published with the weights; of a model that also sees or hears, its ``text_config``
        is read. Every model: ``hidden_size``, ``num_hidden_layers``, ``num_attention_heads``,
        ``num_key_value_heads``, ``head_dim``, ``intermediate_size``, ``vocab_size``,
        ``tie_word_embeddings``. Experts: their number, those used, their inner size, shared
        ones, leading dense layers, by the names Mixtral, Qwen, DeepSeek and GPT-OSS give them.
        Latent attention: ``kv_lora_rank``, ``q_lora_rank``, ``qk_nope_head_dim``,
        ``qk_rope_head_dim``, ``v_head_dim``. Windows: ``sliding_window`` with ``layer_types``
        or ``sliding_window_pattern``. Absent or empty is zero.
    name : str
    bits : float
        Stored bits per weight.
    weights : str, optional
        File name of the weights; by default what `name` ends with.
    quantization, source : str
        Kept as they are.

    Raises
    ------
    InvalidModel
        If `config` lacks a field every model has, or one can't be right; the message names it.

    Notes
    -----
    A ``sliding_window`` alone does not say which layers slide. Where neither the config nor
    the kind of model tells, all count as attending to everything: llama.cpp has no window for
    those (Mistral 7B v0.1, Phi-3) and caches the whole context.

    References
    ----------
    Parameter counts as in the parameter counter of microsoft/vidur, extended by experts and
    latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).
    """
    shape = _Shape(config)
    attention, dense, expert = shape.attention(), shape.mlp(), shape.expert()
    layers, sparse = shape.layers, shape.sparse()
    moe = sum(sparse)
    norms = 2 * shape.hidden
    beside = shape.shared_mlp() + shape.hidden * shape.experts
    plain = attention + norms + dense
    mixed = attention + norms + beside + shape.experts * expert
    everything = (layers - moe) * plain + moe * mixed
    active = everything - moe * (shape.experts - shape.used) * expert
    embedding = Bytes(round(shape.vocabulary * shape.hidden * bits / 8))
    if everything * bits / 8 + 2 * embedding > MAX_WEIGHTS:
        raise InvalidModel("`config` describes more weights than any model has")
    cache = shape.cache() * KV_BYTES
    if cache > MAX_NUMBER:
        raise InvalidModel("`config` describes a larger cache than any model has")
    each = [
        Layer(Bytes(round((mixed if has else plain) * bits / 8)), Bytes(cache * keeps), window)
        for has, (keeps, window) in zip(sparse, shape.windows(), strict=True)
    ]
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
        kv_bytes_per_token=Bytes(sum(layer.kv_bytes_per_token for layer in each) // layers),
        experts=shape.experts,
        experts_used=shape.used,
        expert_bytes=Bytes(round(moe * expert * bits / 8 / layers)),
        context=shape.number("max_position_embeddings") or 4096,
        weights=name.rpartition("/")[2] if weights is None else weights,
        each=() if alike(each) else tuple(each),
        quantization=quantization,
        source=source,
    )


STORED_AS: Mapping[str, str] = {
    "fp8": "FP8", "awq": "AWQ", "gptq": "GPTQ", "mxfp4": "MXFP4",
    "float32": "F32", "float16": "F16", "bfloat16": "BF16",
}  # fmt: skip
"""Quantisations by what a config calls them."""


def stored_as(config: Mapping[str, Any]) -> str | None:
    """Return the quantisation a ``config.json`` states, None where it states none we know."""
    quantized = config.get("quantization_config")
    if isinstance(quantized, Mapping):
        return STORED_AS.get(str(quantized.get("quant_method")))
    flat = _flat(config)
    return STORED_AS.get(str(flat.get("torch_dtype") or flat.get("dtype")))


PERIODS: Mapping[str, int] = {
    "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2, "cohere2": 4,
}  # fmt: skip
"""Kinds of models of which one layer in so many attends to everything, the others to a window;
the last of each period. Defaults of the configurations in huggingface/transformers."""
TIED_KINDS = ("gemma", "cohere")
"""Kinds of models that tie head and embedding where their config does not say otherwise."""


def windows(layers: int, window: int, period: int) -> list[int]:
    """Return each layer's window where only the last of every `period` attends to everything."""
    return [0 if not period or (i + 1) % period == 0 else window for i in range(layers)]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the part about text brought to the top."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    return {**config, **{key: value for key, value in inner.items() if value is not None}}


class _Shape:
    """The fields of a config, checked and with the names of the formulas."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config = _flat(config)
        self._kind = str(config.get("model_type", ""))
        self.hidden = self.required("hidden_size")
        self.layers = self.required("num_hidden_layers")
        if self.layers > MAX_LAYERS:
            raise InvalidModel(f"`config.num_hidden_layers` must be at most {MAX_LAYERS}")
        self.heads = self.required("num_attention_heads")
        self.kv_heads = self.number("num_key_value_heads") or self.heads
        self.head_dim = self._head_dim()
        if self.heads * self.head_dim > MAX_NUMBER:
            raise InvalidModel(f"`config` has {self.heads} heads of {self.head_dim}: too large")
        self.vocabulary = self.required("vocab_size")
        self.inner = self.required("intermediate_size")
        stated = config.get("tie_word_embeddings")
        by_kind = self._kind.startswith(TIED_KINDS)
        self.tied = str(stated).lower() == "true" if stated not in (None, "") else by_kind
        self.experts = self.number(
            "moe_num_experts", "n_routed_experts", "num_local_experts", "num_experts"
        )
        self.used = self.number("moe_top_k", "num_experts_per_tok", "experts_per_token")
        if not self.experts:
            self.used = 0
        elif not 1 <= self.used <= self.experts:
            raise InvalidModel(f"`config` uses {self.used} of {self.experts} experts a token")

    def number(self, *keys: str) -> int:
        """Return the first of some fields that is there, 0 where none is."""
        for key in keys:
            value = self._config.get(key)
            if value not in (None, ""):
                return _whole(key, value)
        return 0

    def required(self, key: str) -> int:
        number = self.number(key)
        if number < 1:
            raise InvalidModel(f"`config.{key}` is missing: it must be a positive whole number")
        return number

    def _head_dim(self) -> int:
        if self.number("kv_lora_rank"):
            # Keys and values differ in size: what a token multiplies is their mean.
            keys = self.number("qk_nope_head_dim") + self.number("qk_rope_head_dim")
            return max(1, (keys + self.number("v_head_dim")) // 2)
        return self.number("head_dim") or max(1, self.hidden // self.heads)

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
        # Llama 4 keeps intermediate_size for its experts.
        return 3 * self.hidden * (self.number("intermediate_size_mlp") or self.inner)

    def expert(self) -> int:
        """Parameters of one expert; Mixtral and GPT-OSS have no other inner size."""
        inner = self.number("moe_intermediate_size") or self.inner
        return 3 * self.hidden * inner if self.experts else 0

    def shared_mlp(self) -> int:
        """Parameters of the experts every token uses."""
        inner = self.number("shared_expert_intermediate_size")
        if inner:
            return 3 * self.hidden * inner
        always = 1 if self.number("intermediate_size_mlp") else 0
        return (self.number("moe_shared_experts", "n_shared_experts") or always) * self.expert()

    def sparse(self) -> list[bool]:
        """Tell of each layer whether it has experts."""
        if not self.experts:
            return [False] * self.layers
        first = self.number("moe_first_dense_layers", "first_k_dense_replace")
        if first > self.layers:
            raise InvalidModel(f"`config` has {first} dense layers of {self.layers}")
        every = max(1, self.number("decoder_sparse_step", "interleave_moe_layer_step"))
        dense = self._config.get("mlp_only_layers")
        plain = dense if isinstance(dense, list) else []
        return [i >= first and (i + 1) % every == 0 and i not in plain for i in range(self.layers)]

    def windows(self) -> list[tuple[bool, int]]:
        """Tell of each layer whether it caches keys and values, and how far back it looks."""
        window = self.number("sliding_window", "attention_chunk_size")
        if str(self._config.get("use_sliding_window", True)).lower() == "false":
            window = 0
        types = self._config.get("layer_types")
        if isinstance(types, list):
            if len(types) < self.layers:
                raise InvalidModel(f"`config.layer_types` has not all of {self.layers} layers")
            return [_of_type(str(kind), window) for kind in types[: self.layers]]
        period = self.number("sliding_window_pattern") or PERIODS.get(self._kind, 0)
        return [(True, most) for most in windows(self.layers, window, period)]


def _of_type(kind: str, window: int) -> tuple[bool, int]:
    """Return what a layer type means: Mamba and linear attention keep a state, no cache."""
    if "attention" not in kind or kind.startswith("linear"):
        return False, 0
    return True, 0 if kind.startswith("full") else window


def _whole(key: str, value: object) -> int:
    """Return a number of a config; tables write it as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidModel(f"`config.{key}` must be a whole number, not {_said(value)}")
    try:
        number = int(value)
    except ValueError:
        raise InvalidModel(f"`config.{key}` must be a whole number, not {_said(value)}") from None
    if number < 0:
        raise InvalidModel(f"`config.{key}` must not be negative")
    if number > MAX_NUMBER:
        raise InvalidModel(f"`config.{key}` must be at most {MAX_NUMBER}")
    return number


def _said(value: object) -> str:
    """Return a value as it was written, or what it is where that is long."""
    return repr(value)[:40] if isinstance(value, str | float | bool) else type(value).__name__
