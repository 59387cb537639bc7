"""The cached passages of one request, packed for the ONNX runtime layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from connector.backbone.onnx_runtime.encoded import OnnxEncodedDocument, same_kept
from connector.backbone.onnx_runtime.graphs import Array, LayerStates
from connector.errors import BackboneError

__all__ = ["OnnxPackedDocuments", "PrefixStates"]

PrefixStates = list[tuple[Array, Array]]
"""Keys and values [kv heads, prefix tokens, d] of each layer."""


class OnnxPackedDocuments:
    """The passages of a window and the prefix behind them, packed for each layer when it is read.

    Attributes:
        tokens: of all passages.
        positions: int64 [tokens]: position of every token in its own prompt.
    """

    def __init__(
        self,
        documents: Sequence[OnnxEncodedDocument],
        start: int,
        prefix: PrefixStates,
        deepest: int,
        *,
        late: bool,
    ) -> None:
        self._documents, self._prefix, self._late = documents, prefix, late
        self._kept = dict(same_kept(documents))
        if deepest > max(self._kept):
            raise BackboneError(
                f"documents were encoded up to layer {max(self._kept)}, not {deepest}; clear the cache"
            )
        if late != (documents[0].values is None):
            asked = "late" if late else "joint"
            raise BackboneError(f"documents encoded for another layout cannot be read as {asked}; clear the cache")
        self._start = start
        self.tokens = sum(document.tokens for document in documents)
        self.positions = np.concatenate([np.arange(start, start + document.tokens) for document in documents])
        self._packed: tuple[int, Array] | None = None

    def seen(self, layer: int, states: LayerStates) -> tuple[Array, Array]:
        """Keys and values that the tail attends to; not for late."""
        prefix_v = self._prefix[layer][1]
        values = self._room(states.v)
        every = slice(layer * states.v.shape[0], (layer + 1) * states.v.shape[0])
        for document, start in self._starts():
            assert document.values is not None
            document.values.widen(every, values[:, start : start + document.tokens])
        values[:, self.tokens :] = np.concatenate((prefix_v, states.v), axis=1)
        return self._keys(layer, states), values

    def keys_of(self, layer: int, kv_head: int, states: LayerStates) -> Array:
        """Keys [passages + prefix + tail, d] of one kv head."""
        if layer not in self._kept or kv_head not in self._kept[layer]:
            raise BackboneError(f"documents were not encoded for layer {layer}, kv head {kv_head}; clear the cache")
        if not self._late:
            packed: Array = self._keys(layer, states)[kv_head]
            return packed
        keys: Array = self._room(states.k[:1])
        for document, start in self._starts():
            row = document.places[layer].start + self._kept[layer].index(kv_head)
            document.keys.widen(slice(row, row + 1), keys[:, start : start + document.tokens])
        keys[0, self.tokens :] = np.concatenate((self._prefix[layer][0][kv_head], states.k[kv_head]))
        only: Array = keys[0]
        return only

    def _keys(self, layer: int, states: LayerStates) -> Array:
        # Rows and attention of a layer need the same.
        if self._packed is None or self._packed[0] != layer:
            keys = self._room(states.k)
            for document, start in self._starts():
                document.keys.widen(document.places[layer], keys[:, start : start + document.tokens])
            keys[:, self.tokens :] = np.concatenate((self._prefix[layer][0], states.k), axis=1)
            self._packed = layer, keys
        return self._packed[1]

    def _room(self, own: Array) -> Array:
        heads, tail, dim = own.shape
        return np.empty((heads, self.tokens + self._start + tail, dim), dtype=np.float32)

    def _starts(self) -> Iterator[tuple[OnnxEncodedDocument, int]]:
        start = 0
        for document in self._documents:
            yield document, start
            start += document.tokens
