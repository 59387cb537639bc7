"""Sequences of any lengths in one attention, without padding: PyTorch's own, where the device has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Packing", "varlen_attention"]

Tensor = torch.Tensor
# Of compute capability 8.0 on (Ampere), https://docs.pytorch.org/docs/stable/nn.attention.varlen.html
_CAPABILITY = (8, 0)
_LARGEST_HEAD = 256
# Flash attention refuses other heads; torch's functions that fill them up are not this one.
_HEAD_STEP = 8


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
    fits = (
        head_dim <= _LARGEST_HEAD
        and not head_dim % _HEAD_STEP
        and torch.cuda.get_device_capability(device) >= _CAPABILITY
    )
    return varlen_attn if fits else None


@dataclass(frozen=True, slots=True)
class Packing:
    """Where sequences lie behind each other: their queries, and their keys among keys that several may share.

    Attributes:
        index: int64 [keys]: the places of each sequence's keys, one sequence behind the other.
        queries, keys: int32 [sequences + 1]: where each begins.
        most_queries, most_keys: of one sequence.
    """

    index: Tensor
    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, lengths: Sequence[int], prefix: int, device: torch.device) -> Packing:
        """That of sequences of these lengths, whose keys lie behind a prefix that each has before its own."""
        ends = np.cumsum(lengths, dtype=np.int64)
        before = np.arange(prefix)
        places = [
            np.concatenate((before, np.arange(prefix + end - length, prefix + end)))
            for end, length in zip(ends, lengths, strict=True)
        ]
        return cls.of_places(places, lengths, device)

    @classmethod
    def of_places(
        cls, places: Sequence[npt.NDArray[np.int64]], queries: Sequence[int], device: torch.device
    ) -> Packing:
        """That of sequences with so many queries each, whose keys lie in these places."""
        keys = [len(own) for own in places]

        def begins(lengths: Sequence[int]) -> Tensor:
            return torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)

        index = torch.from_numpy(np.concatenate(places)).to(device)
        return cls(index, begins(queries), begins(keys), max(queries), max(keys))

    def attend(
        self, varlen: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, scaling: float, sliding_window: int | None
    ) -> Tensor:
        """Attention within each sequence, whose last query is at its last key: [heads, queries, d].

        Args:
            varlen: see ``varlen_attention``.
            q: [heads, queries, d], of all sequences.
            k, v: [kv heads, tokens, d], from which each sequence has its keys.
            scaling: of the logits.
            sliding_window: tokens that one sees, with itself; None: all before it.
        """
        keys, values = (each.transpose(0, 1).index_select(0, self.index) for each in (k, v))
        # Of a window, the one that looks is no part.
        before = -1 if sliding_window is None else sliding_window - 1
        found = varlen(
            q.transpose(0, 1).contiguous(),
            keys,
            values,
            self.queries,
            self.keys,
            self.most_queries,
            self.most_keys,
            scale=scaling,
            window_size=(before, 0),
            enable_gqa=q.shape[0] != k.shape[0],
        )
        out: Tensor = found.transpose(0, 1)
        return out
