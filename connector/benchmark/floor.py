"""The floor: what encoding documents would take if every operation ran at the speed of a matrix product."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.linear import pack_linears
from connector.checkpoints.shape import BackboneShape
from connector.errors import BackboneError

__all__ = ["LayerShape", "encode_operations", "gemm_way"]

# So many different weights of each shape: they come from memory, as a model's do, not from the processor's cache.
_COPIES = 8


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One decoder layer: sizes of its hidden states, all query heads, all key heads, and the MLP's inside."""

    hidden: int
    queries: int
    keys: int
    inside: int

    @classmethod
    def of(cls, shape: BackboneShape, checkpoint: Path) -> LayerShape:
        """The layer of a checkpoint.

        Raises:
            BackboneError: its config.json does not say how large the MLP is.
        """
        try:
            record = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            record = record.get("text_config", record)
            inside = int(record["intermediate_size"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackboneError(f"{checkpoint}/config.json has no intermediate_size ({error})") from None
        return cls(shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, inside)

    def products(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the layer's matrices: q, k, v, o, and the MLP's gate, up and down."""
        return (
            (self.hidden, self.queries),
            (self.hidden, self.keys),
            (self.hidden, self.keys),
            (self.queries, self.hidden),
            (self.hidden, self.inside),
            (self.hidden, self.inside),
            (self.inside, self.hidden),
        )


def encode_operations(layer: LayerShape, lengths: Sequence[int], prefix: int, deepest: int) -> float:
    """Floating-point operations (a multiplication and an addition are two) that encoding passages cannot do without.

    Args:
        layer: shape of each layer.
        lengths: tokens of each passage.
        prefix: tokens before each of them, encoded once.
        deepest: layer of the deepest head: of this layer only the keys are needed.
    """
    tokens = sum(lengths)
    products = 2.0 * tokens * (deepest * sum(a * b for a, b in layer.products()) + layer.hidden * layer.keys)
    # Queries with keys, and weights with values; a token sees the prefix, those before it, and itself.
    seen = sum(length * prefix + length * (length + 1) / 2 for length in lengths)
    return products + deepest * 2 * 2.0 * layer.queries * seen


def gemm_way(layer: LayerShape, rows: int, dtype: str, *, packed: bool) -> tuple[Callable[[], float], float]:
    """Matrix products at the shapes of a layer.

    Args:
        layer: the shapes.
        rows: tokens that are multiplied at once.
        dtype: number format, as torch calls it.
        packed: with the weights laid out for the CPU's products beforehand, as ours are.

    Returns:
        What multiplies once through all matrices and returns the seconds, and its floating-point operations.

    Raises:
        BackboneError: this CPU or number format has no such layout.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(getattr(torch, dtype))

    def linear(inputs: int, outputs: int) -> torch.nn.Linear:
        made = torch.nn.Linear(inputs, outputs, bias=False)
        made.weight = torch.nn.Parameter(random(outputs, inputs), requires_grad=False)
        return made

    sizes = [each for _ in range(_COPIES) for each in layer.products()]
    weights = torch.nn.ModuleList(linear(*each) for each in sizes)
    sharing = CoreSharing.of_process()
    if packed and not sharing.run(lambda: pack_linears(weights)):
        raise BackboneError(f"{dtype} weights cannot be laid out for this CPU")
    given = {inputs: random(rows, inputs) for inputs, _ in layer.products()}
    operations = 2.0 * rows * _COPIES * sum(a * b for a, b in layer.products())

    @torch.inference_mode()
    def multiply() -> float:
        started = time.perf_counter()
        for weight, (inputs, _) in zip(weights, sizes, strict=True):
            weight(given[inputs])
        return time.perf_counter() - started

    return lambda: sharing.run(multiply), operations
