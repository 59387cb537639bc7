"""Every route answers every error in its own shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.errors import RequestError
from connector.service.errors import Failure, Style, error_body
from tests.service.conftest import ClientFactory
from tests.service.standin import StandIn, not_reranked
from tests.service.test_dialects import BODIES, ROUTES, post


def failing(error: Exception) -> StandIn:
    def behaviour(*_: Any) -> Any:
        raise error

    return StandIn(behaviour)


def check(response: Any, route: str, status: int, words: str = "") -> str:
    """The body has the route's shape; returns its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.content.isascii()
    body = response.json()
    if route.startswith("/rerank") and (route == "/rerank texts" or isinstance(body["error"], str)):
        assert set(body) == {"error", "error_type"}
        assert isinstance(body["error"], str)
        assert isinstance(body["error_type"], str)
        message = body["error"]
    else:
        message = body["message"]
        assert set(body) == {"message", "detail", "error"}
        assert body["detail"] == message
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"] == message
        assert body["error"]["code"] == status
    assert isinstance(message, str)
    assert message
    assert "\n" not in message
    assert words in message
    assert ("retry-after" in response.headers) == (status in (429, 503))
    return message


@pytest.mark.parametrize("route", ROUTES)
def test_400_malformed(client: TestClient, route: str) -> None:
    check(client.post(route.split()[0], content=b"{"), route.split()[0], 400, "not JSON")


@pytest.mark.parametrize("route", ROUTES)
def test_400_no_documents(client: TestClient, route: str) -> None:
    body = {key: [] if isinstance(value, list) else value for key, value in BODIES[route].items()}
    check(client.post(route.split()[0], json=body), route, 400, "no documents")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("missing", ["query", "documents"])
def test_a_missing_key_is_named(client: TestClient, route: str, missing: str) -> None:
    names = {"query": ("query", "text_1"), "documents": ("documents", "texts", "text_2")}[missing]
    body = {key: value for key, value in BODIES[route].items() if key not in names}
    response = client.post(route.split()[0], json=body)
    unknown_dialect = route.startswith("/rerank") and missing == "documents" and "rerank_scores" not in route
    is_tei = route == "/rerank texts" or (route == "/rerank" and unknown_dialect)
    message = check(response, "/rerank texts" if is_tei else route, 422 if is_tei else 400, "missing")
    assert any(name in message for name in names)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"first_stage": "best"}, 'first_stage is "best"; give "order"'),
        ({"first_stage_scores": [1, "x", 2]}, 'first_stage_scores[1] is "x"; give a list of first-stage'),
        ({"first_stage_scores": 3}, "first_stage_scores is 3"),
        ({"deadline_ms": 0}, "deadline_ms is 0; give milliseconds"),
        ({"deadline_ms": True}, "deadline_ms is true"),
    ],
)
def test_a_wrong_value_is_named_with_the_cure(
    client: TestClient, route: str, more: dict[str, Any], words: str
) -> None:
    check(post(client, route, **more), route, 422 if route == "/rerank texts" else 400, words)


def test_a_long_value_is_shortened(client: TestClient) -> None:
    response = client.post("/v1/rerank", json={"query": "q", "documents": "x" * 10_000})
    assert len(check(response, "/v1/rerank", 400, "documents is")) < 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "more", [{"first_stage_scores": [1.0]}, {"first_stage": "order", "first_stage_scores": [1, 2, 3]}]
)
def test_422_keys_that_contradict(client: TestClient, route: str, more: dict[str, Any]) -> None:
    check(post(client, route, **more), route, 422, "first_stage_scores")


def test_422_pairs_that_do_not_match(client: TestClient) -> None:
    body: dict[str, Any] = {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}
    check(client.post("/v1/score", json=body), "/v1/score", 422, "text_1 has 2")
    body = {"text_1": ["a", "b"], "text_2": ["c", "d"], "first_stage": "order"}
    check(client.post("/v1/score", json=body), "/v1/score", 422, "one query")


@pytest.mark.parametrize("route", ROUTES)
def test_too_many_documents(make_client: ClientFactory, route: str) -> None:
    response = post(make_client(max_documents=2), route)
    check(response, route, 413 if route == "/rerank texts" else 422, "serve.max_documents")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("chunked", [False, True])
def test_413_a_body_that_is_too_large(make_client: ClientFactory, route: str, chunked: bool) -> None:
    client = make_client(max_body_mb=1)
    body = json.dumps({**BODIES[route], "filler": "x" * (1 << 20)}).encode()
    content = iter([body[:1000], body[1000:]]) if chunked else body
    response = client.post(route.split()[0], content=content)
    check(response, route.split()[0], 413, "serve.max_body_mb")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic cmg6a2V5", "key-one", "Bearer", "Bearer k\u00e9"])
def test_401(make_client: ClientFactory, route: str, header: str | None) -> None:
    reranker = StandIn()
    client = make_client(reranker, api_keys="key-one,key-two")
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    response = client.post(route.split()[0], json=BODIES[route], headers=headers)
    message = check(response, route.split()[0], 401, "Authorization: Bearer KEY")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "key-one" not in message
    assert not reranker.asked


@pytest.mark.parametrize("header", ["Bearer key-one", "bearer  key-two ", "BEARER key-one"])
def test_a_right_key_is_let_in(make_client: ClientFactory, header: str) -> None:
    client = make_client(api_keys="key-one,key-two")
    response = client.post("/v1/rerank", json=BODIES["/v1/rerank"], headers={"Authorization": header})
    assert response.status_code == 200
    assert client.get("/live").status_code == 200
    assert client.get("/ready").status_code == 200
    assert client.get("/openapi.json").status_code == 401


def test_404(client: TestClient) -> None:
    for path in ("/v3/embed", "/rerank/x", "/docs"):
        check(client.post(path), path.replace("/rerank/x", "/x"), 404, "/openapi.json")
    check(client.post("/v3/rerank"), "/v3/rerank", 404, "did you mean /v1/rerank?")


@pytest.mark.parametrize("path", ["/", "/ui", "/live", "/info", "/v1/models", "/metrics", "/openapi.json"])
def test_405_of_pages(client: TestClient, path: str) -> None:
    response = client.post(path)
    check(response, path, 405, "see the Allow header")
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("route", ROUTES)
def test_405(client: TestClient, route: str) -> None:
    response = client.get(route.split()[0])
    check(response, route.split()[0], 405, "GET")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("route", ROUTES)
def test_what_the_reranker_refuses(make_client: ClientFactory, route: str) -> None:
    client = make_client(failing(RequestError("the query is empty; give one word at least")))
    check(post(client, route), route, 422 if route == "/rerank texts" else 400, "the query is empty")


@pytest.mark.parametrize("route", ROUTES)
def test_500_an_error_nobody_thought_of(make_client: ClientFactory, route: str) -> None:
    client = make_client(failing(ZeroDivisionError("secret detail")))
    message = check(post(client, route), route, 500, "ZeroDivisionError")
    assert "secret" not in message
    assert post(client, route, first_stage="order").headers["x-reranked"] == "false"


@pytest.mark.parametrize("route", ROUTES)
def test_503_not_reranked(make_client: ClientFactory, route: str) -> None:
    response = post(make_client(StandIn(not_reranked("deadline"))), route)
    check(response, route, 504 if route == "/rerank texts" else 503, "deadline")


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("failure", list(Failure))
def test_elasticsearch_is_never_told_to_try_again(failure: Failure, style: Style) -> None:
    body = error_body(failure, "m", style)
    if style is Style.TEI:
        assert failure.status(style) not in (429, 502, 503)
        assert body["error"] == "m"
    else:
        assert body["error"]["code"] == failure.status(style)
