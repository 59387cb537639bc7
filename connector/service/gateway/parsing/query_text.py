"""What a search looks for, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connector.documents import clean_text
from connector.engines.cluster.retrievers import each, retrievers
from connector.service.gateway.parsing.clauses import clauses
from connector.service.gateway.parsing.query_string import words_of_query_string, words_of_simple_query_string

__all__ = ["query_text"]

# {"match": {"title": "cats"}} or {"match": {"title": {"query": "cats"}}}
_BY_FIELD: Mapping[str, str] = {
    "match": "query",
    "match_phrase": "query",
    "match_phrase_prefix": "query",
    "match_bool_prefix": "query",
    "common": "query",
    "neural": "query_text",
    "neural_sparse": "query_text",
    "text_expansion": "model_text",
}
_BY_KEY: Mapping[str, str] = {
    "multi_match": "query",
    "combined_fields": "query",
    "semantic": "query",
    "sparse_vector": "query",
    # OpenSearch: an agent makes the query of these words.
    "agentic": "query_text",
}


def query_text(body: Mapping[str, Any], q: str | None = None) -> str | None:
    """The words of a search, or None where it has none.

    ``ext.rerank`` comes first, then the parameter ``q``, then all texts in clauses that score, each once, in the
    order they are written.

    Args:
        body: the search's body.
        q: the URL parameter, which the cluster takes instead of the body's query.
    """
    told = _told(body)
    if told is not None:
        return told
    if q is not None:
        return _one([words_of_query_string(q)])
    texts = [*_of_clauses(body.get("query")), *_of_retrievers(body.get("retriever"))]
    for search in each(body.get("sub_searches")):
        texts += _of_clauses(search.get("query"))
    for search in each(body.get("knn")):
        texts += _of_vector_builder(search)
    return _one(texts)


def _one(texts: list[str]) -> str | None:
    cleaned = [" ".join(clean_text(text).split()) for text in texts]
    return " ".join(dict.fromkeys(text for text in cleaned if text)) or None


def _told(body: Mapping[str, Any]) -> str | None:
    """``ext.rerank`` as OpenSearch's rerank processors read it."""
    found: Any = body
    for name in ("ext", "rerank", "query_context"):
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    if isinstance(found.get("query_text"), str):
        return _one([found["query_text"]])
    path = found.get("query_text_path")
    if not isinstance(path, str):
        return None
    at: Any = body
    for name in path.split("."):
        if isinstance(at, list) and name.isdecimal() and int(name[:9]) < len(at):
            at = at[int(name[:9])]
        else:
            at = at.get(name) if isinstance(at, Mapping) else None
    return _one([at]) if isinstance(at, str) else None


def _of_clauses(clause: Any) -> Iterator[str]:
    for kind, inner in clauses(clause):
        if kind in _BY_FIELD:
            for value in inner.values():
                text = value.get(_BY_FIELD[kind]) if isinstance(value, Mapping) else value
                if isinstance(text, str):
                    yield text
        elif kind in _BY_KEY:
            if isinstance(inner.get(_BY_KEY[kind]), str):
                yield inner[_BY_KEY[kind]]
        elif kind == "query_string" and isinstance(inner.get("query"), str):
            yield words_of_query_string(inner["query"])
        elif kind == "simple_query_string" and isinstance(inner.get("query"), str):
            yield words_of_simple_query_string(inner["query"])
        elif kind == "knn":
            yield from _of_vector_builder(inner)


def _of_retrievers(retriever: Any) -> Iterator[str]:
    for kind, inner in retrievers(retriever):
        if kind == "standard":
            yield from _of_clauses(inner.get("query"))
        elif kind == "knn":
            yield from _of_vector_builder(inner)
        elif isinstance(inner.get("query"), str):
            yield inner["query"]
        elif isinstance(inner.get("inference_text"), str):
            yield inner["inference_text"]


def _of_vector_builder(search: Mapping[str, Any]) -> Iterator[str]:
    builder = search.get("query_vector_builder")
    embedding = builder.get("text_embedding") if isinstance(builder, Mapping) else None
    if isinstance(embedding, Mapping) and isinstance(embedding.get("model_text"), str):
        yield embedding["model_text"]
