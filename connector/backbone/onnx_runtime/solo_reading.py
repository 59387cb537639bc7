"""The layout ``solo`` in ONNX Runtime: the query's tokens behind each document, some documents side by side.

Weights are read from memory once a run, and that is most of what a few tokens cost. What a document gets has the same
bits whatever else is in the window: each run has the same number of documents, and they have as many keys. Libraries
sum in another order over more keys, or where there is more to divide among threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from connector.backbone.onnx_runtime.encoded import OnnxEncodedDocument, same_kept
from connector.backbone.onnx_runtime.graphs import Array, LayerStates, OnnxGraphs
from connector.backbone.onnx_runtime.packed_documents import PrefixStates
from connector.backbone.prompt.tail import Tail, causal_bias
from connector.backbone.runtime import Needs, Observations
from connector.backbone.side_by_side import SideBySide
from connector.errors import BackboneError

__all__ = ["read_alone"]

_TOGETHER = 5
# Keys are filled up to a multiple of it.
_STEP = 128


def read_alone(
    graphs: OnnxGraphs,
    documents: Sequence[OnnxEncodedDocument],
    prefix: PrefixStates,
    tail: Tail,
    needs: Needs,
    windows: Sequence[int | None],
    groups: int,
    *,
    together: bool,
    side_by_side: SideBySide,
) -> Observations:
    """What a request needs of its documents.

    Args:
        graphs: of the layers; one more than are passed through, where the states behind the last are needed.
        documents: encoded passages.
        prefix: keys and values before every document.
        tail: what stands behind each; its positions count from there.
        needs: heads and layers; no likelihood.
        windows: sliding window in tokens of every layer, or None.
        groups: heads that share their keys.
        together: whether documents may be in one run; not where activations are rounded by a scale of the run.
        side_by_side: makes runs at once, one a core.

    Raises:
        BackboneError: a graph does not run; documents were encoded for something else.
    """
    if needs.deepest_head > max(dict(same_kept(documents))) or documents[0].values is None:
        raise BackboneError("documents were encoded for fewer layers or for the layout late; clear the cache")
    rows: list[Array] = [np.zeros(0, dtype=np.float32)] * len(documents)
    states = np.zeros((len(needs.layers), len(documents), 0), dtype=np.float32)

    def read(some: tuple[list[int], int]) -> tuple[list[int], _Run]:
        places, keys = some
        run = _Run([documents[place] for place in places], prefix, tail, needs, keys)
        run.read(graphs, windows, groups)
        return places, run

    runs = list(_runs(documents, prefix[0][0].shape[1] + len(tail.ids), _TOGETHER if together else 1))
    for places, run in side_by_side.map(read, runs):
        found = run.states
        if not states.shape[2]:
            states = np.empty((len(needs.layers), len(documents), found.shape[2]), dtype=np.float32)
        # Places that fill a run up are those of its last document once more.
        states[:, places] = found
        for place, own in zip(places, run.rows, strict=True):
            rows[place] = own
    return Observations(np.concatenate(rows, axis=2), states)


def _runs(documents: Sequence[OnnxEncodedDocument], more: int, together: int) -> Iterator[tuple[list[int], int]]:
    """Places of the documents of each run, all runs equally many, and the number of their keys."""
    keys = np.array([-(-(document.tokens + more) // _STEP) * _STEP for document in documents])
    for size in sorted(set(keys.tolist())):
        alike = np.flatnonzero(keys == size).tolist()
        for start in range(0, len(alike), together):
            places = alike[start : start + together]
            yield places + places[-1:] * (together - len(places)), int(size)


class _Run:
    """Some documents side by side. A key's place is its position: prefix, document, tail, nothing.

    Attributes:
        rows: of each document float32 [heads, groups, tokens].
    """

    def __init__(
        self,
        documents: Sequence[OnnxEncodedDocument],
        prefix: PrefixStates,
        tail: Tail,
        needs: Needs,
        keys: int,
    ) -> None:
        self._documents, self._prefix, self._tail, self._needs = documents, prefix, tail, needs
        self._before, self._keys = prefix[0][0].shape[1], keys
        self._starts = np.array([self._before + document.tokens for document in documents])
        self._positions: npt.NDArray[np.int64] = self._starts[:, None] + tail.positions
        self._own: tuple[int, Array] | None = None
        self._states: dict[int, Array] = {}
        shape = (len(needs.heads), len(tail.rows))
        self.rows = [np.zeros((*shape, document.tokens), dtype=np.float32) for document in documents]

    @property
    def states(self) -> Array:
        """float32 [layers, documents, hidden]: the mean of the query's tokens at each layer that is needed."""
        kept = [self._states[layer] for layer in self._needs.layers]
        return np.stack(kept) if kept else np.zeros((0, len(self._documents), 0), dtype=np.float32)

    def read(self, graphs: OnnxGraphs, windows: Sequence[int | None], groups: int) -> None:
        """Go through the layers as far as is needed."""
        needs, tail, places = self._needs, self._tail, np.arange(self._keys)
        biases = {
            size: np.stack([causal_bias(own, places, size) for own in self._positions]) for size in set(windows)
        }
        last = max(needs.deepest_head, *needs.layers, 0)
        ids = np.tile(tail.ids, (len(self._documents), 1))
        for layer, found in graphs.run_each(ids, self._positions, biases, self._seen):
            if layer in needs.layers:
                # The first row is the last id before the query; the caller's instruction follows.
                own = found.hidden.reshape(len(self._documents), len(tail.ids), -1)[:, 1 + tail.instruction :]
                self._states[layer] = own.mean(axis=1, dtype=np.float32)
            of_layer = [(at, head) for at, (own_layer, head) in enumerate(needs.heads) if own_layer == layer]
            if of_layer:
                self._read_heads(graphs, layer, of_layer, found, biases[windows[layer]], groups)
            if layer == last:
                break

    def _read_heads(
        self,
        graphs: OnnxGraphs,
        layer: int,
        heads: Sequence[tuple[int, int]],
        found: LayerStates,
        bias: Array,
        groups: int,
    ) -> None:
        keys, _ = self._seen(layer, found)
        averaging = np.ascontiguousarray(self._tail.rows)
        for number, document in enumerate(self._documents):
            tokens = slice(number * len(self._tail.ids), (number + 1) * len(self._tail.ids))
            inside = slice(self._before, self._before + document.tokens)
            for at, head in heads:
                q = np.ascontiguousarray(found.q[[head], tokens])
                seen = graphs.rows(layer, q, keys[number, head // groups], bias[number], averaging)
                self.rows[number][at] = seen[0, :, inside]

    def _seen(self, layer: int, states: LayerStates) -> tuple[Array, Array]:
        """Keys and values [documents, kv heads, keys, d] of a layer."""
        # Rows and attention of a layer need the same.
        if self._own is None or self._own[0] != layer:
            self._own = layer, self._packed(layer, states)
        keys, values = self._own[1]
        return keys, values

    def _packed(self, layer: int, states: LayerStates) -> Array:
        """Both: [2, documents, kv heads, keys, d]."""
        kv_heads, _, dim = states.k.shape
        packed = np.zeros((2, len(self._documents), kv_heads, self._keys, dim), dtype=np.float32)
        every = slice(layer * kv_heads, (layer + 1) * kv_heads)
        for number, (document, start) in enumerate(zip(self._documents, self._starts, strict=True)):
            tokens = slice(number * len(self._tail.ids), (number + 1) * len(self._tail.ids))
            kept = (document.keys, document.places[layer]), (document.values, every)
            for both, before, (stored, place), own in zip(
                packed[:, number], self._prefix[layer], kept, (states.k, states.v), strict=True
            ):
                assert stored is not None
                both[:, : self._before] = before
                stored.widen(place, both[:, self._before : start])
                both[:, start : start + len(self._tail.ids)] = own[:, tokens]
        return packed
