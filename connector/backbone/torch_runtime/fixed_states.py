"""What ``late`` remembers of a tail: the states of all tokens but the query's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from connector.backbone.prompt.tail import Tail

__all__ = ["FixedStates", "whole_tail"]

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


def whole_tail(tail: Tail, fixed: Tensor, query: Tensor) -> Tensor:
    """[heads, tail tokens, d] from those of the fixed tokens and of the query."""
    return torch.cat((fixed[:, : tail.shared], query, fixed[:, tail.shared :]), dim=1)
