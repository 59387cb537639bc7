"""What a search looks for, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connector.documents import clean_text
from connector.service.gateway.parsing.query_string import words_of_query_string, words_of_simple_query_string

__all__ = ["query_text"]

_DEEPEST = 40
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
_BY_KEY: Mapping[str, str] = {"multi_match": "query", "combined_fields": "query", "semantic": "query"}
# Clauses that hold further clauses, and the names that hold those. What only filters or must not match says nothing
# about relevance.
_INSIDE: Mapping[str, tuple[str, ...]] = {
    "bool": ("must", "should"),
    "hybrid": ("queries",),
    "dis_max": ("queries",),
    "constant_score": ("filter",),
    "function_score": ("query",),
    "script_score": ("query",),
    "boosting": ("positive",),
    "nested": ("query",),
    "has_child": ("query",),
    "has_parent": ("query",),
    "pinned": ("organic",),
    "rule": ("organic",),
}
_RETRIEVERS: Mapping[str, tuple[str, ...]] = {
    "rrf": ("retrievers",),
    "linear": ("retrievers",),
    "text_similarity_reranker": ("retriever",),
    "rescorer": ("retriever",),
    "rule": ("retriever",),
    "pinned": ("retriever",),
    "diversify": ("retriever",),
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
    texts = [*_of_clause(body.get("query"), 0), *_of_retriever(body.get("retriever"), 0)]
    for search in _each(body.get("sub_searches")):
        texts += _of_clause(search.get("query"), 0)
    for search in _each(body.get("knn")):
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


def _of_clause(clause: Any, depth: int) -> Iterator[str]:
    if not isinstance(clause, Mapping) or depth > _DEEPEST:
        return
    for kind, inner in clause.items():
        if not isinstance(inner, Mapping):
            continue
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
        elif kind == "sparse_vector" and isinstance(inner.get("query"), str):
            yield inner["query"]
        elif kind == "knn":
            yield from _of_vector_builder(inner)
        for name in _INSIDE.get(kind, ()):
            for further in _each(inner.get(name)):
                yield from _of_clause(further, depth + 1)


def _of_retriever(retriever: Any, depth: int) -> Iterator[str]:
    if not isinstance(retriever, Mapping) or depth > _DEEPEST:
        return
    for kind, inner in retriever.items():
        if not isinstance(inner, Mapping):
            continue
        if kind == "standard":
            yield from _of_clause(inner.get("query"), depth + 1)
        elif kind == "knn":
            yield from _of_vector_builder(inner)
        elif isinstance(inner.get("query"), str):
            yield inner["query"]
        elif isinstance(inner.get("inference_text"), str):
            yield inner["inference_text"]
        for name in _RETRIEVERS.get(kind, ()):
            for further in _each(inner.get(name)):
                # The linear retriever wraps each of its retrievers in an object with a weight.
                yield from _of_retriever(further.get("retriever", further), depth + 1)


def _of_vector_builder(search: Mapping[str, Any]) -> Iterator[str]:
    builder = search.get("query_vector_builder")
    embedding = builder.get("text_embedding") if isinstance(builder, Mapping) else None
    if isinstance(embedding, Mapping) and isinstance(embedding.get("model_text"), str):
        yield embedding["model_text"]


def _each(value: Any) -> list[Mapping[str, Any]]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, Mapping)]
