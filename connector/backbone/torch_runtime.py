"""The torch runtime: any Hugging Face decoder, frozen, run only as far as its deepest pooled head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from cachetools import LRUCache

from connector.backbone.allocator import keep_big_buffers
from connector.backbone.core_sharing import CoreSharing
from connector.backbone.runtime import BackboneShape, EncodedDocument, Head, Tail
from connector.backbone.torch_attention import (
    ATTENTION,
    AttentionPass,
    EncodePass,
    ReadPass,
    StatesPass,
    active,
    report_states,
)
from connector.backbone.torch_encoded import CacheDtype, PackedDocuments, StoredTensor, TorchEncodedDocument
from connector.errors import BackboneError

__all__ = ["TorchRuntime"]

_LAYER_TYPES = {"full_attention", "sliding_attention"}
# On a GPU, passages are packed into one sequence of up to this many tokens.
_PACKED_TOKENS = 16_384
_Prefix = dict[int, tuple[torch.Tensor, torch.Tensor]]


class TorchRuntime:
    """One frozen LLM in torch. Thread-safe.

    On a CPU every passage is encoded by itself: what is computed then depends on the passage alone, so a cached
    state is bit-equal to a fresh one whatever else was in the request; matrix products reach most of their speed
    from 100 rows on. On a GPU passages are packed, which keeps states equal to rounding only.
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
        self._sharing = CoreSharing()
        for index, layer in enumerate(model.layers):
            layer.register_forward_pre_hook(partial(_report_states, index), with_kwargs=True)

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
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        keep_big_buffers()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise BackboneError("backbone.device = cuda: torch sees no CUDA device; set it to cpu or auto")
        if dtype == "auto":
            dtype = "bfloat16" if device == "cuda" or _multiplies_bfloat16() else "float32"
        if cache_dtype == "auto":
            cache_dtype = "bfloat16" if dtype == "bfloat16" else "float16"
        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            # A config object of our own: models made from one config share its attention setting.
            config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
            _refuse_unknown_layers(config)
            model = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=ATTENTION,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise BackboneError(f"cannot load the backbone in {path}: {' '.join(str(error).split())}") from error
        finally:
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        decoder = model.get_decoder().to(device)  # type: ignore[no-untyped-call]
        decoder = decoder.eval().requires_grad_(False)
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
        deepest = max(layer for layer, _ in heads)
        prefix_states = self._prefix_states(prefix)
        kept = self._kept(heads) if late else None
        for batch in self._batches(documents):
            lengths = [len(document) for document in batch]
            encode = EncodePass(lengths, prefix_states, kept, deepest, self._device)
            tokens = [token for document in batch for token in document]
            positions = [len(prefix) + at for length in lengths for at in range(length)]
            self._run(encode, tokens, positions)
            yield from self._store(encode, lengths, deepest, kept)

    def _batches(self, documents: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        if self._device.type == "cpu":
            yield from ([document] for document in documents)
            return
        batch: list[Sequence[int]] = []
        for document in documents:
            if batch and sum(map(len, batch)) + len(document) > _PACKED_TOKENS:
                yield batch
                batch = []
            batch.append(document)
        if batch:
            yield batch

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
        own = [document for document in documents if isinstance(document, TorchEncodedDocument)]
        if len(own) != len(documents):
            raise BackboneError("documents encoded by another runtime cannot be read by torch")
        by_layer = _by_layer(heads)
        tokens, positions, bias = self._tail(tail)
        read = ReadPass(
            self._prefix_states(prefix),
            PackedDocuments.pack(own, len(prefix), self._dtype, self._device),
            bias,
            torch.tensor(positions, device=self._device),
            torch.arange(len(prefix), device=self._device),
            torch.from_numpy(tail.rows).to(self._device),
            by_layer,
            late=late,
        )
        self._run(read, tokens, positions)
        rows = torch.stack([read.captured[head] for head in heads]).cpu().numpy()
        if not np.isfinite(rows).all():
            raise BackboneError("the backbone gave attention that is not finite; check the weights and the dtype")
        return np.asarray(rows, dtype=np.float32)

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
        states = StatesPass(len(tokens), layers, self._device)
        self._run(states, tokens, range(len(tokens)))
        own = [states.states[layer][start:].float() for layer in layers]
        pooled = torch.stack([torch.stack((state.mean(dim=0), state[-1])) for state in own])
        return np.asarray(pooled.cpu().numpy(), dtype=np.float32)

    def load_document(self, data: bytes) -> EncodedDocument:
        """See ``Runtime.load_document``."""
        return TorchEncodedDocument.from_bytes(data, self.kind)

    def _prefix_states(self, prefix: Sequence[int]) -> _Prefix:
        key = tuple(prefix)
        with self._lock:
            known = self._prefixes.get(key)
        if known is None:
            encode = EncodePass([len(key)], {}, None, self._shape.layers, self._device)
            self._run(encode, key, range(len(key)))
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
    def _run(self, attention_pass: AttentionPass, tokens: Sequence[int], positions: Sequence[int]) -> None:
        ids = torch.tensor([list(tokens)], device=self._device)
        places = torch.tensor([list(positions)], device=self._device)
        with self._sharing.share(), active(attention_pass):
            self._model(input_ids=ids, position_ids=places, use_cache=False)


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; elsewhere it is emulated, slower than float32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def _report_states(layer: int, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    report_states(layer, args, kwargs)


def _by_layer(heads: Sequence[Head]) -> dict[int, list[int]]:
    layers: dict[int, list[int]] = {}
    for layer, head in heads:
        layers.setdefault(layer, []).append(head)
    return layers


def _refuse_unknown_layers(config: Any) -> None:
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise BackboneError(
            f"{config.model_type} has layers of kind {', '.join(sorted(unknown))}, whose attention is not captured; "
            "choose a decoder with full or sliding-window attention"
        )
