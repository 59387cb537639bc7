"""What becomes of a search: reranked, with which window, or passed on as it is, and why."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector.engines.cluster.retrievers import rank_window
from connector.heads.pins import BOOSTED, TOWERING
from connector.service.gateway.parsing.clauses import diversifies, has_boosts
from connector.service.gateway.parsing.filter_paths import keeps
from connector.service.gateway.parsing.query_text import query_text

__all__ = ["PassOn", "Plan", "Rerank", "Search", "passed_parameters", "plan_search"]

_DEFAULT_SIZE = 10
_LARGEST = 2**31 - 1
# Keys with which an answer is one of several that belong together, or holds other hits than the best ones.
_KEYS_OF_OTHER_SEARCHES = ("scroll", "pit", "search_after", "collapse", "slice")
_SOURCE_PARAMETERS = ("_source", "_source_includes", "_source_excludes", "_source_include", "_source_exclude")


@dataclass(frozen=True, slots=True)
class Search:
    """One search, as it came.

    Attributes:
        index: what is searched, as the path or the header line says.
        parameters: of the URL.
        body: its members.
        preference: which copies of the shards are asked, where the caller said that elsewhere.
        header_query: the words, from the caller's header.
        filter_prefix: where hits stand in the answer, for ``filter_path``.
    """

    index: str
    parameters: Mapping[str, str]
    body: Mapping[str, Any]
    preference: str | None = None
    header_query: str | None = None
    filter_prefix: str = ""


@dataclass(frozen=True, slots=True)
class PassOn:
    """The search goes to the cluster as it is; ``preference`` is added where it is not None."""

    reason: str
    preference: str | None = None


@dataclass(frozen=True, slots=True)
class Rerank:
    """The search goes to the cluster from 0 on and larger, and its best hits are reranked.

    Attributes:
        query: the words.
        window: how many hits are reranked.
        start: first hit of the page that was asked for.
        size: hits of that page.
        ask: how many hits the cluster is asked for.
        preference: to be added to the search; None: the caller gave one.
        needs_texts: the hits will come without the documents' text, which has to be asked for apart.
        pin_times: how many times the next score that of a hit is that keeps its place: see ``pin_floor``.
        asks_twice: totals and aggregations depend on how many hits are asked for, and so have to be asked for as the
            caller does.
    """

    query: str
    window: int
    start: int
    size: int
    ask: int
    preference: str | None
    needs_texts: bool
    pin_times: float
    asks_twice: bool


Plan = PassOn | Rerank


def plan_search(search: Search, window: int, fields: Sequence[str]) -> Plan:
    """Decide.

    Args:
        search: what came.
        window: how many hits are to be reranked.
        fields: whose text is read; empty: all text fields.
    """
    obstacle = _obstacle(search)
    if obstacle is not None:
        return PassOn(obstacle)
    start = _count(search, "from", 0)
    size = _count(search, "size", _DEFAULT_SIZE)
    if start is None or size is None:
        return PassOn("from or size is no whole number from 0 up")
    if size == 0:
        return PassOn("size is 0")
    query = search.header_query or query_text(search.body, search.parameters.get("q"))
    if query is None:
        return PassOn("no query text")
    given = search.parameters.get("preference") or search.preference
    # Copies of a shard may score differently; all pages of a search have to see the same ones.
    preference = None if given else _preference(search.index, query)
    most = rank_window(search.body)
    if most is not None:
        # The cluster refuses to be asked for more, and gives no more.
        window = min(window, most)
    if start >= window:
        return PassOn(f"behind the window of {window} hits", preference)
    if most is not None and size > most:
        if "size" in search.parameters or "size" in search.body:
            return PassOn(f"size is over the rank_window_size of {most}")
        size = most
    ask = max(window, start + size)
    return Rerank(
        query=query,
        window=window,
        start=start,
        size=size,
        ask=ask if most is None else min(ask, most),
        preference=preference,
        needs_texts=_hides_source(search, fields),
        pin_times=BOOSTED if has_boosts(search.body) else TOWERING,
        asks_twice=_counts_by_size(search) and (start, size) != (0, ask),
    )


def passed_parameters(name: str) -> bool:
    """Whether a URL parameter says which hits are found, rather than what the answer tells of them."""
    return name not in _ANSWER_PARAMETERS and not name.startswith("suggest")


_ANSWER_PARAMETERS = frozenset(
    [
        *_SOURCE_PARAMETERS,
        *("from", "size", "sort", "source", "source_content_type", "stored_fields", "docvalue_fields"),
        *("explain", "version", "seq_no_primary_term", "track_total_hits", "track_scores", "filter_path", "pretty"),
        *("human", "format", "typed_keys", "rest_total_hits_as_int", "error_trace", "stats"),
    ]
)


def _obstacle(search: Search) -> str | None:
    for key in _KEYS_OF_OTHER_SEARCHES:
        if search.parameters.get(key) or search.body.get(key) is not None or _is_inside(search.body, key):
            return key
    sort = search.parameters["sort"] if "sort" in search.parameters else search.body.get("sort")
    if not _by_score(sort) or _is_inside(search.body, "sort"):
        return "sort"
    if search.parameters.get("search_type") == "scan":
        return "search_type"
    if search.parameters.get("format", "json") not in ("json", ""):
        return "format"
    if _stored_fields(search) == ["_none_"]:
        return "stored_fields"
    diversity = diversifies(search.body)
    if diversity is not None:
        return diversity
    filters = search.parameters.get("filter_path")
    # _index is needed where texts are fetched apart; that a part of _source is enough is not worth telling apart.
    wanted = ("_index", "_id", "_score", "_source")
    if filters and not all(keeps(filters, f"{search.filter_prefix}hits.hits.{name}") for name in wanted):
        return "filter_path"
    return None


def _is_inside(body: Mapping[str, Any], key: str) -> bool:
    """Elasticsearch's retrievers have some of these keys too."""
    level = [body.get("retriever")]
    for _ in range(10):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                if value.get(key) is not None:
                    return True
                inner += [value[name] for name in value if name != "query"]
            elif isinstance(value, list):
                inner += value
        level = inner
    return False


def _by_score(sort: Any) -> bool:
    if sort is None:
        return True
    keys = [key for key in sort.split(",") if key] if isinstance(sort, str) else sort
    keys = keys if isinstance(keys, list) else [keys]
    if not keys:
        return True
    if len(keys) != 1:
        return False
    key = keys[0]
    if isinstance(key, Mapping):
        order = key.get("_score") if list(key) == ["_score"] else "none"
        if isinstance(order, Mapping) and set(order) <= {"order"}:
            order = order.get("order", "desc")
        return isinstance(order, str) and order.lower() == "desc"
    return key in ("_score", "_score:desc")


def _count(search: Search, name: str, default: int) -> int | None:
    value: Any = search.parameters[name] if name in search.parameters else search.body.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        # So does the cluster.
        value = int(value[:20])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        return None
    return value


def _preference(index: str, query: str) -> str:
    return "rh-" + hashlib.sha256(f"{index}\n{query}".encode("utf-8", "replace")).hexdigest()[:16]


def _counts_by_size(search: Search) -> bool:
    """OpenSearch's hybrid query neither counts nor aggregates hits that cannot get onto the page."""
    query = search.body.get("query")
    return isinstance(query, Mapping) and "hybrid" in query


def _stored_fields(search: Search) -> list[Any] | None:
    """None: the search does not name any."""
    value: Any = search.parameters.get("stored_fields") or search.body.get("stored_fields")
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return value if isinstance(value, list) else None


def _hides_source(search: Search, fields: Sequence[str]) -> bool:
    chosen = {name: search.parameters[name] for name in _SOURCE_PARAMETERS if search.parameters.get(name)}
    if chosen:
        return not (len(chosen) == 1 and chosen.get("_source") == "true")
    source = search.body.get("_source")
    if source is None:
        # Either of the two drops it, even where it names nothing but fields of its own.
        return _stored_fields(search) is not None or bool(search.body.get("script_fields"))
    if isinstance(source, Mapping):
        if source.get("excludes") or source.get("exclude"):
            return True
        source = source.get("includes", source.get("include")) or True
    if source is True or source == "true":
        return False
    names = [source] if isinstance(source, str) else source
    if not isinstance(names, list):
        return True
    return not ("*" in names or (fields and set(fields) <= {name for name in names if isinstance(name, str)}))
