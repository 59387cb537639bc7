from __future__ import annotations

import json
from typing import Any

import pytest

from tests.service.gateway.conftest import GatewayFactory, shuffling
from tests.service.gateway.fake_cluster import FakeCluster, hit

CATS = {"query": {"match": {"text": "cats sleep"}}}
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(autouse=True)
def _hits(cluster: FakeCluster) -> None:
    cluster.hits = [hit(at, 10 - at, f"dogs number {at}") for at in range(9)] + [hit(9, 1, "cats sleep")]


def lines(*items: Any) -> bytes:
    return "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items).encode()


def sent(cluster: FakeCluster, at: int = 0) -> list[Any]:
    return [json.loads(line or "{}") for line in cluster.asked[at].body.decode().split("\n")[:-1]]


def ids(response: Any) -> list[str]:
    return [one["_id"] for one in response["hits"]["hits"]]


def test_those_that_can_be_are_reranked_and_the_others_are_as_they_were(
    make_gateway: GatewayFactory, cluster: FakeCluster
) -> None:
    other = {"size": 0, "aggs": {"x": {"max": {"field": "n"}}}}
    body = lines({"index": "books"}, {**CATS, "size": 2}, {}, other, {"index": "films", "preference": "p"}, CATS)
    cluster.rest = ',"aggregations":{"x":1.0E1}'
    answer = make_gateway().post("/books/_msearch?max_concurrent_searches=2", content=body, headers=NDJSON)
    assert answer.status_code == 200
    assert answer.headers["X-Reranked"] == "true,false,true"
    assert answer.headers["X-Rerank-Reason"] == "size is 0"
    first, second, third = answer.json()["responses"]
    assert ids(first) == ["9", "0"]
    assert first["rerank"] == {"reranked": True, "reason": None, "window": 20, "query": "cats sleep"}
    assert "rerank" not in second
    assert ids(third)[0] == "9" and len(ids(third)) == 10
    assert answer.text.count('"aggregations":{"x":1.0E1}') == 3
    (asked,) = cluster.asked
    assert asked.target == "/books/_msearch?max_concurrent_searches=2"
    headers, bodies = sent(cluster)[::2], sent(cluster)[1::2]
    assert headers[0]["index"] == "books" and headers[0]["preference"].startswith("rh-")
    assert headers[1:] == [{}, {"index": "films", "preference": "p"}]
    assert bodies == [{**CATS, "from": 0, "size": 20}, other, {**CATS, "from": 0, "size": 20}]


def test_an_msearch_and_a_search_give_the_same_page(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    client = make_gateway({"rerank.window": 5}, reranker=shuffling())
    page = {**CATS, "from": 3, "size": 4}
    one = client.post("/books/_search", json=page)
    many = client.post("/_msearch", content=lines({"index": "books"}, page), headers=NDJSON)
    assert many.json()["responses"][0]["hits"] == one.json()["hits"]
    assert sent(cluster, 1)[0]["preference"] == cluster.asked[0].parameters["preference"]


def test_blank_headers_are_headers(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    body = lines({}, CATS, "", {**CATS, "from": 30}, "", {"query": {"match_all": {}}})
    answer = make_gateway().post("/books/_msearch", content=body, headers=NDJSON)
    assert answer.headers["X-Reranked"] == "true,false,false"
    assert len(answer.json()["responses"]) == 3
    assert "behind the window" in answer.headers["X-Rerank-Reason"]


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_a_blank_line_at_the_start_is_what_the_cluster_takes_it_for(
    make_gateway: GatewayFactory, cluster: FakeCluster, kind: str
) -> None:
    body = b"\n" + (lines({}, CATS) if kind == "opensearch" else lines(CATS))
    answer = make_gateway(kind=kind).post("/books/_msearch", content=body, headers=NDJSON)
    assert answer.headers["X-Reranked"] == "true"


def test_documents_are_asked_for_in_the_same_request(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    cluster.hits = [hit(at, 10 - at, None) for at in range(4)]
    cluster.texts = {str(at): {"text": "cats sleep" if at == 2 else "dogs"} for at in range(4)}
    body = lines({"index": "books"}, {**CATS, "_source": False, "aggs": {}}, {}, {"query": {"match_all": {}}})
    answer = make_gateway({"engine.fields": "text"}).post("/_msearch", content=body, headers=NDJSON)
    first, second = answer.json()["responses"]
    assert ids(first) == ["2", "0", "1", "3"]
    assert "_source" not in answer.text
    assert len(cluster.asked) == 1
    requests = sent(cluster)
    assert len(requests) == 6
    assert requests[4] == requests[0]
    assert requests[5] == {**CATS, "from": 0, "size": 20, "_source": ["text"], "track_total_hits": False}


def test_a_refused_window_is_asked_for_again_as_it_came(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    cluster.largest = 10
    body = lines({}, CATS, {}, {"size": 1, "query": {"match_all": {}}})
    answer = make_gateway().post("/books/_msearch", content=body, headers=NDJSON)
    assert answer.headers["X-Reranked"] == "false,false"
    assert "refused" in answer.headers["X-Rerank-Reason"]
    first, second = answer.json()["responses"]
    assert ids(first) == [str(at) for at in range(10)]
    assert ids(second) == ["0"]
    assert sent(cluster, 1) == [{}, CATS]


@pytest.mark.parametrize(
    "body", [b'{}\n{"query":1', b"{}\n", b"{}\n{}\n{}\n", b"[]\n{}\n", b"{}\n{]\n", b"\xff\n{}\n"]
)
def test_what_is_not_understood_goes_to_the_cluster_as_it_is(
    make_gateway: GatewayFactory, cluster: FakeCluster, body: bytes
) -> None:
    cluster.answers["/_msearch"] = (400, {"Content-Type": "application/json"}, b'{"error":"x"}')
    answer = make_gateway().post("/_msearch", content=body, headers=NDJSON)
    assert (answer.status_code, answer.content) == (400, b'{"error":"x"}')
    assert answer.headers["X-Reranked"] == "false"
    assert cluster.asked[0].body == body


def test_an_answer_with_too_few_parts_is_not_put_together(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    odd = b'{"responses":[]}'
    cluster.answers["/_msearch"] = (200, {"Content-Type": "application/json"}, odd)
    answer = make_gateway().post("/_msearch", content=lines({}, CATS), headers=NDJSON)
    assert answer.content == odd
    assert cluster.asked[1].body == lines({}, CATS)


def test_ext_of_ours_stays_away_from_elasticsearch(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    ext = {"ext": {"rerank": {"query_context": {"query_text": "cats"}}}}
    body = lines({}, {"query": {"match_all": {}}, **ext}, {}, {"size": 0, **ext})
    answer = make_gateway(kind="elasticsearch").post("/_msearch", content=body, headers=NDJSON)
    assert answer.headers["X-Reranked"] == "true,false"
    assert all(not one.get("ext") for one in sent(cluster))


def test_one_deadline_for_all(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    headers = {**NDJSON, "X-Rerank-Deadline-Ms": "0.001"}
    answer = make_gateway().post("/books/_msearch", content=lines({}, CATS, {}, CATS), headers=headers)
    assert answer.headers["X-Reranked"] == "false,false"
    assert answer.headers["X-Rerank-Reason"] == "deadline"
    assert [one["rerank"]["reason"] for one in answer.json()["responses"]] == ["deadline", "deadline"]
