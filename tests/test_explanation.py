"""Every score can be computed again from the JSON of its explanation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from connector.documents import Hit, RankedHit, RerankResult
from connector.explanation import explain
from connector.reranking.reranker import Reranker
from connector.sections import Settings

QUERY = "how long do cats sleep"


def score_again(told: dict[str, Any], hit: dict[str, Any]) -> float:
    """A score, by the formula, from nothing but the numbers of the JSON."""
    gates = {signal["signal"]: signal for signal in told["signals"]}
    head = told["bias"]
    for signal in hit["signals"]:
        own = gates[signal["signal"]]
        counted = own["gate"] * (signal["value"] - own["mean"]) / own["scale"]
        assert signal["counted"] == pytest.approx(counted)
        head += counted
    assert hit["head_score"] == pytest.approx(head)
    if told["unit"] == "reciprocal ranks":
        return 1 / (60 + hit["head_standing"]) + 1 / (60 + hit["first_stage"]["standing"])
    if told["heads"] is not None:
        deviation = told["heads"]["deviation"]
        head = (head - told["heads"]["mean"]) / deviation if deviation else 0.0
        assert hit["head_standing"] == pytest.approx(head)
    first = told["first_stage"]
    if first is None:
        return head
    standing = (hit["first_stage"]["value"] - first["mean"]) / first["deviation"]
    assert hit["first_stage"]["standing"] == pytest.approx(standing)
    counted = first["gate"] * first["unit"] * standing
    assert hit["first_stage"]["counted"] == pytest.approx(counted)
    return head + counted


def check(result: RerankResult) -> dict[str, Any]:
    explanation = explain(result)
    assert explanation is not None
    told: dict[str, Any] = json.loads(json.dumps(explanation.to_json(), allow_nan=False))
    assert [hit["index"] for hit in told["hits"]] == [hit.index for hit in result.hits]
    for hit, ranked in zip(told["hits"], result.hits, strict=True):
        assert hit["score"] == ranked.score
        if hit["why"] is None:
            assert score_again(told, hit) == pytest.approx(ranked.score, rel=1e-9, abs=1e-12)
    return told


@pytest.mark.parametrize("first_stage", [None, "order", [9.5, 1.0, 4.25, 4.25, 0.5]])
def test_log_odds_are_bias_signals_and_first_stage(reranker: Reranker, cats: list[str], first_stage: Any) -> None:
    told = check(reranker.rerank(QUERY, cats, first_stage=first_stage))
    assert told["unit"] == "log-odds" and told["heads"] is None
    assert (told["first_stage"] is None) == (first_stage is None)
    for hit in told["hits"]:
        assert hit["probability"] == pytest.approx(1 / (1 + math.exp(-hit["score"])))
        assert hit["why"] is None and hit["signals"]


@pytest.mark.parametrize("fusion", ["auto", 0.7, "rrf", "none"])
def test_every_fusion(reranker: Reranker, cats: list[str], fusion: str | float) -> None:
    other = Reranker(reranker.reader, reranker.routes, fusion=fusion)
    told = check(other.rerank(QUERY, cats, first_stage=[5, 4, 4, 2, 1]))
    assert (told["unit"] == "reciprocal ranks") == (fusion == "rrf")
    assert (told["first_stage"] is None) == (fusion == "none")


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["auto", "rrf", "none"])
def test_heads_are_standardized(late_reranker: Reranker, cats: list[str], fusion: str | float) -> None:
    other = Reranker(late_reranker.reader, late_reranker.routes, fusion=fusion)
    told = check(other.rerank(QUERY, cats, first_stage="order"))
    assert told["unit"] != "log-odds"
    assert all(hit["probability"] is None and len(hit["signals"]) > 1 for hit in told["hits"])


def test_a_document_without_text_says_so(reranker: Reranker, cats: list[str]) -> None:
    told = check(reranker.rerank(QUERY, [*cats, "  "], first_stage="order"))
    (empty,) = [hit for hit in told["hits"] if hit["index"] == len(cats)]
    assert "no text" in empty["why"] and empty["signals"] == []


def test_the_passage_that_counted_is_the_best_one(settings: Settings, reranker: Reranker, cats: list[str]) -> None:
    """Of a document of several passages, the values are those of the passage that its score comes from."""
    long = " ".join([*["The treaty was signed in Vienna by nine states after months of talks."] * 40, cats[2]])
    result = reranker.rerank(QUERY, [long, *cats])
    assert max(hit.passages for hit in result.hits) > 1
    check(result)


def test_equal_first_stage_scores_count_nothing(reranker: Reranker, cats: list[str]) -> None:
    result = reranker.rerank(QUERY, [Hit(str(at), 2.5, {"text": text}) for at, text in enumerate(cats)])
    explanation = explain(result)
    assert explanation is not None
    for hit, ranked in zip(explanation.hits, result.hits, strict=True):
        assert (hit.standing, hit.first_stage_counted) == (0.0, 0.0)
        assert hit.head_counted == ranked.score and hit.id == ranked.id


def test_a_hit_that_was_not_read_counts_for_no_other(reranker: Reranker, cats: list[str]) -> None:
    result = reranker.rerank(QUERY, cats, first_stage=[5, 4, 4, 2, 1])
    kept = RankedHit(len(cats), 99.0, first_stage_score=1e6, first_stage_rank=1)
    told = check(replace(result, hits=(kept, *result.hits)))
    assert "not read" in told["hits"][0]["why"] and told["hits"][0]["first_stage"] is None
    assert told["first_stage"]["mean"] == pytest.approx(3.2)


def test_a_score_that_towers_is_told_to_have_kept_its_place(reranker: Reranker, cats: list[str]) -> None:
    told = check(reranker.rerank(QUERY, cats, first_stage=[1e6, 4, 4, 2, 1]))
    assert (told["hits"][0]["index"], "not read" in told["hits"][0]["why"]) == (0, True)
    assert told["first_stage"]["mean"] == pytest.approx(2.75)


def test_nothing_is_explained_where_nothing_was_reranked(reranker: Reranker) -> None:
    assert explain(reranker.rerank(QUERY, [])) is None
