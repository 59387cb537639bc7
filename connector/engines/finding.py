"""What a query finds in a tantivy index: by words, or by words and vectors together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tantivy

from connector.documents import Hit
from connector.embedding.hybrid import depth_for, fused
from connector.engines.vectors import Vectors

__all__ = ["VECTOR_FIELD", "by_both", "by_words", "stored", "vector_key"]

VECTOR_FIELD = "vector"
"""Holds the key of a document's vector, in an index that has vectors."""
# Further hits that are looked at where scores are equal at the cut.
_MOST_TIES = 10_000


def by_words(searcher: Any, query: tantivy.Query, size: int) -> list[Hit]:
    """The best hits by BM25, best first, equal scores by id."""
    best = _read(searcher, _best_by_words(searcher, query, size))
    hits = [Hit(identity, score, fields) for score, made in best for identity, fields in [stored(made)]]
    return sorted(hits, key=lambda hit: (-(hit.score or 0.0), hit.id))[:size]


def by_both(
    searcher: Any, schema: tantivy.Schema, words: tantivy.Query | None, vectors: Vectors, query: str, size: int
) -> list[Hit]:
    """The best hits by words and vectors, best first, equal scores by id. What one found has the other's score too.

    Args:
        searcher: of the index.
        schema: of the index.
        words: the query as tantivy has it; None where it has no searchable word.
        vectors: of the same documents.
        query: the same in plain words.
        size: most hits.

    Raises:
        EngineError: the vectors cannot be read.
    """
    # After the documents: it is never the older one.
    vectors.refresh()
    documents, depth = int(searcher.num_docs), depth_for(size)
    vectors.check_count(documents)
    first = [] if words is None else _best_by_words(searcher, words, depth)
    found = {str(made.get_first("id")): (score, made) for score, made in _read(searcher, first)}
    asked = vectors.embed(query)
    # Some may belong to no document any more.
    idle = vectors.count() - documents
    near = _best(lambda limit: vectors.nearest(asked, limit), vectors.count(), depth + idle)
    new = {key for _, key in near} - {vector_key(made) for _, made in found.values()}
    if new:
        there = tantivy.Query.term_set_query(schema, VECTOR_FIELD, list(new))
        for _, made in _read(searcher, searcher.search(there, len(new)).hits):
            found[str(made.get_first("id"))] = (0.0, made)
        if words is not None:
            within = tantivy.Query.const_score_query(there, 0.0)
            both = tantivy.Query.boolean_query([(tantivy.Occur.Must, words), (tantivy.Occur.Must, within)])
            for score, made in _read(searcher, _by_score(searcher, both, len(new))):
                found[str(made.get_first("id"))] = (score, made)
    cosines = {identity: vectors.cosine(asked, vector_key(made)) for identity, (_, made) in found.items()}
    lowest = min((cosine for cosine in cosines.values() if cosine is not None), default=0.0)
    ranked = fused(
        {identity: score for identity, (score, _) in found.items()},
        {identity: lowest if cosine is None else cosine for identity, cosine in cosines.items()},
    )
    return [Hit(identity, score, stored(found[identity][1])[1]) for identity, score in ranked[:size]]


def stored(document: tantivy.Document) -> tuple[str, dict[str, Any]]:
    """Id and fields."""
    source: Any = document.get_first("source")
    return str(document.get_first("id")), json.loads(bytes(source))


def vector_key(document: tantivy.Document) -> int:
    """Key of its vector."""
    key: Any = document.get_first(VECTOR_FIELD)
    return int(key)


def _by_score(searcher: Any, query: tantivy.Query, limit: int) -> list[tuple[float, Any]]:
    # Sums of float32 differ in the last digit with the order of summing: equal scores shall be equal.
    return [(float(f"{score:.6g}"), address) for score, address in searcher.search(query, limit).hits]


def _best_by_words(searcher: Any, query: tantivy.Query, size: int) -> list[tuple[float, Any]]:
    return _best(lambda limit: _by_score(searcher, query, limit), max(int(searcher.num_docs), 1), size)


def _best(search: Callable[[int], list[tuple[float, Any]]], there: int, size: int) -> list[tuple[float, Any]]:
    """The best hits, and all that are as good as the last of them: which are left out depends on segments.

    Args:
        search: so many of the best, as score and hit, best first.
        there: how many there are in all.
        size: how many are wanted.
    """
    wanted, limit = min(size, there), min(size + 16, there)
    while True:
        found = search(limit)
        if len(found) < limit or limit == there or found[-1][0] < found[wanted - 1][0]:
            break
        if limit >= wanted + _MOST_TIES:
            break
        limit = min(2 * limit, wanted + _MOST_TIES, there)
    last = found[wanted - 1][0] if len(found) >= wanted > 0 else -math.inf
    return [hit for hit in found if hit[0] >= last]


def _read(searcher: Any, hits: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, tantivy.Document]]:
    for score, address in hits:
        yield score, searcher.doc(address)
