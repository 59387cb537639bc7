"""Sentences that answer, in the hits of reranked searches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from connector.cancelling import CancelScope
from connector.documents import FirstStage, RankedHit, RerankResult
from connector.reranking.reranker import Reranker
from tests.service.gateway.conftest import GatewayFactory, gateway_settings
from tests.service.gateway.fake_cluster import FakeCluster
from tests.service.live import serving
from tests.service.standin import StandIn, not_reranked

CATS: dict[str, Any] = {"query": {"match": {"text": "cats sleep"}}}
ON = {"X-Rerank-Highlight": "true"}


def looks_at_cats(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
    """The last one first; of each the words "cats" were looked at."""
    hits = []
    for at, text in enumerate(documents):
        places = [place for place in range(len(text)) if text.startswith("cats", place)]
        hits.append(RankedHit(at, float(at), looked_at=tuple((place, place + 4, 1.0) for place in places)))
    return RerankResult(tuple(reversed(hits)), True)


SOURCES: list[dict[str, Any]] = [
    {"title": "On cats", "text": "Dogs bark. Some cats <purr> & sleep. Bread."},
    {"title": "Bread", "text": "Wash it. Bake it."},
    {"title": "Lists", "text": ["Fish swim.", "All cats sleep."], "meta": {"note": "cats"}},
]


@pytest.fixture(autouse=True)
def _hits(cluster: FakeCluster) -> None:
    cluster.hits = [
        json.dumps({"_index": "i", "_id": str(at), "_score": 9.5 - at, "_source": source})
        for at, source in enumerate(SOURCES)
    ]


@pytest.fixture
def client(make_gateway: GatewayFactory) -> TestClient:
    return make_gateway({"engine.fields": "title,text,meta.note"}, reranker=StandIn(looks_at_cats))


def highlights(answer: Any) -> dict[str, Any]:
    return {hit["_id"]: hit.get("highlight") for hit in answer["hits"]["hits"]}


WANTED = {
    "0": {"title": ["<em>On cats</em>"], "text": ["<em>Some cats <purr> & sleep.</em>"]},
    "1": None,
    "2": {"text": ["<em>All cats sleep.</em>"], "meta.note": ["<em>cats</em>"]},
}


def test_each_field_gets_its_sentences_where_they_are_asked_for(
    make_gateway: GatewayFactory, client: TestClient
) -> None:
    assert highlights(client.post("/i/_search", json=CATS, headers=ON).json()) == WANTED
    assert set(highlights(client.post("/i/_search", json=CATS).json()).values()) == {None}
    fields = {"engine.fields": "title,text,meta.note", "serve.gateway_highlight": True}
    always = make_gateway(fields, reranker=StandIn(looks_at_cats))
    assert highlights(always.post("/i/_search", json=CATS).json()) == WANTED
    off = always.post("/i/_search", json=CATS, headers={"X-Rerank-Highlight": "false"})
    assert set(highlights(off.json()).values()) == {None}


def test_nothing_else_changes(client: TestClient, cluster: FakeCluster) -> None:
    cluster.hits = [one.replace(': "', '  :"').replace("}", " }") for one in cluster.hits]
    plain = client.post("/i/_search", json=CATS).text
    assert '"reranked":true' in plain
    marked = client.post("/i/_search", json=CATS, headers=ON).text
    for found in highlights(json.loads(marked)).values():
        if found is not None:
            marked = marked.replace(f'"highlight":{json.dumps(found)},', "", 1)
    assert marked == plain
    assert "x-rerank-highlight" not in {name.lower() for name in cluster.asked[-1].headers}


def test_highlights_of_the_cluster_stay_as_they_are(client: TestClient, cluster: FakeCluster) -> None:
    own = '{"text"  : ["its <b>own</b>"]}'
    cluster.hits[0] = cluster.hits[0][:-1] + f', "highlight": {own} }}'
    cluster.hits[2] = cluster.hits[2][:-1] + ', "highlight": {} }'
    answer = client.post("/i/_search", json=CATS, headers=ON)
    assert '"text"  : ["its <b>own</b>"]' in answer.text
    found = highlights(answer.json())
    assert found["0"] == {"title": ["<em>On cats</em>"], "text": ["its <b>own</b>"]} and found["2"] == WANTED["2"]


def test_tags_and_encoder_are_those_of_the_search(client: TestClient) -> None:
    own = {"pre_tags": ["<mark>"], "post_tags": ["</mark>"], "encoder": "html", "fields": {"other": {}}}
    answer = client.post("/i/_search", json={**CATS, "highlight": own}, headers=ON).json()
    assert highlights(answer)["0"]["text"] == ["<mark>Some cats &lt;purr&gt; &amp; sleep.</mark>"]
    for odd in ({"pre_tags": "x"}, {"pre_tags": []}, {"post_tags": [1]}, {"pre_tags": ["<b>"]}, 7):
        answer = client.post("/i/_search", json={**CATS, "highlight": odd}, headers=ON).json()
        assert highlights(answer) == WANTED


def test_a_search_without_source(client: TestClient, cluster: FakeCluster) -> None:
    cluster.texts = {str(at): source for at, source in enumerate(SOURCES)}
    cluster.hits = [json.dumps({"_index": "i", "_id": str(at), "_score": 9.5 - at}) for at in range(3)]
    answer = client.post("/i/_search", json={**CATS, "_source": False}, headers=ON).json()
    assert highlights(answer) == WANTED and "_source" not in answer["hits"]["hits"][0]


def test_a_search_with_a_filter_path(client: TestClient) -> None:
    wanted = "filter_path=hits.hits._id,hits.hits._index,hits.hits._score,hits.hits._source"
    filtered = client.post(f"/i/_search?{wanted}", json=CATS, headers=ON)
    assert filtered.headers["X-Reranked"] == "true" and set(highlights(filtered.json()).values()) == {None}
    kept = client.post(f"/i/_search?{wanted},hits.hits.highlight", json=CATS, headers=ON).json()
    assert highlights(kept) == WANTED


def test_pages_scores_and_many_searches(make_gateway: GatewayFactory) -> None:
    fields = {"engine.fields": "title,text,meta.note", "serve.gateway_scores": "rerank", "rerank.window": 2}
    client = make_gateway(fields, reranker=StandIn(looks_at_cats))
    answer = client.post("/i/_search", json=CATS, headers=ON).json()
    # Behind the window nobody looked.
    assert highlights(answer) == {"1": None, "0": WANTED["0"], "2": None}
    assert answer["hits"]["hits"][0]["_score"] > 1
    page = client.post("/i/_search?from=1&size=1", json=CATS, headers=ON).json()
    assert highlights(page) == {"0": WANTED["0"]}
    lines = "".join(json.dumps(line) + "\n" for line in ({}, CATS, {}, {**CATS, "size": 1, "from": 1}))
    kind = {"Content-Type": "application/x-ndjson"}
    many = client.post("/i/_msearch", content=lines, headers={**ON, **kind}).json()["responses"]
    assert [highlights(one) for one in many] == [highlights(answer), highlights(page)]


def test_a_hit_that_keeps_its_place_was_not_looked_at(client: TestClient, cluster: FakeCluster) -> None:
    cluster.hits[0] = cluster.hits[0].replace("9.5", "1e38")
    answer = client.post("/i/_search", json=CATS, headers=ON).json()
    assert [hit["_id"] for hit in answer["hits"]["hits"]] == ["0", "2", "1"]
    assert highlights(answer) == {**WANTED, "0": None}


def test_what_was_not_reranked_is_not_marked(make_gateway: GatewayFactory) -> None:
    client = make_gateway({"serve.gateway_highlight": True}, reranker=StandIn(not_reranked("deadline")))
    answer = client.post("/i/_search", json=CATS)
    assert answer.headers["X-Rerank-Reason"] == "deadline"
    assert set(highlights(answer.json()).values()) == {None}


def test_with_the_real_model(cluster: FakeCluster, reranker: Reranker) -> None:
    answer = "Adult cats sleep between twelve and sixteen hours a day."
    text = f"Bridges are made of steel. 🍎 Rivers carry sand. {answer} Clay is fired in a kiln."
    source = json.dumps({"title": "Animals", "text": text})
    cluster.hits[1] = f'{{"_index": "i", "_id": "1", "_score": 1.5, "_source": {source}}}'
    settings = gateway_settings(cluster.url, {"serve.gateway_highlight": True, "engine.fields": "title,text"})
    with serving(reranker, settings) as (url, _):
        body = {"query": {"match": {"text": "how long do cats sleep"}}}
        found = highlights(httpx2.post(f"{url}/i/_search", json=body, timeout=60).json())
    assert found["1"] == {"text": [f"<em>{answer}</em>"]}
