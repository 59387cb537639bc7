"""What ``train`` learns from, as it is named on the command line: FOLDER[:SPLIT][:COUNT]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from connector.documents import Document
from connector.engines.open_engine import open_engine
from connector.engines.sources import BadLine, Source
from connector.errors import DataError, SettingsError
from connector.sections import Settings
from connector.training.made_queries import KINDS, Kind
from connector.training.windows import TrainWindows, judged_windows, made_windows

__all__ = ["MADE", "TrainSource", "read_source", "source_windows"]

MADE = "made"
_ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class TrainSource:
    """One source.

    Attributes:
        path: a BEIR folder, a JSONL file, or ``engine``.
        split: of the judged queries; or ``made``: queries are made of the documents.
        count: most queries; None: the command's default.
    """

    path: str
    split: str
    count: int | None = None


def read_source(text: str) -> TrainSource:
    """``FOLDER``, ``FOLDER:SPLIT``, ``FOLDER:SPLIT:COUNT``, ``FILE.jsonl:made``, ``engine:made``; the split is train
    unless given.

    Raises:
        SettingsError: it is none of these.
    """
    if text and Path(text).exists():
        return TrainSource(text, "train")
    parts = text.split(":")
    count = None
    if len(parts) > 1 and parts[-1].isdecimal():
        count = int(parts.pop())
        if count < 1:
            raise SettingsError(f"train: {text}: COUNT must be 1 or more")
    split = parts.pop() if len(parts) > 1 else "train"
    path = ":".join(parts)
    if not path or not split:
        raise SettingsError(
            f"train: '{text}' is no source; give FOLDER, FOLDER:SPLIT, FOLDER:SPLIT:COUNT, or {_ENGINE}:{MADE}"
        )
    if path == _ENGINE and split != MADE:
        raise SettingsError(
            f"train: {text}: the engine has documents only; give {_ENGINE}:{MADE}, or --queries-file and --qrels-file"
        )
    return TrainSource(path, split, count)


def source_windows(
    source: TrainSource, queries: int, settings: Settings, seed: int, kinds: Sequence[Kind] = KINDS
) -> TrainWindows:
    """The train queries of a source, with their windows.

    Raises:
        DataError, EngineError: see ``judged_windows`` and ``made_windows``.
    """
    count = source.count or queries
    if source.split != MADE:
        return judged_windows(source.path, source.split, count, settings, seed)
    if source.path == _ENGINE:
        with open_engine(settings) as engine:
            # A missing embedded index has no documents; asked for some of them, it says that it is missing.
            engine.get(())
            documents = list(engine.documents())
        return made_windows(
            documents,
            settings.engine.index,
            count,
            settings,
            seed,
            kinds=kinds,
            fields=tuple(settings.engine.field_weights()),
        )
    path = Path(source.path)
    name = path.resolve().name.removesuffix(".gz").removesuffix(".jsonl")
    fields = ("title", "text") if path.is_dir() else ()
    return made_windows(_documents(path), name, count, settings, seed, kinds=kinds, fields=fields)


def _documents(path: Path) -> list[Document]:
    found: dict[str, Document] = {}
    bad: list[BadLine] = []
    for _, document in Source(str(path)).documents(bad.append):
        found[document.id] = document
    if not found:
        raise DataError(f"{path} holds no document" + (f"; {bad[0]}" if bad else ""))
    return list(found.values())
