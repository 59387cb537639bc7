"""Attention capture in transformers models, without forks.

One attention function is registered under ``rh_connector`` with transformers' ``AttentionInterface`` and hands
each layer's queries, keys and values (after rotary embedding and norms) to the pass that is active in this
thread. A pass keeps what it was made for, computes the layer's output and stops the model at its last layer by
raising ``LayersDone``, so that nothing above is run.

Masks are ours as well: the mask function registered with ``AttentionMaskInterface`` returns None.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from connector.backbone.prompt.tail import TokenIds
from connector.backbone.torch_runtime.packed_attention import Packing, varlen_attention
from connector.errors import BackboneError

__all__ = [
    "ATTENTION",
    "AttentionPass",
    "EncodePass",
    "LayerOptions",
    "LayersDone",
    "StatesPass",
    "TokenPass",
    "active",
    "attend",
    "attention_logits",
    "batched_products",
    "causal_bias",
    "fused_attention",
    "fuses_long_rows",
    "grouped_bias",
    "report_states",
]

ATTENTION = "rh_connector"
_QUERY_BLOCK = 192
Tensor = torch.Tensor


class LayersDone(Exception):
    """Raised inside of the model when a pass has all it needs."""


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """What a layer's own code passes along: the scale, a sliding window in tokens, a soft cap of the logits."""

    scaling: float
    sliding_window: int | None
    softcap: float | None


class AttentionPass(ABC):
    """What is done at every layer's attention while tokens go through a model."""

    @abstractmethod
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        """The layer's output [heads, tokens, d] from q [heads, tokens, d] and k, v [kv heads, tokens, d]."""


class TokenPass(AttentionPass):
    """A pass that knows its tokens.

    Args:
        ids: int32 [tokens].
        positions: int64 [tokens].
    """

    def __init__(self, ids: TokenIds, positions: npt.NDArray[np.int64]) -> None:
        self.ids, self.positions = ids, positions

    def enter(self, layer: int, hidden: Tensor) -> None:
        """Called with the hidden states [tokens, hidden] that enter a layer."""

    def leave(self, hidden: Tensor) -> None:
        """Called with the hidden states [tokens, hidden] behind the last layer and its norm, if it comes that far."""


_thread = threading.local()


@contextmanager
def active(attention_pass: AttentionPass, tokens: int | None = None) -> Iterator[None]:
    """Make a pass the one that this thread's model calls report to.

    Args:
        attention_pass: the pass.
        tokens: its own; those behind them are there for the products' sake, and nobody asks what becomes of them.
            None: all are its own.
    """
    _thread.current, _thread.tokens = attention_pass, tokens
    try:
        yield
    except LayersDone:
        pass
    finally:
        _thread.current = _thread.tokens = None


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if kwargs.get("s_aux") is not None:
        raise BackboneError("models with attention sinks (s_aux) are not supported; choose another backbone")
    layer = module.layer_idx
    assert isinstance(layer, int)
    options = LayerOptions(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        sliding_window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
    )
    return attend(layer, query[0], key[0], value[0], options).unsqueeze(0), None


def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
    """The layer's output [rows, heads, d], from this thread's pass; see ``AttentionPass.attend``.

    Raises:
        BackboneError: there is none.
    """
    current: AttentionPass | None = getattr(_thread, "current", None)
    if current is None:
        raise BackboneError("this model's attention is captured by rh-connector; load your own copy to run it")
    own: int | None = _thread.tokens
    if own is None:
        return current.attend(layer, q, k, v, options).transpose(0, 1)
    out = current.attend(layer, q[:, :own], k[:, :own], v[:, :own], options).transpose(0, 1)
    return torch.cat((out, out.new_zeros(q.shape[1] - own, *out.shape[1:])))


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


def batched_products(a: Tensor, b: Tensor) -> Tensor:
    """[n, rows, columns] from [n, rows, d] and [n, d, columns].

    On a CPU torch's batched product copies a transposed matrix that is alone in its batch, which for the keys of a
    thousand passages takes five times as long as the product; and in float32 each matrix keeps to one core, which
    leaves one idle for an odd number of them (1.2 to 1.6 times as long for three on two cores).
    """
    if a.device.type != "cpu" or (a.dtype != torch.float32 and a.shape[0] > 1):
        return torch.bmm(a, b)
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    for at in range(a.shape[0]):
        torch.mm(a[at], b[at], out=out[at])
    return out


def attention_logits(q: Tensor, k: Tensor, options: LayerOptions) -> Tensor:
    """Scaled logits [heads, tokens, keys], without repeating keys for grouped queries.

    In the number format of the queries where float32 would hold nothing more: softmax computes in float32 in any
    case, and a scale that is a power of two loses nothing in the queries. That saves three passes over the logits,
    which are the largest tensors that there are.
    """
    kv_heads, _, dim = k.shape
    exact = q.dtype == torch.float32 or math.frexp(options.scaling)[0] == 0.5
    if exact and options.softcap is None:
        grouped = (q * options.scaling).reshape(kv_heads, -1, dim)
        return batched_products(grouped, k.transpose(1, 2)).view(*q.shape[:2], -1)
    logits = batched_products(q.reshape(kv_heads, -1, dim), k.transpose(1, 2)).float().mul_(options.scaling)
    if options.softcap is not None:
        logits.div_(options.softcap).tanh_().mul_(options.softcap)
    return logits.view(*q.shape[:2], -1)


def grouped_bias(bias: Tensor, q: Tensor, kv_heads: int) -> Tensor:
    """A bias [tokens, keys] for ``fused_attention``: once for each query head of a group, in the queries' format."""
    return bias.repeat(q.shape[0] // kv_heads, 1).to(q.dtype)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, options: LayerOptions) -> Tensor:
    """Attention's output [heads, tokens, d] in one operation; without a soft cap, which it does not know.

    Args:
        q: [heads, tokens, d].
        k, v: [kv heads, keys, d].
        bias: see ``grouped_bias``.
    """
    kv_heads, _, dim = k.shape
    # The queries of a group as one head's: keys are read once, and not repeated.
    out = torch.nn.functional.scaled_dot_product_attention(
        q.reshape(1, kv_heads, -1, dim), k[None], v[None], attn_mask=bias, scale=options.scaling
    )
    return out.view(q.shape)


@cache
def fuses_long_rows() -> bool:
    """Whether torch's fused attention is the faster one for a few rows over thousands of keys, in bfloat16.

    With AMX it takes .7 of the time of products and softmax one by one (105 rows, 3,700 keys, 3 kv heads); on CPUs
    with AVX-512's bfloat16 alone, whose products it does not use, 2.5 times as long.
    """
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return has_amx is not None and bool(has_amx())


def causal_bias(query_positions: Tensor, key_positions: Tensor, sliding_window: int | None) -> Tensor:
    """0 where a query may look, -inf elsewhere: [queries, keys]."""
    distance = query_positions[:, None] - key_positions[None, :]
    hidden = distance < 0
    if sliding_window is not None:
        hidden |= distance >= sliding_window
    return torch.zeros(distance.shape, device=distance.device).masked_fill_(hidden, float("-inf"))


class EncodePass(TokenPass):
    """Passages packed one after the other, each after the prefix and blind to its neighbours.

    Args:
        passages: int32 [tokens], ids of each.
        start: position at which each begins.
        prefix: layer -> (keys, values) [kv heads, prefix tokens, d]; empty while the prefix itself is encoded.
        kept: layer -> kv heads whose keys are kept; None keeps every layer's keys and values.
        deepest: the last layer whose keys and values are needed; there, nothing after them is computed.
        device: where the masks are made.
    """

    def __init__(
        self,
        passages: Sequence[TokenIds],
        start: int,
        prefix: Mapping[int, tuple[Tensor, Tensor]],
        kept: Mapping[int, Sequence[int]] | None,
        deepest: int,
        device: torch.device,
    ) -> None:
        positions = [np.arange(start, start + len(ids)) for ids in passages]
        super().__init__(np.concatenate(passages), np.concatenate(positions))
        self._device = device
        self._lengths = [len(ids) for ids in passages]
        self._prefix = prefix
        self._kept = kept
        self._deepest = deepest
        self._biases: dict[tuple[int, int, int, int], Tensor] = {}
        self._packing: Packing | None = None
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        if self._kept is None:
            self.keys[layer], self.values[layer] = k, v
        elif layer in self._kept:
            self.keys[layer] = k[list(self._kept[layer])]
        if layer >= self._deepest:
            raise LayersDone
        varlen = None if options.softcap is not None else varlen_attention(self._device, q.dtype, q.shape[2])
        if varlen is not None:
            return self._packed(varlen, layer, q, k, v, options)
        # In the order in which the layer's code goes on with it, so that this copies nothing.
        out = q.new_empty(q.shape[1], q.shape[0], v.shape[2]).transpose(0, 1)
        start = 0
        for length in self._lengths:
            part = slice(start, start + length)
            self._one(layer, q[:, part], k[:, part], v[:, part], options, out[:, part])
            start += length
        return out

    def _packed(
        self, varlen: Callable[..., Any], layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions
    ) -> Tensor:
        """All passages in one operation."""
        before = self._prefix.get(layer)
        if before is not None:
            k, v = torch.cat((before[0], k), dim=1), torch.cat((before[1], v), dim=1)
        if self._packing is None:
            self._packing = Packing.of(self._lengths, k.shape[1] - q.shape[1], self._device)
        return self._packing.attend(varlen, q, k, v, options.scaling, options.sliding_window)

    def _one(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions, out: Tensor) -> None:
        if self._prefix:
            prefix_k, prefix_v = self._prefix[layer]
            k, v = torch.cat((prefix_k, k), dim=1), torch.cat((prefix_v, v), dim=1)
        if self._device.type == "cpu" or options.softcap is not None:
            # Fused kernels know no soft cap.
            self._in_blocks(q, k, v, options, out)
            return
        groups = q.shape[0] // k.shape[0]
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        bias = self._bias(k.shape[1] - q.shape[1], 0, k.shape[1], options.sliding_window)
        attended = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=bias.to(q.dtype), scale=options.scaling
        )
        out.copy_(attended[0])

    def _in_blocks(self, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions, out: Tensor) -> None:
        """Causal attention, some queries at a time.

        What no query of a block sees is not computed, and the logits stay in the processor's cache. For passages of
        180 to 512 tokens on an AVX-512 CPU, torch's fused attention takes 1.3 to 1.5 times as long in float32 and 2.5
        to 2.8 times in bfloat16, whose fast products it does not use.
        """
        before = k.shape[1] - q.shape[1]
        for start in range(0, q.shape[1], _QUERY_BLOCK):
            end = min(start + _QUERY_BLOCK, q.shape[1])
            last = before + end
            first = 0 if options.sliding_window is None else max(0, before + start - options.sliding_window + 1)
            # Without a sliding window, all queries of the block see what is before it.
            masked = before + start if options.sliding_window is None else first
            # In the cache, float32 costs nothing, and its softmax is the faster one.
            logits = attention_logits(q[:, start:end], k[:, first:last], options).float()
            logits[:, :, masked - first :].add_(self._bias(before + start, masked, last, options.sliding_window))
            weights = torch.softmax(logits, dim=-1).to(v.dtype).view(k.shape[0], -1, last - first)
            out[:, start:end] = batched_products(weights, v[:, first:last]).view(q.shape[0], end - start, -1)

    def _bias(self, start: int, first: int, last: int, sliding_window: int | None) -> Tensor:
        """Of the queries at ``start`` to ``last``, over the keys at ``first`` to ``last``."""
        key = (start, first, last, sliding_window or 0)
        cached = self._biases.get(key)
        if cached is None:
            positions = torch.arange(last, device=self._device)
            cached = self._biases[key] = causal_bias(positions[start:], positions[first:], sliding_window)
        return cached


class StatesPass(EncodePass):
    """Plain causal attention over one sequence; keeps the hidden states that enter the wanted layers."""

    def __init__(self, ids: TokenIds, wanted: Sequence[int], device: torch.device) -> None:
        super().__init__([ids], 0, {}, {}, max(wanted) + 1, device)
        self._wanted = frozenset(wanted)
        self.states: dict[int, Tensor] = {}

    def enter(self, layer: int, hidden: Tensor) -> None:
        """Called with the hidden states [tokens, hidden] that enter a layer."""
        if layer in self._wanted:
            self.states[layer] = hidden
        if len(self.states) == len(self._wanted):
            raise LayersDone


def report_states(layer: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Hand the hidden states that enter a layer to this thread's pass, if it collects them."""
    current = getattr(_thread, "current", None)
    if isinstance(current, TokenPass):
        hidden = args[0] if args else kwargs["hidden_states"]
        current.enter(layer, hidden[0, : len(current.ids)])
