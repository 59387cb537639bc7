"""What every search engine offers: first-stage hits, and bulk indexing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from connector.documents import Document, Hit

__all__ = ["Engine", "IndexReport", "ItemFailure"]


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """A document that the engine refused; the others were indexed."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What became of a bulk of documents.

    Attributes:
        indexed: documents that are now in the index, new and replaced.
        replaced: those of them whose id was there before, in the index or in the same bulk.
        failures: documents that were refused.
    """

    indexed: int
    replaced: int
    failures: tuple[ItemFailure, ...] = ()


class Engine(Protocol):
    """One index of a search engine."""

    def search(self, query: str, size: int) -> list[Hit]:
        """The best hits for a query in plain words, best first; equal scores by id.

        Raises:
            EngineError: there is no such index, or the engine failed.
        """
        ...

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """Documents by id; those that are not there are left out.

        Raises:
            EngineError: see ``search``.
        """
        ...

    def index(
        self, documents: Iterable[Document], *, batch: int = 1000, committed: Callable[[int], None] | None = None
    ) -> IndexReport:
        """Put documents in; one with a known id replaces the older one. The index is made if it is missing.

        Args:
            documents: taken one by one.
            batch: documents that become durable together.
            committed: called with how many documents are durable so far, after each batch.

        Raises:
            EngineError: the engine failed; batches before are kept.
        """
        ...

    def count(self) -> int:
        """Number of documents; 0 where there is no index."""
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...
