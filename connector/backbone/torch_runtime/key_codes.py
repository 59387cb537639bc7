"""Keys as codes of 4 bits.

Keys have a few channels far larger than the others in every token (KIVI, arXiv 2402.02750, codes keys by channel for
this). Here a passage's mean key is kept apart, and what each token's key adds to it is turned by a fixed rotation,
which spreads every channel over all (QuaRot, arXiv 2404.00456). Its numbers then lie like a normal distribution,
whose best levels are known, and need one scale a token: a token that differs much from the others is not cut short.
On development queries scores were nearer to the exact ones than with equal steps from a channel's least to its
largest number: see docs/document-cache.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import torch

from connector.errors import BackboneError

__all__ = ["CodedKeys", "code_keys", "widen_keys"]

CodedKeys = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""uint8 [kv heads, tokens, d / 2]: two codes a byte, the first in the lower bits; float16 [kv heads, tokens, 1]:
scales; float16 [kv heads, 1, d]: the mean key."""
_BITS: Final = 4
# The upper half of the levels that lose least of a normal distribution (J. Max, "Quantizing for minimum distortion",
# 1960), in standard deviations.
_LEVELS: Final = (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326)


def code_keys(keys: torch.Tensor) -> CodedKeys:
    """Round the keys of one passage, [kv heads, tokens, d].

    Raises:
        BackboneError: d is odd.
    """
    size = keys.shape[2]
    if size % 2:
        raise BackboneError(
            f"cache.dtype = int4 packs two channels a byte, this LLM's heads have {size}; set it to int8"
        )
    wide = keys.float().contiguous()
    # Rounded before it is taken off: the codes make up for what that loses.
    mean = wide.mean(dim=1, keepdim=True).half()
    turned = (wide - mean.float()) @ _rotation(size, torch.float32).to(keys.device).T
    levels = _levels().to(keys.device)
    steps = turned / turned.square().mean(dim=2, keepdim=True).sqrt_().clamp_(min=1e-12)
    codes = torch.bucketize(steps, (levels[1:] + levels[:-1]) / 2)
    chosen = levels[codes]
    # The scale that is best for the levels chosen.
    scale = (turned * chosen).sum(dim=2, keepdim=True) / chosen.square().sum(dim=2, keepdim=True)
    first, second = codes.to(torch.uint8).view(*codes.shape[:2], -1, 2).unbind(3)
    return first | second << _BITS, scale.half(), mean


def widen_keys(passages: Sequence[CodedKeys], dtype: torch.dtype) -> torch.Tensor:
    """The inverse of ``code_keys``, but for what was rounded away; passages one behind the other.

    Returns:
        [kv heads, tokens of all passages, d].
    """
    codes, scale, _ = (torch.cat(parts, dim=1) for parts in zip(*passages, strict=True))
    means = torch.cat([mean for _, _, mean in passages], dim=1).to(dtype)
    if len(passages) > 1:
        lengths = torch.tensor([codes.shape[1] for codes, _, _ in passages], device=codes.device)
        means = means.repeat_interleave(lengths, dim=1)
    size = means.shape[2]
    table = _table(dtype).to(codes.device)
    turned = table.index_select(0, codes.int().view(-1)).view(dtype).view(*codes.shape[:2], size)
    return (turned.mul_(scale.to(dtype)) @ _rotation(size, dtype).to(codes.device)).add_(means)


@cache
def _levels() -> torch.Tensor:
    upper = torch.tensor(_LEVELS)
    return torch.cat((-upper.flip(0), upper))


@cache
def _table(dtype: torch.dtype) -> torch.Tensor:
    """[256]: the two levels that a byte stands for, as one number: torch takes thrice as long to look up pairs."""
    codes = torch.arange(256)[:, None] >> torch.arange(0, 8, _BITS) & (1 << _BITS) - 1
    whole = {2: torch.int32, 4: torch.int64}[dtype.itemsize]
    return _levels()[codes].to(dtype).view(whole).view(-1)


@cache
def _rotation(size: int, dtype: torch.dtype) -> torch.Tensor:
    """[size, size]: a cosine transform, after signs (Rudin and Shapiro's) that favour none of its waves.

    A formula, since codes are read by other processes and versions than wrote them; unlike Hadamard's, of any size.
    """
    at = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * (at[None, :] + 0.5) * at[:, None]) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    signs = [1.0 - 2.0 * ((place & (place >> 1)).bit_count() % 2) for place in range(size)]
    return (waves * torch.tensor(signs, dtype=torch.float64)).to(dtype)
