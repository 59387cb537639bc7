"""Floating-point operations that encoding and reading cannot do without, counted from the shapes of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.sections import Layout

if TYPE_CHECKING:
    from connector.benchmark.backbones import SharedBackbone

__all__ = ["LayerShape", "encode_operations", "read_operations", "window_operations"]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One decoder layer: sizes of its hidden states, all query heads, all key heads, and the MLP's inside."""

    hidden: int
    queries: int
    keys: int
    inside: int

    @classmethod
    def of(cls, shape: BackboneShape, checkpoint: Path) -> LayerShape:
        """The layer of a checkpoint.

        Raises:
            BackboneError: its config.json does not say how large the MLP is.
        """
        try:
            record = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            record = record.get("text_config", record)
            inside = int(record["intermediate_size"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackboneError(f"{checkpoint}/config.json has no intermediate_size ({error})") from None
        return cls(shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, inside)

    def products(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the layer's matrices: q, k, v, o, and the MLP's gate, up and down."""
        return (
            (self.hidden, self.queries),
            (self.hidden, self.keys),
            (self.hidden, self.keys),
            (self.queries, self.hidden),
            (self.hidden, self.inside),
            (self.hidden, self.inside),
            (self.inside, self.hidden),
        )


def encode_operations(layer: LayerShape, lengths: Sequence[int], prefix: int, deepest: int) -> float:
    """Operations (a multiplication and an addition are two) of encoding passages.

    Args:
        layer: shape of each layer.
        lengths: tokens of each passage.
        prefix: tokens before each of them, encoded once.
        deepest: the last layer that is needed; of this layer only the keys are.
    """
    tokens = sum(lengths)
    products = 2.0 * tokens * (deepest * sum(a * b for a, b in layer.products()) + layer.hidden * layer.keys)
    # Queries with keys, and weights with values; a token sees the prefix, those before it, and itself.
    seen = sum(length * prefix + length * (length + 1) / 2 for length in lengths)
    return products + deepest * 2 * 2.0 * layer.queries * seen


def read_operations(layer: LayerShape, tokens: int, seen: int, layers: int) -> float:
    """Operations of a query's pass over encoded passages.

    Args:
        layer: shape of each layer.
        tokens: of the query with all that goes with it; in the layout ``solo`` once for each passage.
        seen: (token, key) pairs that attend to each other.
        layers: that are run, each whole.
    """
    return layers * (2.0 * tokens * sum(a * b for a, b in layer.products()) + 2 * 2.0 * layer.queries * seen)


def window_operations(
    backbone: SharedBackbone, needs: Needs, layout: Layout, query: str, documents: Sequence[str]
) -> dict[str, float]:
    """Operations of one window: ``encode`` of its documents, and ``read`` of the query's pass once they are cached.

    Left out, for they are small beside the rest: norms, embeddings, the LM head of likelihoods, and, in the layout
    ``late``, the logits of the chosen heads.

    Args:
        backbone: the LLM.
        needs: what documents are encoded for.
        layout: not ``joint``.
        query, documents: the window.
    """
    shape, template = backbone.runtime.shape, backbone.template
    layer = LayerShape.of(shape, backbone.path)
    lengths = [len(text.ids) for text in backbone.tokenizer.encode_user(documents)]
    asked = len(backbone.tokenizer.encode_user([query])[0].ids)
    # Layers that are run; in the layout solo, where nothing has to be a head's, by hidden states and likelihoods too.
    depth = needs.depth(shape.layers) if layout == "solo" else needs.deepest_head + 1
    prefix = len(template.prefix)
    if layout == "solo":
        own = 1 + asked
        seen = sum(own * (prefix + length) + own * (own + 1) // 2 for length in lengths)
        read = read_operations(layer, own * len(lengths), seen, depth)
    else:
        behind = prefix + len(template.before_query)
        read = read_operations(layer, asked, asked * behind + asked * (asked + 1) // 2, depth)
    return {"encode": encode_operations(layer, lengths, prefix, depth - 1), "read": read}
