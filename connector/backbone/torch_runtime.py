"""The torch runtime: any Hugging Face decoder, frozen, run only as far as its deepest pooled head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, chain, groupby
from math import ceil
from operator import itemgetter
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from cachetools import LRUCache

from connector.backbone.allocator import keep_big_buffers
from connector.backbone.core_sharing import CoreSharing
from connector.backbone.key_codes import CODE_BITS
from connector.backbone.runtime import AskedWindow, BackboneShape, EncodedDocument, Head, Tail
from connector.backbone.torch_attention import (
    AttentionPass,
    EncodePass,
    StatesPass,
    active,
    report_states,
)
from connector.backbone.torch_decoder import load_decoder, multiplies_bfloat16
from connector.backbone.torch_encoded import CacheDtype, PackedDocuments, StoredTensor, TorchEncodedDocument
from connector.backbone.torch_linear import ONE_ROW, pack_linears
from connector.backbone.torch_reading import JointPass, ReadPass
from connector.errors import BackboneError

__all__ = ["TorchRuntime"]

# Passages are packed into one sequence of about so many tokens: on a GPU; and on a CPU, by the bytes of a number.
# There larger sequences have no faster products, but states that leave the processor's cache.
_PACKED_TOKENS = 16_384
_PACKED_TOKENS_CPU = {2: 768, 4: 384}
# Windows of several requests that are read in one pass: with more, requests would wait longer for little.
_WINDOWS_TOGETHER = 8
# What is tried out to learn whether passages may be packed.
_PROBE_LENGTHS, _PROBE_LAYERS = (33, 2, 117, 7, 200, 3), 2
# Numbers of the widest vectors, twice.
_VECTOR = 32
_Prefix = dict[int, tuple[torch.Tensor, torch.Tensor]]


class TorchRuntime:
    """One frozen LLM in torch. Thread-safe.

    Passages are packed, a few in one sequence, each blind to the others. On a CPU that is done only where no bit of a
    passage depends on the others, which is tried out at the start: a cached state is bit-equal to a fresh one
    whatever else was in the request. On a GPU states are equal to rounding.
    """

    def __init__(self, model: Any, *, cache_dtype: CacheDtype = "float16") -> None:
        self._model = model
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
        for index, layer in enumerate(model.layers):
            layer.register_forward_pre_hook(partial(_report_states, index), with_kwargs=True)
        self._packs = not on_cpu or (self._sharing.run(lambda: pack_linears(model)) and self._passages_stand_alone())

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
        keep_big_buffers()
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
    def kind(self) -> str:
        """What an encoded document must have been made by."""
        s = self._shape
        return f"torch {s.family} {s.layers}x{s.kv_heads}x{s.head_dim} {str(self._dtype).removeprefix('torch.')}"

    def encode(
        self, prefix: Sequence[int], documents: Sequence[Sequence[int]], heads: Sequence[Head], *, late: bool
    ) -> Iterator[EncodedDocument]:
        """See ``Runtime.encode``."""
        if self._cache_dtype in CODE_BITS and not late:
            raise BackboneError(f"cache.dtype = {self._cache_dtype} is for the layout late; set it to int8")
        deepest = max(layer for layer, _ in heads)
        prefix_states = self._sharing.run(lambda: self._prefix_states(prefix))
        kept = self._kept(heads) if late else None

        def encoded(batch: Sequence[Sequence[int]]) -> list[TorchEncodedDocument]:
            lengths = [len(document) for document in batch]
            if sum(lengths) == ONE_ROW:
                # With a twin beside it, it is the same as among others.
                return encoded([*batch, *batch])[:1]
            encode = EncodePass(lengths, prefix_states, kept, deepest, self._device)
            self._encode(encode, len(prefix), batch)
            return list(self._store(encode, lengths, deepest, kept))

        for batch in self._sharing.map(encoded, list(self._batches(documents))):
            yield from batch

    def _encode(self, encode: EncodePass, start: int, batch: Sequence[Sequence[int]]) -> None:
        tokens = [token for document in batch for token in document]
        self._forward(encode, tokens, [start + at for document in batch for at in range(len(document))])

    def _passages_stand_alone(self) -> bool:
        """Whether passages in one sequence have the same bits as alone, in the layer that only the first ones feed.

        Libraries may sum in another order when there are more rows, and compute the numbers that do not fill a vector
        in another way: tensors of other sizes than whole vectors are not even tried.
        """
        sizes = (getattr(self._model.config, "intermediate_size", None), self._shape.hidden, self._shape.head_dim)
        if not all(isinstance(size, int) and size % _VECTOR == 0 for size in sizes):
            return False
        highest = self._model.config.vocab_size - 1
        passages = [[min(at, highest) for at in range(length)] for length in _PROBE_LENGTHS]
        depth = min(_PROBE_LAYERS, self._shape.layers - 1)

        def keys(batch: Sequence[Sequence[int]]) -> torch.Tensor:
            encode = EncodePass([len(passage) for passage in batch], {}, None, depth, self._device)
            self._encode(encode, 0, batch)
            return encode.keys[depth]

        # Several at once are each on one core, one passage alone is on all.
        together = next(iter(self._sharing.map(keys, [passages, passages])))
        alone = [self._sharing.run(partial(keys, [passage])) for passage in passages]
        return self._sharing.run(lambda: torch.equal(together, torch.cat(alone, dim=1)))

    def _batches(self, documents: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
        """In order, of about the same number of tokens, as many as there are cores or a multiple of that."""
        if not self._packs or len(documents) < 2:
            yield from ([document] for document in documents)
            return
        most = _PACKED_TOKENS
        if self._device.type == "cpu":
            most = _PACKED_TOKENS_CPU[self._dtype.itemsize]
        ends = list(accumulate(map(len, documents)))
        cores = self._sharing.width()
        parts = ceil(ends[-1] / (most * cores)) * cores
        # A passage belongs to the part in which its middle lies.
        places = [
            int((end - len(document) / 2) * parts / ends[-1]) for end, document in zip(ends, documents, strict=True)
        ]
        for _, batch in groupby(zip(places, documents, strict=True), key=itemgetter(0)):
            yield [document for _, document in batch]

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
            # The deepest layer is read, never attended through: its values are not needed.
            values = {
                layer: StoredTensor.store(value[:, part], self._cache_dtype)
                for layer, value in encode.values.items()
                if layer < deepest
            }
            keys = {layer: StoredTensor.store(key[:, part], self._cache_dtype) for layer, key in encode.keys.items()}
            yield TorchEncodedDocument(length, keys, values, self.kind, kept)

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
        return _WINDOWS_TOGETHER if self._packs else 1

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
        tokens: list[int] = []
        positions: list[int] = []
        reads: list[tuple[ReadPass, int]] = []
        for window in windows:
            own_tokens, own_positions, bias = self._tail(window.tail)
            documents = [document for document in window.documents if isinstance(document, TorchEncodedDocument)]
            read = ReadPass(
                self._prefix_states(prefix),
                PackedDocuments.pack(documents, len(prefix), self._dtype, self._device),
                bias,
                torch.tensor(own_positions, device=self._device),
                torch.arange(len(prefix), device=self._device),
                torch.from_numpy(window.tail.rows).to(self._device),
                _by_layer(window.heads),
                late=late,
            )
            reads.append((read, len(own_tokens)))
            tokens += own_tokens
            positions += own_positions
        self._forward(reads[0][0] if len(reads) == 1 else JointPass(reads), tokens, positions)
        found = []
        for (read, _), window in zip(reads, windows, strict=True):
            rows = torch.stack([read.captured[head] for head in window.heads]).cpu().numpy()
            found.append(np.asarray(rows, dtype=np.float32))
        return found

    def _tail(self, tail: Tail) -> tuple[list[int], list[int], torch.Tensor]:
        """Ids, positions, and the bias that lets a variant see the shared part and itself."""
        tokens, variant = list(tail.shared), [-1] * len(tail.shared)
        positions = [tail.position + at for at in range(len(tail.shared))]
        for number, ids in enumerate(tail.variants):
            tokens.extend(ids)
            variant.extend([number] * len(ids))
            positions.extend(tail.position + len(tail.shared) + at for at in range(len(ids)))
        of = torch.tensor(variant)
        at = torch.tensor(positions)
        seen = ((of[None, :] == -1) | (of[:, None] == of[None, :])) & (at[:, None] >= at[None, :])
        bias = torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))
        return tokens, positions, bias.to(self._device)

    def embed(self, tokens: Sequence[int], layers: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        """See ``Runtime.embed``."""

        def pooled() -> npt.NDArray[np.float32]:
            states = StatesPass(len(tokens), layers, self._device)
            self._forward(states, tokens, range(len(tokens)))
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
            self._forward(encode, key, range(len(key)))
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

    @torch.inference_mode()
    def _forward(self, attention_pass: AttentionPass, tokens: Sequence[int], positions: Sequence[int]) -> None:
        ids = torch.tensor([list(tokens)], device=self._device)
        places = torch.tensor([list(positions)], device=self._device)
        with active(attention_pass):
            self._model(input_ids=ids, position_ids=places, use_cache=False)


def _report_states(layer: int, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    report_states(layer, args, kwargs)


def _by_layer(heads: Sequence[Head]) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for layer, head in heads:
        layers.setdefault(layer, []).append(head)
    return layers
