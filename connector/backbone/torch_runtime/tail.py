"""Where the tokens of a tail stand, and who of them sees whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from connector.backbone.prompt.tail import SHARED, laid_out
from connector.backbone.runtime import Tail
from connector.backbone.torch_runtime.attention import causal_bias

__all__ = ["FixedStates", "TailPlaces"]

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class FixedStates:
    """States of a tail without its query, where no document touches them: the same for every query.

    Attributes:
        q: layer -> [heads, fixed tokens, d].
        k, v: layer -> [kv heads, fixed tokens, d].
    """

    q: dict[int, Tensor] = field(default_factory=dict)
    k: dict[int, Tensor] = field(default_factory=dict)
    v: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def none(cls, like: Mapping[int, tuple[Tensor, Tensor]], heads: int) -> FixedStates:
        """Those of a tail that is nothing but its query.

        Args:
            like: layer -> keys and values of the same heads.
            heads: query heads.
        """
        k = {layer: keys[:, :0] for layer, (keys, _) in like.items()}
        v = {layer: values[:, :0] for layer, (_, values) in like.items()}
        return cls({layer: keys.new_empty(heads, 0, keys.shape[2]) for layer, keys in k.items()}, k, v)

    @property
    def nbytes(self) -> int:
        parts: tuple[Mapping[int, Tensor], ...] = (self.q, self.k, self.v)
        return sum(tensor.nbytes for part in parts for tensor in part.values())


class TailPlaces:
    """The tail's tokens: the shared beginning, then the query, then the other variants.

    All but the query are the fixed ones.

    Args:
        tail: the tail.
        prefix: tokens of the prefix, which stand at positions from 0 on.
        device: of the biases.

    Attributes:
        tokens: of the whole tail.
        shared, query: of its beginning, of its first variant.
        ids, positions: of each token.
    """

    def __init__(self, tail: Tail, prefix: int, device: torch.device) -> None:
        ids, positions, variants = laid_out(tail)
        self.ids, self.positions = ids, positions
        self.tokens, self.shared, self.query = len(ids), len(tail.shared), len(tail.variants[0])
        self.fixed = self.tokens - self.query
        self._device = device
        self._prefix = torch.arange(prefix)
        self._positions, self._variants = torch.tensor(positions), torch.tensor(variants)

    @property
    def _fixed_places(self) -> list[int]:
        return [*range(self.shared), *range(self.shared + self.query, self.tokens)]

    def fixed_tokens(self) -> tuple[list[int], list[int]]:
        """Ids and positions of all but the query."""
        places = self._fixed_places
        return [self.ids[at] for at in places], [self.positions[at] for at in places]

    def query_tokens(self) -> tuple[list[int], list[int]]:
        """Ids and positions of the query."""
        own = slice(self.shared, self.shared + self.query)
        return self.ids[own], self.positions[own]

    def whole(self, fixed: Tensor, query: Tensor) -> Tensor:
        """[heads, tail tokens, d] from those of the fixed tokens and of the query."""
        return torch.cat((fixed[:, : self.shared], query, fixed[:, self.shared :]), dim=1)

    def bias(self, window: int | None, documents: Tensor) -> Tensor:
        """0 where the tail may look, else -inf: float32 [tail, documents' tokens + prefix + tail].

        Documents and prefix are always behind the tail: where only a sliding window could hide them and there is
        none, their columns are left out.

        Args:
            window: of a layer with sliding-window attention, in tokens.
            documents: int64 [documents' tokens]: their positions.
        """
        own = self._own(torch.arange(self.tokens), window)
        if window is None:
            return own
        before = torch.cat((documents, self._prefix.to(documents.device)))
        return torch.cat((self._behind(self._positions, before, window), own), dim=1)

    def fixed_bias(self, window: int | None) -> Tensor:
        """The same of all but the query, over the prefix and themselves."""
        places = torch.tensor(self._fixed_places, dtype=torch.int64)
        behind = self._behind(self._positions[places], self._prefix, window)
        return torch.cat((behind, self._own(places, window)), dim=1)

    def query_bias(self, window: int | None) -> Tensor:
        """The same of the query, over the prefix, the shared tokens and itself."""
        places = torch.arange(self.shared + self.query)
        behind = self._behind(self._positions[self.shared : self.shared + self.query], self._prefix, window)
        return torch.cat((behind, self._own(places, window)[self.shared :]), dim=1)

    def _own(self, places: Tensor, window: int | None) -> Tensor:
        """Of some of the tail's tokens over themselves: a variant sees the shared part and itself."""
        of = self._variants[places]
        bias = causal_bias(self._positions[places], self._positions[places], window)
        bias.masked_fill_((of[None, :] != SHARED) & (of[:, None] != of[None, :]), float("-inf"))
        return bias.to(self._device)

    def _behind(self, positions: Tensor, before: Tensor, window: int | None) -> Tensor:
        """Over what always stands behind the tail, and only a sliding window can hide."""
        bias = torch.zeros(positions.shape[0], before.shape[0], device=self._device)
        if window is not None:
            distance = positions.to(self._device)[:, None] - before.to(self._device)[None, :]
            bias.masked_fill_(distance >= window, float("-inf"))
        return bias
