"""Numbers of tokens that go together, tried on real products."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.backbone.torch_runtime.cpu import batch_plan
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan, Shape, _longest, find_batch_plan, set_blocks
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.linear import NEAR, PackedLinear
from tests.backbone.torch_runtime.packing import has_wide_products, pack


@pytest.mark.parametrize(
    ("granule", "least", "tokens", "filled"),
    [(1, 1, 7, 7), (8, 8, 1, 8), (8, 8, 8, 8), (8, 8, 9, 16), (16, 48, 3, 48), (16, 48, 49, 64), (32, 8, 33, 64)],
)
def test_a_product_is_filled_up_to_a_whole_granule(granule: int, least: int, tokens: int, filled: int) -> None:
    assert BatchPlan(granule, least).filled(tokens) == filled


@pytest.mark.parametrize(
    ("lengths", "together"),
    [
        ([128], True),
        ([129], False),
        ([64, 64], True),
        # Each may come alone, and is then filled up: 48 + 48 + 48.
        ([33, 33, 33], False),
        ([33, 33, 32], True),
        ([1] * 8, True),
        ([1] * 9, False),
    ],
)
def test_sequences_go_together_up_to_the_most(lengths: list[int], together: bool) -> None:
    assert BatchPlan(granule=16, least=16, most=128).together(lengths) is together
    assert not BatchPlan().together(lengths)


@pytest.mark.parametrize(
    ("breaks", "run"),
    [
        (set(), (8, 512)),
        # What differs from the size before begins a run of its own.
        ({16}, (16, 512)),
        ({64}, (64, 512)),
        # Too late for a short tail, and too short for some passages.
        ({72}, None),
        ({64, 320}, (64, 312)),
        ({64, 256}, None),
        ({32, 264}, (32, 256)),
        ({32, 400, 480}, (32, 392)),
    ],
)
def test_the_longest_run_of_use(breaks: set[int], run: tuple[int, int] | None) -> None:
    assert _longest(range(8, 520, 8), breaks) == run


def test_a_plan_that_runs_each_alone_says_why() -> None:
    assert str(BatchPlan(why_alone="such a CPU")) == "each sequence by itself: such a CPU"
    assert str(BatchPlan(16, 48, 768)) == "48 to 768 tokens in steps of 16"


def packed(dtype: torch.dtype) -> torch.nn.Sequential:
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(192, 320, bias=False), torch.nn.Linear(320, 192)).to(dtype)
    model.eval().requires_grad_(False)
    CoreSharing.of_process().run(lambda: pack(model, dtype))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_plan_promises_holds_for_other_numbers(dtype: torch.dtype) -> None:
    model, sharing = packed(dtype), CoreSharing.of_process()
    plan = find_batch_plan(model, 512, sharing)
    assert bool(plan.most) != bool(plan.why_alone)
    if not plan.most and not has_wide_products():
        # Such a CPU sums in another order over more tokens: the plan promises nothing, and says so.
        assert str(plan) == f"each sequence by itself: {plan.why_alone}"
        return
    assert plan.least <= 64 and 256 <= plan.most <= 512
    layer = model[0]
    assert isinstance(layer, PackedLinear)
    inputs = torch.randn(plan.most, 192).to(dtype)
    whole = sharing.run(lambda: layer(inputs))
    for tokens in (plan.least, plan.filled(plan.least + 1), plan.filled(100), plan.filled(200)):
        start = plan.most - tokens
        assert torch.equal(sharing.run(lambda own=inputs[start:]: layer(own)), whole[start:])  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_changes_with_the_number_of_tokens_is_made_of_blocks(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    model, sharing = packed(dtype), CoreSharing.of_process()
    tried = batch_plan._breaks

    def as_with_amx(shape: Shape, sizes: Sequence[int], sharing: CoreSharing) -> list[int]:
        """The longer sums change with every number of tokens."""
        return list(sizes) if shape.inputs == 320 else tried(shape, sizes, sharing)

    monkeypatch.setattr(batch_plan, "_breaks", as_with_amx)
    batch_plan._plan.cache_clear()
    plan = find_batch_plan(model, 512, sharing)
    batch_plan._plan.cache_clear()
    if not plan.most and not has_wide_products():
        assert plan.why_alone
        return
    # Others may need blocks here as well.
    blocks = {shape.inputs: block for shape, block in plan.blocks.items()}
    assert 320 in blocks
    assert str(plan).endswith(f", those of 320 numbers in blocks of {blocks[320]}")
    set_blocks(model, plan)
    assert [layer.block for layer in model] == [blocks.get(192), blocks[320]]
    inputs = torch.randn(plan.most, 192).to(dtype)
    whole = sharing.run(lambda: model(inputs))
    for tokens in (plan.least, plan.filled(plan.least + 1), plan.filled(100), plan.filled(200)):
        start = plan.most - tokens
        assert torch.equal(sharing.run(lambda own=inputs[start:]: model(own)), whole[start:])  # type: ignore[misc]
    set_blocks(model, BatchPlan())
    assert [layer.block for layer in model] == [None, None]


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 150),
    start=st.integers(0, 149),
    block=st.sampled_from((16, 32, 64)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
)
def test_a_token_of_a_block_has_the_same_sums_whatever_stands_beside_it(
    tokens: int, start: int, block: int, dtype: torch.dtype
) -> None:
    start = min(start, tokens - 1)
    layer = packed(dtype)[1]
    inputs, factors = (torch.randn(1, tokens, size).to(dtype) for size in (320, 192))
    assert isinstance(layer, PackedLinear)
    plain, times = layer(inputs), layer.times(inputs, factors)
    layer.block = block
    for found, expected in ((layer(inputs), plain), (layer.times(inputs, factors), times)):
        assert found.shape == expected.shape and torch.allclose(found, expected, atol=NEAR[dtype], rtol=NEAR[dtype])
    alone = layer(inputs[:, start:])
    assert torch.equal(alone, layer(inputs)[:, start:])
    added = layer(inputs, added=factors)
    assert torch.equal(layer(inputs[:, start:], added=factors[:, start:]), added[:, start:])
