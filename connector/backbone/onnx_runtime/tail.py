"""Where the tokens of a tail stand, and who of them sees whom, for the ONNX runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connector.backbone.onnx_runtime.graphs import Array, causal_bias
from connector.backbone.prompt.tail import SHARED, laid_out
from connector.backbone.runtime import Tail

__all__ = ["FixedLayer", "FixedStates", "OnnxTail"]

Places = npt.NDArray[np.int64]


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


class OnnxTail:
    """The tail's tokens: the shared beginning, then the query, then the other variants.

    Args:
        tail: the tail.
        prefix: tokens of the prefix, which stand at positions from 0 on.

    Attributes:
        ids: of each token.
        positions: int64, of each token.
        shared: tokens of the beginning.
        query, fixed: int64, places of the query, of all other tokens.
        counted: int64, places of the rows that count in a group.
    """

    def __init__(self, tail: Tail, prefix: int) -> None:
        ids, positions, variants = laid_out(tail)
        self.ids, self.positions = ids, np.array(positions, dtype=np.int64)
        self.shared = len(tail.shared)
        places, end = np.arange(len(ids)), self.shared + len(tail.variants[0])
        self.query = places[self.shared : end]
        self.fixed = np.concatenate((places[: self.shared], places[end:]))
        self.counted = np.flatnonzero(tail.rows.any(axis=0))
        self._variants, self._prefix = np.array(variants), prefix

    def of(self, places: Places) -> tuple[list[int], Places]:
        """Ids and positions of some tokens."""
        return [self.ids[at] for at in places.tolist()], self.positions[places]

    def whole(self, fixed: Array, query: Array) -> Array:
        """[heads, tail tokens, d] from those of the fixed tokens and of the query."""
        return np.concatenate((fixed[:, : self.shared], query, fixed[:, self.shared :]), axis=1)

    def bias(self, places: Places, documents: Places, window: int | None) -> Array:
        """0 where some tokens may look, else -inf: float32 [places, documents' tokens + prefix + tail].

        Args:
            places: of the tokens.
            documents: int64: positions of the documents' tokens and the prefix.
            window: of a layer with sliding-window attention, in tokens.
        """
        every = np.arange(len(self.ids))
        return np.concatenate((self._behind(places, documents, window), self._own(places, every, window)), axis=1)

    def fixed_bias(self, window: int | None) -> Array:
        """The same of all but the query, over the prefix and themselves."""
        return self._over(self.fixed, self.fixed, window)

    def query_bias(self, window: int | None) -> Array:
        """The same of the query, over the prefix, the shared tokens and itself."""
        return self._over(self.query, np.arange(self.shared + len(self.query)), window)

    def _over(self, places: Places, seen: Places, window: int | None) -> Array:
        behind = self._behind(places, np.arange(self._prefix), window)
        return np.concatenate((behind, self._own(places, seen, window)), axis=1)

    def _own(self, places: Places, seen: Places, window: int | None) -> Array:
        """Of some of the tail's tokens over others: a variant sees the shared part and itself."""
        bias: Array = causal_bias(self.positions[places], self.positions[seen], window)
        of, by = self._variants[seen], self._variants[places]
        bias[(of[None, :] != SHARED) & (by[:, None] != of[None, :])] = np.float32("-inf")
        return bias

    def _behind(self, places: Places, before: Places, window: int | None) -> Array:
        """Over what always stands behind the tail, and only a sliding window can hide."""
        bias: Array = np.zeros((len(places), len(before)), dtype=np.float32)
        if window is not None:
            bias[self.positions[places][:, None] - before[None, :] >= window] = np.float32("-inf")
        return bias
