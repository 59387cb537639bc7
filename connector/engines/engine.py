"""What every search engine offers: first-stage hits, and bulk indexing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from connector.documents import Document, Hit

__all__ = ["Engine", "IndexReport", "ItemFailure"]


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """A document that the engine refused; the others were indexed.

    Attributes:
        id: the document's id.
        reason: what is wrong with it, in a few words.
        place: which of the documents of the call, from 0.
    """

    id: str
    reason: str
    place: int = 0


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What became of documents.

    Attributes:
        indexed: documents that were put into the index, new and replaced.
        replaced: those of them whose id was there before, in the index or earlier in the same call.
        failures: documents that were refused.
    """

    indexed: int = 0
    replaced: int = 0
    failures: tuple[ItemFailure, ...] = ()

    @property
    def taken(self) -> int:
        """Documents that are done with, one way or the other."""
        return self.indexed + len(self.failures)


class Engine(Protocol):
    """One index of a search engine. A context manager that closes it."""

    def search(self, query: str, size: int) -> list[Hit]:
        """The best hits for a query in plain words, best first; equal scores by id.

        No character of the query is an operator. A query without a searchable word has no hits; where vectors are
        searched too, one without letters and digits.

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

    def documents(self) -> Iterator[Document]:
        """Every document of the index, each once, in no particular order; none where there is no index.

        Raises:
            EngineError: the engine failed.
        """
        ...

    def index(
        self,
        documents: Iterable[Document],
        *,
        batch: int = 1000,
        committed: Callable[[IndexReport], None] | None = None,
    ) -> IndexReport:
        """Put documents in; one with a known id replaces the older one. The index is made if it is missing.

        A document that the engine refuses is reported, the rest is indexed.

        Args:
            documents: taken one by one, in order. What iterating raises comes out as it is; batches before are kept.
            batch: documents that become durable together.
            committed: called with what became of all documents so far, after each batch.

        Raises:
            EngineError: the engine failed, or another process is writing; batches before are kept.
        """
        ...

    def count(self) -> int:
        """Number of documents; 0 where there is no index.

        Raises:
            EngineError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
