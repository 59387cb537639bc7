"""The torch runtime: any Hugging Face decoder, frozen, run only as far as its deepest pooled head."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from cachetools import LRUCache

from connector.backbone.runtime import AskedWindow, BackboneShape, EncodedDocument, Head, Tail
from connector.backbone.torch_runtime.attention import AttentionPass, EncodePass, StatesPass
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.operations import multiplies_bfloat16
from connector.backbone.torch_runtime.cpu.plan import CpuPlan, prepare
from connector.backbone.torch_runtime.decoder import load_decoder
from connector.backbone.torch_runtime.encoded import CacheDtype, PackedDocuments, StoredTensor, TorchEncodedDocument
from connector.backbone.torch_runtime.read_passes import FixedPass, LatePass, ReadPass, SideBySidePass
from connector.backbone.torch_runtime.sequences import Sequences, TokenSequence
from connector.backbone.torch_runtime.tail import FixedStates, TailPlaces
from connector.errors import BackboneError

__all__ = ["TorchRuntime"]

# On a GPU sequences are run together to about so many tokens.
_TOKENS_GPU = 16_384
# Windows of several requests that are read in one pass: with more, requests would wait longer for little.
_WINDOWS_TOGETHER = 8
# States of tails without their queries, for as many places of a tail as there is room for.
_FIXED_BYTES = 64_000_000
_Prefix = dict[int, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A window's pass, and the tokens that go through the layers for it."""

    read: ReadPass | LatePass
    sequence: TokenSequence


class TorchRuntime:
    """One frozen LLM in torch. Thread-safe.

    On a CPU a cached state is bit-equal to a fresh one, whatever else was in the request; see ``Sequences``. On a GPU
    states are equal to rounding.
    """

    def __init__(self, model: Any, *, cache_dtype: CacheDtype = "float16") -> None:
        self._cache_dtype = cache_dtype
        self._dtype: torch.dtype = model.dtype
        self._device: torch.device = model.device
        config = model.config
        heads = config.num_attention_heads
        self._shape = BackboneShape(
            family=config.model_type,
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            hidden=config.hidden_size,
            max_positions=config.max_position_embeddings,
        )
        self._prefixes: LRUCache[tuple[int, ...], _Prefix] = LRUCache(4)
        self._lock = Lock()
        on_cpu = self._device.type == "cpu"
        self._sharing = CoreSharing.of_process() if on_cpu else CoreSharing(1)
        self._fixed: LRUCache[Hashable, FixedStates] = LRUCache(_FIXED_BYTES, getsizeof=lambda states: states.nbytes)
        self.cpu_plan: CpuPlan | None = prepare(model, self._shape.head_dim, self._sharing) if on_cpu else None
        """What was done to the model for this CPU; None: it is not on one."""
        batches = BatchPlan(1, 1, _TOKENS_GPU) if self.cpu_plan is None else self.cpu_plan.batches
        self._sequences = Sequences(model, batches)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        cache_dtype: CacheDtype | Literal["auto"] = "auto",
    ) -> TorchRuntime:
        """Load the decoder of a checkpoint folder; the LM head is dropped.

        Args:
            path: the folder.
            device: ``cpu``, ``cuda`` or ``auto``.
            dtype: of the weights; ``auto``: bfloat16 where the device multiplies it natively, else float32.
            cache_dtype: of encoded documents; ``auto``: the weights' where that has 16 bits, which loses nothing and
                needs no conversion when they are read; else float16.

        Raises:
            BackboneError: a CUDA device was asked for and is missing, the folder can't be loaded, or the model
                is of a kind whose attention is not captured.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise BackboneError("backbone.device = cuda: torch sees no CUDA device; set it to cpu or auto")
        if dtype == "auto":
            dtype = "bfloat16" if device == "cuda" or multiplies_bfloat16() else "float32"
        if cache_dtype == "auto":
            cache_dtype = "bfloat16" if dtype == "bfloat16" else "float16"
        decoder = CoreSharing.of_process().run(lambda: load_decoder(path, device, getattr(torch, dtype)))
        return cls(decoder, cache_dtype=cache_dtype)

    @property
    def shape(self) -> BackboneShape:
        return self._shape

    @property
    def device(self) -> str:
        """See ``Runtime.device``."""
        return "cpu" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)

    @property
    def precision(self) -> str:
        """See ``Runtime.precision``."""
        return f"{str(self._dtype).removeprefix('torch.')}-{self._cache_dtype}"

    @property
    def threads(self) -> int:
        """See ``Runtime.threads``."""
        return self._sharing.cores

    @property
    def plan(self) -> Mapping[str, str]:
        """See ``Runtime.plan``."""
        own = {"number_format": self.precision.partition("-")[0], "batches": str(self._sequences.plan)}
        return {"runtime": "torch", "device": self.device, **(own if self.cpu_plan is None else self.cpu_plan.told())}

    @property
    def kind(self) -> str:
        """What an encoded document must have been made by."""
        s = self._shape
        return f"torch {s.family} {s.layers}x{s.kv_heads}x{s.head_dim} {str(self._dtype).removeprefix('torch.')}"

    def encode(
        self, prefix: Sequence[int], documents: Sequence[Sequence[int]], heads: Sequence[Head], *, late: bool
    ) -> Iterator[EncodedDocument]:
        """See ``Runtime.encode``."""
        if self._cache_dtype == "int4" and not late:
            raise BackboneError("cache.dtype = int4 is for the layout late; set it to int8")
        deepest = max(layer for layer, _ in heads)
        prefix_states = self._sharing.run(lambda: self._prefix_states(prefix))
        kept = self._kept(heads) if late else None

        def encoded(batch: Sequence[Sequence[int]]) -> list[TorchEncodedDocument]:
            lengths = [len(document) for document in batch]
            encode = EncodePass(lengths, prefix_states, kept, deepest, self._device)
            start = len(prefix)
            self._sequences.run(encode, [TokenSequence(ids, range(start, start + len(ids))) for ids in batch])
            return list(self._store(encode, lengths, deepest, kept))

        for batch in self._sharing.map(encoded, list(self._sequences.batches(documents, self._sharing.width()))):
            yield from batch

    def _store(
        self,
        encode: EncodePass,
        lengths: Sequence[int],
        deepest: int,
        kept: Mapping[int, Sequence[int]] | None,
    ) -> Iterator[TorchEncodedDocument]:
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            start += length
            states = {}
            for layer, key in encode.keys.items():
                # The deepest layer is read, never attended through: its values are not needed.
                value = encode.values.get(layer) if layer < deepest else None
                both = key[:, part] if value is None else torch.cat((key[:, part], value[:, part]))
                states[layer] = StoredTensor.store(both, self._cache_dtype)
            yield TorchEncodedDocument(length, states, self.kind, kept)

    def read(
        self,
        prefix: Sequence[int],
        tail: Tail,
        documents: Sequence[EncodedDocument],
        heads: Sequence[Head],
        *,
        late: bool,
    ) -> npt.NDArray[np.float32]:
        """See ``Runtime.read``."""
        return self.read_together(prefix, [AskedWindow(tail, documents, heads)], late=late)[0]

    @property
    def windows_together(self) -> int:
        """See ``ReadsTogether``."""
        return _WINDOWS_TOGETHER if self._sequences.plan.most else 1

    def read_together(
        self, prefix: Sequence[int], windows: Sequence[AskedWindow], *, late: bool
    ) -> list[npt.NDArray[np.float32]]:
        """See ``ReadsTogether``."""
        for document in chain.from_iterable(window.documents for window in windows):
            if not isinstance(document, TorchEncodedDocument):
                raise BackboneError("documents encoded by another runtime cannot be read by torch")
        rows = self._sharing.run(lambda: self._rows(prefix, windows, late=late))
        if not all(np.isfinite(of_window).all() for of_window in rows):
            raise BackboneError("the backbone gave attention that is not finite; check the weights and the dtype")
        return rows

    def _rows(
        self, prefix: Sequence[int], windows: Sequence[AskedWindow], *, late: bool
    ) -> list[npt.NDArray[np.float32]]:
        found = [self._asked(prefix, window, late=late) for window in windows]
        going: list[_Asked] = []
        for asked in found:
            if going and not self._sequences.plan.together([len(each.sequence.tokens) for each in (*going, asked)]):
                self._read_all(going)
                going = []
            going.append(asked)
        self._read_all(going)
        rows = []
        for asked, window in zip(found, windows, strict=True):
            stacked = torch.stack([asked.read.captured[head] for head in window.heads]).cpu().numpy()
            rows.append(np.asarray(stacked, dtype=np.float32))
        return rows

    def _asked(self, prefix: Sequence[int], window: AskedWindow, *, late: bool) -> _Asked:
        tail = TailPlaces(window.tail, len(prefix), self._device)
        states = self._prefix_states(prefix)
        documents = [document for document in window.documents if isinstance(document, TorchEncodedDocument)]
        packed = PackedDocuments.pack(documents, len(prefix), self._dtype, self._device)
        rows, heads = torch.from_numpy(window.tail.rows).to(self._device), _by_layer(window.heads)
        if not late:
            return _Asked(ReadPass(states, packed, tail, rows, heads), TokenSequence(tail.ids, tail.positions))
        fixed = self._fixed_states(prefix, window.tail, tail, max(heads))
        return _Asked(LatePass(states, packed, tail, fixed, rows, heads), TokenSequence(*tail.query_tokens()))

    def _read_all(self, going: Sequence[_Asked]) -> None:
        read: AttentionPass = going[0].read
        if len(going) > 1:
            read = SideBySidePass([(asked.read, len(asked.sequence.tokens)) for asked in going])
        self._sequences.run(read, [asked.sequence for asked in going])

    def _fixed_states(self, prefix: Sequence[int], tail: Tail, places: TailPlaces, deepest: int) -> FixedStates:
        key = (tuple(prefix), tail.shared, tail.variants[1:], tail.position, deepest)
        with self._lock:
            known = self._fixed.get(key)
        if known is None:
            before = self._prefix_states(prefix)
            if places.fixed:
                fixed = FixedPass(before, places, deepest)
                self._sequences.run(fixed, [TokenSequence(*places.fixed_tokens())])
                known = fixed.states
            else:
                known = FixedStates.none(before, self._shape.heads)
            with self._lock:
                if known.nbytes <= self._fixed.maxsize:
                    self._fixed[key] = known
        return known

    def embed(self, tokens: Sequence[int], layers: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        """See ``Runtime.embed``."""

        def pooled() -> npt.NDArray[np.float32]:
            states = StatesPass(len(tokens), layers, self._device)
            self._sequences.run(states, [TokenSequence(tokens, range(len(tokens)))])
            own = [states.states[layer][start:].float() for layer in layers]
            both = torch.stack([torch.stack((state.mean(dim=0), state[-1])) for state in own])
            return np.asarray(both.cpu().numpy(), dtype=np.float32)

        return self._sharing.run(pooled)

    def load_document(self, data: bytes) -> EncodedDocument:
        """See ``Runtime.load_document``."""
        return TorchEncodedDocument.from_bytes(data, self.kind, self._device)

    def _prefix_states(self, prefix: Sequence[int]) -> _Prefix:
        key = tuple(prefix)
        with self._lock:
            known = self._prefixes.get(key)
        if known is None:
            encode = EncodePass([len(key)], {}, None, self._shape.layers, self._device)
            self._sequences.run(encode, [TokenSequence(key, range(len(key)))])
            known = {layer: (encode.keys[layer], encode.values[layer]) for layer in encode.keys}
            with self._lock:
                self._prefixes[key] = known
        return known

    def _kept(self, heads: Sequence[Head]) -> dict[int, list[int]]:
        groups = self._shape.heads // self._shape.kv_heads
        kept: dict[int, set[int]] = {}
        for layer, head in heads:
            kept.setdefault(layer, set()).add(head // groups)
        return {layer: sorted(kv_heads) for layer, kv_heads in sorted(kept.items())}


def _by_layer(heads: Sequence[Head]) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for layer, head in heads:
        layers.setdefault(layer, []).append(head)
    return layers
