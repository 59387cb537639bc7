"""The official clients through the gateway, in front of real nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from connector.reranking.reranker import Reranker
from tests.nodes.process import Node
from tests.service.gateway.conftest import gateway_settings
from tests.service.gateway.test_passages import looks_at_cats
from tests.service.live import serving
from tests.service.standin import StandIn

INDEX = "gw-books"
CATS: dict[str, Any] = {"query": {"match": {"text": "cats sleep"}}}
MAPPING = {
    "settings": {"number_of_shards": 2, "number_of_replicas": 0},
    "mappings": {
        "properties": {
            "text": {"type": "text"},
            "kind": {"type": "keyword"},
            "date": {"type": "date"},
            "n": {"type": "integer"},
        }
    },
}


def document(at: int) -> dict[str, Any]:
    # The short ones are the cluster's first; those that have both words are the reranker's.
    text = "cats" if at % 3 else f"cats {'and more words ' * (at // 3 + 1)}sleep"
    return {"text": text, "kind": "odd" if at % 2 else "even", "date": f"2024-01-{at + 1:02d}", "n": at}


def fill(url: str) -> None:
    lines = "".join(f'{{"index":{{"_id":"{at}"}}}}\n{json.dumps(document(at))}\n' for at in range(30))
    with httpx2.Client(base_url=url, timeout=30) as client:
        client.delete(f"/{INDEX}")
        client.put(f"/{INDEX}", json=MAPPING).raise_for_status()
        answer = client.post(
            f"/{INDEX}/_bulk?refresh=true", content=lines, headers={"Content-Type": "application/x-ndjson"}
        )
        assert answer.json()["errors"] is False


@pytest.fixture(scope="module", params=["opensearch_node", "elasticsearch_node"])
def node(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Product and URL of a node with thirty documents."""
    found: Node = request.getfixturevalue(request.param)
    fill(found.url)
    yield request.param.removesuffix("_node"), found.url
    httpx2.delete(f"{found.url}/{INDEX}", timeout=30)


@pytest.fixture(scope="module")
def gateway(node: tuple[str, str]) -> Iterator[str]:
    """URL of a gateway in front of it."""
    options = {"rerank.window": 12, "engine.fields": "text", "serve.host": "127.0.0.1"}
    with serving(StandIn(), gateway_settings(node[1], options, node[0])) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(node: tuple[str, str], gateway: str) -> Iterator[Any]:
    """The product's own client."""
    if node[0] == "opensearch":
        from opensearchpy import OpenSearch

        opened: Any = OpenSearch(gateway, http_compress=True)
    else:
        from elasticsearch import Elasticsearch

        opened = Elasticsearch(gateway, http_compress=True)
    yield opened
    opened.close()


def ids(answer: Any) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


def direct(node: tuple[str, str], body: Any, query: str = "") -> Any:
    return httpx2.post(f"{node[1]}/{INDEX}/_search{query}", json=body, timeout=30).json()


def test_a_search_of_the_client(client: Any, node: tuple[str, str]) -> None:
    body = {
        **CATS,
        "size": 4,
        "aggs": {"kinds": {"terms": {"field": "kind"}}, "mean": {"avg": {"field": "n"}}},
        "highlight": {"fields": {"text": {}}},
        "fields": ["date"],
    }
    answer = client.search(index=INDEX, body=body)
    plain = direct(node, {**body, "size": 12})
    assert answer["rerank"] == {"reranked": True, "reason": None, "window": 12, "query": "cats sleep"}
    assert answer["aggregations"] == plain["aggregations"]
    assert answer["hits"]["total"] == plain["hits"]["total"] == {"value": 30, "relation": "eq"}
    assert answer["hits"]["max_score"] == plain["hits"]["max_score"]
    by_id = {hit["_id"]: hit for hit in plain["hits"]["hits"]}
    assert all(hit == by_id[hit["_id"]] and hit["highlight"] and hit["fields"] for hit in answer["hits"]["hits"])
    both = [one for one in ids(plain) if int(one) % 3 == 0]
    assert ids(answer) == (both + [one for one in ids(plain) if one not in both])[:4]


def test_passages_stand_beside_the_clusters_own_highlights(node: tuple[str, str]) -> None:
    options = {"rerank.window": 12, "engine.fields": "text", "serve.gateway_highlight": True}
    own = {
        "pre_tags": ["<b>"],
        "post_tags": ["</b>"],
        "fields": {"kind": {"highlight_query": {"prefix": {"kind": ""}}}},
    }
    body = {**CATS, "size": 4, "_source": False, "highlight": own}
    with serving(StandIn(looks_at_cats), gateway_settings(node[1], options, node[0])) as (url, _):
        answer = httpx2.post(f"{url}/{INDEX}/_search", json=body, timeout=30).json()
        both = {**own, "fields": {"text": {}}}
        theirs = httpx2.post(f"{url}/{INDEX}/_search", json={**body, "highlight": both}, timeout=30).json()
    assert answer["rerank"]["reranked"] and len(answer["hits"]["hits"]) == 4
    for hit in answer["hits"]["hits"]:
        stored = document(int(hit["_id"]))
        assert hit["highlight"] == {"kind": [f"<b>{stored['kind']}</b>"], "text": [f"<b>{stored['text']}</b>"]}
    plain = {hit["_id"]: hit for hit in direct(node, {**body, "highlight": both, "size": 12})["hits"]["hits"]}
    assert all(hit == plain[hit["_id"]] for hit in theirs["hits"]["hits"])


@pytest.mark.parametrize("extra", [{}, {"_source": False}, {"sort": ["_score"]}])
def test_pages_continue_each_other(client: Any, node: tuple[str, str], extra: dict[str, Any]) -> None:
    whole = client.search(index=INDEX, body={**CATS, **extra, "size": 30})
    pages = [
        client.search(index=INDEX, body={**CATS, **extra, "from": start, "size": 5}) for start in range(0, 30, 5)
    ]
    together = [one for page in pages for one in ids(page)]
    assert together == ids(whole)
    assert sorted(together) == sorted(str(at) for at in range(30))
    plain = ids(direct(node, {**CATS, "size": 30}))
    assert together[12:] == plain[12:]
    assert sorted(together[:12]) == sorted(plain[:12])
    # The window holds documents of both kinds, in another order than the cluster's.
    assert [one for one in together[:12] if int(one) % 3 == 0] == together[
        : sum(int(one) % 3 == 0 for one in plain[:12])
    ]


def test_an_msearch_of_the_client(client: Any) -> None:
    lines = [
        {"index": INDEX},
        {**CATS, "size": 3},
        {},
        {"query": {"match_all": {}}, "size": 1},
        {"index": INDEX},
        {**CATS, "size": 3, "from": 3, "_source": ["kind"]},
        {"index": "gw-none"},
        CATS,
    ]
    answer = client.msearch(index=INDEX, body=lines)
    one = ids(client.search(index=INDEX, body={**CATS, "size": 6}))
    first, second, third, fourth = answer["responses"]
    assert ids(first) == one[:3]
    assert ids(third) == one[3:]
    assert set(third["hits"]["hits"][0]["_source"]) == {"kind"}
    assert "rerank" not in second
    assert fourth["status"] == 404


def test_scroll_point_in_time_count_and_get(client: Any, node: tuple[str, str]) -> None:
    page = client.search(index=INDEX, body={**CATS, "size": 20}, scroll="1m")
    rest = client.scroll(scroll_id=page["_scroll_id"], scroll="1m")
    assert sorted(ids(page) + ids(rest)) == sorted(str(at) for at in range(30))
    client.clear_scroll(scroll_id=page["_scroll_id"])
    if node[0] == "opensearch":
        point = client.create_pit(index=INDEX, keep_alive="1m")["pit_id"]
    else:
        point = client.open_point_in_time(index=INDEX, keep_alive="1m")["id"]
    body: dict[str, Any] = {**CATS, "size": 20, "pit": {"id": point, "keep_alive": "1m"}, "sort": [{"n": "asc"}]}
    first = client.search(body=body)
    second = client.search(body={**body, "search_after": first["hits"]["hits"][-1]["sort"]})
    assert ids(first) + ids(second) == [str(at) for at in range(30)]
    if node[0] == "opensearch":
        client.delete_pit(body={"pit_id": [point]})
    else:
        client.close_point_in_time(id=point)
    assert client.count(index=INDEX, body=CATS)["count"] == 30
    assert [doc["_id"] for doc in client.mget(index=INDEX, body={"ids": ["1", "2"]})["docs"]] == ["1", "2"]
    assert client.get(index=INDEX, id="3")["_source"] == document(3)


def test_writes_go_through_only_where_they_are_allowed(client: Any, node: tuple[str, str]) -> None:
    with pytest.raises(Exception, match="gateway_writes") as refused:
        client.index(index=INDEX, id="new", body={"text": "x"})
    assert getattr(refused.value, "status_code", None) == 403
    assert not client.exists(index=INDEX, id="new")
    with serving(StandIn(), gateway_settings(node[1], {"serve.gateway_writes": True}, node[0])) as (url, _):
        other = type(client)(url)
        assert other.index(index="gw-written", id="1", body={"text": "x"}, refresh=True)["result"] == "created"
        assert other.get(index="gw-written", id="1")["found"]
        other.indices.delete(index="gw-written")
        other.close()


def test_errors_are_the_clusters_own(client: Any, gateway: str, node: tuple[str, str]) -> None:
    for body in ({"query": {"match": {"text": {"query": "cats", "odd": 1}}}}, {**CATS, "odd": {}}):
        answer = httpx2.post(f"{gateway}/{INDEX}/_search", json=body, timeout=30)
        assert answer.status_code == 400
        assert answer.json() == direct(node, body)
    assert httpx2.post(f"{gateway}/gw-none/_search", json=CATS, timeout=30).status_code == 404


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ("", {"empty documents"}),
        ("text", {"empty documents", "the documents' text could not be fetched"}),
        ("nothing", {"empty documents", "the documents' text could not be fetched"}),
    ],
)
def test_an_index_that_keeps_no_texts_comes_as_the_cluster_gives_it(
    node: tuple[str, str], reranker: Reranker, fields: str, reasons: set[str]
) -> None:
    index = f"{node[1]}/gw-sourceless"
    mapping = {"mappings": {"_source": {"enabled": False}, "properties": {"text": {"type": "text"}}}}
    httpx2.put(index, json=mapping, timeout=30).raise_for_status()
    try:
        for text in ("cats sleep", "cats", "dogs"):
            httpx2.post(f"{index}/_doc?refresh=true", json={"text": text}, timeout=30).raise_for_status()
        settings = gateway_settings(node[1], {"engine.fields": fields, "serve.host": "127.0.0.1"}, node[0])
        with serving(reranker, settings) as (url, _):
            answer = httpx2.post(f"{url}/gw-sourceless/_search", json=CATS, timeout=30)
        plain = httpx2.post(f"{index}/_search", json=CATS, timeout=30).json()
    finally:
        httpx2.delete(index, timeout=30)
    assert answer.headers["X-Reranked"] == "false" and answer.headers["X-Rerank-Reason"] in reasons
    assert len(plain["hits"]["hits"]) == 2 and answer.json()["hits"] == plain["hits"]


def test_a_window_larger_than_the_index_allows(gateway: str, node: tuple[str, str]) -> None:
    httpx2.put(f"{node[1]}/{INDEX}/_settings", json={"index.max_result_window": 11}, timeout=30).raise_for_status()
    try:
        answer = httpx2.post(f"{gateway}/{INDEX}/_search?size=3", json=CATS, timeout=30)
        lines = "".join(json.dumps(line) + "\n" for line in ({"index": INDEX}, {**CATS, "size": 3}))
        many = httpx2.post(
            f"{gateway}/_msearch", content=lines, headers={"Content-Type": "application/x-ndjson"}, timeout=30
        )
        plain = direct(node, {**CATS, "size": 3})
    finally:
        httpx2.put(f"{node[1]}/{INDEX}/_settings", json={"index.max_result_window": None}, timeout=30)
    assert ids(answer.json()) == ids(plain) == ids(many.json()["responses"][0])
    assert answer.headers["X-Reranked"] == many.headers["X-Reranked"] == "false"
    assert "refused" in answer.headers["X-Rerank-Reason"]


def test_ext_rerank_gives_the_words(gateway: str, node: tuple[str, str]) -> None:
    body = {**CATS, "ext": {"rerank": {"query_context": {"query_text": "sleep"}}}}
    answer = httpx2.post(f"{gateway}/{INDEX}/_search", json=body, timeout=30)
    assert answer.json()["rerank"]["query"] == "sleep"
    assert answer.headers["X-Reranked"] == "true"


def test_the_calls_of_dashboards(gateway: str, node: tuple[str, str]) -> None:
    search = (
        f"{gateway}/{INDEX}/_search?ignore_unavailable=true&track_total_hits=true&timeout=30000ms&preference=1234"
    )
    words = {
        "query_string": {"query": "text:(cats AND sleep)", "analyze_wildcard": True, "time_zone": "Europe/Berlin"}
    }
    time = {"range": {"date": {"gte": "2024-01-01T00:00:00.000Z", "format": "strict_date_optional_time"}}}
    discover: dict[str, Any] = {
        "version": True,
        "size": 500,
        "_source": {"excludes": []},
        "stored_fields": ["*"],
        "script_fields": {},
        "docvalue_fields": [{"field": "date", "format": "date_time"}],
        "aggs": {"2": {"date_histogram": {"field": "date", "fixed_interval": "1d", "min_doc_count": 1}}},
        "query": {"bool": {"must": [words], "filter": [{"match_all": {}}, time], "should": [], "must_not": []}},
        "highlight": {
            "pre_tags": ["@hl@"],
            "post_tags": ["@/hl@"],
            "fields": {"*": {}},
            "fragment_size": 2147483647,
        },
    }
    by_date = {**discover, "sort": [{"date": {"order": "desc", "unmapped_type": "boolean"}}]}
    answer = httpx2.post(search, json=by_date, timeout=30)
    assert (answer.status_code, answer.headers["X-Rerank-Reason"]) == (200, "sort")
    assert ids(answer.json()) == ids(direct(node, by_date))
    by_score = {**discover, "sort": [{"_score": {"order": "desc"}}]}
    answer = httpx2.post(search, json=by_score, timeout=30)
    plain = direct(node, {**by_score, "track_total_hits": True}, "?preference=1234")
    assert answer.headers["X-Reranked"] == "true"
    assert answer.json()["rerank"]["query"] == "cats sleep"
    assert sorted(map(json.dumps, answer.json()["hits"]["hits"])) == sorted(map(json.dumps, plain["hits"]["hits"]))
    assert answer.json()["aggregations"] == plain["aggregations"]
    assert answer.json()["hits"]["hits"][0]["highlight"]["text"]
    header = {"index": INDEX, "ignore_unavailable": True, "preference": 1700000000000}
    lines = "".join(json.dumps(line) + "\n" for line in (header, by_score, header, by_date))
    many = httpx2.post(
        f"{gateway}/_msearch", content=lines, headers={"Content-Type": "application/x-ndjson"}, timeout=30
    )
    assert many.headers["X-Reranked"] == "true,false"
    assert [response["status"] for response in many.json()["responses"]] == [200, 200]
    for method, path in (
        ("GET", "/_cat/indices?format=json"),
        ("GET", f"/{INDEX}/_mapping"),
        ("POST", f"/{INDEX}/_field_caps?fields=*"),
        ("GET", "/_nodes?filter_path=nodes.*.version,nodes.*.http.publish_address,nodes.*.ip"),
        ("GET", "/_cluster/health"),
    ):
        through, there = (httpx2.request(method, base + path, timeout=30) for base in (gateway, node[1]))
        assert through.status_code == there.status_code == 200
        assert through.headers["content-type"] == there.headers["content-type"]
        assert through.json().keys() == there.json().keys() if isinstance(through.json(), dict) else through.json()
