"""How near a query lies to texts, by an embedding model beside the LLM. Vectors are kept as encoded passages are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connector.backbone.caching.counted_cache import Lookups
from connector.backbone.caching.disk_cache import DiskCache
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.caching.shared_cache import SharedCache
from connector.backbone.runtime import EncodedDocument
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError

__all__ = ["KeptVector", "Similarity", "also_vectors"]

# About 40,000 texts of an embedding model of 384 numbers.
_REMEMBERED_BYTES = 64_000_000
# No runtime's states begin with it.
_MARK = b"RHV1"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class KeptVector:
    """A text's vector as the document cache keeps it.

    Attributes:
        values: float32 [dimension].
    """

    values: Floats

    @property
    def tokens(self) -> int:
        """None of the LLM's."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return self.values.nbytes

    def to_bytes(self) -> bytes:
        """What ``from_bytes`` takes back."""
        return _MARK + self.values.astype("<f4", copy=False).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> KeptVector:
        """The vector of ``to_bytes``.

        Raises:
            BackboneError: these are no vector's bytes.
        """
        if not data.startswith(_MARK) or len(data) % 4 or len(data) == len(_MARK):
            raise BackboneError("these bytes are no vector of an embedding model")
        return cls(np.frombuffer(data, dtype="<f4", offset=len(_MARK)).astype(np.float32))


def also_vectors(load: Callable[[bytes], EncodedDocument]) -> Callable[[bytes], EncodedDocument]:
    """``load_document`` of a cache whose file holds vectors as well.

    Args:
        load: the runtime's.
    """

    def loaded(data: bytes) -> EncodedDocument:
        return KeptVector.from_bytes(data) if data.startswith(_MARK) else load(data)

    return loaded


class Similarity:
    """Cosines of queries and texts. Thread-safe.

    Args:
        embedder: makes the vectors.
        disk: where vectors also go, and come back from; None: they stay in memory.
        shared: where vectors of other machines come from; None: nowhere.
    """

    def __init__(self, embedder: Embedder, disk: DiskCache | None = None, shared: SharedCache | None = None) -> None:
        self.embedder = embedder
        self._cache = DocumentCache(_REMEMBERED_BYTES, disk, shared)

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
        keys = self._keyed(texts)
        found: dict[str, Floats] = {}
        for text, kept in zip(keys, self._cache.get_many(list(keys.values())), strict=True):
            if isinstance(kept, KeptVector):
                found[text] = kept.values
        for key, text, made in self._made({text: key for text, key in keys.items() if text not in found}):
            found[text] = made.values
            self._cache.put(key, made)
        vectors = np.stack([found[text] for text in texts])
        cosines: Floats = (vectors * self.embedder.query(query)).sum(axis=1)
        return cosines

    def keys(self, texts: Sequence[str]) -> list[bytes]:
        """The document cache's keys of the texts' vectors."""
        return [self._key(text) for text in texts]

    def encoded(self, texts: Sequence[str]) -> Iterator[tuple[bytes, EncodedDocument]]:
        """The distinct texts' keys and vectors; nothing is kept."""
        return ((key, made) for key, _, made in self._made(self._keyed(texts)))

    def keep(self, texts: Sequence[str]) -> tuple[int, int]:
        """Embed what the cache does not keep for good: distinct texts that were there, and those embedded now."""
        distinct = list(dict.fromkeys(texts))
        return self._cache.keep(self.keys(distinct), lambda missing: self.encoded([distinct[at] for at in missing]))

    def lookups(self) -> Lookups:
        """How many vectors were in memory, and how many were not."""
        return self._cache.lookups()["memory"]

    def clear(self) -> None:
        """Forget every vector in memory; what is on disk stays."""
        self._cache.clear()

    def _keyed(self, texts: Sequence[str]) -> dict[str, bytes]:
        return {text: self._key(text) for text in dict.fromkeys(texts)}

    def _key(self, text: str) -> bytes:
        digest = hashlib.blake2b(self.embedder.fingerprint.encode(), digest_size=16)
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def _made(self, keys: Mapping[str, bytes]) -> Iterator[tuple[bytes, str, KeptVector]]:
        # A batch gives a text a vector that differs in its last digits: one at a time, its score is its own.
        return ((key, text, KeptVector(self.embedder.documents([text])[0])) for text, key in keys.items())
