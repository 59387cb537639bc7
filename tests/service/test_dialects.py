"""What each route answers, with a stand-in for the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.reranking.reranker import Reranker
from tests.service.conftest import ClientFactory
from tests.service.standin import StandIn, not_reranked

QUERY = "cats sleep"
DOCUMENTS = ["steel bridges", "cats sleep a lot", "cats purr"]
HIGH, MIDDLE, LOW = 0.7728924, 0.5, 0.2271076

BODIES: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/v2/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/v1/reranks": {"query": QUERY, "documents": DOCUMENTS},
    "/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/infinity/rerank": {"query": QUERY, "documents": DOCUMENTS},
    "/rerank texts": {"query": QUERY, "texts": DOCUMENTS},
    "/v1/score": {"text_1": QUERY, "text_2": DOCUMENTS},
    "/score": {"text_1": QUERY, "text_2": DOCUMENTS},
    "/v1/rerank_scores": {"query": QUERY, "documents": DOCUMENTS},
    "/v1/explain": {"query": QUERY, "documents": DOCUMENTS},
}
ROUTES = sorted(BODIES)


def post(client: TestClient, route: str, **more: Any) -> Any:
    return client.post(route.split()[0], json={**BODIES[route], **more})


def order(answer: Any) -> list[int]:
    results = answer if isinstance(answer, list) else answer["results"]
    return [result["index"] for result in results]


@pytest.mark.parametrize(("route", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2")])
def test_cohere(client: TestClient, route: str, version: str) -> None:
    answer = post(client, route, model="any").json()
    assert len(answer.pop("id")) == 36
    assert answer == {
        "model": "any",
        "results": [
            {"index": 1, "relevance_score": pytest.approx(HIGH, abs=0.01)},
            {"index": 2, "relevance_score": 0.5},
            {"index": 0, "relevance_score": pytest.approx(LOW, abs=0.01)},
        ],
        "usage": {"total_tokens": 0, "prompt_tokens": 0},
        "meta": {"api_version": {"version": version}, "billed_units": {"search_units": 1}},
        "reranked": True,
        "reason": None,
    }


def test_vllm_and_infinity(client: TestClient) -> None:
    answer = post(client, "/rerank").json()
    assert answer["object"] == "rerank"
    assert answer["model"] == "smollm2-135m"
    assert isinstance(answer["created"], int)
    assert answer["id"].startswith("rerank-")
    assert answer["usage"]["total_tokens"] == 0
    assert order(answer) == [1, 2, 0]
    assert answer["results"][0]["document"] == {"text": "cats sleep a lot"}
    assert "document" not in post(client, "/rerank", return_documents=False).json()["results"][0]


def test_tei(client: TestClient) -> None:
    answer = post(client, "/rerank texts").json()
    assert order(answer) == [1, 2, 0]
    assert [set(result) for result in answer] == [{"index", "score"}] * 3
    with_text = post(client, "/rerank texts", return_text=True, truncate=True).json()
    assert with_text[0]["text"] == "cats sleep a lot"
    raw = post(client, "/rerank texts", raw_scores=True).json()
    assert [result["score"] for result in raw] == pytest.approx([1.224745, 0.0, -1.224745])


@pytest.mark.parametrize("route", ["/v1/score", "/score"])
@pytest.mark.parametrize(("first", "second"), [("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")])
def test_score_one_query(client: TestClient, route: str, first: str, second: str) -> None:
    answer = client.post(route, json={first: [QUERY], second: DOCUMENTS}).json()
    assert answer["object"] == "list"
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
    assert {entry["object"] for entry in answer["data"]} == {"score"}
    low, high, middle = (entry["score"] for entry in answer["data"])
    assert low < middle < high


def test_score_pairs_compares_texts_of_the_same_query(make_client: ClientFactory) -> None:
    reranker = StandIn()
    client = make_client(reranker)
    pairs = {"text_1": ["cats", "dogs", "cats", "dogs"], "text_2": ["a", "dogs bark", "cats", "b"]}
    scores = [entry["score"] for entry in client.post("/v1/score", json=pairs).json()["data"]]
    assert [asked[:2] for asked in reranker.asked] == [("cats", ["a", "cats"]), ("dogs", ["dogs bark", "b"])]
    assert scores[2] > scores[0]
    assert scores[1] > scores[3]


def test_rerank_scores(client: TestClient) -> None:
    answer = post(client, "/v1/rerank_scores").json()
    low, high, middle = answer["scores"]
    assert low < middle < high
    assert answer["reranked"] is True


@pytest.mark.parametrize("route", ["/v1/rerank", "/v2/rerank", "/rerank", "/rerank texts"])
@pytest.mark.parametrize(("top_n", "count"), [(None, 3), (0, 3), (1, 1), (2, 2), (9, 3)])
def test_top_n(client: TestClient, route: str, top_n: int | None, count: int) -> None:
    assert order(post(client, route, top_n=top_n).json()) == [1, 2, 0][:count]


def test_object_documents(make_client: ClientFactory) -> None:
    reranker = StandIn()
    client = make_client(reranker)
    documents = [
        {"text": "the text", "title": "not read"},
        {"title": "a title", "body": "a body", "n": 3},
        {"text": ["not", "text"], "title": "t"},
        {},
        "plain",
    ]
    body = {"query": "q", "documents": documents, "return_documents": True}
    answer = client.post("/v1/rerank", json=body).json()
    assert reranker.asked[-1][1] == ["the text", "a title\na body", "not text\nt", "", "plain"]
    returned = {result["index"]: result["document"] for result in answer["results"]}
    assert returned == {**dict(enumerate(documents[:4])), 4: {"text": "plain"}}
    client.post("/v1/rerank", json={**body, "rank_fields": ["title", "n"]})
    assert reranker.asked[-1][1] == ["not read", "a title\n3", "t", "", "plain"]


@pytest.mark.parametrize("route", ROUTES)
def test_every_answer_says_whether_it_is_reranked_and_how_long_it_took(client: TestClient, route: str) -> None:
    response = post(client, route)
    assert response.headers["x-reranked"] == "true"
    stages = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert set(stages) == {"queue", "encode", "read", "rerank", "total"}
    assert all(float(milliseconds) >= 0 for milliseconds in stages.values())
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("first_stage", "wanted"),
    [({"first_stage": "order"}, [0, 1, 2]), ({"first_stage_scores": [1, 9.5, 4]}, [1, 2, 0])],
)
def test_without_reranking_the_first_stage_order_goes_back(
    make_client: ClientFactory, route: str, first_stage: dict[str, Any], wanted: list[int]
) -> None:
    reranker = StandIn(not_reranked("deadline"))
    response = post(make_client(reranker), route, **first_stage)
    assert response.status_code == 200
    assert response.headers["x-reranked"] == "false"
    assert reranker.asked[0][2] == first_stage.get("first_stage_scores", "order")
    answer = response.json()
    if isinstance(answer, dict):
        assert (answer["reranked"], answer["reason"]) == (False, "deadline")
    if "scores" in answer or "data" in answer:
        scores = answer["scores"] if "scores" in answer else [entry["score"] for entry in answer["data"]]
        assert sorted(range(3), key=lambda index: -scores[index]) == wanted
    else:
        results = answer if isinstance(answer, list) else answer["results"]
        assert order(answer) == wanted
        scores = [result.get("score", result.get("relevance_score")) for result in results]
        assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3


@pytest.mark.parametrize("route", ROUTES)
def test_without_reranking_and_first_stage_there_is_an_error(make_client: ClientFactory, route: str) -> None:
    response = post(make_client(StandIn(not_reranked("failed: out of memory"))), route)
    assert response.status_code == (504 if route == "/rerank texts" else 503)
    assert ("retry-after" in response.headers) == (route != "/rerank texts")
    assert "failed: out of memory" in response.text
    assert "first_stage_scores" in response.text


@pytest.mark.parametrize("reason", ["no documents", "empty documents"])
@pytest.mark.parametrize("route", ROUTES)
def test_nothing_to_rerank_is_no_failure(make_client: ClientFactory, route: str, reason: str) -> None:
    response = post(make_client(StandIn(not_reranked(reason))), route)
    assert response.status_code == 200
    assert response.headers["x-reranked"] == "false"


def test_a_thousand_fallback_scores_strictly_decrease(make_client: ClientFactory) -> None:
    client = make_client(StandIn(not_reranked("deadline")))
    body = {"query": "q", "texts": [""] * 1000, "first_stage": "order"}
    scores = [result["score"] for result in client.post("/rerank", json=body).json()]
    assert all(0 < low < high < 1 for high, low in zip(scores, scores[1:], strict=False))


def test_answers_are_ascii(client: TestClient) -> None:
    response = client.post(
        "/v1/rerank",
        content=json.dumps({"query": "ü", "documents": ["é 😀 שלום", "\ud800"], "return_documents": True}).encode(),
    )
    assert response.content.isascii()
    assert [result["document"]["text"] for result in response.json()["results"]] == ["é 😀 שלום", "�"]


def test_the_mode_is_passed_on_and_the_route_told_where_it_is_asked_for(
    make_client: ClientFactory, reranker: Reranker, late_reranker: Reranker
) -> None:
    stand_in = StandIn()
    client = make_client(stand_in)
    assert "route" not in post(client, "/v1/rerank", router_mode="all").json()
    assert stand_in.modes[-1] == "all"
    refused = post(client, "/v1/rerank", router_mode="some")
    assert refused.status_code in (400, 422) and "router_mode" in refused.text
    heads = make_client(late_reranker)
    route = post(heads, "/v1/rerank_scores", return_route=True).json()["route"]
    assert route["mode"] == "static" and route["deepest_layer"] == 15
    assert set(route["gates"][0]) == {"layer", "head", "readout", "gate"}
    wrong = post(heads, "/v1/rerank", router_mode="routed")
    assert wrong.status_code in (400, 422) and "no router is loaded" in wrong.text
    real = make_client(reranker)
    route = post(real, "/v1/rerank_scores", return_route=True).json()["route"]
    assert route["deepest_layer"] == 15 and [own["signal"] for own in route["gates"]] == ["probe"]
    wrong = post(real, "/v1/rerank", router_mode="all")
    assert wrong.status_code in (400, 422) and "the layout solo does not" in wrong.text


def test_which_apis_tell_the_route_is_what_the_page_says(make_client: ClientFactory, reranker: Reranker) -> None:
    real = make_client(reranker)
    told = {route for route in ROUTES if "route" in post(real, route, return_route=True).text}
    assert "/rerank" in told and "/rerank texts" not in told
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
    heads = page.partition("\n## Heads\n")[2].partition("\n## ")[0]
    assert "TEI's `/rerank` takes the\nmode and tells no route" in heads and "vLLM" not in heads
