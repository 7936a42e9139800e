"""What the planner knows of a model: sizes per layer, from its file or from the name table."""

from dataclasses import dataclass

from evenkeel_core.quantities import Bytes


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

    @property
    def bytes(self) -> Bytes:
        """All stored weights."""
        return Bytes(self.layers * self.layer_bytes + self.embedding_bytes + self.head_bytes)
