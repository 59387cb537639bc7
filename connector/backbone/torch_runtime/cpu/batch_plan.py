"""How many tokens go through a product together, so that each token gets the same bits whatever the others are.

Libraries of matrix products may sum in another order when there are more tokens, or for those that do not fill a
block. Only where they do not can passages share a product, and requests: a cached state has to be bit-equal to a
fresh one. Which numbers of tokens go together differs between processors, so it is tried out: with AVX-512 any do.
With AMX the order of long sums changes with their number; such products are made of blocks that all have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from operator import attrgetter

import torch

from connector.backbone.torch_runtime.cpu.cores import CoreSharing, on_cores
from connector.backbone.torch_runtime.cpu.fused_layers import FusedLayer
from connector.backbone.torch_runtime.cpu.linear import PackedLinear

__all__ = ["BatchPlan", "Shape", "find_batch_plan", "set_blocks"]

# oneDNN makes code for every number of tokens that it meets, which takes a millisecond for each shape, and keeps a
# thousand of them: with multiples of 8, documents and queries of new lengths find theirs made.
_GRANULE = 8
_GRANULES = (_GRANULE, 16, 32, 64)
# A plan is of use when it begins with the tokens of a short tail and ends with some passages.
_LEAST_AT_MOST, _MOST_AT_LEAST = 64, 256
# Numbers of tokens that are tried: all of short tails, some of those where blocks become larger.
_SHORT, _LONGER = 64, (96, 128, 160, 192, 256, 320, 384, 512, 640, 768)
# Tokens of a block, the first that will do. Larger ones read the weights less often, and are filled up for a short
# tail; of fewer than 16, AMX's tiles are not full.
_BLOCKS = (64, 48, 32, 16)

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How many tokens go through a product together.

    Attributes:
        granule: their number is a multiple of it.
        least, most: the smallest and the largest number; ``most`` 0: every sequence is run by itself.
        why_alone: why it is; empty where sequences are run together.
        blocks: tokens of a block, by shape of the products that are made of blocks.
    """

    granule: int = _GRANULE
    least: int = _GRANULE
    most: int = 0
    why_alone: str = ""
    blocks: Mapping[Shape, int] = field(default_factory=dict)

    def filled(self, tokens: int) -> int:
        """Tokens of the product that so many go through, once it is filled up."""
        return -(-max(tokens, self.least) // self.granule) * self.granule

    def together(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of so many tokens may be run as one."""
        return sum(map(self.filled, lengths)) <= self.most

    def __str__(self) -> str:
        if not self.most:
            return f"each sequence by itself: {self.why_alone}" if self.why_alone else "each sequence by itself"
        told = f"{self.least} to {self.most} tokens in steps of {self.granule}"
        blocks = [f"those of {shape.inputs} numbers in blocks of {block}" for shape, block in self.blocks.items()]
        return ", ".join([told, *blocks])


def find_batch_plan(model: torch.nn.Module, most: int, sharing: CoreSharing) -> BatchPlan:
    """The plan for the packed layers of a model on this CPU; none go together where nothing fits.

    Args:
        model: see ``pack_linears``.
        most: tokens above which products have nothing to gain.
        sharing: of the process.
    """
    shapes = sorted(set(_layers(model).values()), key=attrgetter("inputs", "outputs", "gated"))
    # What is done beside the products would otherwise give this thread a team of its own; see ``CoreSharing``.
    with on_cores(1):
        return _plan(tuple(shapes), most, sharing)


def set_blocks(model: torch.nn.Module, plan: BatchPlan) -> None:
    """Make the products of a model's packed layers as a plan says.

    Args:
        model: that the plan was found for.
        plan: one without blocks takes them back.
    """
    for layer, shape in _layers(model).items():
        layer.block = plan.blocks.get(shape)


@dataclass(frozen=True, slots=True)
class Shape:
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


def _layers(model: torch.nn.Module) -> dict[PackedLinear, Shape]:
    gated = {
        layer
        for module in model.modules()
        if isinstance(module, FusedLayer)
        for layer in (module.gate_proj, module.up_proj)
    }
    return {
        layer: Shape(layer.in_features, layer.out_features, layer.dtype, layer.bias is not None, layer in gated)
        for layer in model.modules()
        if isinstance(layer, PackedLinear)
    }


@cache
def _plan(shapes: Sequence[Shape], most: int, sharing: CoreSharing) -> BatchPlan:
    ends = (_LEAST_AT_MOST, _MOST_AT_LEAST)
    # Where these two do not go together, which takes no time to see, nothing of use does.
    tried = {shape: _block(shape, sharing) for shape in shapes if _breaks(shape, ends, sharing) != [ends[0]]}
    blocks = {shape: block for shape, block in tried.items() if block is not None}
    if len(blocks) < len(tried):
        return BatchPlan(why_alone="a product's sums change with its number of tokens on this CPU")
    for granule in _GRANULES:
        sizes = [*range(granule, _SHORT + 1, granule), *(size for size in _LONGER if size <= most)]
        breaks = {size for shape in shapes if shape not in blocks for size in _breaks(shape, sizes, sharing)}
        run = _longest(sizes, breaks)
        if run is not None:
            return BatchPlan(granule, *run, blocks=blocks)
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


def _block(shape: Shape, sharing: CoreSharing) -> int | None:
    """A number of tokens whose sums are the same wherever in it a token stands, and however many cores there are."""
    return next((size for size in _BLOCKS if _stands(shape.product(), shape.tokens(size), sharing) is not None), None)


def _breaks(shape: Shape, sizes: Sequence[int], sharing: CoreSharing) -> list[int]:
    """The sizes whose tokens have other bits than those of the size before, or than the same in other places."""
    product, inputs = shape.product(), shape.tokens(sizes[-1])
    found: list[int] = []
    before: torch.Tensor | None = None
    for size in sizes:
        stands = _stands(product, inputs[:size], sharing)
        if stands is None or before is None or not torch.equal(stands[: len(before)], before):
            found.append(size)
        before = stands
    return found


def _stands(product: Product, inputs: torch.Tensor, sharing: CoreSharing) -> torch.Tensor | None:
    """A product whose tokens have the same bits on one core as on all, and in other places; None: they do not."""
    on_all = sharing.run(partial(product, inputs))
    on_one, turned = sharing.map(product, [inputs, inputs.flip(0)])
    return on_all if torch.equal(on_all, on_one) and torch.equal(on_all, turned.flip(0)) else None
