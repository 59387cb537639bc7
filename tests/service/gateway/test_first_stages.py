"""What the first stage decided: pins, diversity, windows of retrievers, totals, and hits without documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.gateway.conftest import GatewayFactory
from tests.service.gateway.fake_cluster import FakeCluster, hit
from tests.service.standin import StandIn

MATCH = {"match": {"text": "cats sleep"}}
CATS = {"query": MATCH}
STANDARD = {"standard": {"query": MATCH}}
# PinnedQueryBuilder: one float step from pin to pin.
PINNED = ["1.7014124E38", "1.7014122E38"]
BOOSTED = {"bool": {"should": [MATCH, {"constant_score": {"filter": {"ids": {"values": ["a"]}}, "boost": 10}}]}}


def ids(answer: Any) -> list[str]:
    return [one["_id"] for one in answer.json()["hits"]["hits"]]


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def organic(cluster: FakeCluster, pins: list[Any]) -> None:
    """Pins a, b, … without a word of the query; of five hits below, the last is the best."""
    cluster.hits = [hit("abcdefgh"[at], score, "pinned") for at, score in enumerate(pins)]
    cluster.hits += [hit(at, 3.5 - at / 2, "cats sleep" if at == 4 else "dogs") for at in range(5)]


@pytest.mark.parametrize(
    ("query", "pins"),
    [
        ({"query": {"pinned": {"ids": ["a", "b"], "organic": MATCH}}}, PINNED),
        ({"query": {"rule": {"ruleset_ids": ["r"], "match_criteria": {}, "organic": MATCH}}}, PINNED),
        ({"retriever": {"pinned": {"ids": ["a", "b"], "retriever": STANDARD, "rank_window_size": 20}}}, PINNED),
        (CATS, [1e6, 1e5]),
        (CATS, ['"Infinity"', 1e38]),
        ({"query": BOOSTED}, [13.5, 12, 11]),
        ({"query": {"function_score": {"query": MATCH, "functions": [{"weight": 10, "filter": {}}]}}}, [12, 11]),
    ],
)
@pytest.mark.parametrize("policy", ["first_stage", "rerank"])
def test_pins_keep_their_places_and_the_rest_does_not_see_them(
    make_gateway: GatewayFactory, cluster: FakeCluster, query: dict[str, Any], pins: list[Any], policy: str
) -> None:
    organic(cluster, pins)
    standin = StandIn()
    answer = make_gateway({"serve.gateway_scores": policy}, reranker=standin, kind="elasticsearch").post(
        "/books/_search", json={**query, "size": 10}
    )
    assert answer.headers["X-Reranked"] == "true"
    assert ids(answer) == [*"abc"[: len(pins)], "4", "0", "1", "2", "3"]
    assert standin.asked[-1][1] == ["dogs"] * 4 + ["cats sleep"]
    assert standin.asked[-1][2] == [3.5, 3, 2.5, 2, 1.5]
    scores = [one["_score"] for one in answer.json()["hits"]["hits"]]
    assert policy == "first_stage" or scores == sorted(scores, reverse=True)


def test_pins_keep_their_places_in_an_msearch(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    organic(cluster, [1e6, 1e5])
    answer = make_gateway().post(
        "/books/_msearch", content=lines({}, CATS), headers={"Content-Type": "application/x-ndjson"}
    )
    assert [one["_id"] for one in answer.json()["responses"][0]["hits"]["hits"]][:3] == ["a", "b", "4"]


def test_what_is_no_boost_is_reranked(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    organic(cluster, [12, 11])
    small = {"bool": {"should": [MATCH, {"term": {"kind": {"value": "x", "boost": 1.2}}}]}}
    filtered = {"bool": {"must": MATCH, "filter": {"term": {"kind": {"value": "x", "boost": 20}}}}}
    for query in (MATCH, small, filtered):
        assert ids(make_gateway().post("/books/_search", json={"query": query}))[0] == "4"


def test_a_page_of_pins_is_not_reranked(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    cluster.hits = [hit(at, score, "cats") for at, score in enumerate(PINNED)]
    answer = make_gateway().post("/books/_search", json=CATS)
    assert (answer.headers["X-Reranked"], answer.headers["X-Rerank-Reason"]) == ("false", "all pinned")
    assert ids(answer) == ["0", "1"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({**CATS, "ext": {"mmr": {"diversity": 0.5}}}, "ext.mmr"),
        ({"retriever": {"diversify": {"type": "mmr", "field": "v", "retriever": STANDARD}}}, "diversify"),
        ({"retriever": {"pinned": {"ids": ["1"], "retriever": {"diversify": {"retriever": STANDARD}}}}}, "diversify"),
        ({"retriever": {"rrf": {"retrievers": [{"diversify": {"retriever": STANDARD}}, STANDARD]}}}, None),
        ({**CATS, "ext": {"mmr": None}}, None),
    ],
)
def test_an_order_that_diversifies_stays(
    make_gateway: GatewayFactory, cluster: FakeCluster, body: dict[str, Any], reason: str | None
) -> None:
    organic(cluster, [])
    answer = make_gateway().post("/books/_search", json=body)
    assert answer.headers.get("X-Rerank-Reason") == reason
    assert ids(answer)[0] == ("4" if reason is None else "0")


def rrf(**more: Any) -> dict[str, Any]:
    return {"retriever": {"rrf": {"retrievers": [STANDARD, {"retriever": STANDARD, "weight": 2}], **more}}}


@pytest.mark.parametrize(
    ("body", "window"),
    [
        (rrf(), 10),
        (rrf(rank_window_size=12), 12),
        (rrf(rank_window_size="12"), 12),
        (rrf(rank_window_size=50), 20),
        (rrf(rank_window_size=5), 5),
        ({"retriever": {"linear": {"retrievers": [{"retriever": STANDARD, "weight": 1}]}}}, 10),
        ({"retriever": {"pinned": {"ids": ["0"], "retriever": STANDARD}}}, 10),
        ({"retriever": {"rule": {"ruleset_ids": "r", "match_criteria": {}, "retriever": STANDARD}}}, 10),
        ({"retriever": {"text_similarity_reranker": {"retriever": STANDARD, "inference_text": "cats sleep"}}}, 10),
        ({"retriever": {"rescorer": {"retriever": STANDARD, "rescore": {"window_size": 15, "query": {}}}}}, 15),
        ({"retriever": {"rescorer": {"retriever": STANDARD, "rescore": {"query": {}}}}}, 10),
        ({"retriever": {"pinned": {"ids": ["0"], "rank_window_size": 9, "retriever": rrf()["retriever"]}}}, 9),
        ({"retriever": STANDARD}, 20),
    ],
)
def test_the_window_is_no_larger_than_what_retrievers_give(
    make_gateway: GatewayFactory, cluster: FakeCluster, body: dict[str, Any], window: int
) -> None:
    cluster.hits = [hit(at, 40 - at, "cats sleep" if at == 8 else "dogs") for at in range(30)]
    client = make_gateway(kind="elasticsearch")
    answer = client.post("/books/_search?size=3", json=body)
    assert (answer.status_code, answer.headers["X-Reranked"]) == (200, "true")
    assert answer.json()["rerank"]["window"] == window
    assert cluster.asked[-1].parameters["size"] == str(window)
    assert ids(answer) == (["8", "0", "1"] if window > 8 else ["0", "1", "2"])
    # Where the search does not say it either, a page has as many as there are.
    whole = client.post("/books/_search", json=body)
    assert len(ids(whole)) == min(10, window)
    many = client.post(
        "/books/_msearch", content=lines({}, {**body, "size": 3}), headers={"Content-Type": "application/x-ndjson"}
    )
    assert many.headers["X-Reranked"] == "true"
    assert [one["_id"] for one in many.json()["responses"][0]["hits"]["hits"]] == ids(answer)
    next_page = client.post(f"/books/_search?size=3&from={window - 1}", json=body)
    assert len(ids(next_page)) == (3 if window == 20 else 1)


def test_a_page_that_retrievers_do_not_give_is_the_clusters_to_refuse(
    make_gateway: GatewayFactory, cluster: FakeCluster
) -> None:
    cluster.hits = [hit(at, 40 - at, "cats") for at in range(30)]
    client = make_gateway(kind="elasticsearch")
    answer = client.post("/books/_search", json={**rrf(), "size": 11})
    assert answer.status_code == 400
    assert answer.headers["X-Rerank-Reason"] == "size is over the rank_window_size of 10"
    answer = client.post("/books/_search", json={**rrf(), "from": 10, "size": 5})
    assert answer.headers["X-Rerank-Reason"] == "behind the window of 10 hits"
    older = {"query": MATCH, "rank": {"rrf": {"window_size": 15}}}
    assert client.post("/books/_search", json=older).json()["rerank"]["window"] == 15


@pytest.mark.parametrize(
    "part",
    [
        {"script_fields": {"x": {"script": "doc['n'].value"}}},
        {"stored_fields": []},
        {"stored_fields": ["n"]},
        {"stored_fields": "n"},
        # What nobody foresees: an index whose hits never show it.
        {},
    ],
)
def test_hits_without_documents_are_read_all_the_same(
    make_gateway: GatewayFactory, cluster: FakeCluster, part: dict[str, Any]
) -> None:
    cluster.hits = [hit(at, 10 - at, None) for at in range(4)]
    cluster.texts = {str(at): {"text": "cats sleep" if at == 2 else "dogs"} for at in range(4)}
    client = make_gateway({"engine.fields": "text"})
    answer = client.post("/books/_search", json={**CATS, **part})
    assert answer.headers["X-Reranked"] == "true"
    assert ids(answer) == ["2", "0", "1", "3"]
    assert "_source" not in answer.text
    many = client.post(
        "/books/_msearch",
        content=lines({}, {**CATS, **part}, {}, {"query": {"match_all": {}}}),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert many.headers["X-Reranked"] == "true,false"
    assert [one["_id"] for one in many.json()["responses"][0]["hits"]["hits"]] == ["2", "0", "1", "3"]
    assert len(many.json()["responses"]) == 2


def test_totals_of_a_hybrid_search_are_those_of_the_callers_page(
    make_gateway: GatewayFactory, cluster: FakeCluster
) -> None:
    cluster.hits = [hit(at, 1 - at / 50, "dogs" if at else "cats sleep") for at in range(30)]
    cluster.counts_pages = True
    hybrid = {"query": {"hybrid": {"queries": [MATCH, {"match": {"title": "cats"}}]}}}
    client = make_gateway()
    for body, query, total in (
        ({**hybrid, "size": 5}, "", 5),
        (hybrid, "?from=3&size=4", 7),
        (CATS, "?size=5", 20),
        ({**hybrid, "size": 20}, "", 20),
    ):
        cluster.asked.clear()
        answer = client.post(f"/books/_search{query}", json=body)
        assert answer.headers["X-Reranked"] == "true"
        assert answer.json()["hits"]["total"]["value"] == total
        assert answer.json()["rerank"]["reranked"] is True
        preferences = {asked.parameters["preference"] for asked in cluster.asked}
        assert (len(cluster.asked), len(preferences)) == (1 if total == 20 else 2, 1)
    many = client.post(
        "/books/_msearch",
        content=lines({}, {**hybrid, "size": 5, "_source": False}, {}, {**CATS, "size": 5}, {}, hybrid),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert [one["hits"]["total"]["value"] for one in many.json()["responses"]] == [5, 20, 10]
