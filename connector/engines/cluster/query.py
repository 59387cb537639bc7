"""The first-stage query in the clusters' query language."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector.errors import EngineError, SettingsError

__all__ = ["TextField", "own_query", "text_fields", "words_query"]

_TEXT_TYPES = frozenset({"text", "match_only_text", "annotated_text", "search_as_you_type"})
# Keys of a search body, as opposed to one query clause.
_BODY_KEYS = frozenset({"query", "retriever", "knn", "ext", "search_pipeline", "rescore", "min_score", "post_filter"})


@dataclass(frozen=True, slots=True)
class TextField:
    """A field with words in it, and the nested object it lies in, if any."""

    name: str
    nested: str | None = None


def text_fields(mappings: Mapping[str, Any]) -> list[TextField]:
    """Every text field of the answer to ``GET /{index}/_mapping``, each once."""
    found: dict[TextField, None] = {}
    for index in mappings.values():
        for field in _walk(index.get("mappings", {}).get("properties", {}), "", None):
            found[field] = None
    return list(found)


def _walk(properties: Mapping[str, Any], prefix: str, nested: str | None) -> Iterator[TextField]:
    for key, mapping in properties.items():
        name = f"{prefix}{key}"
        if mapping.get("type") in _TEXT_TYPES:
            yield TextField(name, nested)
        if "properties" in mapping:
            inner = name if mapping.get("type") == "nested" else nested
            yield from _walk(mapping["properties"], f"{name}.", inner)


def words_query(words: str, weights: Mapping[str, float], known: Sequence[TextField], where: str) -> dict[str, Any]:
    """Documents with any of the words: the sum over fields of each field's BM25 score times its weight.

    Args:
        words: plain text; no character is an operator.
        weights: field or object name -> weight; empty: every text field, with weight 1.
        known: the index's text fields.
        where: the index, for the error.

    Raises:
        EngineError: no weighted field is among the known ones.
    """
    chosen: dict[TextField, float] = {}
    for field in known:
        matching = [weight for name, weight in weights.items() if _is_inside(field.name, name)]
        if matching or not weights:
            chosen[field] = max(matching, default=1.0)
    if not chosen:
        there = ", ".join(sorted(field.name for field in known)) or "none"
        raise EngineError(f"engine.fields names no text field of {where}; its text fields are: {there}")
    clauses = []
    for nested in dict.fromkeys(field.nested for field in chosen):
        names = [f"{field.name}^{weight:g}" for field, weight in chosen.items() if field.nested == nested]
        clause: dict[str, Any] = {"multi_match": {"query": words, "fields": names, "type": "most_fields"}}
        if nested is not None:
            clause = {"nested": {"path": nested, "query": clause, "score_mode": "max", "ignore_unmapped": True}}
        clauses.append(clause)
    return clauses[0] if len(clauses) == 1 else {"bool": {"should": clauses}}


def _is_inside(field: str, name: str) -> bool:
    return field == name or field.startswith(f"{name}.")


def own_query(template: str, words: str) -> dict[str, Any]:
    """A search body from the user's own query: a query clause, or a body with ``query``, ``knn``, ``retriever``.

    ``{query}`` in any text of it becomes the words.

    Raises:
        SettingsError: the template is not a JSON object, or nowhere says ``{query}``.
    """
    try:
        value = json.loads(template)
    except ValueError as error:
        raise SettingsError(f"engine.query_json is not JSON: {error}") from None
    if not isinstance(value, dict) or not value:
        raise SettingsError('engine.query_json must be an object, as in {"match": {"title": "{query}"}}')
    if "{query}" not in template:
        raise SettingsError("engine.query_json nowhere says {query}, where the user's words go; put it in")
    filled = _fill(value, words)
    assert isinstance(filled, dict)
    return filled if _BODY_KEYS & filled.keys() else {"query": filled}


def _fill(value: Any, words: str) -> Any:
    if isinstance(value, str):
        return value.replace("{query}", words)
    if isinstance(value, list):
        return [_fill(inner, words) for inner in value]
    if isinstance(value, dict):
        return {key: _fill(inner, words) for key, inner in value.items()}
    return value
