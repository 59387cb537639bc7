"""What ``late`` remembers of a tail: the states of all tokens but the query's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from connector.backbone.onnx_runtime.graphs import Array
from connector.backbone.prompt.tail import Tail

__all__ = ["FixedLayer", "FixedStates", "whole_tail"]


@dataclass(frozen=True, slots=True)
class FixedLayer:
    """States of a tail without its query at a layer's door.

    Attributes:
        q: float32 [heads, fixed tokens, d].
        k, v: float32 [kv heads, fixed tokens, d].
    """

    q: Array
    k: Array
    v: Array


@dataclass(frozen=True, slots=True)
class FixedStates:
    """A tail without its query, where no document touches it: the same for every query.

    Attributes:
        layers: up to the deepest that was asked for.
    """

    layers: tuple[FixedLayer, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for states in self.layers for part in (states.q, states.k, states.v))


def whole_tail(tail: Tail, fixed: Array, query: Array) -> Array:
    """float32 [heads, tail tokens, d] from those of the fixed tokens and of the query."""
    return np.concatenate((fixed[:, : tail.shared], query, fixed[:, tail.shared :]), axis=1)
