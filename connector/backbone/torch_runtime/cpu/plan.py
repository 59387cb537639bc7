"""What makes an LLM fast on this CPU: done to it at the start, and told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from connector.backbone.prompt.tail import TokenIds
from connector.backbone.torch_runtime.attention import EncodePass
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan, find_batch_plan, set_blocks
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.fused_layers import Fused, fuse_layers
from connector.backbone.torch_runtime.cpu.linear import pack_linears, why_not_packed
from connector.backbone.torch_runtime.cpu.operations import missing_operations
from connector.backbone.torch_runtime.sequences import run_pass

__all__ = ["CpuPlan", "prepare"]

# Sequences are put together to about so many tokens, by the bytes of a number. Larger products are not faster, but
# have states that leave the processor's cache.
_MOST_TOKENS = {2: 768, 4: 384}
# What is tried out to learn whether sequences may be put together.
_PROBE_LENGTHS, _PROBE_LAYERS = (33, 2, 117, 7, 90, 3), 2
# Numbers of the widest vectors, twice.
_VECTOR = 32


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """What holds for one LLM on this machine. Whatever is slower than it could be has its reason beside it.

    Attributes:
        number_format: of the weights, as torch calls it.
        why_not_packed: why the weights are not laid out for this CPU's products; None: they are.
        layers: decoder layers.
        fused: of them, those that take a third of the operations.
        why_not_fused: why the first of the others does not; None: all do.
        batches: how many tokens go through a product together.
        cores: that the LLM may take.
        missing: private operations that the fast path uses and this torch lacks, as names below ``torch``.
    """

    number_format: str
    why_not_packed: str | None
    layers: int
    fused: int
    why_not_fused: str | None
    batches: BatchPlan
    cores: int
    missing: tuple[str, ...]

    def told(self) -> dict[str, str]:
        """The plan in words, by subject; the same subjects whatever holds."""
        return {
            "number_format": self.number_format,
            "weights": "packed" if self.why_not_packed is None else f"not packed: {self.why_not_packed}",
            "layers": f"{self.fused} of {self.layers} fused"
            + (f": {self.why_not_fused}" if self.why_not_fused else ""),
            "batches": str(self.batches),
            "threads": str(self.cores),
            "operations": f"torch {torch.__version__} lacks {', '.join(self.missing)}"
            if self.missing
            else "all there",
        }


def prepare(model: Any, head_dim: int, sharing: CoreSharing) -> CpuPlan:
    """Lay the weights out for this CPU's products, replace layers by faster ones of the same results, and find out
    which sequences may share a run without changing a bit of each other.

    Args:
        model: a decoder on the CPU, changed here.
        head_dim: dimension of its heads.
        sharing: of the process's cores.
    """
    is_packed = sharing.run(lambda: pack_linears(model))
    layers = len(model.layers)
    plan = CpuPlan(
        number_format=str(model.dtype).removeprefix("torch."),
        why_not_packed=None if is_packed else why_not_packed(model.dtype) or "the model has no plain linear layers",
        layers=layers,
        fused=0,
        why_not_fused="the weights are not packed",
        batches=BatchPlan(why_alone="the weights are not packed"),
        cores=sharing.cores,
        missing=missing_operations(),
    )
    if not is_packed:
        return plan
    fused: Fused = sharing.run(lambda: fuse_layers(model, head_dim))
    return replace(
        plan, fused=fused.replaced, why_not_fused=fused.why_not, batches=_batch_plan(model, head_dim, sharing)
    )


def _batch_plan(model: Any, head_dim: int, sharing: CoreSharing) -> BatchPlan:
    """The plan whose results stand the test.

    Tensors of other sizes than whole vectors are not even tried: libraries compute the numbers that do not fill one
    in another way.
    """
    config = model.config
    sizes = (getattr(config, "intermediate_size", None), config.hidden_size, head_dim)
    if not all(isinstance(size, int) and size % _VECTOR == 0 for size in sizes):
        return BatchPlan(why_alone=f"sizes {sizes} are not all multiples of {_VECTOR}")
    plan = find_batch_plan(model, _MOST_TOKENS[model.dtype.itemsize], sharing)
    set_blocks(model, plan)
    if not plan.most or _stands_alone(model, plan, sharing):
        return plan
    set_blocks(model, BatchPlan())
    return BatchPlan(why_alone="passages that are run together do not have the bits that they have alone")


def _stands_alone(model: Any, plan: BatchPlan, sharing: CoreSharing) -> bool:
    """Whether sequences that are run together have the bits that they have alone, in the first layers."""
    highest = model.config.vocab_size - 1
    passages = [np.minimum(np.arange(length), highest).astype(np.int32) for length in _PROBE_LENGTHS]
    depth = min(_PROBE_LAYERS, model.config.num_hidden_layers - 1)

    def keys(batch: Sequence[TokenIds]) -> torch.Tensor:
        encode = EncodePass(batch, 0, {}, None, depth, model.device)
        run_pass(model, plan, encode)
        return encode.keys[depth]

    # Several at once are each on one core, one passage alone is on all.
    together = next(iter(sharing.map(keys, [passages, passages])))
    alone = [sharing.run(partial(keys, [passage])) for passage in passages]
    return sharing.run(lambda: torch.equal(together, torch.cat(alone, dim=1)))
