"""With how many rows a model's products give each row the same bits, whatever the other rows are.

Libraries of matrix products may sum in another order when there are more rows, or for the rows that do not fill a
block. Only where they do not can passages share a product, and requests: a cached state has to be bit-equal to a
fresh one. Which numbers of rows go together differs between processors (any on AVX-512; with AMX multiples of 16, in
ranges that depend on the layer's shape), so it is tried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch

from connector.backbone.core_sharing import CoreSharing
from connector.backbone.torch_linear import PackedGate, PackedLinear

__all__ = ["RowPlan", "find_row_plan"]

# Products of a single row take another way, with another order of sums.
_TWO_ROWS = 2
_GRANULES = (1, 16, 32, 64)
# A plan is of use when it begins with the rows of a short tail and ends with some passages.
_LEAST_AT_MOST, _MOST_AT_LEAST = 64, 256
# Weights of which every number of rows is tried; of larger ones some are.
_SMALL_WEIGHTS = 1 << 21
_FEW = 12


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Which sequences may be run as one, and with how many rows.

    Attributes:
        granule: numbers of rows are multiples of it.
        least, most: the smallest and the largest number of rows; ``most`` 0: every sequence is run by itself.
        joined: sequences share products; else each has its own, and they share what is done to each row by itself.
    """

    granule: int = 1
    least: int = _TWO_ROWS
    most: int = 0
    joined: bool = True

    def rows(self, tokens: int) -> int:
        """Rows that so many tokens are to have in a product."""
        return -(-max(tokens, self.least) // self.granule) * self.granule

    def together(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of so many tokens may be run as one."""
        if not self.joined and min(lengths) < self.least:
            return False
        return self.rows(sum(lengths)) <= self.most


def find_row_plan(model: torch.nn.Module, most: int, sharing: CoreSharing) -> RowPlan:
    """The plan for the packed layers of a model on this CPU; none go together where nothing fits.

    Args:
        model: see ``pack_linears``.
        most: rows above which products have nothing to gain.
        sharing: of the process.
    """
    trials = _trials(model)
    for granule in _GRANULES:
        sizes = _sizes(granule, most)
        breaks: set[int] = set()
        run: tuple[int, int] | None = None
        for trial in trials:
            tried = sizes if trial.weights <= _SMALL_WEIGHTS else sizes[:: max(1, len(sizes) // _FEW)]
            breaks.update(map(sizes.index, _breaks(trial, tried, sharing)))
            run = _longest(sizes, breaks)
            if run is None:
                break
        if run is not None:
            return RowPlan(granule, sizes[run[0]], sizes[run[1]])
    return RowPlan()


def _sizes(granule: int, most: int) -> list[int]:
    if granule > 1:
        return list(range(granule, most + 1, granule))
    # All numbers of a short tail, and enough of the others to meet every way of filling a block.
    return [*range(_TWO_ROWS, 66), *range(66, most, 23), most]


def _longest(sizes: Sequence[int], breaks: set[int]) -> tuple[int, int] | None:
    """The longest run of sizes, as places, with a break before its first only; None: none is of use."""
    starts = [*sorted({0, *breaks}), len(sizes)]
    runs = [(start, end - 1) for start, end in pairwise(starts)]
    fit = [run for run in runs if sizes[run[0]] <= _LEAST_AT_MOST and sizes[run[1]] >= _MOST_AT_LEAST]
    return max(fit, key=lambda run: run[1] - run[0], default=None)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A product of some shape, all of whose results are what rounding leaves: a change of order cannot hide."""

    inputs: int
    weights: int
    multiply: Callable[[torch.Tensor], torch.Tensor]
    dtype: torch.dtype

    def rows(self, count: int) -> torch.Tensor:
        half = torch.randn(count, self.inputs // 2, generator=torch.Generator().manual_seed(1))
        return torch.cat((half, half), dim=1)[:, _shuffled(self.inputs)].to(self.dtype)


def _shuffled(inputs: int) -> torch.Tensor:
    return torch.randperm(inputs // 2 * 2, generator=torch.Generator().manual_seed(2))


def _trials(model: torch.nn.Module) -> list[_Trial]:
    """One for each shape of a packed layer."""
    found: dict[tuple[str, int, int, bool], _Trial] = {}
    for module in model.modules():
        if isinstance(module, PackedGate):
            gate = module.gate
            made = PackedGate(_cancelling(gate, 3), _cancelling(gate, 4), module.down)
            found.setdefault(("gate", gate.in_features, gate.out_features, False), _trial(gate, made.inside))
        elif isinstance(module, PackedLinear):
            key = ("linear", module.in_features, module.out_features, module.bias is not None)
            if key not in found:
                found[key] = _trial(module, _cancelling(module, 5))
    return list(found.values())


def _trial(layer: PackedLinear, multiply: Callable[[torch.Tensor], torch.Tensor]) -> _Trial:
    return _Trial(layer.in_features, layer.in_features * layer.out_features, multiply, layer.dtype)


@torch.no_grad()
def _cancelling(like: PackedLinear, seed: int) -> PackedLinear:
    """Weights whose products with ``_Trial.rows`` would be 0, but for rounding."""
    inputs, outputs = like.in_features // 2 * 2, like.out_features
    half = torch.randn(outputs, inputs // 2, generator=torch.Generator().manual_seed(seed))
    linear = torch.nn.Linear(inputs, outputs, bias=like.bias is not None, dtype=like.dtype).requires_grad_(False)
    linear.weight.copy_(torch.cat((half, -half), dim=1)[:, _shuffled(inputs)])
    return PackedLinear(linear)


def _breaks(trial: _Trial, sizes: Sequence[int], sharing: CoreSharing) -> list[int]:
    """The sizes whose rows have other bits than those of the size before, or than the same rows in other places."""
    inputs = trial.rows(sizes[-1])
    found: list[int] = []
    before: torch.Tensor | None = None
    for size in sizes:
        own = inputs[:size]
        on_all = sharing.run(partial(trial.multiply, own))
        on_one, turned = sharing.map(trial.multiply, [own, own.flip(0)])
        stands = torch.equal(on_all, on_one) and torch.equal(on_all, turned.flip(0))
        if not stands or before is None or not torch.equal(on_all[: len(before)], before):
            found.append(size)
        before = on_all if stands else None
    return found
