"""Codes of 4 and 2 bits: what they lose, how large they are, what they refuse."""

from __future__ import annotations

import pytest
import torch

from connector.backbone.key_codes import code_keys, widen_keys
from connector.errors import BackboneError

# Mean squared error of the best levels for a normal distribution (Max, 1960), with room for 200 tokens.
LOST = {4: 0.0095 * 1.15, 2: 0.1175 * 1.15}


def keys(tokens: int = 200, size: int = 64) -> torch.Tensor:
    """[2, tokens, size]: channels whose centres and spreads differ by orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(2, 1, size, generator=generator) * 20
    spread = torch.exp(2 * torch.randn(2, 1, size, generator=generator))
    return centre + spread * torch.randn(2, tokens, size, generator=generator)


@pytest.mark.parametrize("bits", [4, 2])
def test_no_channel_loses_more_than_its_own_spread_explains(bits: int) -> None:
    exact = keys()
    codes, channels = code_keys(exact, bits)
    lost = (widen_keys(codes, channels, torch.float32) - exact).square().mean(dim=1)
    relative = lost / exact.var(dim=1)
    assert float(relative.mean()) < LOST[bits]
    assert float(relative.max()) < 2 * LOST[bits]


@pytest.mark.parametrize(("bits", "size"), [(4, 64), (2, 64), (4, 6), (2, 12)])
def test_sizes(bits: int, size: int) -> None:
    codes, channels = code_keys(keys(size=size), bits)
    assert (codes.shape, codes.dtype) == ((2, 200, size * bits // 8), torch.uint8)
    assert (channels.shape, channels.dtype) == ((2, 2, size), torch.float16)
    assert widen_keys(codes, channels, torch.bfloat16).shape == (2, 200, size)


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_widened_alone_has_the_same_bits(bits: int, dtype: torch.dtype) -> None:
    codes, channels = code_keys(keys(), bits)
    whole = widen_keys(codes, channels, dtype)
    assert whole.dtype == dtype
    assert torch.equal(whole[:, 17:18], widen_keys(codes[:, 17:18], channels, dtype))
    assert torch.equal(whole[1:], widen_keys(codes[1:], channels[1:], dtype))


@pytest.mark.parametrize("bits", [4, 2])
def test_a_single_token_keeps_its_key(bits: int) -> None:
    exact = keys(tokens=1)
    found = widen_keys(*code_keys(exact, bits), torch.float32)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5)


def test_all_codes_are_used_and_mean_what_they_should() -> None:
    line = torch.linspace(-2, 2, 257)[None, :, None].expand(1, 257, 4)
    codes, channels = code_keys(line, 4)
    found = widen_keys(codes, channels, torch.float32)
    assert bool((found.diff(dim=1) >= 0).all())
    assert len(set(codes.flatten().tolist())) > 10


def test_heads_that_do_not_fill_bytes_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"cache\.dtype = int2 packs 4 channels a byte.* 6; set it to int8"):
        code_keys(keys(size=6), 2)
