"""Keys as codes of 4 or 2 bits, each channel of a passage with a centre and a spread of its own.

A key's channels differ far more than its tokens do: a few are large throughout, so that a scale over channels drowns
the others (KIVI, arXiv 2402.02750, codes keys by channel for this). A channel's numbers within a passage lie about
their mean like a normal distribution: the levels are those that lose least of one, not equal steps from end to end.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import torch

from connector.errors import BackboneError

__all__ = ["CODE_BITS", "CodeDtype", "code_keys", "widen_keys"]

CodeDtype = Literal["int4", "int2"]
CODE_BITS: Final[dict[str, int]] = {"int4": 4, "int2": 2}
# Upper halves of the levels that lose least of a normal distribution (J. Max, "Quantizing for minimum distortion",
# 1960), in standard deviations.
_LEVELS: Final[dict[int, tuple[float, ...]]] = {
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326),
    2: (0.4528, 1.5104),
}


def code_keys(keys: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round the keys of one passage, [kv heads, tokens, d].

    Returns:
        uint8 [kv heads, tokens, d * bits / 8]: the codes, the first channel in the lowest bits; and float16
        [kv heads, 2, d]: each channel's centre and spread.

    Raises:
        BackboneError: d numbers do not fill whole bytes.
    """
    heads, tokens, size = keys.shape
    each = 8 // bits
    if size % each:
        raise BackboneError(
            f"cache.dtype = int{bits} packs {each} channels a byte, this LLM's heads have {size}; set it to int8"
        )
    wide = keys.float()
    # Rounded first: codes then make up for what these lose.
    centre = wide.mean(dim=1, keepdim=True).half()
    spread = wide.std(dim=1, keepdim=True, correction=0).half()
    steps = (wide - centre.float()) / spread.float().clamp_(min=1e-6)
    levels = _levels(bits).to(keys.device)
    codes = torch.bucketize(steps, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).view(heads, tokens, -1, each)
    packed = codes[..., 0].clone()
    for at in range(1, each):
        packed |= codes[..., at] << (bits * at)
    return packed, torch.cat((centre, spread), dim=1)


def widen_keys(codes: torch.Tensor, channels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The inverse of ``code_keys``, but for what was rounded away: [kv heads, tokens, d]."""
    size = channels.shape[2]
    table = _table(8 * codes.shape[2] // size, dtype).to(codes.device)
    steps = torch.nn.functional.embedding(codes.int(), table).view(*codes.shape[:2], size)
    own = channels.to(dtype)
    return steps.mul_(own[:, 1:]).add_(own[:, :1])


@cache
def _levels(bits: int) -> torch.Tensor:
    upper = torch.tensor(_LEVELS[bits])
    return torch.cat((-upper.flip(0), upper))


@cache
def _table(bits: int, dtype: torch.dtype) -> torch.Tensor:
    """[256, codes a byte]: the levels that a byte stands for."""
    codes = torch.arange(256)[:, None] >> torch.arange(0, 8, bits) & (1 << bits) - 1
    return _levels(bits)[codes].to(dtype)
