"""Sequences of any lengths in one attention, without padding: PyTorch's own, where the device has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

__all__ = ["Packing", "varlen_attention"]

Tensor = torch.Tensor
# Of compute capability 8.0 on (Ampere), https://docs.pytorch.org/docs/stable/nn.attention.varlen.html
_CAPABILITY = (8, 0)
_LARGEST_HEAD = 256


@cache
def varlen_attention(device: torch.device, dtype: torch.dtype, head_dim: int) -> Callable[..., Any] | None:
    """``torch.nn.attention.varlen.varlen_attn``; None: it does not take this device, number format or head."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    # Older ones know neither fewer heads of keys, nor other keys before a sequence's own.
    if not {"enable_gqa", "window_size"} <= inspect.signature(varlen_attn).parameters.keys():
        return None
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    fits = head_dim <= _LARGEST_HEAD and torch.cuda.get_device_capability(device) >= _CAPABILITY
    return varlen_attn if fits else None


@dataclass(frozen=True, slots=True)
class Packing:
    """Where sequences, each with the same prefix before its keys, lie behind each other.

    Attributes:
        index: int64 [keys]: the places of all keys, prefix first, among those of the prefix and of all sequences.
        queries, keys: int32 [sequences + 1]: where each begins.
        longest: tokens of the longest sequence.
        prefix: tokens of the prefix.
    """

    index: Tensor
    queries: Tensor
    keys: Tensor
    longest: int
    prefix: int

    @classmethod
    def of(cls, lengths: Sequence[int], prefix: int, device: torch.device) -> Packing:
        """That of sequences of these lengths."""
        own = torch.tensor(lengths)
        ends = own.cumsum(0)
        places = [
            torch.cat((torch.arange(prefix), torch.arange(prefix + end - length, prefix + end)))
            for end, length in zip(ends.tolist(), lengths, strict=True)
        ]

        def begins(each: Tensor) -> Tensor:
            return torch.nn.functional.pad(each.cumsum(0), (1, 0)).to(device, torch.int32)

        return cls(torch.cat(places).to(device), begins(own), begins(own + prefix), max(lengths), prefix)

    def attend(
        self, varlen: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, scaling: float, sliding_window: int | None
    ) -> Tensor:
        """Causal attention within each sequence: [heads, tokens, d].

        Args:
            varlen: see ``varlen_attention``.
            q: [heads, tokens, d], of all sequences.
            k, v: [kv heads, prefix and tokens, d].
            scaling: of the logits.
            sliding_window: tokens that one sees, with itself; None: all before it.
        """
        keys, values = (each.transpose(0, 1).index_select(0, self.index) for each in (k, v))
        # The last query of a sequence is at its last key. Of a window, the one that looks is no part.
        before = -1 if sliding_window is None else sliding_window - 1
        found = varlen(
            q.transpose(0, 1).contiguous(),
            keys,
            values,
            self.queries,
            self.keys,
            self.longest,
            self.longest + self.prefix,
            scale=scaling,
            window_size=(before, 0),
            enable_gqa=q.shape[0] != k.shape[0],
        )
        out: Tensor = found.transpose(0, 1)
        return out
