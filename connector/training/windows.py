"""Train queries with their first-stage windows: from judged collections, over an engine, or made of documents."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from connector.documents import Document, Hit, document_text
from connector.engines.engine import Engine
from connector.engines.open_engine import open_engine
from connector.errors import DataError
from connector.evaluation.collections import load_collection, read_queries
from connector.evaluation.first_stage import first_stage, open_collection_engine
from connector.evaluation.running import drawn_queries
from connector.evaluation.runs import read_qrels
from connector.sections import Settings
from connector.statistics.head_tables import SearchedQuery
from connector.training.made_queries import KINDS, Kind, MadeQuery, is_copy, make_queries, without_part

__all__ = [
    "ShortWindow",
    "TrainWindows",
    "engine_windows",
    "judged_windows",
    "made_windows",
    "short_windows",
    "without_one_grade",
]

_NOT_FOUND = "the first stage finds no relevant document"
_TOO_PLAIN = "the first stage alone finds it, far ahead of all others"
_ONE_GRADE = "all hits have the same grade"
_MOST_COPIES = 10
_PLAIN = 1.3


@dataclass(frozen=True)
class TrainWindows:
    """Train queries of one source.

    Attributes:
        source: name and split.
        drawn: queries that were drawn.
        windows: those whose window holds a relevant document; the others teach nothing.
        fields: fields of the hits that are read.
        left_out: why queries were left out -> how many.
    """

    source: str
    drawn: int
    windows: tuple[SearchedQuery, ...]
    fields: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def told(self) -> str:
        """What became of the queries, in a sentence."""
        said = f"{self.source}: {_queries(self.drawn)}, {len(self.windows)} to learn from"
        reasons = [f"{count}: {why}" for why, count in self.left_out.items() if count]
        return f"{said}; left out are {', '.join(reasons)}" if reasons else said


def judged_windows(folder: Path | str, split: str, queries: int, settings: Settings, seed: int = 0) -> TrainWindows:
    """Queries of a judged collection (a BEIR folder), searched with the embedded engine.

    Raises:
        DataError: see ``load_collection``.
        EngineError: see ``open_collection_engine``.
    """
    collection = drawn_queries(load_collection(folder, split=split), queries, seed)
    source = f"{collection.name}:{split}"
    with open_collection_engine(collection, settings) as engine:
        hits = first_stage(collection, settings.rerank.window, engine=engine)
    windows = (
        SearchedQuery(query, collection.queries[query], hits[query], collection.qrels[query], source)
        for query in hits
    )
    return _kept(source, list(windows), ("title", "text"))


class ShortWindow(NamedTuple):
    """A window, or some documents of it.

    Attributes:
        searched: the query with those documents, in first-stage order.
        others: how many documents of a lower grade than the best each of those stands for.
        whole: whether it is the whole window.
    """

    searched: SearchedQuery
    others: float
    whole: bool


def short_windows(
    windows: TrainWindows, queries: int, seed: int, best: int = 2, others: int = 6, whole: int = 0
) -> list[ShortWindow]:
    """Some of the windows, most with a few of their documents: more queries for the same work.

    Args:
        windows: judged. Those of one grade only are left out.
        queries: at most so many.
        seed: of the queries and documents that are drawn.
        best: most documents of the window's best grade.
        others: most documents of a lower grade.
        whole: the first so many keep all their documents.
    """
    drawn = random.Random(f"{seed}:{windows.source.partition(':')[0]}")
    order = list(windows.windows)
    drawn.shuffle(order)
    found: list[ShortWindow] = []
    for searched in order:
        top = max(searched.qrels.get(hit.id, 0) for hit in searched.hits)
        good = [hit for hit in searched.hits if searched.qrels.get(hit.id, 0) == top]
        rest = [hit for hit in searched.hits if searched.qrels.get(hit.id, 0) < top]
        good, few = drawn.sample(good, min(best, len(good))), drawn.sample(rest, min(others, len(rest)))
        if few:
            kept = {hit.id for hit in (*good, *few)}
            hits = [hit for hit in searched.hits if hit.id in kept]
            if len(found) < whole:
                found.append(ShortWindow(searched, 1.0, whole=True))
            else:
                found.append(ShortWindow(replace(searched, hits=hits), len(rest) / len(few), whole=False))
    return found[:queries]


def engine_windows(
    queries_path: Path, qrels_path: Path, queries: int, settings: Settings, seed: int = 0
) -> TrainWindows:
    """Queries and judgments from files, searched in the configured engine's index.

    Args:
        queries_path: JSONL with ``_id`` and ``text``.
        qrels_path: TREC or BEIR judgments.
        queries, settings, seed: how many are drawn, with which seed; the engine, its fields and the window.

    Raises:
        DataError: a file is missing or wrong, or no judged query has a text.
        EngineError: the search failed.
    """
    texts, judgments = read_queries(queries_path), read_qrels(qrels_path)
    ids = sorted(query for query, grades in judgments.items() if query in texts and max(grades.values()) > 0)
    if not ids:
        raise DataError(f"no query of {queries_path} has a relevant document in {qrels_path}; check their ids")
    if queries < len(ids):
        ids = sorted(random.Random(seed).sample(ids, queries))
    source = f"{settings.engine.index}:{queries_path.stem}"
    with open_engine(settings) as engine:
        windows = [
            SearchedQuery(
                query, texts[query], engine.search(texts[query], settings.rerank.window), judgments[query], source
            )
            for query in ids
        ]
    return _kept(source, windows, tuple(settings.engine.field_weights()))


def made_windows(
    documents: Iterable[Document],
    name: str,
    queries: int,
    settings: Settings,
    seed: int = 0,
    *,
    kinds: Sequence[Kind] = KINDS,
    fields: tuple[str, ...] = (),
) -> TrainWindows:
    """Queries made of documents, searched among these documents without what the queries were made of.

    Args:
        documents: all documents of the collection; held in memory, and indexed for the time of this call.
        name: of the collection.
        queries: most queries.
        settings: the window.
        seed: which documents and parts are drawn.
        kinds: what queries are made of.
        fields: fields that are read; empty: all text fields.

    Raises:
        DataError: no query can be made of these documents.
        EngineError: indexing failed.
    """
    everything = list(documents)
    made = make_queries(everything, queries, kinds=kinds, seed=seed)
    if not made:
        raise DataError(
            f"no queries can be made of {name}: its {len(everything)} documents have no titles, docstrings or "
            "headings, and too few sentences; give judged queries"
        )
    source = f"{name}:made"
    windows: list[SearchedQuery] = []
    # Parts of one document are taken out of that document alone; titles and docstrings out of all.
    for whole in (("title",), ("docstring",), ("heading", "sentence", "words")):
        own = [query for query in made if query.kind in whole]
        if own:
            windows.extend(_searched(everything, own, settings, source))
    place = {query.id: at for at, query in enumerate(made)}
    windows.sort(key=lambda query: place[query.query_id])
    hard = [query for query in windows if not _is_plain(query)]
    found = _kept(source, hard, fields)
    unmade = max(queries - len(made), 0)
    reasons = {_unmade(everything): unmade, _TOO_PLAIN: len(windows) - len(hard), **found.left_out}
    return replace(found, drawn=len(made) + unmade, left_out=reasons)


def _searched(
    documents: Sequence[Document], made: Sequence[MadeQuery], settings: Settings, source: str
) -> Iterator[SearchedQuery]:
    changed = {query.document.id: query.document for query in made}
    kind = made[0].kind
    with tempfile.TemporaryDirectory(prefix="rh-connector-") as folder:
        embedded = {"kind": "embedded", "url": folder, "index": "made", "fields": ()}
        own = settings.model_copy(update={"engine": settings.engine.model_copy(update=embedded)})
        with open_engine(own) as engine:
            engine.index(changed.get(document.id) or without_part(document, kind) for document in documents)
            for query in made:
                yield SearchedQuery(
                    query.id,
                    query.query,
                    _hits(engine, query, settings.rerank.window),
                    {query.document.id: 1},
                    source,
                )


def _hits(engine: Engine, query: MadeQuery, window: int) -> list[Hit]:
    # Another document that says the same is as relevant, and not marked so.
    found = engine.search(query.query, window + _MOST_COPIES)
    kept = [
        hit for hit in found if hit.id == query.document.id or not is_copy(query.query, document_text(hit.fields))
    ]
    return kept[:window]


def _is_plain(query: SearchedQuery) -> bool:
    """Whether the first stage alone finds the document, far ahead of all others: nothing is learned from that."""
    scores = [hit.score or 0.0 for hit in query.hits[:2]]
    first = bool(query.hits) and query.qrels.get(query.hits[0].id, 0) > 0
    return first and (len(scores) < 2 or scores[0] > _PLAIN * scores[1])


def _unmade(documents: Sequence[Document]) -> str:
    return f"no more could be made of the {len(documents)} documents"


def _kept(source: str, queries: Sequence[SearchedQuery], fields: tuple[str, ...]) -> TrainWindows:
    """Those whose window holds a relevant document."""
    useful = tuple(query for query in queries if any(query.qrels.get(hit.id, 0) > 0 for hit in query.hits))
    return TrainWindows(source, len(queries), useful, fields, {_NOT_FOUND: len(queries) - len(useful)})


def without_one_grade(windows: TrainWindows) -> TrainWindows:
    """Without those whose hits all have one grade: there is nothing to tell apart."""
    useful = tuple(query for query in windows.windows if len({query.qrels.get(hit.id, 0) for hit in query.hits}) > 1)
    lost = len(windows.windows) - len(useful)
    return replace(windows, windows=useful, left_out={**windows.left_out, _ONE_GRADE: lost})


def _queries(count: int) -> str:
    return "1 query" if count == 1 else f"{count} queries"
