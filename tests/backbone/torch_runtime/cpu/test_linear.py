"""Packed weights give torch's products, and rows that stand alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.torch_runtime.cpu.linear import PackedGate, PackedLinear, pack_linears, products_apart
from tests.backbone.torch_runtime.packing import pack


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


class Gated(torch.nn.Module):
    """A block as in most decoders of transformers, with any activation and any order."""

    def __init__(self, activation: torch.nn.Module, *, bias: bool = False, swapped: bool = False) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = torch.nn.Linear(64, 96, bias=bias), torch.nn.Linear(64, 96, bias=bias)
        self.down_proj, self.act_fn, self.swapped = torch.nn.Linear(96, 64), activation, swapped

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(inputs), self.up_proj(inputs)
        product: torch.Tensor = self.down_proj(self.act_fn(up) * gate if self.swapped else self.act_fn(gate) * up)
        return product


def gated(dtype: torch.dtype, block: torch.nn.Module) -> torch.nn.Sequential:
    return torch.nn.Sequential(block).to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_gated_blocks_are_fused_where_they_are_what_they_seem(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(3)
    model, inputs = gated(dtype, Gated(torch.nn.SiLU())), torch.randn(1, 33, 64).to(dtype)
    expected = model(inputs)
    pack(model, dtype)
    assert isinstance(model[0], PackedGate)
    assert torch.allclose(model(inputs), expected, atol=tolerance, rtol=tolerance)
    # And a row does not depend on those beside it.
    assert torch.equal(model(inputs[:, 5:12]), model(inputs)[:, 5:12])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Gated(torch.nn.GELU("tanh")),
        lambda: Gated(torch.nn.SiLU(), bias=True),
        lambda: Gated(torch.nn.SiLU(), swapped=True),
        lambda: torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.SiLU(), torch.nn.Linear(96, 64)),
    ],
    ids=["gelu", "bias", "swapped", "plain"],
)
def test_other_blocks_keep_their_own_code(dtype: torch.dtype, make: Callable[[], torch.nn.Module]) -> None:
    model, inputs = gated(dtype, make()), torch.randn(1, 33, 64).to(dtype)
    expected = model(inputs)
    pack(model, dtype)
    assert not any(isinstance(module, PackedGate) for module in model.modules())
    assert torch.allclose(model(inputs), expected, atol=2e-2, rtol=2e-2)


def test_other_number_formats_are_left_as_they_are() -> None:
    model = layers(torch.float16)
    assert not pack_linears(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@given(rows=st.integers(2, 70), start=st.integers(0, 30))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype: torch.dtype, rows: int, start: int) -> None:
    model = layers(dtype)
    pack(model, dtype)
    model[0][1] = torch.nn.Identity()
    inputs = torch.randn(100, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(model(inputs[start : start + rows]), model(inputs)[start : start + rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_apart_have_the_bits_of_each_part_alone(dtype: torch.dtype) -> None:
    model = layers(dtype)
    block = gated(dtype, Gated(torch.nn.SiLU()))
    pack(model, dtype)
    pack(block, dtype)
    torch.manual_seed(9)
    inputs, added, rows = torch.randn(1, 40, 64).to(dtype), torch.randn(1, 40, 64).to(dtype), [3, 24, 13]
    parts = torch.split(inputs, rows, dim=1)
    with products_apart(rows):
        joined, gated_joined = model(inputs), block[0](inputs, added)
    assert torch.equal(joined, torch.cat([model(part) for part in parts], dim=1))
    own = [block[0](*pair) for pair in zip(parts, torch.split(added, rows, dim=1), strict=True)]
    assert torch.equal(gated_joined, torch.cat(own, dim=1))
    # And only within.
    assert torch.equal(model(inputs), model.forward(inputs))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_joined_layers_and_added_rows(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
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
