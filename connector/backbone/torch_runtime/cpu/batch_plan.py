"""How many tokens go through a product together, so that each token gets the same bits whatever the others are.

Libraries of matrix products may sum in another order when there are more tokens, or for those that do not fill a
block. Only where they do not can passages share a product, and requests: a cached state has to be bit-equal to a
fresh one. Which numbers of tokens go together differs between processors (any on AVX-512; none of use with AMX, whose
order of sums changes with their number), so it is tried out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import attrgetter

import torch

from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.fused_layers import FusedLayer
from connector.backbone.torch_runtime.cpu.linear import PackedLinear

__all__ = ["BatchPlan", "find_batch_plan"]

# oneDNN makes code for every number of tokens that it meets, which takes a millisecond for each shape, and keeps a
# thousand of them: with multiples of 8, documents and queries of new lengths find theirs made.
_GRANULE = 8
_GRANULES = (_GRANULE, 16, 32, 64)
# A plan is of use when it begins with the tokens of a short tail and ends with some passages.
_LEAST_AT_MOST, _MOST_AT_LEAST = 64, 256
# Numbers of tokens that are tried: all of short tails, some of those where blocks become larger.
_SHORT, _LONGER = 64, (96, 128, 160, 192, 256, 320, 384, 512, 640, 768)

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How many tokens go through a product together.

    Attributes:
        granule: their number is a multiple of it.
        least, most: the smallest and the largest number; ``most`` 0: every sequence is run by itself.
        why_alone: why it is; empty where sequences are run together.
    """

    granule: int = _GRANULE
    least: int = _GRANULE
    most: int = 0
    why_alone: str = ""

    def filled(self, tokens: int) -> int:
        """Tokens of the product that so many go through, once it is filled up."""
        return -(-max(tokens, self.least) // self.granule) * self.granule

    def together(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of so many tokens may be run as one."""
        return sum(map(self.filled, lengths)) <= self.most

    def __str__(self) -> str:
        if not self.most:
            return f"each sequence by itself: {self.why_alone}" if self.why_alone else "each sequence by itself"
        return f"{self.least} to {self.most} tokens in steps of {self.granule}"


def find_batch_plan(model: torch.nn.Module, most: int, sharing: CoreSharing) -> BatchPlan:
    """The plan for the packed layers of a model on this CPU; none go together where nothing fits.

    Args:
        model: see ``pack_linears``.
        most: tokens above which products have nothing to gain.
        sharing: of the process.
    """
    return _plan(tuple(sorted(_shapes(model), key=attrgetter("inputs", "outputs"))), most, sharing)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of a packed layer; ``gated``: of the two first layers of a fused layer's MLP."""

    inputs: int
    outputs: int
    dtype: torch.dtype
    bias: bool
    gated: bool

    def product(self) -> Product:
        """Of ``tokens`` and weights, all of whose results are what rounding leaves: a change of order cannot hide."""
        if self.gated:
            gate, up = self._cancelling(3), self._cancelling(4)
            return lambda states: up.times(states, gate.silu(states))
        return self._cancelling(5)

    def tokens(self, count: int) -> torch.Tensor:
        half = torch.randn(count, self.inputs // 2, generator=torch.Generator().manual_seed(1))
        return torch.cat((half, half), dim=1)[:, self._shuffled].to(self.dtype)

    @torch.no_grad()
    def _cancelling(self, seed: int) -> PackedLinear:
        half = torch.randn(self.outputs, self.inputs // 2, generator=torch.Generator().manual_seed(seed))
        linear = torch.nn.Linear(self._shuffled.shape[0], self.outputs, bias=self.bias, dtype=self.dtype)
        linear.weight.copy_(torch.cat((half, -half), dim=1)[:, self._shuffled])
        return PackedLinear(linear.requires_grad_(False))

    @property
    def _shuffled(self) -> torch.Tensor:
        return torch.randperm(self.inputs // 2 * 2, generator=torch.Generator().manual_seed(2))


def _shapes(model: torch.nn.Module) -> set[_Shape]:
    found = set()
    for module in model.modules():
        if isinstance(module, FusedLayer):
            gate = module.gate_proj
            found.add(_Shape(gate.in_features, gate.out_features, gate.dtype, gate.bias is not None, True))
        elif isinstance(module, PackedLinear):
            found.add(_Shape(module.in_features, module.out_features, module.dtype, module.bias is not None, False))
    return found


@cache
def _plan(shapes: Sequence[_Shape], most: int, sharing: CoreSharing) -> BatchPlan:
    ends = (_LEAST_AT_MOST, _MOST_AT_LEAST)
    # Where these two do not go together, which takes no time to see, nothing of use does.
    if any(_breaks(shape, ends, sharing) != [_LEAST_AT_MOST] for shape in shapes):
        return BatchPlan(why_alone="a product's sums change with its number of tokens on this CPU")
    for granule in _GRANULES:
        sizes = [*range(granule, _SHORT + 1, granule), *(size for size in _LONGER if size <= most)]
        breaks = {size for shape in shapes for size in _breaks(shape, sizes, sharing)}
        run = _longest(sizes, breaks)
        if run is not None:
            return BatchPlan(granule, *run)
    return BatchPlan(why_alone="no range of numbers of tokens gives a token the same sums on this CPU")


def _longest(sizes: Sequence[int], breaks: Collection[int]) -> tuple[int, int] | None:
    """Ends of the longest run of sizes, with a break before its first only; None: none is of use."""
    runs: list[list[int]] = []
    for size in sizes:
        if size in breaks or not runs:
            runs.append([])
        runs[-1].append(size)
    fit = [(run[0], run[-1]) for run in runs if run[0] <= _LEAST_AT_MOST and run[-1] >= _MOST_AT_LEAST]
    return max(fit, key=lambda run: run[1] - run[0], default=None)


def _breaks(shape: _Shape, sizes: Sequence[int], sharing: CoreSharing) -> list[int]:
    """The sizes whose tokens have other bits than those of the size before, or than the same in other places."""
    product, inputs = shape.product(), shape.tokens(sizes[-1])
    found: list[int] = []
    before: torch.Tensor | None = None
    for size in sizes:
        own = inputs[:size]
        on_all = sharing.run(partial(product, own))
        on_one, turned = sharing.map(product, [own, own.flip(0)])
        stands = torch.equal(on_all, on_one) and torch.equal(on_all, turned.flip(0))
        if not stands or before is None or not torch.equal(on_all[: len(before)], before):
            found.append(size)
        before = on_all if stands else None
    return found
