"""``/v1/highlight``: what OpenSearch's semantic highlighter sends, and what it can read."""

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
from tests.service.standin import Deaf, StandIn, not_reranked

ROUTE = "/v1/highlight"
QUESTION = "how long do cats sleep"
ANSWER = "Adult cats sleep between twelve and sixteen hours a day."
TEXT = f"Bridges are made of steel. {ANSWER} The moon is far from here."


def looks_at_cats(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
    """Looks at the word "cats", and brings the last document first."""
    hits = [
        RankedHit(
            at, -float(at), looked_at=((text.index("cats"), text.index("cats") + 4, 1.0),) if "cats" in text else ()
        )
        for at, text in enumerate(documents)
    ]
    return RerankResult(tuple(reversed(hits)), True, heads=((1, 2),))


@pytest.fixture
def looking(make_client: ClientFactory) -> TestClient:
    return make_client(StandIn(looks_at_cats))


def java_substring(text: str, highlight: dict[str, Any]) -> str:
    """``text.substring(start, end)`` in Java."""
    units = text.encode("utf-16-le")
    return units[2 * highlight["start"] : 2 * highlight["end"]].decode("utf-16-le")


def test_one_document(looking: TestClient) -> None:
    answer = looking.post(ROUTE, json={"question": QUESTION, "context": TEXT})
    start = TEXT.index("Adult")
    wanted = {"start": start, "end": start + len(ANSWER), "text": ANSWER, "position": 1}
    assert answer.status_code == 200
    assert answer.json() == {"highlights": [wanted], "reason": None}
    wrapped = {"parameters": {"question": QUESTION, "context": TEXT, "inputs": []}}
    assert looking.post(ROUTE, json=wrapped).json() == answer.json()
    assert looking.post(ROUTE, json={"question": QUESTION, "context": "no such word"}).json()["highlights"] == []


def test_many_documents_of_several_questions(make_client: ClientFactory) -> None:
    reranker = StandIn(looks_at_cats)
    client = make_client(reranker)
    inputs = [
        {"question": "a", "context": "One. Two cats."},
        {"question": "b", "context": "nothing"},
        {"question": "a", "context": "Three cats. Four."},
        {"question": " ", "context": "cats"},
        {"question": "b", "context": "cats"},
    ]
    # The other shape's keys come empty from connectors that serve both.
    answer = client.post(ROUTE, json={"question": "", "context": "", "inputs": inputs}).json()
    assert [[own["text"] for own in found] for found in answer["highlights"]] == [
        ["Two cats."],
        [],
        ["Three cats."],
        [],
        ["cats"],
    ]
    assert [(query, documents) for query, documents, *_ in reranker.asked] == [
        ("a", ["One. Two cats.", "Three cats. Four."]),
        ("b", ["nothing", "cats"]),
    ]
    assert client.post(ROUTE, json={"inputs": []}).json()["highlights"] == []


def test_places_are_counted_as_java_counts(looking: TestClient) -> None:
    for text in ("🍎🍎 é. Some cats 🐈 sleep. 🍎", "東京。cats 🐈。終", "a\ud800b. two cats\udc00 here. end"):
        # Half a surrogate pair is legal in JSON, and in Java's strings.
        answer = looking.post(ROUTE, content=json.dumps({"question": "q", "context": text}).encode())
        (highlight,) = answer.json()["highlights"]
        mended = "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)
        assert java_substring(mended, highlight) == highlight["text"] and "cats" in highlight["text"]
        assert answer.content.isascii()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "question is missing; give question and context, or inputs"),
        ({"question": "q"}, "context is missing"),
        ({"context": "c"}, "question is missing"),
        ({"inputs": [], "question": "q"}, "context is missing"),
        ({"question": 7, "context": "c"}, "question is 7; give the query"),
        ({"inputs": [{"question": "q"}]}, "inputs[0].context is missing; give a list of objects"),
        ({"inputs": "x"}, 'inputs is "x"'),
        ({"question": "q", "context": "c", "inputs": [{"question": "q", "context": "c"}]}, "give one of them"),
        ({"inputs": [{"question": "q", "context": "c"}] * 4}, "serve.max_documents"),
        ({"question": "q", "context": "c", "deadline_ms": -1}, "deadline_ms is -1"),
        ({"parameters": 5}, "parameters is no object; give one with question and context"),
        ({"question": "q", "context": "c", "parameters": ["q"]}, "parameters is no object"),
        (
            {"question": "q", "parameters": {"question": "p", "context": "c"}},
            "question has two values, inside parameters",
        ),
    ],
)
def test_wrong_requests_are_told(make_client: ClientFactory, body: dict[str, Any], named: str) -> None:
    answer = make_client(max_documents=3).post(ROUTE, json=body)
    assert answer.status_code in (400, 422) and named in answer.json()["message"]


def test_contradictions_have_a_status_of_their_own(looking: TestClient) -> None:
    twice = {"question": "q", "context": "cats", "parameters": {"question": "q", "context": "dogs"}}
    assert looking.post(ROUTE, json=twice).status_code == 422
    assert looking.post(ROUTE, json={"parameters": 5}).status_code == 400
    same = {"question": "q", "context": None, "parameters": {"question": "q", "context": "cats"}}
    assert looking.post(ROUTE, json=same).json()["highlights"]


def test_keys_without_effect_are_named(looking: TestClient) -> None:
    body = {"context": "cats", "top_n": 2, "parameters": {"question": "q", "color": "red", "user": None}}
    assert looking.post(ROUTE, json=body).headers["x-ignored-keys"] == "top_n, color"
    assert "x-ignored-keys" not in looking.post(ROUTE, json={"question": "q", "context": "cats"}).headers


def test_texts_that_were_cut_are_named(make_client: ClientFactory) -> None:
    def cutting(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
        hits = [RankedHit(at, -float(at), truncated="long" in text) for at, text in enumerate(documents)]
        return RerankResult(tuple(reversed(hits)), True, heads=((1, 2),), query_truncated="long" in query)

    client = make_client(StandIn(cutting))
    one = client.post(ROUTE, json={"question": "long", "context": "long"})
    assert one.headers["x-truncated"] == "question, context"
    inputs = [("q", "a"), ("r", "long"), ("q", "b"), ("q", "long")]
    many = client.post(ROUTE, json={"inputs": [{"question": own, "context": text} for own, text in inputs]})
    assert many.headers["x-truncated"] == "inputs[1].context, inputs[3].context"
    assert "x-truncated" not in client.post(ROUTE, json={"question": "q", "context": "a"}).headers


def test_a_body_may_be_compressed(looking: TestClient) -> None:
    body = gzip.compress(json.dumps({"question": "q", "context": "cats"}).encode())
    assert looking.post(ROUTE, content=body, headers={"Content-Encoding": "gzip"}).json()["highlights"]
    refused = looking.post(ROUTE, content=body, headers={"Content-Encoding": "br"})
    assert refused.status_code == 415 and "gzip" in refused.json()["message"]


def test_a_search_does_not_fail_for_its_highlights(make_client: ClientFactory) -> None:
    body = {"inputs": [{"question": "q", "context": "cats"}] * 2}
    late = make_client(StandIn(not_reranked("deadline"))).post(ROUTE, json=body)
    assert (late.status_code, late.json()) == (200, {"highlights": [[], []], "reason": "deadline"})

    def breaks(*_: Any) -> RerankResult:
        raise MemoryError

    broken = make_client(StandIn(breaks)).post(ROUTE, json={"question": "q", "context": "cats"})
    assert (broken.status_code, broken.json()["highlights"]) == (200, [])
    assert broken.json()["reason"] == "failed: MemoryError"
    blank = make_client().post(ROUTE, json={"question": " ", "context": "cats"}).json()
    assert blank == {"highlights": [], "reason": "the question is blank"}

    def never(settings: Any) -> Any:
        raise RuntimeError("no weights")

    loading = make_client(never, ready=False).post(ROUTE, json=body)
    assert (loading.status_code, loading.json()["highlights"]) == (200, [[], []])
    assert loading.json()["reason"]
    # A reranker that looks at nothing says so rather than leaving it to be found out.
    assert "no heads" in make_client().post(ROUTE, json={"question": "q", "context": "cats"}).json()["reason"]


def test_keys_are_asked_for(make_client: ClientFactory) -> None:
    client = make_client(api_keys="one")
    body = {"question": "q", "context": "cats"}
    assert client.post(ROUTE, json=body).status_code == 401
    assert client.post(ROUTE, json=body, headers={"Authorization": "Bearer one"}).status_code == 200


def test_with_the_real_model(make_client: ClientFactory, reranker: Reranker) -> None:
    client = make_client(reranker)
    filler = "Rivers carry sand to the sea. Clay is fired in a kiln. The coast lies an hour from the station."
    text = f"🍎 {filler} {ANSWER} {filler}"
    (highlight,) = client.post(ROUTE, json={"question": QUESTION, "context": text}).json()["highlights"]
    assert highlight["text"] == ANSWER == java_substring(text, highlight) and highlight["position"] == 3
    inputs = [{"question": QUESTION, "context": own} for own in (text, ANSWER, "", filler)]
    many = client.post(ROUTE, json={"inputs": inputs}).json()["highlights"]
    assert many[0] == [highlight] and many[1][0]["text"] == ANSWER and many[2] == []
    # The reading shows the same part that the reranker tells.
    (hit,) = reranker.rerank(QUESTION, [text]).hits
    assert hit.passage is not None and "sleep" in text[slice(*hit.passage)]


def test_the_schema_stands_alone(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"][ROUTE]["post"]["requestBody"]
    schema = described["content"]["application/json"]["schema"]
    assert schema["properties"]["inputs"]["anyOf"][0]["items"]["required"] == ["question", "context"]
    assert "$ref" not in str(schema)


def test_a_batch_under_way_does_not_hold_the_answer(make_client: ClientFactory) -> None:
    deaf = Deaf()
    client = make_client(StandIn(deaf))
    with deaf.held():
        answer = client.post(ROUTE, json={"question": QUESTION, "context": TEXT, "deadline_ms": 50})
        assert (answer.status_code, answer.json()) == (200, {"highlights": [], "reason": "deadline"})
