"""The torch runtime: any Hugging Face decoder, frozen, run only as far as its deepest pooled head."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby, islice
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from connector.backbone.caching.counted_cache import CountedCache, Lookups
from connector.backbone.prompt.tail import Tail, TokenIds
from connector.backbone.runtime import DeviceStatistics, EncodedDocument, Needs, Observations, ReadRequest
from connector.backbone.torch_runtime.attention import EncodePass, StatesPass, TokenPass
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan
from connector.backbone.torch_runtime.cpu.cores import CoreSharing, on_cores
from connector.backbone.torch_runtime.cpu.operations import multiplies_bfloat16
from connector.backbone.torch_runtime.cpu.plan import CpuPlan, prepare
from connector.backbone.torch_runtime.decoder import Decoder, load_decoder
from connector.backbone.torch_runtime.device_memory import DeviceMemory
from connector.backbone.torch_runtime.encoded import (
    CacheDtype,
    PackedDocuments,
    StoredTensor,
    TorchEncodedDocument,
    store_parts,
)
from connector.backbone.torch_runtime.fixed_states import FixedStates
from connector.backbone.torch_runtime.read_passes import FixedPass, LatePass, ReadPass, SideBySidePass
from connector.backbone.torch_runtime.sequences import Sequences
from connector.backbone.torch_runtime.solo_pass import SoloPass
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError
from connector.sections import Layout

__all__ = ["TorchRuntime"]

# On a GPU sequences are run together to about so many tokens.
_TOKENS_GPU = 16_384
# Requests that are read in one pass: with more, they would wait longer for little.
_REQUESTS_TOGETHER = 8
# States of tails without their queries, for as many places of a tail as there is room for.
_FIXED_BYTES = 64_000_000
# A request's number, and one of its passages.
_OfRequest = tuple[int, TorchEncodedDocument]
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class _Prefix(NamedTuple):
    """What the prompt's beginning left at each layer.

    Attributes:
        both: layer -> keys and behind them values [2 kv heads, tokens, d].
        pairs: the same, one beside the other.
    """

    both: dict[int, torch.Tensor]
    pairs: dict[int, tuple[torch.Tensor, torch.Tensor]]


class TorchRuntime:
    """One frozen LLM in torch. Thread-safe.

    On a CPU a cached state is bit-equal to a fresh one, whatever else was in the request; see ``Sequences``. On a GPU
    states are equal to rounding.
    """

    def __init__(
        self, decoder: Decoder, *, cache_dtype: CacheDtype = "float16", memory: DeviceMemory | None = None
    ) -> None:
        model, self._likelihood = decoder
        self._memory = memory
        self._cache_dtype = cache_dtype
        self._dtype: torch.dtype = model.dtype
        self._device: torch.device = model.device
        self._shape = BackboneShape.of_model(model.config)
        self._prefixes: CountedCache[tuple[int, ...], _Prefix] = CountedCache(4, lambda _: 1)
        on_cpu = self._device.type == "cpu"
        self._sharing = CoreSharing.of_process() if on_cpu else CoreSharing(1)
        self._fixed: CountedCache[Hashable, FixedStates] = CountedCache(_FIXED_BYTES, lambda states: states.nbytes)
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
        """Load the decoder of a checkpoint folder.

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
        try:
            decoder = CoreSharing.of_process().run(lambda: load_decoder(path, device, getattr(torch, dtype)))
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
            raise BackboneError(
                f"{device} has too little memory for the weights ({reason}); free some, take a smaller model "
                "(backbone.model), or set backbone.device to cpu"
            ) from None
        return cls(decoder, cache_dtype=cache_dtype, memory=DeviceMemory.of(decoder.layers.device))

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
        self, prefix: Sequence[int], documents: Sequence[TokenIds], pool: Needs, *, layout: Layout
    ) -> Iterator[EncodedDocument]:
        """See ``Runtime.encode``."""
        late = layout == "late"
        solo = layout == "solo"
        # Read alone, a document is attended through in every layer that is run; else the deepest is only looked at.
        deepest = pool.depth(self._shape.layers) - 1 if solo else pool.deepest_head
        prefix_states = self._sharing.run(lambda: self._prefix_states(prefix)).pairs
        kept = self._kept(pool.heads) if late else None

        def some(batch: Sequence[TokenIds]) -> list[TorchEncodedDocument]:
            encode = EncodePass(batch, len(prefix), prefix_states, kept, deepest, self._device)
            self._sequences.run(encode)
            store = self._store if self._memory is None else self._store_together
            stored = list(store(encode, [len(document) for document in batch], deepest + solo, kept))
            return stored if self._memory is None else self._memory.hosted(stored)

        def encoded(batch: Sequence[TokenIds]) -> list[TorchEncodedDocument]:
            return list(chain.from_iterable(self._in_parts(batch, some)))

        for batch in self._sharing.map(encoded, list(self._sequences.batches(documents, self._sharing.width()))):
            yield from batch

    def _store(
        self,
        encode: EncodePass,
        lengths: Sequence[int],
        attended: int,
        kept: Mapping[int, Sequence[int]] | None,
    ) -> Iterator[TorchEncodedDocument]:
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            start += length
            states = {}
            for layer, key in encode.keys.items():
                # Layers that are looked at and never attended through need no values.
                value = encode.values.get(layer) if layer < attended else None
                both = key[:, part] if value is None else torch.cat((key[:, part], value[:, part]))
                states[layer] = StoredTensor.store(both, self._cache_dtype)
            yield TorchEncodedDocument(length, states, self.kind, kept)

    def _store_together(
        self,
        encode: EncodePass,
        lengths: Sequence[int],
        attended: int,
        kept: Mapping[int, Sequence[int]] | None,
    ) -> Iterator[TorchEncodedDocument]:
        """The same with fewer questions to the device."""
        both = {
            layer: torch.cat((key, encode.values[layer])) if layer in encode.values and layer < attended else key
            for layer, key in encode.keys.items()
        }
        for length, states in zip(lengths, store_parts(both, lengths, self._cache_dtype), strict=True):
            yield TorchEncodedDocument(length, states, self.kind, kept)

    @property
    def readable_layers(self) -> int:
        """See ``Runtime.readable_layers``."""
        return self.shape.layers

    @property
    def requests_together(self) -> int:
        """See ``Runtime.requests_together``."""
        return _REQUESTS_TOGETHER if self._sequences.plan.most else 1

    def read(self, prefix: Sequence[int], requests: Sequence[ReadRequest], *, layout: Layout) -> list[Observations]:
        """See ``Runtime.read``."""
        for document in chain.from_iterable(request.documents for request in requests):
            if not isinstance(document, TorchEncodedDocument):
                raise BackboneError("documents encoded by another runtime cannot be read by torch")
        if layout == "solo":
            found = self._alone(prefix, requests)
        else:
            found = self._sharing.run(lambda: self._rows(prefix, requests, layout))
        if not all(np.isfinite(array).all() for of_request in found for array in of_request.arrays):
            raise BackboneError("the backbone gave numbers that are not finite; check the weights and the dtype")
        return found

    def _alone(self, prefix: Sequence[int], requests: Sequence[ReadRequest]) -> list[Observations]:
        """Every document by itself, side by side as many as keep a row's bits and give each core its share.

        Cores that share every product would wait for each other hundreds of times, and long for one that others use.
        """
        states = self._sharing.run(lambda: self._prefix_states(prefix)).both
        width, most = self._sharing.width(), self._sequences.plan.most
        work: list[list[_OfRequest]] = []
        for number, request in enumerate(requests):
            documents = [document for document in request.documents if isinstance(document, TorchEncodedDocument)]
            # As many parts as there are cores, or a multiple of that: none is done long before the others.
            rounds = ceil(len(documents) / (max(most // len(request.tail.ids), 1) * width))
            share = ceil(len(documents) / (rounds * width)) if most else 1
            for at in range(0, len(documents), share):
                work.append([(number, document) for document in documents[at : at + share]])
        if self._memory is not None:
            work = self._merged(work, requests)

        def read(own: Sequence[_OfRequest]) -> list[tuple[int, Observations]]:
            # A single share, too: sums on one core and on all may differ, where no plan says otherwise.
            with on_cores(1):
                return list(chain.from_iterable(self._in_parts(own, partial(self._some_alone, states, requests))))

        found: list[list[Observations]] = [[] for _ in requests]
        for number, observed in chain.from_iterable(self._sharing.map(read, work)):
            found[number].append(observed)
        return [_joined(parts) for parts in found]

    def _merged(self, work: Sequence[list[_OfRequest]], requests: Sequence[ReadRequest]) -> list[list[_OfRequest]]:
        """Parts of several requests in one pass, as deep as the deepest: a GPU is not full with one's rows."""
        merged: list[list[_OfRequest]] = []
        before = 0
        for part in work:
            rows = sum(len(requests[number].tail.ids) for number, _ in part)
            if merged and self._sequences.plan.together([before, rows]):
                merged[-1] += part
                before += rows
            else:
                merged.append([*part])
                before = rows
        return merged

    def _some_alone(
        self, prefix: Mapping[int, torch.Tensor], requests: Sequence[ReadRequest], own: Sequence[_OfRequest]
    ) -> list[tuple[int, Observations]]:
        there = iter(self._there([document for _, document in own]))
        passes: list[tuple[int, SoloPass]] = []
        for number, some in groupby(own, key=itemgetter(0)):
            request = requests[number]
            documents = list(islice(there, len(list(some))))
            depth = request.needs.depth(self._shape.layers)
            read = SoloPass(prefix, documents, request.tail, request.needs, self._likelihood, depth)
            passes.append((number, read))
        self._run([read for _, read in passes])
        return [(number, _observed(read, requests[number].needs)) for number, read in passes]

    def _rows(self, prefix: Sequence[int], requests: Sequence[ReadRequest], layout: Layout) -> list[Observations]:
        parts = self._in_parts(requests, lambda some: self._some_rows(prefix, some, layout))
        return list(chain.from_iterable(parts))

    def _in_parts(self, items: Sequence[_Item], work: Callable[[Sequence[_Item]], _Found]) -> list[_Found]:
        """See ``DeviceMemory``; a CPU's memory is not tried."""
        return [work(items)] if self._memory is None else self._memory.in_parts(items, work)

    def _there(self, documents: Sequence[TorchEncodedDocument]) -> Sequence[TorchEncodedDocument]:
        return documents if self._memory is None else self._memory.there(documents)

    def _some_rows(
        self, prefix: Sequence[int], requests: Sequence[ReadRequest], layout: Layout
    ) -> list[Observations]:
        found = [self._pass(prefix, request, layout) for request in requests]
        going: list[ReadPass | LatePass] = []
        for read in found:
            if going and not self._sequences.plan.together([len(own.ids) for own in (*going, read)]):
                self._run(going)
                going = []
            going.append(read)
        self._run(going)
        return [Observations(np.asarray(read.rows.cpu().numpy(), dtype=np.float32)) for read in found]

    def _pass(self, prefix: Sequence[int], request: ReadRequest, layout: Layout) -> ReadPass | LatePass:
        """The pass that reads a request."""
        tail, states = request.tail, self._prefix_states(prefix).pairs
        documents = [document for document in request.documents if isinstance(document, TorchEncodedDocument)]
        packed = PackedDocuments.pack(self._there(documents), len(prefix), self._dtype, self._device)
        if layout != "late":
            return ReadPass(states, packed, tail, request.needs.heads)
        fixed = self._fixed_states(prefix, tail, request.needs.deepest_head)
        return LatePass(states, packed, tail, fixed, request.needs.heads)

    def _run(self, going: Sequence[TokenPass]) -> None:
        self._sequences.run(going[0] if len(going) == 1 else SideBySidePass(going))

    def _fixed_states(self, prefix: Sequence[int], tail: Tail, deepest: int) -> FixedStates:
        key = (tuple(prefix), tail.fixed_key, deepest)
        known = self._fixed.get(key)
        if known is None:
            before = self._prefix_states(prefix).pairs
            if len(tail.fixed):
                fixed = FixedPass(before, tail, deepest)
                self._sequences.run(fixed)
                known = fixed.states
            else:
                known = FixedStates.none(before, self._shape.heads)
            self._fixed.put(key, known)
        return known

    def embed(self, tokens: TokenIds, layers: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        """See ``Runtime.embed``."""

        def pooled() -> npt.NDArray[np.float32]:
            states = StatesPass(tokens, layers, self._device)
            self._sequences.run(states)
            own = [states.states[layer][start:].float() for layer in layers]
            both = torch.stack([torch.stack((state.mean(dim=0), state[-1])) for state in own])
            return np.asarray(both.cpu().numpy(), dtype=np.float32)

        (found,) = self._in_parts([tokens], lambda _: self._sharing.run(pooled))
        return found

    def device_statistics(self) -> DeviceStatistics | None:
        """See ``Runtime.device_statistics``."""
        return None if self._memory is None else self._memory.statistics()

    def lookups(self) -> Mapping[str, Lookups]:
        """See ``Runtime.lookups``."""
        return {"prefixes": self._prefixes.lookups(), "tails": self._fixed.lookups()}

    def load_document(self, data: bytes) -> EncodedDocument:
        """See ``Runtime.load_document``."""
        return TorchEncodedDocument.from_bytes(data, self.kind, pinned=self._device.type == "cuda")

    def _prefix_states(self, prefix: Sequence[int]) -> _Prefix:
        key = tuple(prefix)
        known = self._prefixes.get(key)
        if known is None:
            encode = EncodePass([np.array(key, dtype=np.int32)], 0, {}, None, self._shape.layers, self._device)
            self._sequences.run(encode)
            both = {layer: torch.cat((encode.keys[layer], encode.values[layer])) for layer in encode.keys}
            kv_heads = self._shape.kv_heads
            known = _Prefix(both, {layer: (own[:kv_heads], own[kv_heads:]) for layer, own in both.items()})
            self._prefixes.put(key, known)
        return known

    def _kept(self, heads: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
        groups = self._shape.heads // self._shape.kv_heads
        kept: dict[int, set[int]] = {}
        for layer, head in heads:
            kept.setdefault(layer, set()).add(head // groups)
        return {layer: sorted(kv_heads) for layer, kv_heads in sorted(kept.items())}


def _observed(read: SoloPass, needs: Needs) -> Observations:
    """What a pass found."""
    told = read.log_probabilities.cpu().numpy()
    return Observations(
        torch.cat(read.rows, dim=2).cpu().numpy() if read.rows else np.zeros((0, len(needs.groups), 0), np.float32),
        read.states.cpu().numpy() if needs.layers else np.zeros((0, len(told), 0), np.float32),
        told,
    )


def _joined(parts: Sequence[Observations]) -> Observations:
    """What was found of the documents of one request, some after the others."""
    if len(parts) == 1:
        return parts[0]
    of_each = zip(*(part.arrays for part in parts), strict=True)
    return Observations(*(np.concatenate(each, axis=axis) for each, axis in zip(of_each, (2, 1, 0), strict=True)))
