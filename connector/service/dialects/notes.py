"""What an answer says of a request beside its results: texts that were cut, keys that had no effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connector.service.responses import one_line

__all__ = ["Notes"]

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Notes:
    """What is to be told.

    Attributes:
        texts: of which only the beginning was read: ``query``, ``instruction``.
        documents: places of documents of which only the beginning was read, from 0.
        ignored: keys that had no effect.
        name: of a document by its place, for the header.
    """

    texts: Sequence[str] = ()
    documents: Sequence[int] = ()
    ignored: Sequence[str] = ()
    name: str = "documents[{}]"

    def headers(self) -> dict[str, str]:
        """``X-Truncated`` and ``X-Ignored-Keys``, where there is something to tell."""
        cut = [*self.texts, *self._named(self.name)]
        told = {"X-Truncated": ", ".join(cut), "X-Ignored-Keys": one_line(", ".join(self.ignored))}
        return {name: value for name, value in told.items() if value}

    def warnings(self) -> list[str]:
        """The same as sentences, for ``meta.warnings``."""
        told = [f"the {text} is too long: only its beginning was read" for text in self.texts]
        if self.documents:
            told.append(f"documents too long, only their beginning was read: {', '.join(self._named('{}'))}")
        if self.ignored:
            told.append(f"keys without effect: {one_line(', '.join(self.ignored))}")
        return told

    def _named(self, pattern: str) -> list[str]:
        more = len(self.documents) - _MOST_NAMED
        named = [pattern.format(place) for place in self.documents[:_MOST_NAMED]]
        return [*named, f"and {more} more"] if more > 0 else named
