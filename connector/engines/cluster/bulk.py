"""Bulk indexing with back-pressure: parts of bounded size, and items that were refused for now sent again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from connector.documents import Document
from connector.engines.acceptance import Refused, json_of
from connector.engines.cluster.connection import ClusterError, Connection, reason_of
from connector.engines.cluster.retrying import Retrying
from connector.engines.engine import IndexReport, ItemFailure

__all__ = ["BulkWriter"]

# Both products advise 5 to 15 MB a request; the cluster's own limit is 100 MB, and 10 % of its heap in flight.
_PART_BYTES = 8 * 1024 * 1024
_LATER = (429, 503)


@dataclass(frozen=True, slots=True)
class _Item:
    place: int
    id: str
    lines: tuple[bytes, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.lines)) + 2


class _SomeRefused(ClusterError):
    """Items that the cluster had no room for."""


class BulkWriter:
    """Writes batches of documents into one index.

    Args:
        connection: to the cluster.
        index: its name.
        retrying: how long what is refused for now is sent again.
    """

    def __init__(self, connection: Connection, index: str, retrying: Retrying) -> None:
        self._connection = connection
        self._index = index
        self._retrying = retrying

    def write(self, documents: Sequence[Document], first: int) -> IndexReport:
        """Put them in; those that are refused are reported, the others are in.

        Args:
            documents: in order; of equal ids the last stays.
            first: place of the first one in the caller's counting.

        Raises:
            ClusterError: the cluster refuses the whole request, or has no room for longer than may be waited.
        """
        failures: list[ItemFailure] = []
        items: list[_Item] = []
        for place, document in enumerate(documents, first):
            try:
                source = json_of(document)
            except Refused as refused:
                failures.append(ItemFailure(document.id, str(refused), place))
                continue
            action = json.dumps({"index": {"_index": self._index, "_id": document.id}}, ensure_ascii=False)
            items.append(_Item(place, document.id, (action.encode(), _utf8(source))))
        replaced = written = 0
        for part in _parts(items):
            report = self._write_part(part)
            written += report.indexed
            replaced += report.replaced
            failures += report.failures
        return IndexReport(written, replaced, tuple(sorted(failures, key=lambda failure: failure.place)))

    def _write_part(self, part: list[_Item]) -> IndexReport:
        waiting = part
        failures: list[ItemFailure] = []
        written = replaced = 0

        def send() -> None:
            nonlocal waiting, written, replaced
            answer = self._connection.bulk([line for item in waiting for line in item.lines])
            refused: list[_Item] = []
            reason = ""
            for item, outcome in zip(waiting, answer["items"], strict=True):
                done = outcome["index"]
                if "error" not in done:
                    written += 1
                    replaced += done["result"] == "updated"
                elif done["status"] in _LATER:
                    refused.append(item)
                    reason = reason_of(done)
                else:
                    failures.append(ItemFailure(item.id, reason_of(done), item.place))
            waiting = refused
            if refused:
                raise _SomeRefused(
                    f"{self._connection.url} had no room for {len(refused)} documents of {self._index} ({reason}); "
                    f"run the same command again, or raise engine.retry_ms",
                    429,
                )

        self._retrying(send)
        return IndexReport(written, replaced, tuple(failures))


def _utf8(source: str) -> bytes:
    # Half a surrogate pair is legal in JSON, but a cluster refuses the whole request for it.
    text = json.dumps(json.loads(source), ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _parts(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    part: list[_Item] = []
    size = 0
    for item in items:
        if part and size + item.size > _PART_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += item.size
    if part:
        yield part
