"""The shape of a decoder, read from what its config says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connector.errors import BackboneError

__all__ = ["BackboneShape", "decoder_config"]

_NAMES = (
    "model_type",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "max_position_embeddings",
)


def decoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a config says of the decoder: models with a vision part keep it one level down."""
    found: Mapping[str, Any] = config.get("text_config") or config
    return found


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """What is fixed about one LLM.

    Attributes:
        family: transformers' ``model_type``.
        layers: number of decoder layers.
        heads: number of query heads a layer.
        kv_heads: number of key/value heads a layer.
        head_dim: dimension of a head.
        hidden: dimension of the hidden states.
        max_positions: longest sequence that the LLM was made for.
    """

    family: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    max_positions: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str) -> BackboneShape:
        """From a checkpoint's ``config.json``.

        Args:
            config: its content.
            source: what the error names: a path.

        Raises:
            BackboneError: it lacks the shape of a decoder.
        """
        decoder = decoder_config(config)
        try:
            layers, heads = int(decoder["num_hidden_layers"]), int(decoder["num_attention_heads"])
            hidden, positions = int(decoder["hidden_size"]), int(decoder["max_position_embeddings"])
            # Missing or null where they follow from the others.
            kv_heads = int(decoder.get("num_key_value_heads") or heads)
            head_dim = int(decoder.get("head_dim") or hidden // heads)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise BackboneError(
                f"{source} names no layers, heads, hidden size and positions: this is no decoder that can be read; "
                "take one of rh-connector model list"
            ) from None
        return cls(str(config.get("model_type")), layers, heads, kv_heads, head_dim, hidden, positions)

    @classmethod
    def of_model(cls, config: Any) -> BackboneShape:
        """From the config object of a decoder that transformers has loaded."""
        return cls.from_config({name: getattr(config, name, None) for name in _NAMES}, str(config.model_type))

    def all_heads(self) -> tuple[tuple[int, int], ...]:
        """Every (layer, head), by layer."""
        return tuple((layer, head) for layer in range(self.layers) for head in range(self.heads))
