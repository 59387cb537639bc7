"""Keys that clients send: honoured, refused by name, or told to have had no effect."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.cancelling import CancelScope
from connector.documents import FirstStage, RankedHit, RerankResult
from connector.reranking.reranker import Reranker
from tests.service.conftest import ClientFactory
from tests.service.standin import StandIn, not_reranked
from tests.service.test_dialects import BODIES, DOCUMENTS, QUERY, ROUTES, order, post

CUTTING = [route for route in ROUTES if "score" not in route]
SCORING = [route for route in ROUTES if "score" in route]
ANSWER = "A cat sleeps 12 to 16 hours a day."
QUESTION = "How long do cats sleep?"


def told(response: Any) -> str:
    answer = response.json()
    return str(answer.get("message", answer["error"]))


def odds(*values: float, cut: Sequence[int] = (), query: bool = False, calibrated: bool = True) -> StandIn:
    """Scores the first documents so; those in ``cut`` are marked as truncated."""

    def behaviour(asked: str, documents: Sequence[Any], first: FirstStage, scope: CancelScope) -> RerankResult:
        hits = [RankedHit(at, value, value, truncated=at in cut, passages=1) for at, value in enumerate(values)]
        hits = sorted(hits[: len(documents)], key=lambda hit: -hit.score)
        return RerankResult(tuple(hits), True, query_truncated=query, calibrated=calibrated)

    return StandIn(behaviour)


@pytest.mark.parametrize("route", CUTTING)
@pytest.mark.parametrize("key", ["top_n", "top_k", "topN", "topK", "limit"])
def test_every_name_of_how_many_come_back(client: TestClient, route: str, key: str) -> None:
    assert order(post(client, route, **{key: 2}).json()) == [1, 2]
    assert order(post(client, route, **{"top_n": None, key: 1}).json()) == [1]


@pytest.mark.parametrize("route", ROUTES)
def test_two_names_of_a_key_with_two_values(client: TestClient, route: str) -> None:
    refused = post(client, route, top_n=2, limit=3)
    assert refused.status_code == 422
    assert told(refused) == "top_n and limit are one key with two values; give one of them"
    assert post(client, route, top_n=3, limit=3).status_code == 200


@pytest.mark.parametrize("route", SCORING)
def test_where_each_text_has_a_score_nothing_is_cut(client: TestClient, route: str) -> None:
    assert post(client, route, top_n=3, results_order="input").status_code == 200
    for key, value in (("top_n", 2), ("score_threshold", 0.5), ("results_order", "score")):
        refused = post(client, route, **{key: value})
        assert refused.status_code == 422 and told(refused).startswith(f"{key} is {value}"), refused.text


@pytest.mark.parametrize("route", CUTTING)
def test_results_below_a_threshold_stay_away(make_client: ClientFactory, route: str) -> None:
    client = make_client(odds(-1.0, 2.0, 0.1))
    assert order(post(client, route, score_threshold=0.5).json()) == [1, 2]
    assert order(post(client, route, score_threshold=0).json()) == [1, 2, 0]
    assert order(post(client, route, score_threshold=0.99).json()) == []
    refused = post(make_client(odds(-1.0, 2.0, 0.1, calibrated=False)), route, score_threshold=0.5)
    assert refused.status_code == 422 and "backbone.layout" in told(refused)
    for value in (-0.1, 1.1, "half", True):
        refused = post(client, route, score_threshold=value)
        assert refused.status_code in (400, 422) and told(refused).startswith("score_threshold is"), value


@pytest.mark.parametrize("route", CUTTING)
def test_what_was_not_reranked_has_no_probability(make_client: ClientFactory, route: str) -> None:
    response = post(make_client(StandIn(not_reranked("deadline"))), route, first_stage="order", score_threshold=0.9)
    assert order(response.json()) == [0, 1, 2]
    assert response.headers["x-ignored-keys"] == "score_threshold"


def test_the_threshold_is_one_of_the_model_not_of_the_first_stage(reranker: Reranker, make_client: Any) -> None:
    client = make_client(reranker)
    body = {"query": QUESTION, "documents": ["Bridges are made of steel.", ANSWER], "first_stage_scores": [9, 1]}
    alone = client.post("/v1/rerank", json={key: body[key] for key in ("query", "documents")}).json()["results"]
    between = sum(result["relevance_score"] for result in alone) / 2
    kept = client.post("/v1/rerank", json={**body, "score_threshold": between}).json()["results"]
    assert [result["index"] for result in kept] == [1]


def test_a_threshold_is_refused_where_scores_are_none_of_probability(
    late_reranker: Reranker, make_client: ClientFactory
) -> None:
    refused = post(make_client(late_reranker), "/v1/rerank", score_threshold=0.5)
    assert refused.status_code == 422 and "score_threshold" in told(refused)


@pytest.mark.parametrize("route", CUTTING)
def test_the_best_in_the_order_of_the_documents(client: TestClient, route: str) -> None:
    assert order(post(client, route, results_order="input").json()) == [0, 1, 2]
    assert order(post(client, route, results_order="input", top_n=2).json()) == [1, 2]
    assert "results_order" in told(post(client, route, results_order="index"))


@pytest.mark.parametrize("route", CUTTING)
def test_a_service_for_clients_that_do_not_read_the_index(make_client: ClientFactory, route: str) -> None:
    client = make_client(results_order="input")
    assert order(post(client, route).json()) == [0, 1, 2]
    assert order(post(client, route, results_order="score").json()) == [1, 2, 0]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("raw", [{"raw_scores": True}, {"use_activation": False}, {"activation": False}])
def test_scores_of_any_size(make_client: ClientFactory, route: str, raw: dict[str, bool]) -> None:
    answer = post(make_client(odds(-3.0, 2.5, 0.5)), route, results_order="input", **raw).json()
    results = answer if isinstance(answer, list) else answer.get("results", answer.get("data", answer.get("scores")))
    scores = [r if isinstance(r, float) else r.get("score", r.get("relevance_score")) for r in results]
    assert scores == [-3.0, 2.5, 0.5]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("other", ["use_activation", "activation", "softmax"])
def test_raw_scores_and_its_opposite_contradict(client: TestClient, route: str, other: str) -> None:
    for value in (True, False):
        refused = post(client, route, raw_scores=value, **{other: value})
        assert refused.status_code == 422 and told(refused).startswith(f"raw_scores and {other} are both ")
        assert post(client, route, raw_scores=value, **{other: not value}).status_code == 200


def test_a_refusal_has_the_name_that_the_caller_gave(client: TestClient) -> None:
    assert told(post(client, "/v1/rerank_scores", limit=1)).startswith("limit is 1 and there are 3 texts")
    unequal = {"queries": ["a", "b"], "documents": ["a", "b", "c"]}
    assert told(client.post("/score", json=unequal)).startswith("queries has 2 texts and documents has 3")


@pytest.mark.parametrize("route", ROUTES)
def test_keys_without_effect_are_told(client: TestClient, route: str) -> None:
    response = post(client, route, user="x", **{"späß\ne": 1, "priority": 0, "empty": None})
    assert response.headers["x-ignored-keys"] == "user, sp\\xe4\\xdf e, priority"
    meta = response.json().get("meta") if isinstance(response.json(), dict) else None
    if meta is not None:
        assert meta["warnings"] == ["keys without effect: user, sp\\xe4\\xdf e, priority"]
    if route != "/score":
        assert post(client, route, model=5).headers["x-ignored-keys"] == "model"
    plain = post(client, route, model="m")
    assert "x-ignored-keys" not in plain.headers and "warnings" not in plain.text


DOCUMENTS_KEYS = {"/rerank texts": "texts", "/score": "text_2", "/v1/score": "text_2"}


@pytest.mark.parametrize("route", ROUTES)
def test_what_was_cut_is_told(make_client: ClientFactory, route: str) -> None:
    response = post(make_client(odds(1.0, 2.0, 3.0, cut=[2, 0], query=True)), route)
    name = DOCUMENTS_KEYS.get(route, "documents")
    assert response.headers["x-truncated"] == f"query, {name}[0], {name}[2]"
    if route in ("/v1/rerank", "/v2/rerank"):
        assert response.json()["meta"]["warnings"] == [
            "the query is too long: only its beginning was read",
            "documents too long, only their beginning was read: 0, 2",
        ]
    assert "x-truncated" not in post(make_client(odds(1.0, 2.0, 3.0)), route).headers


def test_an_instruction_that_was_cut_is_told_as_one(reranker: Reranker, make_client: ClientFactory) -> None:
    client = make_client(reranker)
    body = {"query": QUESTION, "documents": [ANSWER], "instruction": "cat " * 300}
    response = client.post("/v1/rerank", json=body)
    assert response.headers["x-truncated"] == "instruction"
    assert response.json()["meta"]["warnings"] == ["the instruction is too long: only its beginning was read"]
    refused = client.post("/v1/rerank", json={**body, "truncation": False})
    assert refused.status_code == 422 and told(refused).startswith("the instruction is too long to be read whole")
    both = client.post("/v1/rerank", json={**body, "query": "cat " * 600})
    assert both.headers["x-truncated"] == "query, instruction"


def test_of_many_that_were_cut_some_are_named(make_client: ClientFactory) -> None:
    client = make_client(odds(*map(float, range(30)), cut=range(30)))
    response = client.post("/rerank", json={"query": "q", "texts": ["t"] * 30})
    assert response.headers["x-truncated"].endswith("texts[19], and 10 more")


def test_pairs_that_were_cut_are_named_by_their_places(make_client: ClientFactory) -> None:
    client = make_client(odds(1.0, 2.0, cut=[1]))
    pairs = {"text_1": ["cats", "dogs", "cats", "dogs"], "text_2": ["a", "b", "c", "d"]}
    assert client.post("/score", json=pairs).headers["x-truncated"] == "text_2[2], text_2[3]"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("key", ["truncation", "truncate"])
def test_texts_that_must_not_be_cut(make_client: ClientFactory, route: str, key: str) -> None:
    refused = post(make_client(odds(1.0, 2.0, 3.0, cut=[1])), route, **{key: False})
    assert refused.status_code == 422
    assert told(refused).startswith(
        f"{DOCUMENTS_KEYS.get(route, 'documents')}[1] is too long to be read whole, and {key} is false"
    )
    assert post(make_client(odds(1.0, 2.0, 3.0)), route, **{key: False}).status_code == 200
    assert post(make_client(odds(1.0, 2.0, 3.0, cut=[1])), route, **{key: True}).status_code == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("max_tokens_per_doc", [1, 4096], [0, -1, "many", True]),
        ("max_chunks_per_doc", [1, 10], [0, -1, 1.5]),
        ("truncate_prompt_tokens", [-1, None], [100, 0, -2]),
        ("truncation_side", ["right", "Right", None], ["middle", "left", 3]),
        ("truncation_direction", ["Right", None], ["Left"]),
        ("instruction", ["", "Find facts.", None], [3, ["a"]]),
    ],
)
def test_limits_and_their_values(client: TestClient, route: str, key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert post(client, route, **{key: value}).status_code == 200, value
    for value in bad:
        refused = post(client, route, **{key: value})
        assert refused.status_code in (400, 422) and told(refused).startswith(f"{key} is "), (value, refused.text)


@pytest.mark.parametrize("route", ROUTES)
def test_limits_and_instruction_reach_the_reranker(make_client: ClientFactory, route: str) -> None:
    stand_in = StandIn()
    client = make_client(stand_in)
    for more, wanted in (
        ({}, (None, None)),
        ({"max_tokens_per_doc": 9}, (None, 9)),
        ({"max_chunks_per_doc": 2}, (None, 1024)),
        ({"max_chunks_per_doc": 2, "max_tokens_per_doc": 2000}, (None, 1024)),
        ({"instruct": "Find facts."}, ("Find facts.", None)),
    ):
        post(client, route, **more)
        assert stand_in.read[-1] == wanted
        assert stand_in.asked[-1][:2] == (QUERY, DOCUMENTS)


def test_long_texts_with_the_real_model(make_client: ClientFactory, reranker: Reranker) -> None:
    client = make_client(reranker)
    long = "word salad " * 120 + ANSWER
    body = {"query": QUESTION, "documents": ["Bread is flour.", long]}
    whole = client.post("/v1/rerank", json=body)
    assert "x-truncated" not in whole.headers
    cut = client.post("/v1/rerank", json={**body, "max_tokens_per_doc": 100})
    assert cut.headers["x-truncated"] == "documents[1]" and len(cut.json()["meta"]["warnings"]) == 1
    scores = [
        {result["index"]: result["relevance_score"] for result in answer.json()["results"]} for answer in (whole, cut)
    ]
    assert scores[0][0] == scores[1][0] and scores[1][1] < scores[0][1]
    refused = client.post("/v1/rerank", json={**body, "max_tokens_per_doc": 100, "truncation": False})
    assert refused.status_code == 422 and "documents[1]" in told(refused)
    asked = client.post("/rerank", json={"query": "cats " * 600, "texts": ["Bread is flour."]})
    assert asked.headers["x-truncated"] == "query"


def test_an_instruction_is_read_and_is_no_part_of_the_query(make_client: ClientFactory, reranker: Reranker) -> None:
    client = make_client(reranker)
    body = {"query": "jaguar", "documents": ["The jaguar is a big cat.", "Jaguar builds cars in England."]}

    def cat_over_car(**more: str) -> float:
        answer = client.post("/rerank", json={"model": "m", "raw_scores": True, **body, **more}).json()["results"]
        scores = {result["index"]: result["relevance_score"] for result in answer}
        return float(scores[0] - scores[1])

    plain = cat_over_car()
    assert cat_over_car(instruction="") == cat_over_car(instruction=" ") == plain
    animals = cat_over_car(instruction="Find texts about animals in the wild.")
    cars = cat_over_car(instruction="Find texts about cars and their makers.")
    assert animals != plain and animals > cars


def test_an_instruction_in_a_layout_that_reads_all_documents_at_once(
    make_client: ClientFactory, late_reranker: Reranker
) -> None:
    client = make_client(late_reranker)
    plain = post(client, "/v1/rerank_scores").json()
    asked = post(client, "/v1/rerank_scores", instruction="Find texts about animals.").json()
    assert plain["reranked"] is asked["reranked"] is True and plain["scores"] != asked["scores"]
    assert post(client, "/v1/rerank_scores").json()["scores"] == plain["scores"]


INVISIBLE = ["", " \n\t", "\u200b", "\ufeff", "\u2060", "\0", "\ud83d", "\u00ad", "\u3164", "\u2800", "\ufe0f"]


@pytest.mark.parametrize("text", INVISIBLE)
def test_texts_of_nothing_visible_count_as_empty(make_client: ClientFactory, reranker: Reranker, text: str) -> None:
    client = make_client(reranker)
    documents = [text, "Bread is flour.", ANSWER]
    for more in ({}, {"first_stage": "order"}, {"score_threshold": 0.0001}):
        body = json.dumps({"query": QUESTION, "documents": documents, **more})
        results = client.post("/v1/rerank", content=body).json()["results"]
        assert results[0]["index"] == 2
        assert [result["index"] for result in results[2:]] == ([] if "score_threshold" in more else [0])
    alone = client.post("/v1/rerank", content=json.dumps({"query": QUESTION, "documents": [text, text]})).json()
    assert (alone["reranked"], alone["reason"]) == (False, "empty documents")
    refused = client.post("/v1/rerank", content=json.dumps({"query": text, "documents": documents}))
    assert refused.status_code == 400 and "query is empty" in told(refused)


@pytest.mark.parametrize("route", ROUTES)
def test_compressed_bodies(client: TestClient, route: str) -> None:
    path, body = route.split()[0], json.dumps(BODIES[route]).encode()
    wanted = {key for key in client.post(path, content=body).json() if isinstance(key, str)}
    answer = client.post(path, content=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 200 and {key for key in answer.json() if isinstance(key, str)} == wanted
    for encoding in ("br", "zstd", "gzip, gzip"):
        refused = client.post(path, content=body, headers={"Content-Encoding": encoding})
        assert refused.status_code == 415 and told(refused).startswith(f"Content-Encoding is '{encoding}'")
        assert refused.headers["accept-encoding"] == "gzip, identity"
    for damaged in (body, gzip.compress(body)[:-4]):
        refused = client.post(path, content=damaged, headers={"Content-Encoding": "gzip"})
        assert refused.status_code == 400 and "Content-Encoding" in told(refused)


def test_a_body_that_grows_too_large_when_unpacked(make_client: ClientFactory) -> None:
    client = make_client(max_body_mb=1)
    refused = client.post("/v1/rerank", content=gzip.compress(b" " * 2**21), headers={"Content-Encoding": "gzip"})
    assert refused.status_code == 413 and "serve.max_body_mb" in told(refused)


def test_a_number_of_thousands_of_digits(client: TestClient) -> None:
    body = json.dumps(BODIES["/v1/rerank"])[:-1] + ', "extra": ' + "7" * 5000 + "}"
    refused = client.post("/v1/rerank", content=body)
    assert refused.status_code == 400 and "5000 digits" in told(refused) and "sys." not in told(refused)


def test_voyage(client: TestClient) -> None:
    """Its client reads ``data``, with each document as text: voyageai, voyageai/object/reranking.py."""
    answer = post(client, "/v1/rerank", top_k=2, truncation=True, return_documents=True).json()
    assert answer["object"] == "list"
    assert [told["index"] for told in answer["data"]] == [1, 2] == order(answer)
    assert answer["data"][0]["document"] == "cats sleep a lot"
    assert answer["results"][0]["document"] == {"text": "cats sleep a lot"}
    assert answer["usage"]["total_tokens"] == 0
    assert "data" not in post(client, "/v1/rerank", top_n=2).json()


def test_infinity(client: TestClient) -> None:
    """LiteLLM takes each document of it as text: litellm/llms/infinity/rerank/transformation.py."""
    answer = post(client, "/infinity/rerank", return_documents=True, top_n=1).json()
    assert answer["results"] == [
        {"index": 1, "relevance_score": pytest.approx(0.7729, abs=1e-3), "document": "cats sleep a lot"}
    ]
    assert (
        answer["object"] == "rerank" and "document" not in post(client, "/infinity/rerank").text.split('"usage"')[0]
    )


def test_weaviate(client: TestClient) -> None:
    """It sends two keys, and takes ``scores`` in input order: weaviate/reranker-transformers, app.py."""
    answer = client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    assert answer["query"] == QUERY
    assert [own["document"] for own in answer["scores"]] == DOCUMENTS
    by_place = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert [own["score"] for own in answer["scores"]] == [by_place[at] for at in range(3)]
    assert "scores" not in post(client, "/rerank", model="m").json()
