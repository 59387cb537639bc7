"""The ONNX runtime: an exported decoder in ONNX Runtime and numpy, without torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
import numpy.typing as npt

from connector.backbone.caching.counted_cache import CountedCache, Lookups
from connector.backbone.onnx_runtime.encoded import ArrayDtype, Kept, OnnxEncodedDocument, StoredArray
from connector.backbone.onnx_runtime.fixed_states import FixedLayer, FixedStates, whole_tail
from connector.backbone.onnx_runtime.folder import ExportedBackbone
from connector.backbone.onnx_runtime.graphs import Array, LayerStates, OnnxGraphs, thread_count
from connector.backbone.onnx_runtime.packed_documents import OnnxPackedDocuments, PrefixStates
from connector.backbone.onnx_runtime.solo_reading import read_alone
from connector.backbone.prompt.tail import Tail, TokenIds, causal_bias
from connector.backbone.runtime import EncodedDocument, Head, Needs, Observations, ReadRequest
from connector.backbone.side_by_side import SideBySide
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError
from connector.sections import Layout

__all__ = ["OnnxRuntime"]

# Longer passages are encoded in parts, each seeing those before it: the same states, with logits that fit in memory.
_PART_TOKENS = 1024
# States of tails without their queries, for as many places of a tail as there is room for.
_FIXED_BYTES = 64_000_000


class OnnxRuntime:
    """One frozen LLM in ONNX Runtime. Thread-safe.

    Every passage is encoded by itself, so a cached state is bit-equal to a fresh one whatever else was in the
    request; with int8 weights, whose activations are rounded a run, this is what keeps states apart at all.

    Args:
        folder: of the export.
        exported: what its record says.
        device: see ``OnnxGraphs``.
        cache_dtype: of encoded documents.
        layout: that will be asked for; see ``load``.
    """

    def __init__(
        self,
        folder: Path,
        exported: ExportedBackbone,
        *,
        device: str = "cpu",
        cache_dtype: ArrayDtype = "float16",
        layout: Layout = "solo",
    ) -> None:
        self._exported, self._shape, self._cache_dtype = exported, exported.shape, cache_dtype
        self._threads = thread_count()
        self._load_graphs = partial(OnnxGraphs, folder, exported, device=device)
        self._loaded: dict[int, OnnxGraphs] = {}
        self._loading = Lock()
        self._graphs = self._graphs_for(layout)
        self._side_by_side = SideBySide(self._threads if self.device == "cpu" else 1)
        self._sliding_windows = frozenset(exported.windows)
        self._prefixes: CountedCache[tuple[int, ...], PrefixStates] = CountedCache(4, lambda _: 1)
        self._fixed: CountedCache[Hashable, FixedStates] = CountedCache(_FIXED_BYTES, lambda states: states.nbytes)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        cache_dtype: str = "auto",
        layout: Layout = "solo",
    ) -> OnnxRuntime:
        """Load an exported backbone.

        Args:
            folder: the folder that ``export --backbone`` wrote.
            device: ``cpu``, ``cuda``, or ``auto``: CUDA where this ONNX Runtime has it.
            dtype: of the weights; ``auto``: as they were exported.
            cache_dtype: of encoded documents: float32, float16 or int8; ``auto``: float16.
            layout: that will be asked for. Others work too; for ``solo`` and the rest graphs are loaded apart.

        Raises:
            BackboneError: the export is missing or damaged, or it cannot do what is asked.
            MissingExtraError: ONNX Runtime is not installed.
        """
        exported = ExportedBackbone.read(folder)
        if dtype not in ("auto", exported.dtype):
            raise BackboneError(
                f"backbone.dtype = {dtype}: the backbone in {folder} was exported with {exported.dtype} weights; "
                "set it to auto, or backbone.runtime to torch"
            )
        stored: Literal["float32", "float16", "int8"]
        if cache_dtype in ("auto", "float16"):
            stored = "float16"
        elif cache_dtype == "float32":
            stored = "float32"
        elif cache_dtype == "int8":
            stored = "int8"
        else:
            raise BackboneError(
                f"cache.dtype = {cache_dtype}: the onnx runtime keeps float32, float16 or int8; set one of them"
            )
        return cls(folder, exported, device=device, cache_dtype=stored, layout=layout)

    @property
    def shape(self) -> BackboneShape:
        return self._shape

    @property
    def device(self) -> str:
        """See ``Runtime.device``."""
        return self._graphs.device

    @property
    def precision(self) -> str:
        """See ``Runtime.precision``."""
        return f"{self._exported.dtype}-{self._cache_dtype}"

    @property
    def threads(self) -> int:
        """See ``Runtime.threads``."""
        return self._threads

    @property
    def plan(self) -> Mapping[str, str]:
        """See ``Runtime.plan``."""
        return {
            "runtime": "onnx",
            "device": self.device,
            "number_format": self._exported.dtype,
            "provider": self._graphs.provider,
            "graph_optimization": self._graphs.optimization,
            "batches": "documents by themselves" if self._reads_together else "each sequence by itself",
            "threads": str(self._threads),
        }

    @property
    def kind(self) -> str:
        """What an encoded document must have been made by."""
        s = self._shape
        return f"onnx {s.family} {s.layers}x{s.kv_heads}x{s.head_dim} {self._exported.dtype}"

    def encode(
        self, prefix: Sequence[int], documents: Sequence[TokenIds], pool: Needs, *, layout: Layout
    ) -> Iterator[EncodedDocument]:
        """See ``Runtime.encode``."""
        late, solo = layout == "late", layout == "solo"
        deepest = self._deepest(pool)
        if solo:
            # States that enter a layer need nothing of it.
            deepest = max(pool.depth(self._shape.layers) - 1, 0)
        # Read alone, a document is attended through in every layer that is run; else the deepest is only looked at.
        attended = deepest + solo
        kept = self._kept(pool.heads, deepest, late=late)
        before, graphs = self._prefix_states(prefix), self._graphs_for(layout)

        def encoded(document: TokenIds) -> OnnxEncodedDocument:
            keys, values = self._encode(graphs, document, len(prefix), before, deepest)
            held = np.concatenate([keys[layer][list(kv_heads)] for layer, kv_heads in kept])
            seen = None if late else np.concatenate([*values[:attended], keys[0][:0]])
            return OnnxEncodedDocument(
                len(document),
                kept,
                StoredArray.store(held, self._cache_dtype),
                None if seen is None else StoredArray.store(seen, self._cache_dtype),
                self.kind,
            )

        if solo:
            yield from self._side_by_side.map(encoded, documents)
        else:
            yield from map(encoded, documents)

    def _graphs_for(self, layout: Layout) -> OnnxGraphs:
        """In ``solo`` each core has documents of its own; elsewhere a request is one call, which may have all."""
        threads = 1 if layout == "solo" else self._threads
        with self._loading:
            if threads not in self._loaded:
                # A GPU has no use for threads.
                on_gpu = next((graphs for graphs in self._loaded.values() if graphs.device != "cpu"), None)
                self._loaded[threads] = on_gpu or self._load_graphs(threads)
            return self._loaded[threads]

    @property
    def readable_layers(self) -> int:
        """See ``Runtime.readable_layers``; there is no LM head, so never all of them."""
        return min(self._exported.layers, self._shape.layers - 1)

    @property
    def requests_together(self) -> int:
        """See ``Runtime.requests_together``."""
        return 1

    def read(self, prefix: Sequence[int], requests: Sequence[ReadRequest], *, layout: Layout) -> list[Observations]:
        """See ``Runtime.read``."""
        found = []
        for request in requests:
            own = [document for document in request.documents if isinstance(document, OnnxEncodedDocument)]
            if len(own) != len(request.documents):
                raise BackboneError("documents encoded by another runtime cannot be read by onnx")
            if layout == "solo":
                found.append(self._alone(prefix, request, own))
            else:
                found.append(Observations(self._read(prefix, request, own, layout)))
        if not all(np.isfinite(array).all() for one in found for array in one.arrays):
            raise BackboneError("the backbone gave numbers that are not finite; check the weights and the dtype")
        return found

    def _alone(self, prefix: Sequence[int], request: ReadRequest, own: Sequence[OnnxEncodedDocument]) -> Observations:
        self._deepest(request.needs)
        groups = self._shape.heads // self._shape.kv_heads
        states, windows = self._prefix_states(prefix), self._exported.windows
        graphs, together = self._graphs_for("solo"), self._reads_together
        return read_alone(
            graphs,
            own,
            states,
            request.tail,
            request.needs,
            windows,
            groups,
            together=together,
            side_by_side=self._side_by_side,
        )

    @property
    def _reads_together(self) -> bool:
        # int8 weights round activations by a scale of the run.
        return self._exported.dtype == "float32"

    def _read(
        self, prefix: Sequence[int], request: ReadRequest, own: Sequence[OnnxEncodedDocument], layout: Layout
    ) -> Array:
        late, graphs = layout == "late", self._graphs_for(layout)
        tail, heads = request.tail, request.needs.heads
        deepest = self._deepest(request.needs)
        packed = OnnxPackedDocuments(own, len(prefix), self._prefix_states(prefix), deepest, late=late)
        rows = np.ascontiguousarray(tail.rows[:, tail.counted])
        groups = self._shape.heads // self._shape.kv_heads
        found: dict[Head, Array] = {}
        if late:
            biases = {size: tail.bias(tail.counted, packed.positions, size) for size in self._sliding_windows}
            layers = self._late(graphs, prefix, tail, deepest)
        else:
            every = np.arange(len(tail.ids))
            passing = {size: tail.bias(every, packed.positions, size) for size in self._sliding_windows}
            biases = {size: bias[tail.counted] for size, bias in passing.items()}
            layers = graphs.run(tail.ids, tail.positions, passing, packed.seen)
        for layer, states in layers:
            by_kv_head: dict[int, list[int]] = {}
            for at, head in heads:
                if at == layer and head not in by_kv_head.setdefault(head // groups, []):
                    by_kv_head[head // groups].append(head)
            for kv_head, chosen in by_kv_head.items():
                keys = packed.keys_of(layer, kv_head, states)
                q = states.q[chosen][:, tail.counted]
                averaged = graphs.rows(layer, q, keys, biases[self._exported.windows[layer]], rows)
                found.update(
                    {(layer, head): row[:, : packed.tokens] for head, row in zip(chosen, averaged, strict=True)}
                )
            if layer == deepest:
                break
        return np.stack([found[layer, head] for layer, head in heads])

    def _late(
        self, graphs: OnnxGraphs, prefix: Sequence[int], tail: Tail, deepest: int
    ) -> Iterator[tuple[int, LayerStates]]:
        """The tail's states of each layer, where no document takes part in them: only the query is run."""
        fixed = self._fixed_states(graphs, prefix, tail, deepest)
        states_of_prefix = self._prefix_states(prefix)

        def seen(layer: int, states: LayerStates) -> tuple[Array, Array]:
            before, shared = states_of_prefix[layer], fixed.layers[layer]
            keys = np.concatenate((before[0], shared.k[:, : tail.shared], states.k), axis=1)
            return keys, np.concatenate((before[1], shared.v[:, : tail.shared], states.v), axis=1)

        biases = {size: tail.query_bias(size) for size in self._sliding_windows}
        for layer, states in graphs.run(tail.ids[tail.query], tail.positions[tail.query], biases, seen):
            known = fixed.layers[layer]
            yield layer, replace(states, q=whole_tail(tail, known.q, states.q), k=whole_tail(tail, known.k, states.k))

    def _fixed_states(self, graphs: OnnxGraphs, prefix: Sequence[int], tail: Tail, deepest: int) -> FixedStates:
        key = (tuple(prefix), tail.fixed_key, deepest)
        known = self._fixed.get(key)
        if known is None:
            known = FixedStates(tuple(self._fixed_layers(graphs, prefix, tail, deepest)))
            self._fixed.put(key, known)
        return known

    def _fixed_layers(
        self, graphs: OnnxGraphs, prefix: Sequence[int], tail: Tail, deepest: int
    ) -> Iterator[FixedLayer]:
        if not len(tail.fixed):
            numbers = (self._shape.heads, self._shape.kv_heads)
            q, k = (np.zeros((number, 0, self._shape.head_dim), dtype=np.float32) for number in numbers)
            yield from [FixedLayer(q, k, k)] * (deepest + 1)
            return
        states_of_prefix = self._prefix_states(prefix)

        def seen(layer: int, states: LayerStates) -> tuple[Array, Array]:
            before = states_of_prefix[layer]
            return np.concatenate((before[0], states.k), axis=1), np.concatenate((before[1], states.v), axis=1)

        biases = {size: tail.fixed_bias(size) for size in self._sliding_windows}
        for layer, states in graphs.run(tail.ids[tail.fixed], tail.positions[tail.fixed], biases, seen):
            yield FixedLayer(states.q, states.k, states.v)
            if layer == deepest:
                return

    def embed(self, tokens: TokenIds, layers: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        """See ``Runtime.embed``."""
        deepest = self._deepest(Needs(layers=tuple(layers)))
        positions = np.arange(len(tokens))
        biases = {size: causal_bias(positions, positions, size) for size in self._sliding_windows}
        pooled: dict[int, Array] = {}
        for layer, states in self._graphs.run(tokens, positions, biases, lambda _, states: (states.k, states.v)):
            own = states.hidden[0, start:]
            pooled[layer] = np.stack((own.mean(axis=0, dtype=np.float32), own[-1]))
            if layer == deepest:
                break
        return np.stack([pooled[layer] for layer in layers])

    def device_statistics(self) -> None:
        """None: passages stay in host memory; see ``Runtime.device_statistics``."""
        return None

    def lookups(self) -> Mapping[str, Lookups]:
        """See ``Runtime.lookups``."""
        return {"prefixes": self._prefixes.lookups(), "tails": self._fixed.lookups()}

    def load_document(self, data: bytes) -> EncodedDocument:
        """See ``Runtime.load_document``."""
        return OnnxEncodedDocument.from_bytes(data, self.kind)

    def _deepest(self, needs: Needs) -> int:
        if needs.likelihood:
            raise BackboneError(
                "an exported backbone has no LM head, and gives no likelihood; set router.bundle to a router without "
                "it, or backbone.runtime to torch"
            )
        # States that enter a layer come out of its graph.
        deepest = max(needs.deepest_head, *needs.layers, 0)
        if deepest >= self._exported.layers:
            raise BackboneError(
                f"layer {deepest} is wanted, the exported backbone ends with layer {self._exported.layers - 1}; "
                f"export again with rh-connector export --backbone --layers {deepest + 1}"
            )
        return deepest

    def _kept(self, heads: Sequence[Head], deepest: int, *, late: bool) -> Kept:
        if not late:
            return tuple((layer, tuple(range(self._shape.kv_heads))) for layer in range(deepest + 1))
        groups = self._shape.heads // self._shape.kv_heads
        kept: dict[int, set[int]] = {}
        for layer, head in heads:
            kept.setdefault(layer, set()).add(head // groups)
        return tuple((layer, tuple(sorted(kv_heads))) for layer, kv_heads in sorted(kept.items()))

    def _prefix_states(self, prefix: Sequence[int]) -> PrefixStates:
        key = tuple(prefix)
        known = self._prefixes.get(key)
        if known is None:
            nothing = np.zeros((self._shape.kv_heads, 0, self._shape.head_dim), dtype=np.float32)
            empty = [(nothing, nothing)] * self._exported.layers
            known = empty
            if key:
                ids, deepest = np.array(key, dtype=np.int32), self._exported.layers - 1
                known = list(zip(*self._encode(self._graphs, ids, 0, empty, deepest), strict=True))
            self._prefixes.put(key, known)
        return known

    def _encode(
        self, graphs: OnnxGraphs, ids: TokenIds, start: int, before: PrefixStates, deepest: int
    ) -> tuple[list[Array], list[Array]]:
        """Keys and values [kv heads, tokens, d] of each layer up to the deepest."""
        keys: list[list[Array]] = [[] for _ in range(deepest + 1)]
        values: list[list[Array]] = [[] for _ in range(deepest + 1)]

        def seen(layer: int, states: LayerStates) -> tuple[Array, Array]:
            prefix_k, prefix_v = before[layer]
            return np.concatenate([prefix_k, *keys[layer]], axis=1), np.concatenate(
                [prefix_v, *values[layer]], axis=1
            )

        for at in range(0, len(ids), _PART_TOKENS):
            part = ids[at : at + _PART_TOKENS]
            positions = np.arange(start + at, start + at + len(part))
            behind = np.arange(start + at + len(part))
            biases = {size: causal_bias(positions, behind, size) for size in self._sliding_windows}
            for layer, states in graphs.run(part, positions, biases, seen):
                keys[layer].append(states.k)
                values[layer].append(states.v)
                if layer == deepest:
                    break
        return [_joined(parts) for parts in keys], [_joined(parts) for parts in values]


def _joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
