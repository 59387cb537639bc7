"""The clauses of a search that score its hits, and what of it is no relevance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connector.engines.cluster.retrievers import Named, each, retrievers, walk
from connector.heads.pins import BOOSTED

__all__ = ["clauses", "diversifies", "has_boosts"]

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
# Score the same for all that they match, so that a boost of them is no relevance.
_ALL_ALIKE = frozenset(["constant_score", "ids", "term", "terms", "exists", "range", "prefix", "wildcard"])
_PINNING = frozenset(["pinned", "rule"])


def clauses(clause: Any) -> Iterator[Named]:
    """A query's clauses that score, by name, each before those inside it."""
    return walk(clause, _INSIDE)


def has_boosts(body: Mapping[str, Any]) -> bool:
    """Whether a search says itself that some hits come first whatever their words are."""
    found = list(retrievers(body.get("retriever")))
    if any(kind in _PINNING for kind, _ in found):
        return True
    queries = [body.get("query"), *(inner.get("query") for kind, inner in found if kind == "standard")]
    queries += [search.get("query") for search in each(body.get("sub_searches"))]
    return any(_is_boost(kind, inner) for query in queries for kind, inner in clauses(query))


def diversifies(body: Mapping[str, Any]) -> str | None:
    """The name of what orders a search's hits so that they differ; None: nothing does."""
    ext = body.get("ext")
    if isinstance(ext, Mapping) and ext.get("mmr") is not None:
        return "ext.mmr"
    for kind, _ in retrievers(body.get("retriever")):
        if kind == "diversify":
            return kind
        if kind not in _PINNING:
            # It orders anew what the retrievers inside it found.
            break
    return None


def _is_boost(kind: str, inner: Mapping[str, Any]) -> bool:
    if kind == "function_score":
        return any(_is_large(function.get("weight")) for function in [inner, *each(inner.get("functions"))])
    if kind in _ALL_ALIKE:
        # {"term": {"shop": {"value": "ours", "boost": 10}}} or {"ids": {"values": ["1"], "boost": 10}}
        return any(_is_large(part.get("boost")) for part in [inner, *each(list(inner.values()))])
    return kind in _PINNING


def _is_large(value: Any) -> bool:
    return isinstance(value, int | float) and value >= BOOSTED
