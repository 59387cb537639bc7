from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from connector.cancelling import CancelScope
from connector.documents import FirstStage, RankedHit, RerankResult
from tests.service.gateway.conftest import GatewayFactory, shuffling
from tests.service.gateway.fake_cluster import FakeCluster, hit
from tests.service.standin import StandIn

CATS = {"query": {"match": {"text": "cats sleep"}}}

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(autouse=True)
def _hits(cluster: FakeCluster) -> None:
    """The best one for CATS is the last of ten."""
    cluster.hits = [hit(at, 10 - at, f"dogs number {at}") for at in range(9)] + [hit(9, 1, "cats sleep")]


def ids(answer: Any) -> list[str]:
    return [one["_id"] for one in answer.json()["hits"]["hits"]]


def test_a_search_is_asked_for_with_the_whole_window_and_answered_with_its_page(
    make_gateway: GatewayFactory, cluster: FakeCluster
) -> None:
    standin = StandIn()
    answer = make_gateway({"rerank.window": 20}, reranker=standin).post("/books/_search?size=3", json=CATS)
    assert ids(answer) == ["9", "0", "1"]
    assert answer.headers["X-Reranked"] == "true"
    assert "X-Rerank-Reason" not in answer.headers
    assert answer.headers["Server-Timing"].startswith("first-stage;dur=")
    assert "rerank;dur=" in answer.headers["Server-Timing"]
    assert answer.headers["X-Elastic-Product"] == "Elasticsearch"
    assert answer.json()["rerank"] == {"reranked": True, "reason": None, "window": 20, "query": "cats sleep"}
    (asked,) = cluster.asked
    assert asked.path == "/books/_search"
    assert (asked.parameters["from"], asked.parameters["size"]) == ("0", "20")
    assert asked.parameters["preference"].startswith("rh-")
    assert json.loads(asked.body) == CATS
    assert standin.asked[-1][0] == "cats sleep"
    assert standin.asked[-1][2] == [float(10 - at) for at in range(9)] + [1.0]


def test_what_was_cut_is_told(make_gateway: GatewayFactory) -> None:
    def cutting(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
        hits = [RankedHit(at, -float(at), truncated=at in (0, 9)) for at in range(len(documents))]
        return RerankResult(tuple(hits), True, query_truncated="sleep" in query)

    client = make_gateway({}, reranker=StandIn(cutting))
    assert client.post("/books/_search?size=3", json=CATS).headers["X-Truncated"] == "query, 2 hits"
    assert "X-Truncated" not in client.post("/books/_search", json=CATS, headers={"X-Rerank": "false"}).headers
    bodies = [{}, CATS, {}, {"query": {"match": {"text": "cats"}}}]
    lines = "".join(json.dumps(body) + "\n" for body in bodies)
    answer = client.post("/books/_msearch", content=lines, headers=NDJSON)
    assert answer.headers["X-Reranked"] == "true,true" and answer.headers["X-Truncated"] == "query, 4 hits"
    one = make_gateway({"rerank.window": 5}, reranker=StandIn(cutting)).post("/books/_search?q=cats")
    assert one.headers["X-Truncated"] == "1 hit"


def test_every_page_asks_the_same_copies_of_the_shards(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    client = make_gateway({"rerank.window": 4})
    for start in (0, 3, 8):
        client.post(f"/books/_search?from={start}", json=CATS)
    client.post("/films/_search", json=CATS)
    client.post("/books/_search?preference=mine", json=CATS)
    preferences = [asked.parameters["preference"] for asked in cluster.asked]
    assert len(set(preferences[:3])) == 1
    assert preferences[3] not in preferences[:3]
    assert preferences[4] == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "body", "reason"),
    [
        ("?scroll=1m", CATS, "scroll"),
        ("", {**CATS, "pit": {"id": "x"}}, "pit"),
        ("", {**CATS, "search_after": [1]}, "search_after"),
        ("", {**CATS, "collapse": {"field": "x"}}, "collapse"),
        ("", {**CATS, "sort": [{"date": "desc"}]}, "sort"),
        ("", {**CATS, "sort": ["_score", "date"]}, "sort"),
        ("", {**CATS, "sort": {"_score": "asc"}}, "sort"),
        ("?sort=date:desc", CATS, "sort"),
        ("", {**CATS, "size": 0}, "size is 0"),
        ("?size=0", CATS, "size is 0"),
        ("", {**CATS, "size": -1}, "from or size is no whole number from 0 up"),
        ("?from=x", CATS, "from or size is no whole number from 0 up"),
        ("", {"query": {"match_all": {}}}, "no query text"),
        ("", {"suggest": {"text": "cats"}}, "no query text"),
        ("", {"retriever": {"standard": {"query": CATS["query"], "sort": ["date"]}}}, "sort"),
        ("?format=yaml", CATS, "format"),
        ("?stored_fields=_none_", CATS, "stored_fields"),
        ("?filter_path=took", CATS, "filter_path"),
        ("?filter_path=-hits.hits._source.text", CATS, "filter_path"),
        ("?filter_path=hits.hits._id,hits.total", CATS, "filter_path"),
    ],
)
def test_what_is_no_page_of_best_hits_passes_untouched(
    make_gateway: GatewayFactory, cluster: FakeCluster, parameters: str, body: dict[str, Any], reason: str
) -> None:
    odd = b'{"took" : 1,"hits":{"hits":[ ]}}\n'
    cluster.answers["/books/_search"] = (200, {"Content-Type": "application/json", "X-Odd": "1"}, odd)
    answer = make_gateway().post(f"/books/_search{parameters}", json=body)
    assert answer.content == odd
    assert answer.headers["X-Odd"] == "1"
    assert answer.headers["X-Reranked"] == "false"
    assert answer.headers["X-Rerank-Reason"] == reason
    (asked,) = cluster.asked
    assert asked.target == f"/books/_search{parameters}"
    assert json.loads(asked.body) == body


@pytest.mark.parametrize(
    "sort", ["_score", ["_score"], [{"_score": "desc"}], {"_score": {"order": "DESC"}}, [], {"_score": {}}]
)
def test_sorting_by_score_is_what_a_search_does_anyway(make_gateway: GatewayFactory, sort: Any) -> None:
    assert make_gateway().post("/books/_search", json={**CATS, "sort": sort}).headers["X-Reranked"] == "true"


@pytest.mark.parametrize(
    "parameters",
    ["?filter_path=hits.hits", "?filter_path=took,hits.**", "?filter_path=-took,-aggregations", "?pretty"],
)
def test_parameters_that_leave_the_hits_do_not_matter(make_gateway: GatewayFactory, parameters: str) -> None:
    assert make_gateway().post(f"/books/_search{parameters}", json=CATS).headers["X-Reranked"] == "true"


def test_the_url_wins_over_the_body_and_both_say_from_and_size(make_gateway: GatewayFactory) -> None:
    client = make_gateway(reranker=shuffling())
    order = ids(client.post("/books/_search", json=CATS))
    assert ids(client.post("/books/_search", json={**CATS, "from": 2, "size": 3})) == order[2:5]
    assert ids(client.post("/books/_search?from=1", json={**CATS, "from": 2, "size": "3"})) == order[1:4]
    assert ids(client.post("/books/_search?size=4&from=0", json={**CATS, "from": 2, "size": 3})) == order[:4]


def test_searches_come_in_many_ways(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    client = make_gateway()
    source = quote(json.dumps({**CATS, "size": 2}))
    answers = [
        client.get("/books/_search?q=text:cats&size=2"),
        client.request("GET", "/books/_search", json={**CATS, "size": 2}),
        client.get(f"/books/_search?source={source}&source_content_type=application/json"),
        client.post(
            "/books/_search?size=2",
            content=gzip.compress(json.dumps(CATS).encode()),
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ),
        client.post("/_search", json={**CATS, "size": 2}),
        client.post(
            "/books/_search?size=2",
            content=json.dumps(CATS),
            headers={"Content-Type": "application/vnd.elasticsearch+json; compatible-with=8"},
        ),
    ]
    for answer in answers:
        assert answer.headers["X-Reranked"] == "true"
        assert ids(answer) == ["9", "0"]
    assert all(asked.headers["accept-encoding"] == "identity" for asked in cluster.asked)


def test_headers_say_how_and_do_not_go_on(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    standin = StandIn()
    client = make_gateway(reranker=standin)
    headers = {
        "X-Rerank-Query": quote("cats schläfrig"),
        "X-Rerank-Window": "3",
        "X-Rerank-Mode": "static",
        "X-Rerank-Deadline-Ms": "60000",
        "X-Opaque-Id": "me",
    }
    answer = client.post("/books/_search", json={"query": {"match_all": {}}}, headers=headers)
    assert answer.json()["rerank"] == {"reranked": True, "reason": None, "window": 3, "query": "cats schläfrig"}
    assert standin.modes[-1] == "static"
    query, documents, _, scope = standin.asked[-1]
    assert query == "cats schläfrig"
    assert len(documents) == 3
    assert 0 < scope.remaining() <= 60
    (asked,) = cluster.asked
    assert asked.headers["x-opaque-id"] == "me"
    assert not [name for name in asked.headers if name.startswith("x-rerank")]


def test_a_caller_may_do_without(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    answer = make_gateway().post("/books/_search", json=CATS, headers={"X-Rerank": "false"})
    assert answer.headers["X-Rerank-Reason"] == "X-Rerank: false"
    assert ids(answer)[0] == "0"
    assert cluster.asked[0].target == "/books/_search"


WRONG_HEADERS = [
    ("X-Rerank", "perhaps"),
    ("X-Rerank-Window", "0"),
    ("X-Rerank-Window", "10001"),
    ("X-Rerank-Window", "ten"),
    ("X-Rerank-Mode", "best"),
    ("X-Rerank-Highlight", "yes"),
    ("X-Rerank-Deadline-Ms", "soon"),
    ("X-Rerank-Deadline-Ms", "-1"),
    ("X-Rerank-Query", "%ff"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_HEADERS)
def test_a_wrong_header_is_told_in_the_clusters_own_way(
    make_gateway: GatewayFactory, cluster: FakeCluster, name: str, value: str
) -> None:
    answer = make_gateway().post("/books/_search", json=CATS, headers={name: value})
    assert answer.status_code == 400
    body = answer.json()
    assert body["status"] == 400
    assert body["error"]["type"] == "illegal_argument_exception"
    assert body["error"]["root_cause"] == [{"type": body["error"]["type"], "reason": body["error"]["reason"]}]
    assert name in body["error"]["reason"] and value in body["error"]["reason"]
    assert cluster.asked == []


def test_what_ext_says_stays_away_from_elasticsearch_alone(
    make_gateway: GatewayFactory, cluster: FakeCluster
) -> None:
    ext = {"rerank": {"query_context": {"query_text": "cats"}}, "other": {"x": 1.0}}
    for kind, kept in (("elasticsearch", {"other": {"x": 1.0}}), ("opensearch", ext)):
        client = make_gateway(kind=kind)
        answer = client.post("/books/_search", json={"query": {"match_all": {}}, "ext": ext})
        assert answer.json()["rerank"]["query"] == "cats"
        assert json.loads(cluster.asked[-1].body) == {"query": {"match_all": {}}, "ext": kept}
        client.post("/books/_search", json={"sort": "date", "ext": ext})
        assert json.loads(cluster.asked[-1].body) == {"sort": "date", "ext": kept}


@pytest.mark.parametrize(
    ("parameters", "part"),
    [("", {"_source": False}), ("", {"_source": ["title"]}), ("?_source_includes=title", {}), ("?_source=false", {})],
)
def test_hidden_documents_are_fetched_apart_and_stay_hidden(
    make_gateway: GatewayFactory, cluster: FakeCluster, parameters: str, part: dict[str, Any]
) -> None:
    cluster.hits = [hit(at, 10 - at, None, ',"fields":{"n":[1.50]}') for at in range(4)]
    cluster.texts = {str(at): {"text": "cats sleep" if at == 2 else "dogs"} for at in range(4)}
    aggregations = {"aggs": {"x": {"terms": {"field": "n"}}}, "highlight": {"fields": {"*": {}}}}
    answer = make_gateway({"engine.fields": "text^2"}).post(
        f"/books/_search{parameters}", json={**CATS, **part, **aggregations}, headers={"Authorization": "Basic eDp5"}
    )
    assert ids(answer) == ["2", "0", "1", "3"]
    assert answer.text.count("_source") == 0
    assert cluster.hits[2] in answer.text
    first, second = cluster.asked
    assert json.loads(second.body) == {
        **CATS,
        "from": 0,
        "size": 20,
        "_source": ["text"],
        "track_total_hits": False,
    }
    assert "_source" not in second.parameters
    assert first.parameters["preference"] == second.parameters["preference"]
    assert second.headers["authorization"] == "Basic eDp5"


@pytest.mark.parametrize("source", [True, ["text", "title"], "*", {"excludes": []}, {"includes": ["text"]}])
def test_one_search_is_enough_where_the_text_is_in_the_hits(
    make_gateway: GatewayFactory, cluster: FakeCluster, source: Any
) -> None:
    answer = make_gateway({"engine.fields": "text"}).post("/books/_search", json={**CATS, "_source": source})
    assert answer.headers["X-Reranked"] == "true"
    assert len(cluster.asked) == 1


def test_other_searches_are_marked_and_other_requests_are_not(
    make_gateway: GatewayFactory, cluster: FakeCluster
) -> None:
    client = make_gateway()
    for path, reason in (("_search/template", "search template"), ("_async_search", "asynchronous search")):
        answer = client.post(f"/books/{path}", json={})
        assert answer.headers["X-Rerank-Reason"] == reason
    answer = client.get("/books/_mapping?pretty&x=%2F+a", headers={"Accept": "application/json"})
    assert "X-Reranked" not in answer.headers
    assert answer.content == b'{"ok" : true}'
    assert cluster.asked[-1].target == "/books/_mapping?pretty&x=%2F+a"


def test_paths_and_bodies_arrive_as_they_were_sent(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    client = make_gateway({"serve.gateway_writes": True})
    body = b'{"index":{}}\n{"a": 1.0E1}\n'
    answer = client.put("/b%C3%BCcher/_doc/a%2Fb?routing=%7Ex", content=body, headers={"Content-Type": "x/y"})
    assert answer.status_code == 200
    (asked,) = cluster.asked
    assert asked.target == "/b%C3%BCcher/_doc/a%2Fb?routing=%7Ex"
    assert (asked.method, asked.body, asked.headers["content-type"]) == ("PUT", body, "x/y")


def test_compressed_answers_pass_as_they_are(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    packed = gzip.compress(b'{"a": 1}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    cluster.answers["/books/_mapping"] = (200, headers, packed)
    with make_gateway().stream("GET", "/books/_mapping", headers={"Accept-Encoding": "gzip"}) as answer:
        assert b"".join(answer.iter_raw()) == packed
    assert cluster.asked[0].headers["accept-encoding"] == "gzip"


def test_writes_are_refused_in_the_clusters_own_way(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    answer = make_gateway().put("/books", json={})
    assert answer.status_code == answer.json()["status"] == 403
    assert "serve.gateway_writes" in answer.json()["error"]["reason"]
    assert cluster.asked == []


def test_the_services_own_paths_never_reach_the_cluster(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    client = make_gateway({"serve.gateway_writes": True})
    assert client.get("/live").json() == {"status": "live"}
    assert client.post("/live").status_code == 405
    assert client.get("/v1/rerank").status_code == 405
    assert client.get("/metrics").status_code == 200
    assert "/{path}" not in client.get("/openapi.json").text
    assert cluster.asked == []
    assert client.get("/").json() == {"ok": True}
    assert client.head("/").status_code == 200
    assert 'route="gateway"' in client.get("/metrics").text


def test_the_gateway_can_be_turned_off(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    assert make_gateway({"serve.gateway": False}).post("/books/_search", json=CATS).status_code == 404
    assert cluster.asked == []


def test_the_headers_that_are_checked_are_those_of_the_page(repository: Path) -> None:
    page = (repository / "docs/gateway.md").read_text(encoding="utf-8")
    table = page.partition("## Headers of a request")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(X-[A-Za-z-]+)", table, re.MULTILINE)) == {name for name, _ in WRONG_HEADERS}


def test_a_search_leaves_its_line_in_the_access_log(
    make_gateway: GatewayFactory, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_gateway()
    with caplog.at_level(logging.INFO, logger="connector.access"):
        answers = [
            client.post("/books/_search", json=CATS),
            client.post("/books/_msearch", content=f"{{}}\n{json.dumps(CATS)}\n" * 2, headers=NDJSON),
            client.get("/_cat/indices"),
        ]
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "connector.access"]
    assert [(line["route"], line["documents"], line["reranked"]) for line in lines] == [
        ("gateway", 10, True),
        ("gateway", 20, True),
        ("gateway", None, None),
    ]
    assert [line["id"] for line in lines] == [answer.headers["X-Request-Id"] for answer in answers]
    assert "cats" not in caplog.text
