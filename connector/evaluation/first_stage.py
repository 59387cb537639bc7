"""The first stage of a collection: a run that is given, or a search of the embedded engine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from connector.documents import Hit
from connector.engines.engine import Engine
from connector.engines.open_engine import open_engine
from connector.errors import DataError, EngineError
from connector.evaluation.collections import Collection
from connector.evaluation.runs import Run, RunEntry
from connector.sections import CLUSTER_KINDS, Settings
from connector.storage_faults import storage_mend

__all__ = ["first_stage", "indexed_first_stage", "open_collection_engine"]

_INDEX = "corpus"


def first_stage(
    collection: Collection, window: int, *, run: Run | None = None, engine: Engine | None = None
) -> dict[str, list[Hit]]:
    """The first ``window`` hits of every query of the collection, excluded pairs dropped before the cut.

    Args:
        collection: its queries decide which keys the result has; a query without hits has an empty list.
        window: most hits of a query.
        run: rankings by document id; the fields come from the collection's corpus.
        engine: searched where no run is given; holds the collection's documents under their ids.

    Raises:
        DataError: a document of the run is not in the corpus; neither a run nor an engine is given.
        EngineError: the search failed.
    """
    if run is not None:
        return _from_run(collection, window, run)
    if engine is None:
        raise DataError("there is no first stage; give a run or an engine")
    hits = {}
    for query, text in collection.queries.items():
        excluded = sum(1 for pair in collection.excluded if pair[0] == query)
        found = engine.search(text, window + excluded)
        hits[query] = [hit for hit in found if (query, hit.id) not in collection.excluded][:window]
    return hits


def indexed_first_stage(
    collection: Collection, settings: Settings, say: Callable[[str], None], *, run: Run | None = None
) -> dict[str, list[Hit]]:
    """The same of a collection whose documents stand in the settings' own index.

    Args:
        collection: of a judged file; what it says was shown is the first stage where no run is given.
        settings: the index, and the window.
        say: told of documents that are no more in the index.
        run: rankings by document id.

    Raises:
        DataError: no document that was judged is in the index.
        EngineError: the index is empty, or cannot be searched.
    """
    window, index = settings.rerank.window, settings.engine.index
    if run is None and collection.shown:
        run = {query: [RunEntry(own, 0.0) for own in ids] for query, ids in collection.shown.items()}
    ranked = {query: list((run or {}).get(query, ()))[:window] for query in collection.queries}
    judged = {identity for grades in collection.qrels.values() for identity in grades}
    with open_engine(settings) as engine:
        if not engine.count():
            # Counting a missing embedded index gives 0; getting from it says that it is missing.
            engine.get(())
            raise EngineError(
                f"the index {index} holds no documents; put those of {collection.path.name} in with: "
                f"rh-connector index FILE"
            )
        wanted = judged | {entry.id for entries in ranked.values() for entry in entries}
        found = engine.get(sorted(wanted))
        gone = sorted(wanted - found.keys())
        if not judged & found.keys():
            raise DataError(
                f"{collection.path}: none of its right documents is in the index {index} (the first is "
                f"'{min(judged)}'); give the ids of that index, or set engine.index"
            )
        if gone:
            say(f"{len(gone)} of {len(wanted)} documents are not in the index {index}, the first is {gone[0]}")
        if run is None:
            return first_stage(collection, window, engine=engine)
    # Of what was shown, places are all that is known.
    return {
        query: [
            Hit(own.id, None if collection.shown else own.score, found[own.id].fields)
            for own in entries
            if own.id in found
        ]
        for query, entries in ranked.items()
    }


def open_collection_engine(collection: Collection, settings: Settings) -> Engine:
    """The configured cluster, whose index must hold the collection; or else the embedded engine over its documents.

    The embedded one is indexed on the first call and kept in the cache folder. It is found again by the content of
    ``corpus.jsonl``, so a changed corpus is indexed anew.

    Raises:
        DataError: the corpus or the embedding model cannot be read.
        EngineError: the index cannot be made.
    """
    if settings.engine.kind in CLUSTER_KINDS:
        engine = open_engine(settings)
        if not engine.count():
            raise EngineError(
                f"{settings.engine.index} at {settings.engine.url} holds no documents; put the collection in with: "
                f"rh-connector index {collection.path}"
            )
        return engine
    root = settings.cache.path / "collections"
    folder = root / f"{collection.name}-{collection.corpus_hash()[:16]}"
    if settings.engine.embedder is not None:
        # One beside that of words alone. A model that says the same of its name makes it anew.
        folder = folder.with_name(f"{folder.name}-{Path(settings.engine.embedder).name}")
    if settings.engine.language is not None:
        folder = folder.with_name(f"{folder.name}-{settings.engine.language}")
    if folder.is_dir():
        try:
            return open_engine(_engine_settings(settings, folder))
        except EngineError:
            # Made by another version, or damaged: it is only a cache.
            shutil.rmtree(folder, ignore_errors=True)
    try:
        _make_index(collection, settings, folder)
    except OSError as error:
        raise EngineError(
            f"cannot keep the index of {collection.name} in {root}: {error.strerror or error}; "
            f"{storage_mend(error, 'set cache.path to another folder')}"
        ) from None
    return open_engine(_engine_settings(settings, folder))


def _make_index(collection: Collection, settings: Settings, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there when it is whole: an interrupted run leaves no half an index.
    building = Path(tempfile.mkdtemp(prefix=f"{collection.name}-", dir=folder.parent))
    try:
        engine = open_engine(_engine_settings(settings, building))
        engine.index(collection.documents())
        engine.close()
        try:
            building.rename(folder)
        except OSError:
            # Another process was first; its index is as good.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _engine_settings(settings: Settings, folder: Path) -> Settings:
    # No fields: title and text are searched as one, as the published BM25 figures of these collections are made.
    embedded = {"kind": "embedded", "url": str(folder), "index": _INDEX, "fields": ()}
    return settings.model_copy(update={"engine": settings.engine.model_copy(update=embedded)})


def _from_run(collection: Collection, window: int, run: Run) -> dict[str, list[Hit]]:
    windows: dict[str, Sequence[RunEntry]] = {
        query: [entry for entry in run.get(query, ()) if (query, entry.id) not in collection.excluded][:window]
        for query in collection.queries
    }
    documents = collection.documents_by_id({entry.id for entries in windows.values() for entry in entries})
    fields: Mapping[str, Mapping[str, object]] = {document.id: document.fields for document in documents.values()}
    for query, entries in windows.items():
        for entry in entries:
            if entry.id not in fields:
                raise DataError(
                    f"the run's document {entry.id} (query {query}) is not in {collection.path / 'corpus.jsonl'}; "
                    f"give the corpus that the run was made from"
                )
    return {
        query: [Hit(entry.id, entry.score, fields[entry.id]) for entry in entries]
        for query, entries in windows.items()
    }
