"""Hidden states of judged train queries behind a few documents each: what the studies of signals work from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from connector.backbone.reader import Reader
from connector.evaluation.progress import Progress
from connector.heads.needs import Needs
from connector.sections import Settings
from connector.settings import load_settings
from connector.statistics.head_tables import SearchedQuery, statistics_folder
from connector.statistics.signal_tables import SignalTable, gather_signals
from connector.training.train_signals import probe_layers
from connector.training.windows import judged_windows, short_windows, without_one_grade

__all__ = ["FIELDS", "StudyQuery", "searched_queries", "study_queries", "study_settings", "study_tables"]

FIELDS = ("title", "text")
_ALL = 1_000_000
# Collections are small, and their documents are read for many queries.
_MEMORY_MB = "1500"


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """A judged query.

    Attributes:
        table: its states behind each document.
        own: float32 [layers, hidden]: states of the query without a document, mean of its tokens.
    """

    table: SignalTable
    own: npt.NDArray[np.float32]


def study_settings(tokens: int, assignments: Sequence[str] = ()) -> Settings:
    """Of the layout ``solo``, with the first so many tokens of each document.

    Args:
        tokens: of a document.
        assignments: KEY=VALUE of more settings.
    """
    own = {
        "backbone.layout": "solo",
        "backbone.max_document_tokens": str(tokens),
        "backbone.max_passages": "1",
        "cache.memory_mb": _MEMORY_MB,
    }
    given = dict(each.split("=", 1) for each in assignments)
    return load_settings("/dev/null", {**own, **given}, environment={})


def searched_queries(folder: Path, most: int, settings: Settings, seed: int = 0) -> list[SearchedQuery]:
    """Judged queries of a collection, each with at most 2 relevant documents and 6 others of its window.

    Args:
        folder: a BEIR folder whose queries were never tested on.
        most: queries.
        settings: the window.
        seed: of the queries and documents that are drawn.

    Raises:
        DataError: see ``judged_windows``.
    """
    windows = without_one_grade(judged_windows(folder, "test", _ALL, settings, seed))
    return [window.searched for window in short_windows(windows, most, seed)]


def study_tables(
    reader: Reader,
    folders: Sequence[Path],
    most: int,
    settings: Settings,
    needs: Needs,
    progress: Progress,
    seed: int = 0,
) -> Iterator[SignalTable]:
    """What an LLM sees of ``searched_queries``, kept and taken up again.

    Args:
        reader: the settings' LLM.
        folders, most, settings, seed: see there.
        needs: what is read.
        progress: told of each collection.
    """
    kept = statistics_folder(settings.cache.path, reader)
    for folder in folders:
        searched = searched_queries(folder, most, settings, seed)
        progress.say(f"{settings.backbone.model}, {folder.name}: {len(searched)} queries")
        tracked = progress.track(folder.name, searched, len(searched))
        yield from gather_signals(reader, tracked, kept, needs, FIELDS)
        reader.clear_cache()


def study_queries(
    reader: Reader, folders: Sequence[Path], most: int, settings: Settings, progress: Progress, seed: int = 0
) -> Iterator[StudyQuery]:
    """States of ``searched_queries``, and of each query alone.

    Args:
        reader: the settings' LLM.
        folders, most, settings, seed: see there.
        progress: told of each collection.
    """
    layers = probe_layers(reader.runtime.shape.layers)
    needs = Needs(groups=(), layers=layers)
    for table in study_tables(reader, folders, most, settings, needs, progress, seed):
        # The first of the poolings: the mean.
        yield StudyQuery(table, reader.embed(table.query, layers)[:, 0])
