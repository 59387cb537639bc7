"""Packed weights give torch's products, and tokens that stand alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.backbone.torch_runtime.cpu.linear import PackedLinear, pack_linears, why_not_packed
from tests.backbone.torch_runtime.packing import has_amx, has_wide_products, pack

bits_stand_alone = pytest.mark.skipif(
    not has_wide_products(), reason="a product's bits depend on its number of tokens on this CPU"
)


def in_blocks(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """As a plan makes products of bfloat16 where AMX is: their bits depend on the number of tokens there."""
    for layer in model.modules():
        if isinstance(layer, PackedLinear) and dtype == torch.bfloat16 and has_amx():
            layer.block = 32


def layers(dtype: torch.dtype, *, bias: bool = False) -> torch.nn.Sequential:
    torch.manual_seed(3)
    inner = torch.nn.Sequential(torch.nn.Linear(64, 96, bias=bias), torch.nn.SiLU())
    model = torch.nn.Sequential(inner, torch.nn.LayerNorm(96), torch.nn.Linear(96, 64, bias=bias))
    return model.to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_products_are_those_of_torch(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    model, inputs = layers(dtype, bias=bias), torch.randn(1, 33, 64).to(dtype)
    expected = model(inputs)
    pack(model, dtype)
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 2
    assert torch.allclose(model(inputs), expected, atol=tolerance, rtol=tolerance)
    assert model(inputs).dtype == dtype


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_what_is_done_within_a_product_is_what_torch_does_behind_it(
    dtype: torch.dtype, tolerance: float, bias: bool
) -> None:
    torch.manual_seed(3)
    plain = [torch.nn.Linear(64, 96, bias=bias, dtype=dtype).requires_grad_(False) for _ in range(2)]
    model, inputs = torch.nn.Sequential(*plain), torch.randn(1, 33, 64).to(dtype)
    gates, ups = (layer(inputs) for layer in plain)
    pack(model, dtype)
    gate, up = model
    assert isinstance(gate, PackedLinear) and isinstance(up, PackedLinear)
    silu = torch.nn.functional.silu(gates)
    assert torch.allclose(gate.silu(inputs), silu, atol=tolerance, rtol=tolerance)
    assert torch.allclose(up.times(inputs, silu), ups * silu, atol=tolerance, rtol=tolerance)


@bits_stand_alone
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nor_does_a_token_depend_on_others_there(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96, bias=False)).to(dtype).requires_grad_(False)
    pack(model, dtype)
    in_blocks(model, dtype)
    layer, inputs, factors = model[0], torch.randn(1, 33, 64).to(dtype), torch.randn(1, 33, 96).to(dtype)
    assert isinstance(layer, PackedLinear)
    some = slice(5, 12)
    assert torch.equal(layer.silu(inputs[:, some]), layer.silu(inputs)[:, some])
    assert torch.equal(layer.times(inputs[:, some], factors[:, some]), layer.times(inputs, factors)[:, some])
    assert torch.equal(layer(inputs[:, some], factors[:, some]), layer(inputs, factors)[:, some])


def test_other_number_formats_are_left_as_they_are() -> None:
    model = layers(torch.float16)
    assert not pack_linears(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert "not for float16" in str(why_not_packed(torch.float16))


@bits_stand_alone
@settings(deadline=None)
@given(tokens=st.integers(2, 70), start=st.integers(0, 30))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_does_not_depend_on_those_beside_it(dtype: torch.dtype, tokens: int, start: int) -> None:
    model = layers(dtype)
    pack(model, dtype)
    in_blocks(model, dtype)
    model[0][1] = torch.nn.Identity()
    inputs = torch.randn(100, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(model(inputs[start : start + tokens]), model(inputs)[start : start + tokens])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_joined_layers_and_what_is_added(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    torch.manual_seed(4)
    plain = [torch.nn.Linear(64, size, bias=bias, dtype=dtype).requires_grad_(False) for size in (96, 32, 32)]
    inputs, added = torch.randn(1, 24, 64).to(dtype), torch.randn(1, 24, 160).to(dtype)
    model = torch.nn.Sequential(*plain)
    pack(model, dtype)
    packed = [layer for layer in model if isinstance(layer, PackedLinear)]
    joined = PackedLinear.joined(packed)
    expected = torch.cat([layer(inputs) for layer in plain], dim=-1)
    assert torch.allclose(joined(inputs), expected, atol=tolerance, rtol=tolerance)
    assert torch.allclose(joined(inputs, added), expected + added, atol=2 * tolerance, rtol=tolerance)


def test_layers_with_and_without_bias_are_not_joined() -> None:
    plain = [torch.nn.Linear(64, 32, bias=bias).requires_grad_(False) for bias in (True, False)]
    model = torch.nn.Sequential(*plain)
    pack(model)
    with pytest.raises(AttributeError, match="bias"):
        PackedLinear.joined([layer for layer in model if isinstance(layer, PackedLinear)])
