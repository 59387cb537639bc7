"""The layout ``solo`` in ONNX Runtime: the query's tokens behind one document after the other.

Every document is a run of its own: whatever else is in the window, its numbers have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from connector.backbone.onnx_runtime.encoded import OnnxEncodedDocument
from connector.backbone.onnx_runtime.graphs import Array, LayerStates, OnnxGraphs
from connector.backbone.onnx_runtime.packed_documents import OnnxPackedDocuments, PrefixStates
from connector.backbone.prompt.tail import Tail, causal_bias
from connector.backbone.runtime import Head, Needs, Observations

__all__ = ["read_alone"]


def read_alone(
    graphs: OnnxGraphs,
    documents: Sequence[OnnxEncodedDocument],
    prefix: PrefixStates,
    tail: Tail,
    needs: Needs,
    windows: Sequence[int | None],
    groups: int,
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
    """
    alone = [_one(graphs, document, prefix, tail, needs, windows, groups) for document in documents]
    states = np.stack([states for _, states in alone], axis=1)
    return Observations(np.concatenate([rows for rows, _ in alone], axis=2), states)


def _one(
    graphs: OnnxGraphs,
    document: OnnxEncodedDocument,
    prefix: PrefixStates,
    tail: Tail,
    needs: Needs,
    windows: Sequence[int | None],
    groups: int,
) -> tuple[Array, Array]:
    """Rows float32 [heads, groups, tokens] and states float32 [layers, hidden]."""
    before = prefix[0][0].shape[1]
    start = before + document.tokens
    positions = start + tail.positions
    # Where the packed document has its columns: document, prefix, tail.
    places = np.concatenate((np.arange(before, start), np.arange(before), positions))
    biases = {size: causal_bias(positions, places, size) for size in set(windows)}
    packed = OnnxPackedDocuments([document], before, prefix, needs.deepest_head, late=False)
    rows = np.zeros((len(needs.heads), len(tail.rows), document.tokens), dtype=np.float32)
    states: dict[int, Array] = {}
    last = max(needs.deepest_head, *needs.layers, 0)
    for layer, found in graphs.run(tail.ids, positions, biases, packed.seen):
        if layer in needs.layers:
            # The first row is the last id before the query; the caller's instruction follows.
            states[layer] = found.hidden[0, 1 + tail.instruction :].mean(axis=0, dtype=np.float32)
        of_layer = [(at, head) for at, (own, head) in enumerate(needs.heads) if own == layer]
        for at, head in of_layer:
            rows[at] = _rows(graphs, packed, found, (layer, head), tail, biases[windows[layer]], groups)
        if layer == last:
            break
    kept = [states[layer] for layer in needs.layers]
    return rows, np.stack(kept) if kept else np.zeros((0, 0), dtype=np.float32)


def _rows(
    graphs: OnnxGraphs,
    packed: OnnxPackedDocuments,
    found: LayerStates,
    which: Head,
    tail: Tail,
    bias: Array,
    groups: int,
) -> Array:
    layer, head = which
    keys = packed.keys_of(layer, head // groups, found)
    averaged: Array = graphs.rows(layer, found.q[[head]], keys, bias, np.ascontiguousarray(tail.rows))
    return averaged[0, :, : packed.tokens]
