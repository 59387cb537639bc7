"""Elasticsearch's retrievers ``standard``, ``text_similarity_reranker`` and ``linear``, after their source.

Modelled: ``TextSimilarityRankFeaturePhaseRankCoordinatorContext`` (texts in shard order, not rank order; as many
scores as texts; ``max(s, 0) + min(exp(s), 1)``), ``allow_rerank_failures``, ``rank_window_size`` not below ``size``,
``LinearRetrieverBuilder`` (weighted sum, the same hit in both lists counted together) and ``MinMaxScoreNormalizer``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Refused", "search"]

# Endpoint, query, texts -> scores.
Infer = Callable[[str, str, list[str]], list[float]]
Ranking = dict[str, float]


class Refused(Exception):
    """An error answer of the cluster."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.body = {"error": {"type": kind, "reason": reason, "root_cause": []}, "status": status}


def search(texts: Mapping[str, str], body: Mapping[str, Any], infer: Infer) -> dict[str, Any]:
    """The answer over one index of one shard."""
    ((kind, asked),) = body["retriever"].items()
    if body["size"] > asked.get("rank_window_size", 10):
        raise Refused(400, "action_request_validation_exception", "[rank_window_size] must be >= [size]")
    ranking = _ranked(texts, kind, asked, infer)
    hits = [{"_index": "i", "_id": key, "_score": score} for key, score in list(ranking.items())[: body["size"]]]
    return {"hits": {"total": {"value": len(ranking), "relation": "eq"}, "hits": hits}}


def _ranked(texts: Mapping[str, str], kind: str, asked: Mapping[str, Any], infer: Infer) -> Ranking:
    if kind == "standard":
        ((_, words),) = asked["query"]["match"].items()
        wanted = set(words.lower().split())
        counts = {key: float(sum(word in wanted for word in text.lower().split())) for key, text in texts.items()}
        return _sorted({key: count for key, count in counts.items() if count})
    window = asked.get("rank_window_size", 10)
    if kind == "linear":
        total: Ranking = {}
        for part in asked["retrievers"]:
            ((inner, given),) = part["retriever"].items()
            assert part["normalizer"] == "minmax"
            ranking = dict(list(_ranked(texts, inner, given, infer).items())[:window])
            for key, score in _minmax(ranking).items():
                total[key] = total.get(key, 0.0) + part["weight"] * score
        return _sorted(total)
    assert kind == "text_similarity_reranker"
    ((inner, given),) = asked["retriever"].items()
    first = _ranked(texts, inner, given, infer)
    taken = set(list(first)[:window])
    in_shard_order = [key for key in texts if key in taken]
    try:
        raw = infer(asked["inference_id"], asked["inference_text"], [texts[key] for key in in_shard_order])
    except Refused:
        if not asked.get("allow_rerank_failures"):
            raise
        return first
    return _sorted(
        {key: max(s, 0.0) + min(math.exp(s), 1.0) for key, s in zip(in_shard_order, raw, strict=True)},
    )


def _minmax(ranking: Ranking) -> Ranking:
    if not ranking:
        return {}
    low, high = min(ranking.values()), max(ranking.values())
    if high - low < 1e-6:
        return dict(ranking)
    return {key: (score - low) / (high - low) for key, score in ranking.items()}


def _sorted(scores: Ranking) -> Ranking:
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))
