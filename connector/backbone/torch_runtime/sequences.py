"""Token sequences through the layers of a torch model, several at once where no bit of one depends on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from connector.backbone.prompt.tail import TokenIds
from connector.backbone.torch_runtime.attention import AttentionPass, EncodePass, active, report_states
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.fused_layers import fuse_layers
from connector.backbone.torch_runtime.cpu.linear import pack_linears, products_apart
from connector.backbone.torch_runtime.cpu.row_plan import RowPlan, find_row_plan

__all__ = ["Sequences", "TokenSequence"]

# Sequences are put together to about so many tokens: on a GPU; and on a CPU, by the bytes of a number. There larger
# ones have no faster products, but states that leave the processor's cache.
_TOKENS = 16_384
_TOKENS_CPU = {2: 768, 4: 384}
# What is tried out to learn whether sequences may be put together.
_PROBE_LENGTHS, _PROBE_LAYERS = (33, 2, 117, 7, 90, 3), 2
# Numbers of the widest vectors, twice.
_VECTOR = 32


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens that see nothing of other sequences, and their positions: int32 and int64 [tokens]."""

    tokens: TokenIds
    positions: npt.NDArray[np.int64]


class Sequences:
    """Runs token sequences through a model's layers.

    On a CPU the weights are laid out for its products, and layers replaced by faster ones of the same results.
    Sequences share a run only if that changes no bit of any, which is tried out at the start. On a GPU they are equal
    to rounding.

    Args:
        model: the decoder, changed here.
        head_dim: dimension of its heads.
        sharing: of the process's cores.
    """

    def __init__(self, model: Any, head_dim: int, sharing: CoreSharing) -> None:
        self._model, self._head_dim, self._sharing = model, head_dim, sharing
        self._device: torch.device = model.device
        self.plan = RowPlan(1, 1, _TOKENS)
        self.fused_layers = 0
        if self._device.type == "cpu":
            self.plan = RowPlan()
            if sharing.run(lambda: pack_linears(model)):
                self.fused_layers = sharing.run(lambda: fuse_layers(model, head_dim))
                self.plan = self._tried()
        for index, layer in enumerate(model.layers):
            layer.register_forward_pre_hook(partial(_report_states, index), with_kwargs=True)

    @torch.inference_mode()
    def run(self, attention_pass: AttentionPass, sequences: Sequence[TokenSequence]) -> None:
        """Run sequences, one behind the other, as far as the pass goes."""
        apart = len(sequences) > 1 and not self.plan.joined
        parts = [[sequence] for sequence in sequences] if apart else [sequences]
        ids: list[int] = []
        positions: list[int] = []
        own: list[int] = []
        rows: list[int] = []
        for part in parts:
            start = len(ids)
            for sequence in part:
                ids.extend(sequence.tokens.tolist())
                positions.extend(sequence.positions.tolist())
            own.extend(range(start, len(ids)))
            rows.append(self.plan.rows(len(ids) - start))
            more = start + rows[-1] - len(ids)
            ids.extend(ids[-1:] * more)
            positions.extend(positions[-1:] * more)
        places: slice | torch.Tensor | None = None
        if len(own) < len(ids):
            places = torch.tensor(own, device=self._device) if apart else slice(0, len(own))
        given = {"input_ids": ids, "position_ids": positions}
        tensors = {name: torch.tensor([numbers], device=self._device) for name, numbers in given.items()}
        with active(attention_pass, places), products_apart(rows) if apart else nullcontext():
            self._model(**tensors, use_cache=False)

    def batches(self, documents: Sequence[TokenIds], cores: int) -> Iterator[Sequence[TokenIds]]:
        """Documents that are to be run together: in order, of about the same number of tokens, as many batches as
        there are cores or a multiple of that."""
        total = sum(map(len, documents))
        parts = ceil(total / (self.plan.most * cores)) * cores if self.plan.most else 0
        batch: list[TokenIds] = []
        end = part = 0
        for document in documents:
            # A document belongs to the part in which its middle lies.
            own = int((end + len(document) / 2) * parts / total)
            end += len(document)
            if batch and (own != part or not self.plan.together([len(each) for each in (*batch, document)])):
                yield batch
                batch = []
            part = own
            batch.append(document)
        if batch:
            yield batch

    def _tried(self) -> RowPlan:
        """The plan whose results stand the test.

        Tensors of other sizes than whole vectors are not even tried: libraries compute the numbers that do not fill
        one in another way.
        """
        config = self._model.config
        sizes = (getattr(config, "intermediate_size", None), config.hidden_size, self._head_dim)
        if not all(isinstance(size, int) and size % _VECTOR == 0 for size in sizes):
            return RowPlan()
        most = _TOKENS_CPU[self._model.dtype.itemsize]
        for plan in (find_row_plan(self._model, most, self._sharing), RowPlan(most=most, joined=False)):
            if plan.most and self._stand_alone(plan):
                return plan
        return RowPlan()

    def _stand_alone(self, plan: RowPlan) -> bool:
        """Whether sequences that are run together have the bits that they have alone, in the first layers."""
        self.plan = plan
        highest = self._model.config.vocab_size - 1
        passages = [
            TokenSequence(np.minimum(np.arange(length), highest).astype(np.int32), np.arange(length))
            for length in _PROBE_LENGTHS
        ]
        depth = min(_PROBE_LAYERS, self._model.config.num_hidden_layers - 1)

        def keys(batch: Sequence[TokenSequence]) -> torch.Tensor:
            encode = EncodePass([len(passage.tokens) for passage in batch], {}, None, depth, self._device)
            self.run(encode, batch)
            return encode.keys[depth]

        # Several at once are each on one core, one passage alone is on all.
        together = next(iter(self._sharing.map(keys, [passages, passages])))
        alone = [self._sharing.run(partial(keys, [passage])) for passage in passages]
        return self._sharing.run(lambda: torch.equal(together, torch.cat(alone, dim=1)))


def _report_states(layer: int, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    report_states(layer, args, kwargs)
