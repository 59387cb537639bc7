"""The tail's pass through the layers of a torch model: one query's, or those of several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from connector.backbone.prompt.tail import Tail
from connector.backbone.runtime import Head
from connector.backbone.torch_runtime.attention import (
    LayerOptions,
    LayersDone,
    TokenPass,
    attention_logits,
    batched_products,
    fused_attention,
    fuses_long_rows,
    grouped_bias,
)
from connector.backbone.torch_runtime.encoded import PackedDocuments
from connector.backbone.torch_runtime.fixed_states import FixedStates, whole_tail
from connector.errors import BackboneError

__all__ = ["FixedPass", "LatePass", "ReadPass", "SideBySidePass"]

Tensor = torch.Tensor
_Prefix = Mapping[int, tuple[Tensor, Tensor]]


def _tail_bias(
    tail: Tail, places: npt.NDArray[np.int64], documents: PackedDocuments, sliding_window: int | None
) -> Tensor:
    """What some of a tail's tokens see: float32 [places, keys], on the documents' device.

    Documents and prefix are always behind the tail: where only a sliding window could hide them and there is none,
    their columns are left out.
    """
    if sliding_window is None:
        bias = tail.own_bias(places, None)
    else:
        bias = tail.bias(places, documents.positions.cpu().numpy(), sliding_window)
    return torch.from_numpy(bias).to(documents.positions.device)


class _Capture:
    """Keeps what some heads' attention rows give the documents' tokens.

    Rows that count in no group are not computed.

    Args:
        tail: the tail.
        documents: the window's packed states.
        heads: whose rows are kept.

    Attributes:
        heads: layer -> its heads among them.
        rows: float32 [heads, groups, document tokens], in the order of the heads that were asked for.
    """

    def __init__(self, tail: Tail, documents: PackedDocuments, heads: Sequence[Head]) -> None:
        self._tail, self._documents = tail, documents
        device = documents.positions.device
        self.heads: dict[int, list[int]] = {}
        self._places: dict[int, list[int]] = {}
        for place, (layer, head) in enumerate(heads):
            self.heads.setdefault(layer, []).append(head)
            self._places.setdefault(layer, []).append(place)
        # What is never captured shows as no number.
        self.rows = torch.full((len(heads), len(tail.rows), len(documents.positions)), torch.nan, device=device)
        every = len(tail.counted) == len(tail.ids)
        self._needed = None if every else torch.from_numpy(tail.counted).to(device)
        self._weights = torch.from_numpy(np.ascontiguousarray(tail.rows[:, tail.counted])).to(device)
        self._biases: dict[int | None, Tensor] = {}
        self.deepest = max(self.heads)

    def needed(self, of_tail: Tensor) -> Tensor:
        """[heads, rows, ...] of [heads, tail tokens, ...]: the rows that count."""
        return of_tail if self._needed is None else of_tail.index_select(1, self._needed)

    def keep(
        self, layer: int, q: Tensor, key_blocks: Iterable[Tensor], places: Sequence[int], options: LayerOptions
    ) -> None:
        """From queries and the keys they see.

        Args:
            layer: of the heads.
            q: [heads, tail tokens, d], of the heads that are kept.
            key_blocks: [kv heads, keys, d] each, side by side.
            places: for each head, the place of its kv head.
            options: of the layer.
        """
        bias = self._biases.get(options.sliding_window)
        if bias is None:
            bias = _tail_bias(self._tail, self._tail.counted, self._documents, options.sliding_window)
            self._biases[options.sliding_window] = bias
        q = self.needed(q)
        blocks = [attention_logits(q, _of_heads(keys, places), options) for keys in key_blocks]
        self.keep_logits(layer, biased(torch.cat(blocks, dim=2) if len(blocks) > 1 else blocks[0], bias))

    def keep_logits(self, layer: int, logits: Tensor) -> None:
        """From the logits [heads, rows, keys] of the rows that count, documents first."""
        # Cut afterwards: a product with a part of the weights would copy that part first.
        averaged = torch.matmul(self._weights, torch.softmax(logits.float(), dim=-1))
        self.rows[self._places[layer]] = averaged[:, :, : self.rows.shape[2]]


def biased(logits: Tensor, bias: Tensor) -> Tensor:
    """Logits [heads, rows, keys] in which what is not seen is -inf, in place; bias of the last keys."""
    logits[:, :, -bias.shape[1] :].add_(bias)
    return logits


class _ShortAttention:
    """Attention over some dozens of keys, in one operation where that can be had; biases are made once a pass."""

    def __init__(self) -> None:
        self._biases: dict[int | None, Tensor] = {}

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias_of: Callable[[int | None], npt.NDArray[np.float32]],
        options: LayerOptions,
    ) -> Tensor:
        """[heads, tokens, d] from q [heads, tokens, d] and k, v [kv heads, keys, d]."""
        bias = self._biases.get(options.sliding_window)
        if bias is None:
            bias = torch.from_numpy(bias_of(options.sliding_window)).to(q.device)
            bias = self._biases[options.sliding_window] = (
                grouped_bias(bias, q, k.shape[0]) if options.softcap is None else bias
            )
        if options.softcap is None:
            return fused_attention(q, k, v, bias, options)
        weights = torch.softmax(attention_logits(q, k, options).add_(bias), dim=-1).to(v.dtype)
        return batched_products(weights.view(k.shape[0], -1, k.shape[1]), v).view(q.shape)


def _fuses(q: Tensor, options: LayerOptions) -> bool:
    """Whether attention's output is computed in one operation, which writes no weights [heads, rows, keys]."""
    if options.softcap is not None:
        return False
    return q.device.type != "cpu" or (q.dtype == torch.bfloat16 and fuses_long_rows())


class ReadPass(TokenPass):
    """The tail attends to documents, prefix and itself; attention rows are kept for some heads.

    Args:
        prefix: layer -> (keys, values) of the prefix.
        documents: the window's packed states.
        tail: the tail.
        heads: whose rows are kept.
    """

    def __init__(
        self,
        prefix: _Prefix,
        documents: PackedDocuments,
        tail: Tail,
        heads: Sequence[Head],
    ) -> None:
        super().__init__(tail.ids, tail.positions)
        self._prefix, self._documents, self._tail = prefix, documents, tail
        self._capture = _Capture(tail, documents, heads)
        self._biases: dict[int | None, Tensor] = {}

    @property
    def rows(self) -> Tensor:
        """float32 [heads, groups, document tokens]."""
        return self._capture.rows

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        prefix_k, prefix_v = self._prefix[layer]
        chosen = list(self._capture.heads.get(layer, ()))
        kv_heads = k.shape[0]
        places = [head * kv_heads // q.shape[0] for head in chosen]
        if layer >= self._capture.deepest:
            self._capture.keep(layer, q[chosen], self._documents.key_blocks(layer, prefix_k, k), places, options)
            raise LayersDone
        # The one copy that is made of what the cache holds, keys and values at once.
        states = self._documents.states(layer, torch.cat((prefix_k, prefix_v)), torch.cat((k, v)))
        keys, values = states[:kv_heads], states[kv_heads:]
        fuses = _fuses(q, options)
        bias = self._biases.get(options.sliding_window)
        if bias is None:
            bias = _tail_bias(self._tail, np.arange(len(self._tail.ids)), self._documents, options.sliding_window)
            if fuses:
                hides_nothing = bias.new_zeros(bias.shape[0], keys.shape[1] - bias.shape[1])
                bias = grouped_bias(torch.cat((hides_nothing, bias), dim=1), q, kv_heads)
            self._biases[options.sliding_window] = bias
        if fuses:
            if chosen:
                self._capture.keep(layer, q[chosen], [keys], places, options)
            return fused_attention(q, keys, values, bias, options)
        logits = biased(attention_logits(q, keys, options), bias)
        if chosen:
            self._capture.keep_logits(layer, self._capture.needed(logits[chosen]))
        weights = torch.softmax(logits, dim=-1).to(values.dtype)
        return batched_products(weights.view(kv_heads, -1, values.shape[1]), values).view(q.shape)


class LatePass(TokenPass):
    """A query that attends to the tail's shared beginning and itself; only its rows meet the documents' keys.

    Args:
        prefix: layer -> (keys, values) of the prefix.
        documents: the window's packed keys.
        tail: the whole tail.
        fixed: states of the tail without the query.
        heads: whose rows are kept.
    """

    def __init__(
        self,
        prefix: _Prefix,
        documents: PackedDocuments,
        tail: Tail,
        fixed: FixedStates,
        heads: Sequence[Head],
    ) -> None:
        super().__init__(tail.ids[tail.query], tail.positions[tail.query])
        if documents.kept is None:
            raise BackboneError("documents encoded for another layout cannot be read as late; clear the cache")
        self._prefix, self._documents, self._tail, self._fixed = prefix, documents, tail, fixed
        self._kept = documents.kept
        self._capture = _Capture(tail, documents, heads)
        self._short = _ShortAttention()

    @property
    def rows(self) -> Tensor:
        """float32 [heads, groups, document tokens]."""
        return self._capture.rows

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        prefix_k, prefix_v = self._prefix[layer]
        if layer in self._capture.heads:
            self._meet_documents(layer, q, k, prefix_k, options)
        if layer >= self._capture.deepest:
            raise LayersDone
        shared = slice(0, self._tail.shared)
        fixed_k, fixed_v = self._fixed.k[layer][:, shared], self._fixed.v[layer][:, shared]
        keys, values = torch.cat((prefix_k, fixed_k, k), dim=1), torch.cat((prefix_v, fixed_v, v), dim=1)
        return self._short(q, keys, values, self._tail.query_bias, options)

    def _meet_documents(self, layer: int, q: Tensor, k: Tensor, prefix_k: Tensor, options: LayerOptions) -> None:
        chosen, kept = list(self._capture.heads[layer]), list(self._kept[layer])
        groups = q.shape[0] // k.shape[0]
        whole_q = whole_tail(self._tail, self._fixed.q[layer][chosen], q[chosen])
        own_k = whole_tail(self._tail, self._fixed.k[layer][kept], k[kept])
        keys = self._documents.key_blocks(layer, prefix_k[kept], own_k)
        self._capture.keep(layer, whole_q, keys, [kept.index(head // groups) for head in chosen], options)


class FixedPass(TokenPass):
    """The tail without the query: it attends to the prefix and, each variant by itself, to the tail.

    Args:
        prefix: layer -> (keys, values) of the prefix.
        tail: the tail.
        deepest: the last layer whose states are wanted.
    """

    def __init__(self, prefix: _Prefix, tail: Tail, deepest: int) -> None:
        super().__init__(tail.ids[tail.fixed], tail.positions[tail.fixed])
        self._prefix, self._tail, self._deepest = prefix, tail, deepest
        self._short = _ShortAttention()
        self.states = FixedStates()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        # Copies: what comes may be a part of something larger.
        self.states.q[layer], self.states.k[layer], self.states.v[layer] = q.clone(), k.clone(), v.clone()
        if layer >= self._deepest:
            raise LayersDone
        prefix_k, prefix_v = self._prefix[layer]
        keys, values = torch.cat((prefix_k, k), dim=1), torch.cat((prefix_v, v), dim=1)
        return self._short(q, keys, values, self._tail.fixed_bias, options)


class SideBySidePass(TokenPass):
    """Several tails, one behind the other, none of which sees another.

    They share the layers' products, which are too small for several cores with one tail's rows, and need the weights
    from memory once. Each attends by itself.

    Args:
        tails: each tail's own pass.
    """

    def __init__(self, tails: Sequence[TokenPass]) -> None:
        super().__init__(
            np.concatenate([tail.ids for tail in tails]), np.concatenate([tail.positions for tail in tails])
        )
        self._tails: list[tuple[TokenPass, slice]] = []
        end = 0
        for tail in tails:
            self._tails.append((tail, slice(end, end + len(tail.ids))))
            end += len(tail.ids)

    def enter(self, layer: int, hidden: Tensor) -> None:
        self._going(lambda tail, own: tail.enter(layer, hidden[own]))

    def leave(self, hidden: Tensor) -> None:
        self._going(lambda tail, own: tail.leave(hidden[own]))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        # A tail that has all it needs goes along as zeros until the others have too.
        out = torch.zeros_like(q)

        def attend(tail: TokenPass, own: slice) -> None:
            out[:, own] = tail.attend(layer, q[:, own], k[:, own], v[:, own], options)

        self._going(attend)
        return out

    def _going(self, step: Callable[[TokenPass, slice], None]) -> None:
        """One step of each tail that has not all it needs."""
        going = []
        for tail, own in self._tails:
            try:
                step(tail, own)
            except LayersDone:
                continue
            going.append((tail, own))
        self._tails = going
        if not going:
            raise LayersDone


def _of_heads(keys: Tensor, places: Sequence[int]) -> Tensor:
    """The keys at places; not copied where they lie together, or are the same."""
    first = places[0]
    if len(set(places)) == 1:
        return keys[first : first + 1]
    if list(places) == list(range(first, first + len(places))):
        return keys[first : first + len(places)]
    return keys[list(places)]
