"""The tail's pass through the layers of a torch model: one query's, or those of several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from connector.backbone.runtime import Head
from connector.backbone.torch_attention import (
    AttentionPass,
    LayerOptions,
    LayersDone,
    attention_logits,
    batched_products,
)
from connector.backbone.torch_encoded import PackedDocuments
from connector.errors import BackboneError

__all__ = ["JointPass", "ReadPass"]

Tensor = torch.Tensor


class ReadPass(AttentionPass):
    """The tail: attends to prefix, documents (unless late) and itself; attention rows are kept for some heads.

    Args:
        prefix: layer -> (keys, values) of the prefix.
        documents: the window's packed states.
        own: bias [tail, tail] that separates the variants of the tail, without sliding windows.
        positions: of the tail's tokens.
        prefix_positions: of the prefix's tokens.
        rows: float32 [groups, tail tokens].
        heads: layer -> heads whose rows are kept.
        late: documents take part in the rows' softmax only, never in the layer's output.
    """

    def __init__(
        self,
        prefix: Mapping[int, tuple[Tensor, Tensor]],
        documents: PackedDocuments,
        own: Tensor,
        positions: Tensor,
        prefix_positions: Tensor,
        rows: Tensor,
        heads: Mapping[int, Sequence[int]],
        *,
        late: bool,
    ) -> None:
        self._prefix, self._documents, self._own = prefix, documents, own
        self._positions, self._prefix_positions, self._rows = positions, prefix_positions, rows
        self._heads, self._late = heads, late
        self._deepest = max(heads)
        self._biases: dict[tuple[int | None, bool], Tensor] = {}
        self.captured: dict[Head, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        prefix_k, prefix_v = self._prefix[layer]
        if self._late:
            if layer in self._heads:
                self._capture_late(layer, q, torch.cat((prefix_k, k), dim=1), options)
            if layer >= self._deepest:
                raise LayersDone
            weights = torch.softmax(
                self._biased(q, torch.cat((prefix_k, k), dim=1), options, documents=False), dim=-1
            )
            values = torch.cat((prefix_v, v), dim=1)
        else:
            keys = self._documents.keys(layer, prefix_k, k)
            chosen = list(self._heads.get(layer, ()))
            if layer >= self._deepest:
                groups = q.shape[0] // k.shape[0]
                self._keep(layer, chosen, self._biased(q[chosen], keys[[head // groups for head in chosen]], options))
                raise LayersDone
            logits = self._biased(q, keys, options)
            if chosen:
                self._keep(layer, chosen, logits[chosen])
            weights = torch.softmax(logits, dim=-1)
            values = self._documents.values(layer, prefix_v, v)
        grouped = weights.to(values.dtype).view(values.shape[0], -1, values.shape[1])
        return batched_products(grouped, values).view(q.shape)

    def _biased(self, q: Tensor, k: Tensor, options: LayerOptions, *, documents: bool = True) -> Tensor:
        """Logits [heads, tail, keys] in which what is not seen is -inf."""
        logits = attention_logits(q, k, options)
        # Documents and prefix are always behind the tail: only a sliding window can hide them.
        masked = self._own.shape[1] if options.window is None else logits.shape[-1]
        logits[:, :, -masked:].add_(self._bias(options.window, documents)[:, -masked:])
        return logits

    def _capture_late(self, layer: int, q: Tensor, own_k: Tensor, options: LayerOptions) -> None:
        if self._documents.kept is None:
            raise BackboneError("documents encoded for the block layout cannot be read as late; clear the cache")
        chosen, kept = list(self._heads[layer]), list(self._documents.kept[layer])
        groups = q.shape[0] // own_k.shape[0]
        keys = self._documents.keys(layer, own_k[kept])
        at = [kept.index(head // groups) for head in chosen]
        if at != list(range(len(kept))):
            keys = keys[at]
        self._keep(layer, chosen, self._biased(q[chosen], keys, options))

    def _keep(self, layer: int, chosen: Sequence[int], logits: Tensor) -> None:
        # Cut afterwards: a product with a part of the weights would copy that part first.
        averaged = torch.matmul(self._rows, torch.softmax(logits.float(), dim=-1))
        averaged = averaged[:, :, : self._documents.positions.shape[0]]
        for at, head in enumerate(chosen):
            self.captured[layer, head] = averaged[at]

    def _bias(self, window: int | None, with_documents: bool) -> Tensor:
        cached = self._biases.get((window, with_documents))
        if cached is None:
            before = [self._documents.positions] if with_documents else []
            seen = torch.cat((*before, self._prefix_positions, self._positions))
            cached = torch.zeros(self._positions.shape[0], seen.shape[0], device=seen.device)
            cached[:, -self._own.shape[1] :] = self._own
            if window is not None:
                distance = self._positions[:, None] - seen[None, :]
                cached.masked_fill_(distance >= window, float("-inf"))
            self._biases[window, with_documents] = cached
        return cached


class JointPass(AttentionPass):
    """Several tails, one behind the other, none of which sees another.

    They share the layers' products, which are too small for several cores with one tail's rows, and need the weights
    from memory once. Each attends by itself.

    Args:
        tails: each tail's own pass, and its tokens.
    """

    def __init__(self, tails: Sequence[tuple[AttentionPass, int]]) -> None:
        self._tails: list[tuple[AttentionPass, slice]] = []
        end = 0
        for tail, tokens in tails:
            self._tails.append((tail, slice(end, end + tokens)))
            end += tokens

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        # A tail that has all it needs goes along as zeros until the others have too.
        out = torch.zeros_like(q)
        going = []
        for tail, own in self._tails:
            try:
                out[:, own] = tail.attend(layer, q[:, own], k[:, own], v[:, own], options)
            except LayersDone:
                continue
            going.append((tail, own))
        self._tails = going
        if not going:
            raise LayersDone
        return out
