"""Head statistics of train queries, with what they cost told before they are gathered."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from connector.backbone.reader import Reader
from connector.cli.progress import progress
from connector.settings import Settings
from connector.training.sources import TrainSource, source_windows
from connector.training.static_heads import TrainQuery
from connector.training.windows import TrainWindows

__all__ = ["portable", "tables_of"]


def tables_of(
    settings: Settings,
    reader: Reader,
    sources: Sequence[TrainSource],
    queries: int,
    seed: int,
    console: Console,
    *,
    layers: int | None = None,
    for_router: bool = False,
    shard: tuple[int, int] = (0, 1),
    more: Sequence[TrainWindows] = (),
) -> tuple[list[TrainQuery], list[dict[str, Any]]]:
    """Gather (or take from disk) the tables of all sources.

    Args:
        settings, reader: the window, the cache folder; the LLM.
        sources: what the queries come from.
        queries, seed: of each source that names no count; of drawing and making them.
        console: for progress.
        layers: heads of the first so many layers only.
        for_router: also the other wording and the query embeddings.
        shard: (i, n): only every n-th query from the i-th on.
        more: windows that are there already.

    Returns:
        The train queries, and what was used of each source.
    """
    from connector.evaluation.head_tables import gather, missing, statistics_folder

    folder = statistics_folder(settings.cache.path, reader)
    taken = [source_windows(source, queries, settings, seed) for source in sources] + list(more)
    numbered = [(own, window) for own in taken for window in own.windows][shard[0] :: shard[1]]
    options: dict[str, Any] = {"layers": layers, "other_wording": for_router, "embed": for_router}
    open_windows = {
        id(window) for own in taken for window in missing(reader, own.windows, folder, own.fields, **options)
    }
    to_read = [window for _, window in numbered if id(window) in open_windows]
    if to_read:
        texts = [str(value) for window in to_read for hit in window.hits for value in hit.fields.values()]
        seconds = reader.seconds_to_encode(texts, layers)
        console.print(
            f"{len(numbered)} train queries; {len(to_read)} windows are still to be read, about "
            f"{max(seconds / 60, 1):.0f} minutes here. A stopped run goes on where it was.",
            markup=False,
        )
    else:
        console.print(f"{len(numbered)} train queries; the head scores of all are on disk.", markup=False)
    found: list[TrainQuery] = []
    for own in taken:
        windows = [window for source, window in numbered if source is own]
        tables = gather(reader, windows, folder, own.fields, **options)
        for table in progress(console, f"head scores, {own.source}", tables, len(windows)):
            query = TrainQuery.of(_collection(own.source), table, table.qrels)
            if query is not None:
                found.append(query)
    used = [{"source": own.source, "drawn": own.drawn, "used": len(own.windows)} for own in taken]
    return found, used


def _collection(source: str) -> str:
    """Judged splits of one collection are one source; queries made of its documents are another."""
    name, _, split = source.rpartition(":")
    return f"{name}:made" if split == "made" else name


def portable() -> str:
    """The command line as it was typed, but for folders: of paths the last part only."""
    return " ".join(["rh-connector", *(_last(word) for word in sys.argv[1:])])


def _last(word: str) -> str:
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if "/" in value else word
