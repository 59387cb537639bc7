"""Head and signal statistics gathered by workers: the files of one machine, written here as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from connector.heads.needs import Needs
from connector.offline.workers import LoadedLlm, Workers
from connector.statistics.head_tables import SearchedQuery, gather, missing_files
from connector.statistics.signal_tables import gather_signals, unread_files
from connector.statistics.table_files import keep_table

if TYPE_CHECKING:
    from connector.backbone.reader import Reader

__all__ = ["HeadScores", "Signals", "read_by"]


@dataclass(frozen=True, slots=True)
class HeadScores:
    """What ``gather`` keeps; see there."""

    fields: tuple[str, ...] = ()
    layers: int | None = None
    other_wording: bool = False
    embed: bool = False

    def unread(
        self, reader: Reader, queries: Sequence[SearchedQuery], folder: Path
    ) -> list[tuple[SearchedQuery, Path]]:
        return missing_files(
            reader, queries, folder, self.fields, layers=self.layers, other_wording=self.other_wording
        )

    def gather(self, reader: Reader, queries: Sequence[SearchedQuery], folder: Path) -> Iterator[object]:
        return gather(
            reader,
            queries,
            folder,
            self.fields,
            layers=self.layers,
            other_wording=self.other_wording,
            embed=self.embed,
        )


@dataclass(frozen=True, slots=True)
class Signals:
    """What ``gather_signals`` keeps; see there."""

    needs: Needs
    fields: tuple[str, ...] = ()

    def unread(
        self, reader: Reader, queries: Sequence[SearchedQuery], folder: Path
    ) -> list[tuple[SearchedQuery, Path]]:
        return unread_files(reader, queries, folder, self.needs, self.fields)

    def gather(self, reader: Reader, queries: Sequence[SearchedQuery], folder: Path) -> Iterator[object]:
        # Similarities are not stored.
        return gather_signals(reader, queries, folder, replace(self.needs, similarity=False), self.fields)


@dataclass(frozen=True, slots=True)
class _File:
    """A file to make: its name, its queries, and what it holds already."""

    name: str
    queries: tuple[SearchedQuery, ...]
    known: bytes | None


@dataclass(frozen=True, slots=True)
class _Read:
    """Makes the file in a folder of the worker's, and gives its bytes."""

    statistics: HeadScores | Signals

    def __call__(self, llm: LoadedLlm, item: _File) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / item.name
            if item.known is not None:
                path.write_bytes(item.known)
            for _ in self.statistics.gather(llm.reader, item.queries, path.parent):
                pass
            return path.read_bytes()


def read_by(
    workers: Workers | None,
    statistics: HeadScores | Signals,
    reader: Reader,
    queries: Iterable[SearchedQuery],
    folder: Path,
) -> Iterator[SearchedQuery]:
    """Pass queries on, each when the file of its statistics is there: for ``gather`` and ``gather_signals``.

    What an earlier run has stored is not read again.

    Args:
        workers: read what is missing; None: nobody does, and the caller will.
        statistics: what is kept of a query's window.
        reader: the LLM here, which reads nothing.
        queries, folder: see ``gather``.

    Raises:
        RhConnectorError: see ``Workers.map``.
        DataError: the folder cannot be written.
    """
    if workers is None:
        yield from queries
        return
    every = list(queries)
    # Queries that share a file go to one worker, in their order: a file holds what was read for each of them.
    files: dict[Path, list[SearchedQuery]] = {}
    path_of: dict[int, Path] = {}
    for searched, path in statistics.unread(reader, every, folder):
        files.setdefault(path, []).append(searched)
        path_of[id(searched)] = path
    folder.mkdir(parents=True, exist_ok=True)
    items = (_File(path.name, tuple(own), _known(path)) for path, own in files.items())
    made = zip(files, workers.map(_Read(statistics), items, reader), strict=True)
    written: set[Path] = set()
    for searched in every:
        wanted = path_of.get(id(searched))
        while wanted is not None and wanted not in written:
            path, data = next(made)
            keep_table(path, data)
            written.add(path)
        yield searched


def _known(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
