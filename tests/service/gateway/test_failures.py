"""A search never fails because of reranking."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.cancelling import CancelScope
from connector.documents import FirstStage, RerankResult
from connector.errors import SettingsError
from connector.service.app import create_app
from connector.service.gateway import searching
from connector.service.gateway.marking import BROKEN_OFF, UNJOINED
from tests.campaign.faulty_proxy import faulty_proxy
from tests.service.gateway.conftest import GatewayFactory, gateway_settings
from tests.service.gateway.fake_cluster import FakeCluster, hit
from tests.service.live import serving
from tests.service.standin import Deaf, StandIn, not_reranked
from tests.service.test_admission import Gate, abandoned, count
from tests.service.waiting import wait_until

CATS = {"query": {"match": {"text": "cats"}}}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def _hits(cluster: FakeCluster) -> None:
    cluster.hits = [hit(at, 9 - at, "cats" if at == 5 else "dogs") for at in range(6)]


def check_first_stage(answer: Any, reason: str) -> None:
    """The cluster's order, marked."""
    assert answer.status_code == 200
    assert answer.headers["X-Reranked"] == "false"
    assert answer.headers["X-Rerank-Reason"].startswith(reason)
    assert answer.headers["X-Rerank-Reason"].isascii()
    body = answer.json()
    assert [one["_id"] for one in body["hits"]["hits"]] == ["1", "2"]
    assert [one["_score"] for one in body["hits"]["hits"]] == [8, 7]
    if "rerank" in body:
        assert body["rerank"]["reranked"] is False
        assert body["rerank"]["reason"] == answer.headers["X-Rerank-Reason"]


def raising(error: Exception) -> StandIn:
    def behaviour(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
        raise error

    return StandIn(behaviour)


@pytest.mark.parametrize(
    ("reranker", "reason"),
    [
        (raising(ValueError("é\n")), "failed: ValueError"),
        (StandIn(not_reranked("failed: Ünsinn\nx")), "failed: \\xdcnsinn x"),
        (StandIn(not_reranked("deadline")), "deadline"),
        (StandIn(lambda *_: RerankResult((), True)), "failed: RuntimeError"),
    ],
)
@pytest.mark.parametrize("policy", ["first_stage", "rerank"])
def test_a_model_that_fails(make_gateway: GatewayFactory, reranker: StandIn, reason: str, policy: str) -> None:
    client = make_gateway({"serve.gateway_scores": policy}, reranker=reranker)
    check_first_stage(client.post("/books/_search?from=1&size=2", json=CATS), reason)
    assert 'rh_reranked_total{outcome="fallback"} 1.0' in client.get("/metrics").text


def test_a_deadline_that_is_over(make_gateway: GatewayFactory) -> None:
    answer = make_gateway().post("/books/_search?from=1&size=2", json=CATS, headers={"X-Rerank-Deadline-Ms": "0.001"})
    check_first_stage(answer, "deadline")


@pytest.mark.parametrize("policy", ["first_stage", "rerank"])
def test_a_batch_under_way_does_not_hold_the_search(make_gateway: GatewayFactory, policy: str) -> None:
    deaf = Deaf()
    client = make_gateway({"serve.gateway_scores": policy}, reranker=StandIn(deaf))
    with deaf.held():
        answer = client.post("/books/_search?from=1&size=2", json=CATS, headers={"X-Rerank-Deadline-Ms": "300"})
        check_first_stage(answer, "deadline")


def test_of_many_searches_those_that_are_done_are_kept(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    deaf = Deaf(after=1)
    client = make_gateway(reranker=StandIn(deaf))
    body = f"{{}}\n{json.dumps(CATS)}\n" * 3
    with deaf.held():
        answer = client.post("/books/_msearch", content=body, headers={**JSON, "X-Rerank-Deadline-Ms": "2000"})
        assert answer.headers["X-Reranked"] == "true,false,false"
        assert answer.headers["X-Rerank-Reason"] == "deadline"
        found = [[one["_id"] for one in each["hits"]["hits"]] for each in answer.json()["responses"]]
        assert found[0][0] == "5" and found[1] == found[2] == [str(at) for at in range(6)]


def test_a_model_that_is_not_there_yet(make_gateway: GatewayFactory) -> None:
    release = threading.Event()

    def load(_: Any) -> StandIn:
        release.wait(20)
        return StandIn()

    client = make_gateway(reranker=load, ready=False)
    try:
        check_first_stage(client.post("/books/_search?from=1&size=2", json=CATS), "loading")
    finally:
        release.set()


def test_a_queue_that_is_full(make_gateway: GatewayFactory) -> None:
    started, release = threading.Event(), threading.Event()

    def behaviour(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
        started.set()
        release.wait(20)
        return not_reranked("failed: woken")(query, documents, first_stage, scope)

    client = make_gateway({"serve.max_queue": 1}, reranker=StandIn(behaviour))
    threads = [
        threading.Thread(target=client.post, args=("/books/_search",), kwargs={"json": CATS}) for _ in range(2)
    ]
    try:
        for thread in threads:
            thread.start()
        assert started.wait(20)
        app: Any = client.app
        wait_until(lambda: app.state.admission.inside == 2)
        check_first_stage(client.post("/books/_search?from=1&size=2", json=CATS), "overloaded")
    finally:
        release.set()
        for thread in threads:
            thread.join(20)


def test_a_caller_that_goes_away_ends_the_reranking(cluster: FakeCluster) -> None:
    gate = Gate()
    with serving(StandIn(gate), gateway_settings(cluster.url)) as (url, app):
        abandoned(url, "/books/_search", CATS, lambda: wait_until(lambda: gate.running == 1))
        # The gate is closed.
        wait_until(lambda: gate.ended == ["cancelled"] and app.state.admission.inside == 0)
        wait_until(lambda: count(url, 'rh_requests_total{route="gateway",status="499"}') == 1)
        assert count(url, 'rh_reranked_total{outcome="fallback"}') == 0
    # The search was not asked for again, as it is where reranking fails.
    assert len(cluster.asked) == 1


def test_a_window_that_the_cluster_refuses(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    cluster.largest = 10
    answer = make_gateway({"rerank.window": 11}).post("/books/_search?from=1&size=2", json=CATS)
    check_first_stage(answer, "the cluster refused a window of 11 hits (400)")
    assert cluster.asked[-1].target == "/books/_search?from=1&size=2"


def test_a_hybrid_query_that_nothing_joined(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    """Neural Search then answers each list behind marks, which are no hits: HybridTopScoreDocCollector."""
    scores = (-9549511700.0, -4422440400.0, 2.0, -4422440400.0, 1.0)
    cluster.hits = [
        json.dumps({"_index": "books", "_id": name, "_score": score, "_source": {"text": f"cats {name}"}})
        for name, score in zip("aaaba", scores, strict=True)
    ]
    body = {"query": {"hybrid": {"queries": [{"match": {"text": "cats"}}, {"match": {"text": "sleep"}}]}}}
    answer = make_gateway().post("/books/_search?size=4", json=body)
    assert (answer.headers["X-Reranked"], answer.headers["X-Rerank-Reason"]) == ("false", UNJOINED)
    assert [hit["_score"] for hit in answer.json()["hits"]["hits"]] == list(scores[:4])
    assert cluster.asked[-1].target == "/books/_search?size=4"
    lines = "".join(json.dumps(line) + "\n" for line in ({}, {**body, "size": 4}))
    many = make_gateway().post("/books/_msearch", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert (many.headers["X-Reranked"], many.headers["X-Rerank-Reason"]) == ("false", UNJOINED)
    assert [hit["_score"] for hit in many.json()["responses"][0]["hits"]["hits"]] == list(scores[:4])


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_refusals_that_no_other_page_would_change_are_not_repeated(
    make_gateway: GatewayFactory, cluster: FakeCluster, status: int
) -> None:
    headers = {"Content-Type": "application/json", "WWW-Authenticate": "Basic"}
    cluster.answers["/books/_search"] = (status, headers, b'{"error" : 1}')
    answer = make_gateway().post("/books/_search", json=CATS)
    assert (answer.status_code, answer.content, len(cluster.asked)) == (status, b'{"error" : 1}', 1)
    assert answer.headers["WWW-Authenticate"] == "Basic"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b'{"took":1}'),
        ("application/json", b'{"hits":{"hits":{}}}'),
        ("application/json", b'{"hits":{"hits":[1]}}'),
        ("application/json", b'{"hits":{"hits":' + b"[" * 3000 + b"]" * 3000 + b"}}"),
        ("application/yaml", b"---"),
        ("application/json", b""),
    ],
)
def test_answers_that_are_none_pass_untouched(
    make_gateway: GatewayFactory, cluster: FakeCluster, kind: str, body: bytes
) -> None:
    cluster.answers["/books/_search"] = (200, {"Content-Type": kind}, body)
    answer = make_gateway().post("/books/_search", json=CATS)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["X-Reranked"] == "false"


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b'{"a":1}{', b"\xff", b"{" * 5000, b'{"query":{"match":{"a":1e999999}}}']
)
def test_bodies_that_are_none_go_to_the_cluster_as_they_are(
    make_gateway: GatewayFactory, cluster: FakeCluster, body: bytes
) -> None:
    cluster.answers["/books/_search"] = (400, JSON, b'{"error":"no"}')
    answer = make_gateway().post("/books/_search", content=body, headers=JSON)
    assert (answer.status_code, answer.content) == (400, b'{"error":"no"}')
    assert cluster.asked[-1].body == body


def test_a_fault_of_ours_leaves_the_search_as_it_is(
    make_gateway: GatewayFactory, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(searching, "ranked_edits", fail)
    check_first_stage(make_gateway().post("/books/_search?from=1&size=2", json=CATS), "failed: KeyError")
    assert cluster.asked[-1].target == "/books/_search?from=1&size=2"


def test_a_body_that_is_too_large(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    answer = make_gateway({"serve.max_body_mb": 1}).post(
        "/books/_search", content=b'{"x":"' + b"a" * (1 << 20) + b'"}', headers=JSON
    )
    assert answer.status_code == answer.json()["status"] == 413
    assert "serve.max_body_mb" in answer.json()["error"]["reason"]
    assert cluster.asked == []


@pytest.mark.parametrize("path", ["/books/_search", "/books/_mapping"])
def test_no_cluster(make_client: Callable[..., TestClient], path: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        answer = make_client(settings=gateway_settings(url)).request("GET", path, json=CATS)
    assert answer.status_code == answer.json()["status"] == 502
    assert answer.json()["error"]["root_cause"][0]["type"] == "connect_exception"
    assert url in answer.json()["error"]["reason"]


TRICKLE = "answers a byte at a time"


@pytest.mark.parametrize("fault", ["accepts and never answers", TRICKLE, "cut JSON"])
@pytest.mark.parametrize("many", [False, True])
def test_what_only_the_gateway_asks_for_may_fail(
    make_client: Callable[..., TestClient], cluster: FakeCluster, fault: str, many: bool
) -> None:
    with faulty_proxy(cluster.url) as proxy:
        client = make_client(settings=gateway_settings(proxy.url, {"engine.timeout_ms": 300}))
        proxy.begin(fault, frozenset({1}))
        cluster.hits = [hit(at, 9 - at) for at in range(6)]
        # That the hits come without their documents shows in the answer only.
        body = {**CATS, "from": 1, "size": 2}
        if many:
            answer = client.post("/books/_msearch", content=f"{{}}\n{json.dumps(body)}\n", headers=JSON)
        else:
            answer = client.post("/books/_search", json=body)
    assert proxy.faulted == 1
    found = answer.json()["responses"][0] if many else answer.json()
    assert answer.status_code == 200 and [one["_id"] for one in found["hits"]["hits"]] == ["1", "2"]
    assert answer.headers["X-Rerank-Reason"] == "the documents' text could not be fetched"


def test_documents_that_come_after_the_deadline(make_client: Callable[..., TestClient], cluster: FakeCluster) -> None:
    with faulty_proxy(cluster.url) as proxy:
        client = make_client(settings=gateway_settings(proxy.url))
        proxy.begin("accepts and never answers", frozenset({1}))
        headers = {"X-Rerank-Deadline-Ms": "300"}
        answer = client.post("/books/_search?from=1&size=2", json={**CATS, "_source": False}, headers=headers)
    # engine.timeout_ms is 10 seconds.
    check_first_stage(answer, "deadline")


@pytest.mark.parametrize("fault", ["resets in the middle of an answer", "TLS where none is spoken"])
@pytest.mark.parametrize("many", [False, True])
def test_a_window_that_breaks_off_does_not_take_the_search_with_it(
    make_client: Callable[..., TestClient], cluster: FakeCluster, fault: str, many: bool
) -> None:
    with faulty_proxy(cluster.url) as proxy:
        client = make_client(settings=gateway_settings(proxy.url))
        proxy.begin(fault, frozenset({0}))
        body = {**CATS, "from": 1, "size": 2}
        if many:
            answer = client.post("/books/_msearch", content=f"{{}}\n{json.dumps(body)}\n", headers=JSON)
        else:
            answer = client.post("/books/_search", json=body)
    found = answer.json()["responses"][0] if many else answer.json()
    assert answer.headers["X-Rerank-Reason"] == BROKEN_OFF
    assert [one["_id"] for one in found["hits"]["hits"]] == ["1", "2"]


def test_a_cluster_that_never_ends_its_answer(make_client: Callable[..., TestClient], cluster: FakeCluster) -> None:
    with faulty_proxy(cluster.url) as proxy:
        client = make_client(settings=gateway_settings(proxy.url, {"engine.timeout_ms": 300}))
        proxy.begin(TRICKLE)
        answer = client.post("/books/_search", json=CATS)
    assert answer.status_code == 504 and answer.json()["error"]["type"] == "timeout_exception"


@pytest.mark.parametrize("path", ["/books/_search", "/books/_mapping"])
def test_a_silent_cluster(make_client: Callable[..., TestClient], path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        chosen = gateway_settings(f"http://127.0.0.1:{silent.getsockname()[1]}", {"engine.timeout_ms": 200})
        answer = make_client(settings=chosen).request("GET", path, json=CATS)
    assert answer.status_code == answer.json()["status"] == 504
    assert answer.json()["error"]["type"] == "timeout_exception"


def test_an_unreadable_url_is_told_at_the_start() -> None:
    for url in ("localhost:9200", "ftp://x", "http://"):
        with pytest.raises(SettingsError, match="engine.url"):
            create_app(StandIn(), gateway_settings(url))


def test_errors_of_the_gateway_are_json_in_ascii(make_gateway: GatewayFactory) -> None:
    answer = make_gateway().request("BREW", "/books")
    assert answer.status_code == 405
    assert json.loads(answer.content)["error"]["root_cause"][0]["reason"]
