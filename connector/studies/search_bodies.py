"""Search requests at random: what clients send to a cluster, over one small index, the same for the same seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

__all__ = ["INDEX", "NORMALIZATION", "Searched", "documents", "mapping", "searches"]

INDEX = "rh-replay"
NORMALIZATION = "rh-replay-normalization"
"""A search pipeline that normalizes hybrid queries; OpenSearch only."""

_VOCABULARY = (
    "cats sleep long hours day night kittens older animals rest dogs bark bread flour yeast oven bridge steel river "
    "commit branch merge undo train station ticket price garden rose water light window stone paper ink letter"
)
_WORDS = _VOCABULARY.split()
_KINDS = ("news", "wiki", "forum", "manual")
_COUNT = 60
_DIMENSIONS = 4

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Searched:
    """One request.

    Attributes:
        searches: index and body of each; more than one, or ``many``: an ``_msearch``.
        parameters: of the URL.
        many: sent to ``_msearch``.
    """

    searches: tuple[tuple[str, Body], ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    many: bool = False

    @property
    def path(self) -> str:
        """Where it is sent."""
        return "/_msearch" if self.many else f"/{self.searches[0][0]}/_search"

    def content(self) -> bytes:
        """The body, as it is sent."""
        if not self.many:
            return json.dumps(self.searches[0][1]).encode()
        lines = ({"index": index} if at % 2 == 0 else body for index, body in self.searches for at in (0, 1))
        return "".join(json.dumps(line) + "\n" for line in lines).encode()


def mapping(kind: str) -> Body:
    """The index's body for ``opensearch`` or ``elasticsearch``."""
    vector: Body = {"type": "dense_vector", "dims": _DIMENSIONS, "index": True, "similarity": "l2_norm"}
    settings: Body = {"number_of_shards": 2, "number_of_replicas": 0}
    if kind == "opensearch":
        method = {"name": "hnsw", "engine": "lucene", "space_type": "l2"}
        vector = {"type": "knn_vector", "dimension": _DIMENSIONS, "method": method}
        settings["index.knn"] = True
    properties = {
        "text": {"type": "text"},
        "title": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "kind": {"type": "keyword"},
        "n": {"type": "integer"},
        "price": {"type": "float"},
        "date": {"type": "date"},
        "flag": {"type": "boolean"},
        "parts": {"type": "nested", "properties": {"text": {"type": "text"}, "page": {"type": "integer"}}},
        "vector": vector,
    }
    return {"settings": settings, "mappings": {"properties": properties}}


def documents(seed: int = 0) -> Iterator[tuple[str, Body]]:
    """Ids and sources; some have no text, an empty one, or several."""
    draw = Random(seed)
    for at in range(_COUNT):
        source: Body = {
            "text": _words(draw, 4, 30),
            "title": _words(draw, 1, 4),
            "kind": draw.choice(_KINDS),
            "n": at,
            "price": draw.choice((0.5, 1.25, 3.0, 99.0)),
            "date": f"2024-{draw.randint(1, 12):02d}-{draw.randint(1, 28):02d}",
            "flag": draw.random() < 0.5,
            "parts": [{"text": _words(draw, 2, 6), "page": page} for page in range(draw.randint(0, 2))],
            "vector": [round(draw.uniform(-1, 1), 3) for _ in range(_DIMENSIONS)],
        }
        if at % 11 == 3:
            del source["text"]
        elif at % 11 == 5:
            source["text"] = ""
        elif at % 11 == 7:
            source["text"] = [_words(draw, 2, 5), _words(draw, 2, 5)]
        yield str(at), source


def searches(kind: str, count: int, seed: int = 0) -> Iterator[Searched]:
    """So many requests for ``opensearch`` or ``elasticsearch``; a few hold what the cluster refuses."""
    draw = Random(seed)
    for _ in range(count):
        if draw.random() < 0.12:
            several = (_one(draw, kind) for _ in range(draw.randint(1, 4)))
            found = tuple(("rh-replay-none" if draw.random() < 0.05 else INDEX, body) for body, _ in several)
            yield Searched(
                found, _pick(draw, {"typed_keys": "true", "rest_total_hits_as_int": "true"}, 0.1), many=True
            )
        else:
            body, parameters = _one(draw, kind)
            yield Searched(((INDEX, body),), parameters)


def _one(draw: Random, kind: str) -> tuple[Body, dict[str, str]]:
    """Body and URL parameters of one search."""
    body: Body = {}
    parameters = _parameters(draw)
    first = draw.random()
    if kind == "opensearch" and first < 0.08:
        body["query"] = {"hybrid": {"queries": [_words_query(draw), _clause(draw, kind, 1)]}}
        if draw.random() < 0.8:
            parameters["search_pipeline"] = NORMALIZATION
        if draw.random() < 0.6:
            body["query"]["hybrid"]["pagination_depth"] = 40
    elif kind == "elasticsearch" and first < 0.06:
        body["knn"] = {"field": "vector", "query_vector": _vector(draw), "k": 8, "num_candidates": 20}
        if draw.random() < 0.7:
            body["query"] = _words_query(draw)
    elif kind == "elasticsearch" and first < 0.14:
        standard: Body = {"query": _clause(draw, kind, 1), **_pick(draw, {"min_score": 0.1}, 0.2)}
        body["retriever"] = {"standard": standard}
    elif first < 0.96:
        body["query"] = _clause(draw, kind, 2)
    for name, make in _OPTIONS.items():
        if draw.random() < _SHARES.get(name, 0.05):
            body[name] = make(draw)
    if kind == "opensearch" and draw.random() < 0.05:
        # Elasticsearch refuses it, so that the gateway takes it out: nothing to compare.
        body["ext"] = {"rerank": {"query_context": {"query_text": _words(draw, 1, 4)}}}
    if kind == "opensearch" and draw.random() < 0.08:
        body["script_fields"] = {"twice": {"script": {"source": "doc['n'].value * 2"}}}
    if draw.random() < 0.03:
        body["odd_key"] = 1
    return body, parameters


def _parameters(draw: Random) -> dict[str, str]:
    known = {
        "typed_keys": "true",
        "rest_total_hits_as_int": "true",
        "preference": "same",
        "search_type": "dfs_query_then_fetch",
        "track_total_hits": draw.choice(("true", "false", "7")),
        "request_cache": "false",
        "size": str(draw.randint(0, 30)),
        "from": str(draw.choice((0, 0, 3, 15, 40))),
        "_source": draw.choice(("true", "false", "text", "kind,n")),
        "_source_excludes": "text",
        "filter_path": "hits.hits._id,hits.total",
        "q": _words(draw, 1, 3),
        "explain": "true",
        "version": "true",
        "ignore_unavailable": "true",
        "format": draw.choice(("json", "yaml")),
        "pretty": "true",
        "batched_reduce_size": "2",
        "max_concurrent_shard_requests": "3",
    }
    return _pick(draw, known, 0.03)


def _pick(draw: Random, known: Mapping[str, Any], share: float) -> dict[str, Any]:
    return {name: value for name, value in known.items() if draw.random() < share}


def _words(draw: Random, least: int, most: int) -> str:
    return " ".join(draw.choice(_WORDS) for _ in range(draw.randint(least, most)))


def _vector(draw: Random) -> list[float]:
    return [round(draw.uniform(-1, 1), 3) for _ in range(_DIMENSIONS)]


def _words_query(draw: Random) -> Body:
    text = _words(draw, 1, 5)
    forms: Sequence[Body] = (
        {"match": {"text": text}},
        {"match": {"text": {"query": text, "operator": draw.choice(("or", "and")), "fuzziness": "AUTO"}}},
        {"match": {"text": {"query": text, "minimum_should_match": "50%", "boost": 2.0}}},
        {"multi_match": {"query": text, "fields": ["title^3", "text"], "type": draw.choice(_MULTI)}},
        {"query_string": {"query": f"{text} AND kind:{draw.choice(_KINDS)}", "default_field": "text"}},
        {"simple_query_string": {"query": f'"{text}" | {_words(draw, 1, 2)}', "fields": ["text", "title"]}},
        {"match_phrase": {"text": {"query": _words(draw, 1, 2), "slop": 3}}},
        {"match_bool_prefix": {"title": text[:-1]}},
    )
    return draw.choice(forms)


_MULTI = ("best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix")


def _filter(draw: Random) -> Body:
    forms: Sequence[Body] = (
        {"term": {"kind": draw.choice(_KINDS)}},
        {"terms": {"kind": list(_KINDS[:2])}},
        {"range": {"n": {"gte": draw.randint(0, 30)}}},
        {"range": {"date": {"lt": "2024-07-01"}}},
        {"exists": {"field": "text"}},
        {"ids": {"values": [str(draw.randint(0, 70)) for _ in range(8)]}},
        {"prefix": {"kind": "n"}},
        {"wildcard": {"kind": "*i*"}},
        {"match_all": {}},
    )
    return draw.choice(forms)


def _clause(draw: Random, kind: str, depth: int) -> Body:
    """A query; ``depth``: how many more may stand around it."""
    if depth == 0 or draw.random() < 0.4:
        return draw.choice((_words_query(draw), _words_query(draw), _words_query(draw), _filter(draw)))
    inner = _clause(draw, kind, depth - 1)
    forms: list[Body] = [
        {"bool": {"must": [inner], "filter": [_filter(draw)], "should": [_words_query(draw)]}},
        {"bool": {"should": [inner, _words_query(draw)], "must_not": [_filter(draw)], "minimum_should_match": 1}},
        {"dis_max": {"queries": [inner, _words_query(draw)], "tie_breaker": 0.3}},
        {"constant_score": {"filter": inner, "boost": 1.5}},
        {"boosting": {"positive": inner, "negative": _filter(draw), "negative_boost": 0.5}},
        {"function_score": {"query": inner, "field_value_factor": {"field": "n", "modifier": "log2p"}}},
        {"function_score": {"query": inner, "functions": [{"filter": _filter(draw), "weight": 1000}]}},
        {"nested": {"path": "parts", "query": {"match": {"parts.text": _words(draw, 1, 2)}}, "inner_hits": {}}},
        {"nested": {"path": "parts", "query": {"range": {"parts.page": {"gte": 1}}}, "score_mode": "max"}},
    ]
    if kind == "opensearch":
        forms.append({"knn": {"vector": {"vector": _vector(draw), "k": 6}}})
        forms.append({"script_score": {"query": inner, "script": {"source": "_score + doc['n'].value"}}})
    return draw.choice(forms)


def _aggregations(draw: Random) -> Body:
    known: Body = {
        "kinds": {"terms": {"field": "kind"}, "aggs": {"mean": {"avg": {"field": "price"}}}},
        "months": {"date_histogram": {"field": "date", "calendar_interval": "month", "min_doc_count": 1}},
        "best": {"top_hits": {"size": 2, "_source": ["kind"]}},
        "cheap": {"filter": {"range": {"price": {"lt": 2}}}, "aggs": {"n": {"stats": {"field": "n"}}}},
        "all": {"global": {}, "aggs": {"count": {"value_count": {"field": "n"}}}},
        "different": {"cardinality": {"field": "kind"}},
        "spread": {"percentiles": {"field": "price"}},
        "ranges": {"range": {"field": "n", "ranges": [{"to": 20}, {"from": 20}]}},
        "missing": {"missing": {"field": "title.raw"}},
        "pages": {"nested": {"path": "parts"}, "aggs": {"most": {"max": {"field": "parts.page"}}}},
    }
    return {name: known[name] for name in draw.sample(sorted(known), draw.randint(1, 3))}


def _sort(draw: Random) -> list[Any]:
    by_score: list[Any] = ["_score"]
    by_field: list[Any] = [{draw.choice(("n", "price", "date")): {"order": draw.choice(("asc", "desc"))}}, "_score"]
    return draw.choice((by_score, by_field, [{"_score": "desc"}, {"n": "asc"}], [{"_score": {"order": "asc"}}]))


def _source(draw: Random) -> Any:
    includes: Body = {"includes": ["te*", "n"], "excludes": ["title"]}
    return draw.choice((True, False, "text", ["kind", "n"], includes, {"excludes": ["text"]}, []))


def _highlight(draw: Random) -> Body:
    return {
        "fields": {draw.choice(("text", "title", "*")): {"fragment_size": 40}},
        "pre_tags": ["<b>"],
        "post_tags": ["</b>"],
    }


def _rescore(draw: Random) -> Body:
    weights = {"query_weight": 0.7, "rescore_query_weight": 1.2}
    return {"window_size": 20, "query": {"rescore_query": _words_query(draw), **weights}}


_OPTIONS: Mapping[str, Callable[[Random], Any]] = {
    "size": lambda draw: draw.choice((0, 1, 3, 5, 10, 12, 20, 30, 70)),
    "from": lambda draw: draw.choice((0, 2, 8, 11, 12, 18, 25, 59, 80)),
    "aggs": _aggregations,
    "sort": _sort,
    "highlight": _highlight,
    "collapse": lambda draw: {"field": "kind", "inner_hits": {"name": "more", "size": 2}},
    "rescore": _rescore,
    "post_filter": _filter,
    "track_total_hits": lambda draw: draw.choice((True, False, 5, 1000)),
    "track_scores": lambda draw: True,
    "_source": _source,
    "fields": lambda draw: ["kind", {"field": "date", "format": "yyyy"}],
    "docvalue_fields": lambda draw: ["n"],
    "stored_fields": lambda draw: draw.choice((["_none_"], ["*"], [])),
    "explain": lambda draw: True,
    "version": lambda draw: True,
    "seq_no_primary_term": lambda draw: True,
    "min_score": lambda draw: draw.choice((0.5, 2.0)),
    "timeout": lambda draw: "30s",
    "profile": lambda draw: True,
    "suggest": lambda draw: {"near": {"text": _words(draw, 1, 2)[:-1], "term": {"field": "text"}}},
    "search_after": lambda draw: [1.5],
    "indices_boost": lambda draw: [{INDEX: 1.5}],
    "slice": lambda draw: {"id": 0, "max": 2},
}
_SHARES = {"size": 0.6, "from": 0.35, "aggs": 0.3, "_source": 0.25, "highlight": 0.15, "sort": 0.12}
_SHARES |= {"search_after": 0.01, "slice": 0.01, "profile": 0.03}
