"""The train queries of all sources with their head statistics, gathered or taken from disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.backbone.reader import Reader
from connector.errors import DataError, SettingsError
from connector.evaluation.progress import Progress
from connector.offline.gathering import HeadScores, read_by
from connector.offline.workers import Workers
from connector.sections import Settings
from connector.statistics.head_tables import gather, statistics_folder
from connector.training.sources import TrainSource, source_windows
from connector.training.static_heads import TrainQuery
from connector.training.windows import TrainWindows

__all__ = ["Gathered", "gather_tables", "merge_tables"]


@dataclass(frozen=True)
class Gathered:
    """What there is to train on.

    Attributes:
        queries: train queries with a relevant document in their window.
        used: of each source its name, the queries that were drawn, and those that are used.
    """

    queries: list[TrainQuery]
    used: list[dict[str, Any]]


def gather_tables(
    settings: Settings,
    reader: Reader,
    sources: Sequence[TrainSource],
    queries: int,
    seed: int,
    progress: Progress,
    *,
    layers: int | None = None,
    for_router: bool = False,
    shard: tuple[int, int] = (0, 1),
    more: Sequence[TrainWindows] = (),
    workers: Workers | None = None,
) -> Gathered:
    """Gather (or take from disk) the tables of all sources.

    Args:
        settings, reader: the window, the cache folder; the LLM.
        sources: what the queries come from.
        queries, seed: of each source that names no count; of drawing and making them.
        progress: told what it will cost, and how far it is.
        layers: heads of the first so many layers only.
        for_router: also the other wording and the query embeddings.
        shard: (i, n): only every n-th query from the i-th on.
        more: train queries that are there already.
        workers: read the windows, with the same numbers; None: the reader does.

    Raises:
        DataError, EngineError: see ``source_windows``.
        BackboneError: the LLM failed.
    """
    folder = statistics_folder(settings.cache.path, reader)
    taken = [source_windows(source, queries, settings, seed) for source in sources] + list(more)
    for own in taken:
        progress.say(own.told())
    numbered = [(own, searched) for own in taken for searched in own.windows][shard[0] :: shard[1]]
    options: dict[str, Any] = {"layers": layers, "other_wording": for_router, "embed": for_router}
    kept = {id(own): HeadScores(tuple(own.fields), **options) for own in taken}
    unread = {id(searched) for own in taken for searched, _ in kept[id(own)].unread(reader, own.windows, folder)}
    to_read = [searched for _, searched in numbered if id(searched) in unread]
    if to_read:
        texts = [str(value) for searched in to_read for hit in searched.hits for value in hit.fields.values()]
        seconds = reader.seconds_to_encode(texts, layers)
        documents = sum(len(searched.hits) for searched in to_read)
        progress.say(reading_cost(len(numbered), documents, seconds, folder))
    else:
        progress.say(f"{len(numbered)} train queries; the head scores of all are on disk.")
    found: list[TrainQuery] = []
    for own in taken:
        searches = [searched for source, searched in numbered if source is own]
        windows = read_by(workers, kept[id(own)], reader, searches, folder)
        tables = gather(reader, windows, folder, own.fields, **options)
        for table in progress.track(f"head scores, {own.source}", tables, len(searches)):
            query = TrainQuery.of(_collection(own.source), table, table.qrels)
            if query is not None:
                found.append(query)
    return Gathered(
        found,
        [
            {"source": own.source, "drawn": own.drawn, "used": len(own.windows), "left out": dict(own.left_out)}
            for own in taken
        ],
    )


def reading_cost(queries: int, documents: int, seconds: float, folder: Path, size: int | None = None) -> str:
    """What is said before documents are read.

    Args:
        queries: train queries in all.
        documents: to be read.
        seconds: about how long that takes, from a rate that was measured here.
        folder: where what they show is kept.
        size: bytes that it takes there; None: not known.
    """
    takes = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{max(seconds, 1):.0f} s"
    disk = "" if size is None else f", and {max(size / 1e6, 0.1):.1f} MB of disk"
    return (
        f"{queries} train queries; {documents} documents are to be read: about {takes}, as measured here{disk} in "
        f"{folder}. A stopped run goes on where it was."
    )


def merge_tables(folders: Sequence[Path], target: Path, progress: Progress) -> None:
    """Copy tables that were gathered elsewhere; those that are here already stay.

    Args:
        folders: statistics folders of shards, or what holds one of the target's name.
        target: ``statistics_folder`` of the reader.
        progress: told how many were new.

    Raises:
        SettingsError: a folder does not exist.
        DataError: it holds no tables.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"train: --merge {folder}: there is no such folder; give one with .npz files")
        files = sorted(folder.glob("*.npz")) or sorted((folder / target.name).glob("*.npz"))
        if not files:
            raise DataError(f"{folder} holds no head scores (.npz); give the statistics folder of a shard")
        target.mkdir(parents=True, exist_ok=True)
        new = [file for file in files if not (target / file.name).exists()]
        for file in new:
            shutil.copy2(file, target / file.name)
        progress.say(f"{len(new)} of {len(files)} tables were new in {folder}")


def _collection(source: str) -> str:
    """Judged splits of one collection are one source; queries made of its documents are another."""
    name, _, split = source.rpartition(":")
    return f"{name}:made" if split == "made" else name
