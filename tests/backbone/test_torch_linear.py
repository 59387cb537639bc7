"""Packed weights give torch's products, and rows that stand alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.torch_linear import PackedLinear, pack_linears


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
    if not pack_linears(model):
        pytest.skip("this torch or CPU cannot pack weights")
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == 2
    assert torch.allclose(model(inputs), expected, atol=tolerance, rtol=tolerance)
    assert model(inputs).dtype == dtype


def test_other_number_formats_are_left_as_they_are() -> None:
    model = layers(torch.float16)
    assert not pack_linears(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


@given(rows=st.integers(2, 70), start=st.integers(0, 30))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype: torch.dtype, rows: int, start: int) -> None:
    model = layers(dtype)
    if not pack_linears(model):
        pytest.skip("this torch or CPU cannot pack weights")
    model[0][1] = torch.nn.Identity()
    inputs = torch.randn(100, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(model(inputs[start : start + rows]), model(inputs)[start : start + rows])
