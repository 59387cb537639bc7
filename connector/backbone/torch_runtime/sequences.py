"""Token sequences through the layers of a torch model, several at once where no bit of one depends on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from connector.backbone.prompt.tail import TokenIds
from connector.backbone.torch_runtime.attention import AttentionPass, active, report_states
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan

__all__ = ["Sequences", "TokenSequence", "run_sequences"]


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens that see nothing of other sequences, and their positions: int32 and int64 [tokens]."""

    tokens: TokenIds
    positions: npt.NDArray[np.int64]


@torch.inference_mode()
def run_sequences(
    model: Any, plan: BatchPlan, attention_pass: AttentionPass, sequences: Sequence[TokenSequence]
) -> None:
    """Run sequences through a decoder, one behind the other, as far as the pass goes."""
    ids = np.concatenate([sequence.tokens for sequence in sequences]).astype(np.int64)
    positions = np.concatenate([sequence.positions for sequence in sequences])
    own = len(ids)
    more = plan.filled(own) - own
    given = {"input_ids": ids, "position_ids": positions}
    tensors = {
        name: torch.from_numpy(np.pad(numbers, (0, more), mode="edge"))[None].to(model.device)
        for name, numbers in given.items()
    }
    with active(attention_pass, slice(0, own) if more else None):
        model(**tensors, use_cache=False)


class Sequences:
    """Runs token sequences through a model's layers.

    On a CPU sequences share a run only if that changes no bit of any; see ``BatchPlan``. On a GPU they are equal to
    rounding.

    Args:
        model: the decoder; on a CPU, prepared (see ``prepare``).
        plan: how many tokens are run together.
    """

    def __init__(self, model: Any, plan: BatchPlan) -> None:
        self._model, self.plan = model, plan
        for index, layer in enumerate(model.layers):
            layer.register_forward_pre_hook(partial(_report_states, index), with_kwargs=True)

    def run(self, attention_pass: AttentionPass, sequences: Sequence[TokenSequence]) -> None:
        """See ``run_sequences``."""
        run_sequences(self._model, self.plan, attention_pass, sequences)

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


def _report_states(layer: int, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    report_states(layer, args, kwargs)
