"""Token sequences through the layers of a torch model, several at once where no bit of one depends on the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import torch

from connector.backbone.prompt.tail import TokenIds
from connector.backbone.torch_runtime.attention import TokenPass, active, report_states
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan

__all__ = ["Sequences", "run_pass"]


@torch.inference_mode()
def run_pass(model: Any, plan: BatchPlan, attention_pass: TokenPass) -> None:
    """Run a pass's tokens through a decoder, as far as the pass goes."""
    more = plan.filled(len(attention_pass.ids)) - len(attention_pass.ids)
    given = {"input_ids": attention_pass.ids.astype(np.int64), "position_ids": attention_pass.positions}
    tensors = {
        name: torch.from_numpy(np.pad(numbers, (0, more), mode="edge"))[None].to(model.device)
        for name, numbers in given.items()
    }
    with active(attention_pass, len(attention_pass.ids) if more else None):
        found = model(**tensors, use_cache=False)
        attention_pass.leave(found.last_hidden_state[0, : len(attention_pass.ids)])


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

    def run(self, attention_pass: TokenPass) -> None:
        """See ``run_pass``."""
        run_pass(self._model, self.plan, attention_pass)

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
