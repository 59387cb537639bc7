"""The floor: what encoding documents would take if every operation ran at the speed of a matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.linear import pack_linears
from connector.benchmark.operations import LayerShape
from connector.errors import BackboneError

__all__ = ["gemm_way"]

# So many different weights of each shape: they come from memory, as a model's do, not from the processor's cache.
_COPIES = 8


def gemm_way(
    layer: LayerShape, rows: int, dtype: str, *, packed: bool, device: str = "cpu"
) -> tuple[Callable[[], float], float]:
    """Matrix products at the shapes of a layer.

    Args:
        layer: the shapes.
        rows: tokens that are multiplied at once.
        dtype: number format, as torch calls it.
        packed: with the weights laid out for the CPU's products beforehand, as ours are.
        device: ``cpu`` or ``cuda``.

    Returns:
        What multiplies once through all matrices and returns the seconds, and its floating-point operations.

    Raises:
        BackboneError: this CPU or number format has no such layout.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(device, getattr(torch, dtype))

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
        if device != "cpu":
            # A GPU is only told what to do until here.
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return lambda: sharing.run(multiply), operations
