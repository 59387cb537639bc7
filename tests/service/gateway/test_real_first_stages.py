"""What a first stage decided, through the gateway, in front of real nodes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.nodes.process import Node
from tests.service.gateway.conftest import gateway_settings
from tests.service.gateway.test_real_nodes import CATS, INDEX, fill, ids
from tests.service.live import serving
from tests.service.standin import StandIn

MANY = "gw-many"


@pytest.fixture(scope="module", params=["opensearch_node", "opensearch_3_node", "elasticsearch_node"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[str, httpx2.Client, httpx2.Client]]:
    """Product, a client of a node with thirty documents, and one of a gateway in front of it."""
    node: Node = request.getfixturevalue(request.param)
    kind = request.param.partition("_")[0]
    fill(node.url)
    options = {"rerank.window": 12, "engine.fields": "text", "serve.host": "127.0.0.1"}
    with (
        serving(StandIn(), gateway_settings(node.url, options, kind)) as (url, _),
        # An idle connection may be closed while documents are put in.
        httpx2.Client(base_url=url, timeout=60, limits=httpx2.Limits(max_keepalive_connections=0)) as gateway,
        httpx2.Client(base_url=node.url, timeout=60) as cluster,
    ):
        yield kind, cluster, gateway
        cluster.delete(f"/{INDEX}")
        cluster.delete(f"/{MANY}")


def boosted(boosts: dict[str, float]) -> dict[str, Any]:
    pins = [
        {"constant_score": {"filter": {"ids": {"values": [identity]}}, "boost": boost}}
        for identity, boost in boosts.items()
    ]
    return {"query": {"bool": {"should": [CATS["query"], *pins]}}, "size": 10}


@pytest.mark.parametrize(
    "boosts",
    [
        {"4": 1e6, "10": 1e5, "7": 1e4},
        {"4": 1.7014122e38, "10": 1.7014120e38},
        {"4": 1000, "10": 1000, "7": 1000},
        {"7": 12, "10": 11, "4": 10},
        {"22": 20},
    ],
)
def test_boosts_that_tower_keep_their_places(
    both: tuple[str, httpx2.Client, httpx2.Client], boosts: dict[str, float]
) -> None:
    _, cluster, gateway = both
    answer = gateway.post(f"/{INDEX}/_search", json=boosted(boosts))
    plain = cluster.post(f"/{INDEX}/_search", json={**boosted(boosts), "size": 12}).json()
    found, there = ids(answer.json()), ids(plain)
    assert answer.headers["X-Reranked"] == "true"
    assert found[: len(boosts)] == there[: len(boosts)]
    assert sorted(there[: len(boosts)]) == sorted(boosts)
    # The others are reranked: those that have both words come first, in the cluster's order.
    rest = there[len(boosts) :]
    assert found[len(boosts) :] == sorted(rest, key=lambda one: int(one) % 3 != 0)[: 10 - len(boosts)]


HIDING: dict[str, dict[str, Any]] = {
    "script_fields": {"script_fields": {"x": {"script": "doc['n'].value"}}},
    "stored_fields": {"stored_fields": ["n"]},
    "no stored_fields": {"stored_fields": []},
    "_source": {"_source": False},
    "excludes": {"_source": {"excludes": ["text"]}},
    "_source elsewhere": {"_source": ["n"], "script_fields": {"x": {"script": "doc['n'].value"}}},
}


@pytest.mark.parametrize("way", HIDING)
def test_hits_that_come_without_their_text_are_read_and_stay_as_they_are(
    both: tuple[str, httpx2.Client, httpx2.Client], way: str
) -> None:
    kind, cluster, gateway = both
    if kind == "elasticsearch" and "script_fields" in HIDING[way]:
        pytest.skip("the node has no scripts: its module for them is not published")
    body = {**CATS, **HIDING[way], "size": 12}
    plain = cluster.post(f"/{INDEX}/_search", json=body).json()
    answer = gateway.post(f"/{INDEX}/_search", json=body)
    lines = json.dumps({"index": INDEX}) + "\n" + json.dumps(body) + "\n"
    many = gateway.post("/_msearch", content=lines, headers={"Content-Type": "application/x-ndjson"})
    for one, headers in ((answer.json(), answer.headers), (many.json()["responses"][0], many.headers)):
        assert headers["X-Reranked"] == "true"
        assert sorted(map(json.dumps, one["hits"]["hits"])) == sorted(map(json.dumps, plain["hits"]["hits"]))
        assert ids(one) == sorted(ids(plain), key=lambda identity: int(identity) % 3 != 0)


def fill_many(cluster: httpx2.Client) -> None:
    chance = random.Random(1)
    words = ["dolor", "sit", "amet", "lorem", "ipsum", "magna", "aliqua", "tempor", "elit", "sed"]
    lines = ""
    for at in range(8000):
        text = " ".join(chance.choice(words) for _ in range(chance.randint(3, 30)))
        lines += f'{{"index":{{"_id":"{at}"}}}}\n{json.dumps({"text": text})}\n'
    shards = {"settings": {"number_of_shards": 1, "number_of_replicas": 0}}
    cluster.put(f"/{MANY}", json=shards).raise_for_status()
    answer = cluster.post(
        f"/{MANY}/_bulk?refresh=true", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.json()["errors"] is False


def test_totals_and_aggregations_of_a_hybrid_search_are_those_of_its_own_page(
    both: tuple[str, httpx2.Client, httpx2.Client], request: pytest.FixtureRequest
) -> None:
    kind, cluster, gateway = both
    if kind == "elasticsearch":
        pytest.skip("Elasticsearch has no hybrid query")
    fill_many(cluster)
    queries = [{"match": {"text": "dolor"}}, {"match": {"text": "amet lorem"}}]
    aggregations: dict[str, Any] = {"all": {"filter": {"match_all": {}}}}
    joined = {"phase_results_processors": [{"normalization-processor": {}}]}
    cluster.put("/_search/pipeline/joined", json=joined).raise_for_status()
    request.addfinalizer(lambda: cluster.delete("/_search/pipeline/joined").raise_for_status())
    body = {
        "query": {"hybrid": {"queries": queries}},
        "size": 2,
        "aggs": aggregations,
        "search_pipeline": "joined",
    }
    plain = cluster.post(f"/{MANY}/_search", json=body).json()
    wide = cluster.post(f"/{MANY}/_search", json={**body, "size": 12}).json()
    answer = gateway.post(f"/{MANY}/_search", json=body)
    lines = json.dumps({"index": MANY}) + "\n" + json.dumps(body) + "\n"
    many = gateway.post("/_msearch", content=lines, headers={"Content-Type": "application/x-ndjson"})
    for one, headers in ((answer.json(), answer.headers), (many.json()["responses"][0], many.headers)):
        assert headers["X-Reranked"] == "true"
        assert one["hits"]["total"] == plain["hits"]["total"]
        assert one["aggregations"] == plain["aggregations"]
        by_id = {hit["_id"]: hit for hit in wide["hits"]["hits"]}
        assert len(one["hits"]["hits"]) == 2
        assert all(hit == by_id[hit["_id"]] for hit in one["hits"]["hits"])
    # A second page without a depth is refused by the cluster; the gateway has it, from the window.
    second = gateway.post(f"/{MANY}/_search", json={**body, "from": 2})
    assert (second.status_code, len(second.json()["hits"]["hits"])) == (200, 2)
