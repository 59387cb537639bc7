"""Elasticsearch's retrievers, after their source.

Modelled: ``TextSimilarityRankFeaturePhaseRankCoordinatorContext`` (texts in shard order, not rank order; as many
scores as texts; ``min_score`` held against the scores as they came; ``max(s, 0) + min(exp(s), 1)``),
``TextSimilarityRankRetrieverBuilder`` (``min_score`` held against what came of that as well),
``allow_rerank_failures``, ``rank_window_size`` not below ``size``, ``LinearRetrieverBuilder`` (weighted sum, the same
hit in both lists counted together, ``min_score`` of the sum) with ``MinMaxScoreNormalizer`` or none,
``RRFRetrieverBuilder`` (``weight / (rank_constant + rank)``), ``PinnedRetrieverBuilder`` and ``rule`` (pins above
``MAX_ORGANIC_SCORE``, one float step apart), ``DiversifyRetrieverBuilder`` (``size`` 10 unless it is given). In the
place of vectors, two texts are as similar as they share words.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
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


def search(
    texts: Mapping[str, str],
    body: Mapping[str, Any],
    infer: Infer,
    rulesets: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The answer over one index of one shard. ``rulesets``: the ids that each pins."""
    ((kind, asked),) = body["retriever"].items()
    if body["size"] > asked.get("rank_window_size", 10):
        raise Refused(400, "action_request_validation_exception", "[rank_window_size] must be >= [size]")
    ranking = _Retrievers(texts, infer, rulesets or {}).ranked(kind, asked)
    hits = [{"_index": "i", "_id": key, "_score": score} for key, score in list(ranking.items())[: body["size"]]]
    return {"hits": {"total": {"value": len(ranking), "relation": "eq"}, "hits": hits}}


class _Retrievers:
    def __init__(self, texts: Mapping[str, str], infer: Infer, rulesets: Mapping[str, Sequence[str]]) -> None:
        self._texts = texts
        self._infer = infer
        self._rulesets = rulesets

    def ranked(self, kind: str, asked: Mapping[str, Any]) -> Ranking:
        window = asked.get("rank_window_size", 10)
        if kind == "standard":
            return self._matching(asked["query"])
        if kind in ("linear", "rrf"):
            return self._combined(kind, asked, window)
        ((inner, given),) = asked["retriever"].items()
        first = _cut(self.ranked(inner, given), window)
        if kind == "pinned":
            return _cut(_pinned(first, asked["ids"]), window)
        if kind == "rule":
            pins = [identity for name in asked["ruleset_ids"] for identity in self._rulesets[name]]
            return _cut(_pinned(first, pins), window)
        if kind == "diversify":
            return self._diverse(first, asked["lambda"], asked.get("size", min(10, window)))
        assert kind == "text_similarity_reranker"
        return self._reranked(first, asked)

    def _matching(self, query: Mapping[str, Any]) -> Ranking:
        ((_, words),) = query["match"].items()
        wanted = set(words.lower().split())
        counts = {
            key: float(sum(word in wanted for word in text.lower().split())) for key, text in self._texts.items()
        }
        return _sorted({key: count for key, count in counts.items() if count})

    def _combined(self, kind: str, asked: Mapping[str, Any], window: int) -> Ranking:
        total: Ranking = {}
        for part in asked["retrievers"]:
            ((inner, given),) = part.get("retriever", part).items()
            ranking = _cut(self.ranked(inner, given), window)
            if kind == "rrf":
                constant = asked.get("rank_constant", 60)
                ranking = {key: 1 / (constant + rank) for rank, key in enumerate(ranking, 1)}
            elif part.get("normalizer") == "minmax":
                ranking = _minmax(ranking)
            for key, score in ranking.items():
                total[key] = total.get(key, 0.0) + part.get("weight", 1.0) * score
        return _cut(_sorted(_at_least(total, asked)), window)

    def _reranked(self, first: Ranking, asked: Mapping[str, Any]) -> Ranking:
        in_shard_order = [key for key in self._texts if key in first]
        try:
            raw = self._infer(
                asked["inference_id"], asked["inference_text"], [self._texts[key] for key in in_shard_order]
            )
        except Refused:
            if not asked.get("allow_rerank_failures"):
                raise
            return first
        kept = _at_least(dict(zip(in_shard_order, raw, strict=True)), asked)
        return _at_least(_sorted({key: max(s, 0.0) + min(math.exp(s), 1.0) for key, s in kept.items()}), asked)

    def _diverse(self, first: Ranking, weight: float, size: int) -> Ranking:
        left, chosen = dict(first), {}
        while left and len(chosen) < size:
            worth = {
                key: weight * score - (1 - weight) * max((self._alike(key, other) for other in chosen), default=0.0)
                for key, score in left.items()
            }
            best = max(worth, key=lambda key: worth[key])
            chosen[best] = left.pop(best)
        return chosen

    def _alike(self, one: str, other: str) -> float:
        words, others = (set(self._texts[key].lower().split()) for key in (one, other))
        return len(words & others) / len(words | others)


def _pinned(ranking: Ranking, ids: Sequence[str]) -> Ranking:
    scores = [_float_steps(1.7014118e38, 2 + len(ids) - place) for place in range(len(ids))]
    rest = {key: score for key, score in ranking.items() if key not in ids}
    return {**dict(zip(ids, scores, strict=True)), **rest}


def _float_steps(value: float, steps: int) -> float:
    (bits,) = struct.unpack(">i", struct.pack(">f", value))
    (found,) = struct.unpack(">f", struct.pack(">i", bits + steps))
    return float(found)


def _at_least(ranking: Ranking, asked: Mapping[str, Any]) -> Ranking:
    return {key: score for key, score in ranking.items() if score >= asked.get("min_score", -math.inf)}


def _cut(ranking: Ranking, window: int) -> Ranking:
    return dict(list(ranking.items())[:window])


def _minmax(ranking: Ranking) -> Ranking:
    if not ranking:
        return {}
    low, high = min(ranking.values()), max(ranking.values())
    if high - low < 1e-6:
        return dict(ranking)
    return {key: (score - low) / (high - low) for key, score in ranking.items()}


def _sorted(scores: Ranking) -> Ranking:
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))
