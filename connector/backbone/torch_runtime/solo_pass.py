"""The layout ``solo``: the query's tokens behind each document, those of a core's share side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from connector.backbone.prompt.tail import Tail
from connector.backbone.runtime import Needs
from connector.backbone.torch_runtime.attention import (
    LayerOptions,
    LayersDone,
    TokenPass,
    attention_logits,
    batched_products,
)
from connector.backbone.torch_runtime.encoded import TorchEncodedDocument
from connector.backbone.torch_runtime.likelihood import Likelihood
from connector.backbone.torch_runtime.packed_attention import Packing, varlen_attention

__all__ = ["SoloPass"]

Tensor = torch.Tensor
# Keys of documents that attend in one product are filled up to a multiple of it. What a document gets then depends on
# its own length alone: libraries sum in another order over more keys.
_STEP = 64


class _Alike(NamedTuple):
    """Documents that attend in one product.

    Attributes:
        places: which they are.
        keys: each has so many, filled up.
    """

    places: tuple[int, ...]
    keys: int


class SoloPass(TokenPass):
    """A tail behind each of some documents, blind to all but its own.

    Args:
        prefix: layer -> keys and behind them values [2 kv heads, prefix tokens, d].
        documents: encoded passages.
        tail: what stands behind each; its positions count from there.
        needs: what is kept.
        likelihood: of the model; only asked where the needs name it.
        depth: layers that are run.

    Attributes:
        rows: for each document, where heads are needed, float32 [heads, groups, tokens].
        states: float32 [layers, documents, hidden]: of each layer that is needed, the mean of the query's tokens.
        log_probabilities: float32 [documents, query tokens]; no tokens where they are not needed.
    """

    def __init__(
        self,
        prefix: Mapping[int, Tensor],
        documents: Sequence[TorchEncodedDocument],
        tail: Tail,
        needs: Needs,
        likelihood: Likelihood,
        depth: int,
    ) -> None:
        self._prefix, self._documents, self._tail, self._needs = prefix, documents, tail, needs
        self._likelihood, self._depth = likelihood, depth
        self._before = prefix[0].shape[1]
        starts = np.array([self._before + document.tokens for document in documents])
        super().__init__(np.tile(tail.ids, len(documents)), (starts[:, None] + tail.positions).ravel())
        device = prefix[0].device
        self._starts = torch.from_numpy(starts).to(device)
        keys = -(-(starts + len(tail.ids)) // _STEP) * _STEP
        self._alike = [
            _Alike(tuple(np.flatnonzero(keys == size).tolist()), int(size)) for size in sorted(set(keys.tolist()))
        ]
        # On a GPU a copy costs as much as a product: all of a layer's are made in two.
        self._gathers = device.type != "cpu"
        self._places: dict[int, Tensor] = {}
        self._packing: Packing | None = None
        self._biases: dict[tuple[int, int | None], Tensor] = {}
        self._groups = torch.from_numpy(tail.rows).to(device)
        self._heads: dict[int, list[tuple[int, int]]] = {}
        for place, (layer, head) in enumerate(needs.heads):
            self._heads.setdefault(layer, []).append((place, head))
        shape = (len(needs.heads), len(tail.rows))
        # Only where heads are read: of thousands of passages these would be the largest arrays that there are.
        self.rows = [torch.empty(*shape, own.tokens, device=device) for own in documents] if needs.heads else []
        self._states: dict[int, Tensor] = {}
        self.log_probabilities = torch.empty(len(documents), 0, device=device)

    @property
    def states(self) -> Tensor:
        """See the class."""
        return torch.stack([self._states[layer] for layer in self._needs.layers])

    def enter(self, layer: int, hidden: Tensor) -> None:
        self._keep_states(layer, hidden)
        if layer == self._depth:
            raise LayersDone

    def leave(self, hidden: Tensor) -> None:
        self._keep_states(self._depth, hidden)
        if not self._needs.likelihood:
            return
        foretelling = self._by_document(hidden)[:, :-1].flatten(0, 1)
        told = np.tile(self._tail.ids[1:], len(self._documents)).astype(np.int64)
        found = self._likelihood.log_probabilities(foretelling, torch.from_numpy(told).to(hidden.device))
        self.log_probabilities = found.view(len(self._documents), -1)[:, self._tail.instruction :]

    def _keep_states(self, layer: int, hidden: Tensor) -> None:
        if layer in self._needs.layers:
            # The first row is the last id before the query, and the caller's instruction.
            own = self._by_document(hidden)[:, 1 + self._tail.instruction :]
            self._states[layer] = own.float().mean(dim=1)

    def _by_document(self, of_rows: Tensor) -> Tensor:
        """[documents, tail, ...] of [rows, ...]."""
        return of_rows.view(len(self._documents), len(self._tail.ids), *of_rows.shape[1:])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, options: LayerOptions) -> Tensor:
        count, rows = len(self._documents), len(self._tail.ids)
        of_tails = torch.cat((k, v))
        unseen = layer not in self._heads and options.softcap is None
        if unseen and (varlen := varlen_attention(q.device, q.dtype, q.shape[2])) is not None:
            return self._packed(varlen, layer, q, of_tails, options)
        # [documents, heads, tail, d]
        asking = q.view(q.shape[0], count, rows, -1).transpose(0, 1)
        own = of_tails.view(2 * k.shape[0], count, rows, -1).transpose(0, 1)
        everything = self._everything(layer, of_tails) if self._gathers else None
        out = q.new_empty(count, rows, q.shape[0], v.shape[2])
        for alike in self._alike:
            places = list(alike.places)
            both = self._together(layer, alike, own) if everything is None else self._picked(everything, alike)
            out[places] = self._attended(layer, alike, asking[places], both, options).transpose(1, 2)
        return out.view(count * rows, q.shape[0], -1).transpose(0, 1)

    def _packed(
        self, varlen: Callable[..., Any], layer: int, q: Tensor, of_tails: Tensor, options: LayerOptions
    ) -> Tensor:
        """All documents in one operation, none filled up: [heads, rows, d]."""
        if self._packing is None:
            queries = [len(self._tail.ids)] * len(self._documents)
            self._packing = Packing.of_places(self._key_places(), queries, q.device)
        keys, values = self._everything(layer, of_tails).chunk(2)
        return self._packing.attend(varlen, q, keys, values, options.scaling, options.sliding_window)

    def _together(self, layer: int, alike: _Alike, own: Tensor) -> Tensor:
        """Keys and behind them values of some documents: [documents, 2 kv heads, keys, d]."""
        prefix = self._prefix[layer]
        both = prefix.new_zeros(len(alike.places), prefix.shape[0], alike.keys, prefix.shape[2])
        both[:, :, : self._before] = prefix
        for at, place in enumerate(alike.places):
            document = self._documents[place]
            end = self._before + document.tokens
            both[at, :, self._before : end] = document.states[layer].widen(prefix.dtype)
            both[at, :, end : end + own.shape[2]] = own[place]
        return both

    def _everything(self, layer: int, of_tails: Tensor) -> Tensor:
        """Keys and behind them values of prefix, all documents and all tails: [2 kv heads, tokens, d]."""
        prefix = self._prefix[layer]
        documents = [document.states[layer].widen(prefix.dtype) for document in self._documents]
        return torch.cat((prefix, *documents, of_tails), dim=1)

    def _key_places(self) -> list[npt.NDArray[np.int64]]:
        """Where each document's keys lie in ``_everything``: those of prefix, document and tail."""
        lengths = np.array([document.tokens for document in self._documents])
        ends = self._before + lengths.cumsum()
        tails = ends[-1] + len(self._tail.ids) * np.arange(len(lengths))
        before, own = np.arange(self._before), np.arange(len(self._tail.ids))
        return [
            np.concatenate((before, np.arange(end - length, end), tail + own))
            for length, end, tail in zip(lengths, ends, tails, strict=True)
        ]

    def _picked(self, everything: Tensor, alike: _Alike) -> Tensor:
        """As ``_together``, of ``_everything``."""
        if not self._places:
            self._places = self._gathered()
        heads = torch.arange(len(everything), device=everything.device)
        return everything[heads[:, None], self._places[alike.keys][:, None]]

    def _gathered(self) -> dict[int, Tensor]:
        """Where keys of documents that attend in one product lie in ``_everything``: keys -> [documents, keys]."""
        of_each, found = self._key_places(), {}
        for alike in self._alike:
            # What fills up is hidden by the bias, whatever it is.
            places = np.zeros((len(alike.places), alike.keys), dtype=np.int64)
            for at, number in enumerate(alike.places):
                places[at, : len(of_each[number])] = of_each[number]
            found[alike.keys] = torch.from_numpy(places).to(self._starts.device)
        return found

    def _attended(self, layer: int, alike: _Alike, q: Tensor, both: Tensor, options: LayerOptions) -> Tensor:
        """[documents, heads, tail, d] from q of the same shape."""
        count, heads, rows, _ = q.shape
        keys, values = both.chunk(2, dim=1)
        if self._gathers and layer not in self._heads and options.softcap is None:
            return self._fused(alike, q, keys, values, options)
        logits = attention_logits(q.reshape(count * heads, rows, -1), keys.flatten(0, 1), options).float()
        logits = logits.view(count, heads, rows, alike.keys).add_(self._bias(alike, options.sliding_window)[:, None])
        weights = torch.softmax(logits, dim=-1)
        for place, head in self._heads.get(layer, ()):
            for at, number in enumerate(alike.places):
                end = self._before + self._documents[number].tokens
                self.rows[number][place] = torch.matmul(self._groups, weights[at, head, :, self._before : end])
        weights = weights.to(values.dtype).view(count * keys.shape[1], -1, alike.keys)
        return batched_products(weights, values.flatten(0, 1)).view(q.shape)

    def _fused(self, alike: _Alike, q: Tensor, keys: Tensor, values: Tensor, options: LayerOptions) -> Tensor:
        """In one operation, where nobody looks at the weights: they are not written."""
        count, kv_heads = keys.shape[:2]
        bias = self._bias(alike, options.sliding_window).repeat(1, q.shape[1] // kv_heads, 1)[:, None]
        # The queries of a group as one head's: keys are read once, and not repeated.
        grouped = q.reshape(count, kv_heads, -1, q.shape[3])
        out = torch.nn.functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=bias.to(q.dtype), scale=options.scaling
        )
        return out.view(q.shape)

    def _bias(self, alike: _Alike, sliding_window: int | None) -> Tensor:
        """0 where a row may look, -inf elsewhere: [documents, tail, keys]. A key's place is its position."""
        key = (alike.keys, sliding_window)
        known = self._biases.get(key)
        if known is None:
            places = torch.arange(alike.keys, device=self._starts.device)
            asking = self._starts[list(alike.places), None] + torch.arange(len(self._tail.ids), device=places.device)
            distance = asking[:, :, None] - places
            hidden = distance < 0
            if sliding_window is not None:
                hidden |= distance >= sliding_window
            known = torch.zeros(distance.shape, device=places.device).masked_fill_(hidden, float("-inf"))
            self._biases[key] = known
        return known
