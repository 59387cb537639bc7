"""How near a query lies to texts, by an embedding model; vectors of texts are remembered."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from connector.embedding.embedder import Embedder

__all__ = ["Similarity"]

# About 40,000 texts of an embedding model of 384 numbers.
_REMEMBERED_BYTES = 64_000_000
Floats = npt.NDArray[np.float32]


class Similarity:
    """Cosines of queries and texts. Thread-safe.

    Args:
        embedder: makes the vectors.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self._lock = threading.Lock()
        self._known: LRUCache[str, Floats] = LRUCache(_REMEMBERED_BYTES, getsizeof=lambda vector: vector.nbytes)

    def of_parts(self, query: str, parts: Sequence[Sequence[str]]) -> list[Floats]:
        """Of each text, in parts, its parts' cosines: float32 [parts]."""
        if not parts:
            return []
        found = self.cosines(query, [part for own in parts for part in own])
        return np.split(found, np.cumsum([len(own) for own in parts])[:-1])

    def cosines(self, query: str, texts: Sequence[str]) -> Floats:
        """float32 [texts]."""
        if not texts:
            return np.zeros(0, dtype=np.float32)
        found: dict[str, Floats] = {}
        with self._lock:
            found.update((text, self._known[text]) for text in texts if text in self._known)
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            # A batch gives a text a vector that differs in its last digits: one at a time, its score is its own.
            found.update((text, self.embedder.documents([text])[0]) for text in new)
            with self._lock:
                for text in new:
                    self._known[text] = found[text]
        vectors = np.stack([found[text] for text in texts])
        cosines: Floats = (vectors * self.embedder.query(query)).sum(axis=1)
        return cosines
