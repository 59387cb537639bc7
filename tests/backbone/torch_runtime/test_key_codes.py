"""Codes of 4 bits: what they lose, how large they are, what they refuse."""

from __future__ import annotations

import pytest
import torch

from connector.backbone.torch_runtime.key_codes import code_keys, widen_keys
from connector.errors import BackboneError

# Mean squared error of the best 16 levels for a normal distribution (Max, 1960), with room for few numbers a token.
LOST = 0.0095 * 1.1


def keys(tokens: int = 200, size: int = 64) -> torch.Tensor:
    """[2, tokens, size]: a large mean, channels and tokens of very different spread."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    spread = torch.exp(0.5 * normal(2, 1, size)) * torch.exp(normal(2, tokens, 1))
    return 20 * normal(2, 1, size) + spread * normal(2, tokens, size)


def lost(exact: torch.Tensor) -> torch.Tensor:
    """[2, tokens]: squared error, of the token's distance to the mean key."""
    error = (widen_keys([code_keys(exact)], torch.float32) - exact).square().sum(dim=2)
    return error / (exact - exact.mean(dim=1, keepdim=True)).square().sum(dim=2)


@pytest.mark.parametrize("size", [64, 96, 256])
def test_no_token_loses_more_than_its_distance_to_the_mean_explains(size: int) -> None:
    found = lost(keys(size=size))
    assert float(found.mean()) < LOST
    assert float(found.max()) < 4 * LOST


def test_one_large_channel_drowns_no_other() -> None:
    large = keys()
    large[:, :, 7] += 3000
    assert float(lost(large).mean()) < LOST


@pytest.mark.parametrize("size", [64, 6])
def test_sizes(size: int) -> None:
    coded = codes, scale, mean = code_keys(keys(size=size))
    assert (codes.shape, codes.dtype) == ((2, 200, size // 2), torch.uint8)
    assert (scale.shape, scale.dtype) == ((2, 200, 1), torch.float16)
    assert (mean.shape, mean.dtype) == ((2, 1, size), torch.float16)
    for dtype in (torch.float32, torch.bfloat16):
        wide = widen_keys([coded], dtype)
        assert (wide.shape, wide.dtype) == ((2, 200, size), dtype)


def test_a_part_of_a_batch_is_coded_as_if_alone() -> None:
    # As the LLM gives them: heads beside each other, and a passage among others.
    batch = keys(tokens=300).transpose(0, 1).contiguous().transpose(0, 1)
    alone = code_keys(batch[:, 100:170].contiguous())
    assert all(torch.equal(a, b) for a, b in zip(code_keys(batch[:, 100:170]), alone, strict=True))


def test_a_single_token_keeps_its_key() -> None:
    exact = keys(tokens=1)
    torch.testing.assert_close(widen_keys([code_keys(exact)], torch.float32), exact, rtol=1e-3, atol=1e-3)


def test_equal_keys_are_kept() -> None:
    exact = keys(tokens=1).half().float().expand(2, 9, 64)
    torch.testing.assert_close(widen_keys([code_keys(exact)], torch.float32), exact, rtol=1e-3, atol=1e-3)


def test_heads_that_do_not_fill_bytes_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"cache\.dtype = int4 packs two channels a byte.* 7; set it to int8"):
        code_keys(keys(size=7))
