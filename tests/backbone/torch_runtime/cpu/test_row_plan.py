"""Numbers of rows that go together, tried on real products."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.linear import PackedLinear
from connector.backbone.torch_runtime.cpu.row_plan import RowPlan, _longest, find_row_plan
from tests.backbone.torch_runtime.packing import has_amx, has_wide_products, pack


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 5_000))
def test_rows_hold_the_tokens_and_are_multiples(granule: int, least: int, tokens: int) -> None:
    rows = RowPlan(granule, least).rows(tokens)
    assert rows >= max(tokens, least)
    assert rows % granule == 0
    assert rows - granule < max(tokens, least)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_together_counts_the_rows_that_are_added(lengths: list[int]) -> None:
    plan = RowPlan(granule=16, least=16, most=512)
    assert plan.together(lengths) == (sum(map(plan.rows, lengths)) <= 512)
    assert not RowPlan().together(lengths)


@given(st.sets(st.sampled_from(range(8, 520, 8))))
def test_the_longest_run_holds_no_break(breaks: set[int]) -> None:
    sizes = range(8, 520, 8)
    run = _longest(sizes, breaks)
    ends = [8, *sorted(breaks - {8}), 520]
    runs = [(first, after - 8) for first, after in pairwise(ends) if first <= 64 and after - 8 >= 256]
    if run is None:
        assert not runs
    else:
        assert run[1] - run[0] == max(last - first for first, last in runs)
        assert run in runs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_plan_promises_holds_for_other_numbers(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(192, 320, bias=False), torch.nn.Linear(320, 192)).to(dtype)
    model.eval().requires_grad_(False)
    sharing = CoreSharing.of_process()
    sharing.run(lambda: pack(model, dtype))
    plan = find_row_plan(model, 512, sharing)
    if not plan.most and (has_amx() or not has_wide_products()):
        pytest.skip("no numbers of rows go together on this CPU")
    assert plan.least <= 64 and 256 <= plan.most <= 512
    layer = model[0]
    assert isinstance(layer, PackedLinear)
    inputs = torch.randn(plan.most, 192).to(dtype)
    whole = sharing.run(lambda: layer(inputs))
    for rows in (plan.least, plan.rows(plan.least + 1), plan.rows(100), plan.rows(200)):
        start = plan.most - rows
        assert torch.equal(sharing.run(lambda own=inputs[start:]: layer(own)), whole[start:])  # type: ignore[misc]


def test_a_plan_is_searched_once_for_the_same_shapes() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64)).eval().requires_grad_(False)
    sharing = CoreSharing.of_process()
    sharing.run(lambda: pack(model))
    assert find_row_plan(model, 384, sharing) is find_row_plan(model, 384, sharing)
