"""What OpenSearch and Elasticsearch make of our answers, modelled after their Java code.

OpenSearch: ML Commons parses with json-smart, whose type depends on how a number is written, and casts. The
modelled code is ``CohereRerankPostProcessFunction`` and neural-search's ``RescoringRerankProcessor``.
Elasticsearch: ``HuggingFaceRerankResponseEntity`` and ``TextSimilarityRankFeaturePhaseRankCoordinatorContext``.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from connector.documents import RankedHit, RerankResult
from tests.service.conftest import ClientFactory
from tests.service.standin import StandIn, not_reranked


class ClassCastException(Exception):
    """What the JVM throws at ``(Double) value``."""


class Integer(int):
    """java.lang.Integer."""


class Double(float):
    """java.lang.Double."""


class Other:
    """java.lang.Long, Float, BigInteger or BigDecimal: whatever is neither Integer nor Double."""


def json_smart_integer(text: str) -> Any:
    return Integer(text) if -(2**31) <= int(text) < 2**31 else Other()


def json_smart_float(text: str) -> Any:
    return Double(text) if len(text) <= 18 else Other()


def json_smart(body: bytes) -> Any:
    return json.loads(
        body, parse_int=json_smart_integer, parse_float=json_smart_float, parse_constant=lambda _: Other()
    )


def cast(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ClassCastException(value)
    return value


def ml_commons(body: bytes, chunk: int) -> list[float]:
    """Scores by document, as the ``connector.post_process.cohere.rerank`` function gives them."""
    # Each network buffer is decoded on its own.
    text = "".join(body[at : at + chunk].decode("utf-8", "replace") for at in range(0, len(body), chunk))
    results = json_smart(text.encode())["results"]
    scores: list[float | None] = [None] * len(results)
    for result in results:
        index = cast(result["index"], Integer)
        if not 0 <= index < len(scores):
            raise IndexError(index)
        scores[index] = cast(result["relevance_score"], Double)
    if None in scores:
        raise TypeError("NullPointerException")
    return [score for score in scores if score is not None]


def opensearch_order(scores: list[float], hits: int) -> list[int]:
    """Hits after ``RescoringRerankProcessor``: scores become floats, ties keep the first-stage order."""
    if len(scores) != hits:
        raise ValueError("scores and hits are not the same length")
    floats = [struct.unpack("f", struct.pack("f", score))[0] for score in scores]
    return sorted(range(hits), key=lambda index: -floats[index])


def elasticsearch(body: bytes, documents: int) -> list[float]:
    """``_score`` by document, as ``text_similarity_reranker`` sets it."""
    scores = [math.nan] * documents
    entries = json.loads(body)
    if not isinstance(entries, list):
        raise ValueError("expected START_ARRAY")
    for entry in entries:
        # XContentParser.floatValue() takes any number; intValue() refuses one with a fraction.
        assert isinstance(entry["index"], int)
        scores[entry["index"]] = float(entry["score"])
    if len(entries) != documents or any(map(math.isnan, scores)):
        raise ValueError("Number of scores and documents differ")
    return [max(score, 0) + math.exp(min(score, 0)) for score in scores]


def test_the_models_refuse_what_the_engines_refuse() -> None:
    def answer(score: str) -> bytes:
        return b'{"results":[{"index":0,"relevance_score":' + score.encode() + b"}]}"

    assert ml_commons(answer("0.8134572863578796"), 7) == [0.8134572863578796]
    for bad in ("1", "0.08134572863578796", "NaN", "12345678901"):
        with pytest.raises(ClassCastException):
            ml_commons(answer(bad), 7)
    with pytest.raises(IndexError):
        ml_commons(b'{"results":[{"index":1,"relevance_score":0.5}]}', 7)


def scored(scores: list[float]) -> StandIn:
    def behaviour(query: str, documents: Any, *_: Any) -> RerankResult:
        given_scores = (scores * len(documents))[: len(documents)]
        order = sorted(range(len(documents)), key=lambda index: -given_scores[index])
        return RerankResult(tuple(RankedHit(index, given_scores[index]) for index in order), True)

    return StandIn(behaviour)


score_lists = st.lists(st.floats(-1e6, 1e6) | st.floats(-4, 4), min_size=1, max_size=30)
documents_lists = st.lists(st.text(st.characters(codec=None), max_size=20), min_size=1, max_size=30)
from_function_fixture = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class TestWithAnyScores:
    """Whatever the reranker answers, the engines read it."""

    @pytest.fixture
    def reranker(self) -> StandIn:
        return StandIn()

    @pytest.fixture
    def client(self, make_client: ClientFactory, reranker: StandIn) -> TestClient:
        return make_client(reranker)

    @from_function_fixture
    @given(scores=score_lists, documents=documents_lists, chunk=st.integers(1, 64))
    def test_opensearch(
        self, client: TestClient, reranker: StandIn, scores: list[float], documents: list[str], chunk: int
    ) -> None:
        reranker.behaviour = scored(scores).behaviour
        body = {"query": "q", "documents": documents, "model": "rh", "top_n": len(documents)}
        response = client.post("/v1/rerank", content=json.dumps(body))
        assert response.content.isascii()
        read = ml_commons(response.content, chunk)
        hits = opensearch_order(read, len(documents))
        wanted = (scores * len(documents))[: len(documents)]
        # No pair is turned around; those that are equal after rounding may keep the first-stage order.
        for first, second in zip(hits, hits[1:], strict=False):
            assert read[first] >= read[second]
            assert wanted[first] >= wanted[second] or read[first] == pytest.approx(read[second], abs=1e-6)

    @from_function_fixture
    @given(scores=score_lists, documents=documents_lists)
    def test_elasticsearch(
        self, client: TestClient, reranker: StandIn, scores: list[float], documents: list[str]
    ) -> None:
        reranker.behaviour = scored(scores).behaviour
        for raw in (False, True):
            body = {"query": "q", "texts": documents, "return_text": False, "raw_scores": raw}
            response = client.post("/rerank", content=json.dumps(body))
            read = elasticsearch(response.content, len(documents))
            order = [entry["index"] for entry in response.json()]
            assert all(read[first] >= read[second] for first, second in zip(order, order[1:], strict=False))

    @from_function_fixture
    @given(documents=documents_lists)
    def test_a_fallback_keeps_the_order_in_the_engines(
        self, client: TestClient, reranker: StandIn, documents: list[str]
    ) -> None:
        reranker.behaviour = not_reranked("deadline")
        body: dict[str, Any] = {"query": "q", "documents": documents, "first_stage": "order"}
        read = ml_commons(client.post("/v1/rerank", content=json.dumps(body)).content, 9)
        assert opensearch_order(read, len(documents)) == list(range(len(documents)))


def test_the_probe_that_elasticsearch_sends_when_an_endpoint_is_put(client: TestClient) -> None:
    body = {"texts": ["how big"], "query": "test query", "return_text": False}
    assert elasticsearch(client.post("/rerank", json=body).content, 1)


def test_errors_are_what_elasticsearch_parses(make_client: ClientFactory) -> None:
    client = make_client(StandIn(not_reranked("failed: x")))
    response = client.post("/rerank", json={"texts": ["a"], "query": "q"})
    # 429, 502 and 503 would be tried again for up to 30 seconds.
    assert response.status_code == 504
    assert isinstance(response.json()["error"], str)
