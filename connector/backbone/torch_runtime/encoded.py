"""Encoded passages of the torch runtime: keys and values as floats or int8 with scales, keys also as codes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from connector.backbone.torch_runtime.cpu.cores import on_cores
from connector.backbone.torch_runtime.key_codes import CodedKeys, code_keys, widen_keys
from connector.errors import BackboneError

__all__ = ["CacheDtype", "PackedDocuments", "StoredTensor", "TorchEncodedDocument", "store_parts"]

CacheDtype = Literal["float32", "float16", "bfloat16", "int8", "int4"]
_FORMAT = "rh-encoded-2"
# Coded passages that are widened at once: few enough to stay in the processor's cache.
_WIDENED = 32
# Keys that are put together at once, where not all are needed together: they stay in the processor's cache.
_BLOCK_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """States of one layer, [kv heads, tokens, d], as they are kept: keys, or keys and behind them values.

    int8 has one scale for each head and channel: keys have a few channels far larger than the others, which a
    single scale a head would drown. int4 is for keys, and has a mean key as well: see ``key_codes``.
    """

    data: torch.Tensor
    scale: torch.Tensor | None = None
    mean: torch.Tensor | None = None

    @classmethod
    def store(cls, tensor: torch.Tensor, dtype: CacheDtype) -> StoredTensor:
        """Round a [kv heads, tokens, d] tensor to the storage format.

        Raises:
            BackboneError: the model gave a number that is not finite, or too large for float16; or int4 does not
                fit the size of its heads.
        """
        scale = mean = None
        if dtype == "int4":
            # A passage's codes are the same bits wherever it was encoded: on all cores, or with others at once.
            with on_cores(1):
                data, scale, mean = code_keys(tensor)
            checked = scale + mean
        elif dtype == "int8":
            scale = tensor.float().abs().amax(dim=1, keepdim=True).div_(127.0).clamp_(min=1e-12)
            data, checked = torch.round(tensor.float() / scale).to(torch.int8), tensor
        else:
            data = checked = tensor.to(getattr(torch, dtype))
        # A sum shows it as well, in a tenth of the time: what is not finite stays so, and makes its sum so.
        _check_finite(checked.sum(dtype=torch.float32), dtype)
        # A view would keep the whole batch's memory alive.
        is_part = data.data_ptr() == tensor.data_ptr() and data.untyped_storage().nbytes() > data.nbytes
        return cls(data.clone(memory_format=torch.contiguous_format) if is_part else data.contiguous(), scale, mean)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.data, self.scale, self.mean) if tensor is not None)

    def on(self, device: torch.device, *, pinned: bool = False) -> StoredTensor:
        """A copy on a device; pinned host memory is what a GPU copies from, and to, by itself.

        What it copies is there once the device's stream has been waited for.
        """

        def copied(tensor: torch.Tensor | None) -> torch.Tensor | None:
            if tensor is None:
                return None
            if pinned:
                return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            return tensor.to(device, non_blocking=device.type == "cuda", copy=True)

        data = copied(self.data)
        assert data is not None
        return StoredTensor(data, copied(self.scale), copied(self.mean))

    @property
    def coded(self) -> CodedKeys | None:
        """The parts of int4."""
        return None if self.scale is None or self.mean is None else (self.data, self.scale, self.mean)

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The tensor in the runtime's number format."""
        if self.coded is not None:
            return widen_keys([self.coded], dtype)
        if self.scale is None:
            return self.data.to(dtype)
        return (self.data.to(torch.float32) * self.scale).to(dtype)


def store_parts(
    states: Mapping[int, torch.Tensor], lengths: Sequence[int], dtype: CacheDtype
) -> list[dict[int, StoredTensor]]:
    """What ``StoredTensor.store`` makes of each passage's part of each layer, asked once whether all is finite.

    A GPU is waited for whenever it is asked something.

    Args:
        states: layer -> [kv heads, tokens, d], of passages one behind the other.
        lengths: tokens of each passage.
        dtype: of what is stored.

    Raises:
        BackboneError: see ``StoredTensor.store``.
    """
    if dtype in ("int8", "int4"):
        split = {layer: torch.split(state, list(lengths), dim=1) for layer, state in states.items()}
        return [
            {layer: StoredTensor.store(parts[at], dtype) for layer, parts in split.items()}
            for at in range(len(lengths))
        ]
    rounded = {layer: state.to(getattr(torch, dtype)) for layer, state in states.items()}
    _check_finite(torch.stack([state.sum(dtype=torch.float32) for state in rounded.values()]), dtype)
    split = {layer: torch.split(state, list(lengths), dim=1) for layer, state in rounded.items()}
    # A view would keep the whole batch's memory alive.
    return [
        {
            layer: StoredTensor(parts[at].clone(memory_format=torch.contiguous_format))
            for layer, parts in split.items()
        }
        for at in range(len(lengths))
    ]


def _check_finite(sums: torch.Tensor, dtype: CacheDtype) -> None:
    if not torch.isfinite(sums).all():
        raise BackboneError(
            f"the backbone gave keys or values that {dtype} cannot hold; set cache.dtype to float32, "
            "or check the weights"
        )


@dataclass(frozen=True)
class TorchEncodedDocument:
    """States of one passage.

    Attributes:
        tokens: tokens of the passage.
        states: layer -> stored keys, and behind them, for layers that are attended through, values.
        kind: what made it (family, shape, dtype); ``from_bytes`` refuses another.
        kept: for late, layer -> the kv heads that ``states`` holds; None where it holds all.
    """

    tokens: int
    states: Mapping[int, StoredTensor]
    kind: str
    kept: Mapping[int, Sequence[int]] | None = None

    @cached_property
    def nbytes(self) -> int:
        return sum(stored.nbytes for stored in self.states.values())

    def stored_as(self, dtype: CacheDtype) -> TorchEncodedDocument:
        """The same states, rounded to another format.

        Raises:
            BackboneError: see ``StoredTensor.store``.
        """
        states = {layer: StoredTensor.store(one.widen(torch.float32), dtype) for layer, one in self.states.items()}
        return replace(self, states=states)

    def on(self, device: torch.device, *, pinned: bool = False) -> TorchEncodedDocument:
        """A copy on a device; see ``StoredTensor.on``."""
        return replace(self, states={layer: one.on(device, pinned=pinned) for layer, one in self.states.items()})

    def to_bytes(self) -> bytes:
        """safetensors with a metadata record."""
        tensors: dict[str, torch.Tensor] = {}
        for layer, stored in self.states.items():
            tensors[str(layer)] = stored.data
            if stored.scale is not None:
                tensors[f"{layer}.scale"] = stored.scale
            if stored.mean is not None:
                tensors[f"{layer}.mean"] = stored.mean
        kept = None if self.kept is None else {str(layer): list(heads) for layer, heads in self.kept.items()}
        record = {"format": _FORMAT, "tokens": self.tokens, "kind": self.kind, "kept": kept}
        return save_tensors(tensors, metadata={"rh": json.dumps(record)})

    @classmethod
    def from_bytes(cls, data: bytes, kind: str, *, pinned: bool = False) -> TorchEncodedDocument:
        """The inverse of ``to_bytes``.

        Args:
            data: the bytes.
            kind: of the backbone that will read it.
            pinned: keep it where a GPU copies from by itself.

        Raises:
            BackboneError: damaged bytes, another format, or another kind of backbone.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            header: dict[str, Any] = json.loads(data[8 : 8 + size])
            record = json.loads(header["__metadata__"]["rh"])
            tensors = load_tensors(data)
        except Exception as error:
            # safetensors raises its own exception type, which is not exported everywhere.
            raise BackboneError(f"an encoded document is damaged: {error}; drop it and encode again") from None
        if record.get("format") != _FORMAT or record.get("kind") != kind:
            raise BackboneError(
                f"an encoded document was made by '{record.get('kind')}' ({record.get('format')}), "
                f"this backbone is '{kind}' ({_FORMAT}); drop it and encode again"
            )
        if pinned:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        states = {
            int(name): StoredTensor(tensor, tensors.get(f"{name}.scale"), tensors.get(f"{name}.mean"))
            for name, tensor in tensors.items()
            if "." not in name
        }
        kept = record["kept"] and {int(layer): heads for layer, heads in record["kept"].items()}
        return cls(record["tokens"], states, kind, kept)


@dataclass(frozen=True, slots=True)
class PackedDocuments:
    """The passages of a window, one after the other.

    Attributes:
        documents: in the order of the window; all made with the same kept heads.
        positions: int64 [tokens]: position of every token in its own prompt.
        dtype: number format of the model.
    """

    documents: Sequence[TorchEncodedDocument]
    positions: torch.Tensor
    dtype: torch.dtype

    @classmethod
    def pack(
        cls, documents: Sequence[TorchEncodedDocument], start: int, dtype: torch.dtype, device: torch.device
    ) -> PackedDocuments:
        """Put passages, each beginning at position ``start``, side by side.

        Raises:
            BackboneError: they were encoded for different pools.
        """
        if any(document.kept != documents[0].kept for document in documents):
            raise BackboneError("documents of one window were encoded for different heads; clear the cache")
        lengths = torch.tensor([document.tokens for document in documents])
        before = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        positions = torch.arange(start, start + before.shape[0]) - before
        return cls(documents, positions.to(device), dtype)

    @property
    def kept(self) -> Mapping[int, Sequence[int]] | None:
        """For late: layer -> kv heads that ``keys`` has."""
        return self.documents[0].kept

    def states(self, layer: int, *after: torch.Tensor) -> torch.Tensor:
        """[kv heads of keys and of values, tokens, d], with ``after`` behind them; not for late."""
        return self._join([document.states[layer] for document in self.documents], after)

    def key_blocks(self, layer: int, *after: torch.Tensor) -> Iterator[torch.Tensor]:
        """Keys [kv heads, tokens, d] of some passages at a time, put together when they are asked for.

        ``after`` stands behind the last ones. For late there are only the kept kv heads, ascending; for joint it is
        the deepest layer alone that has nothing but keys.
        """
        parts = [document.states[layer] for document in self.documents]
        start = tokens = 0
        for at, document in enumerate(self.documents):
            if tokens and tokens + document.tokens > _BLOCK_TOKENS:
                yield self._join(parts[start:at], ())
                start, tokens = at, 0
            tokens += document.tokens
        yield self._join(parts[start:], after)

    def _join(self, parts: Sequence[StoredTensor], after: Sequence[torch.Tensor]) -> torch.Tensor:
        # The one copy that is made of what the cache holds. On several cores torch would copy passage by passage, and
        # let all cores wait for each other after each.
        with on_cores(1):
            return torch.cat([*self._widened(parts), *after], dim=1)

    def _widened(self, parts: Sequence[StoredTensor]) -> Iterator[torch.Tensor]:
        dtype, device = self.dtype, self.positions.device
        for start in range(0, len(parts), _WIDENED):
            some = parts[start : start + _WIDENED]
            coded = [part.coded for part in some if part.coded is not None]
            if len(coded) == len(some):
                yield widen_keys(coded, dtype).to(device)
                continue
            for part in some:
                data = part.data
                # Not even asked to convert what fits: of a window, that would be some thousand calls.
                fits = part.scale is None and data.dtype is dtype and data.device == device
                yield data if fits else part.widen(dtype).to(device)
