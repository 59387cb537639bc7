"""The line that a request leaves, and the id that it is found by."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.documents import RerankResult
from connector.service.observing.access_log import writing_access_log
from tests.service.conftest import ClientFactory
from tests.service.standin import StandIn, not_reranked, overlap
from tests.service.test_dialects import ROUTES, post

SECRETS = ("cats", "steel", "purr")
KEYS = ["time", "id", "method", "route", "status", "documents", "encoded", "cached", "reranked", "reason", "ms"]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    with writing_access_log(written := io.StringIO()):
        yield written


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    written = log.getvalue()
    assert not any(word in written for word in SECRETS)
    return [json.loads(line) for line in written.splitlines()]


@pytest.mark.parametrize("route", ROUTES)
def test_a_line_for_each_request(make_client: ClientFactory, log: io.StringIO, route: str) -> None:
    def cached(query: str, documents: Any, *_: object) -> RerankResult:
        return RerankResult(overlap(query, documents).hits, True, cached=2, encoded=1)

    post(make_client(StandIn(cached)), route)
    (line,) = lines(log)
    assert list(line) == KEYS
    assert (line["method"], line["route"], line["status"]) == ("POST", route.split()[0], 200)
    assert (line["documents"], line["encoded"], line["cached"]) == (3, 1, 2)
    assert (line["reranked"], line["reason"]) == (True, None)
    assert line["ms"] >= 0 and line["time"].endswith("+00:00")


def test_a_reason_quotes_nothing(make_client: ClientFactory, log: io.StringIO) -> None:
    post(make_client(StandIn(not_reranked("failed: ValueError: cats"))), "/v1/rerank", first_stage="order")
    assert [(line["reranked"], line["reason"]) for line in lines(log)] == [(False, "failed")]


def test_errors_and_paths_of_others(client: TestClient, log: io.StringIO) -> None:
    client.post("/v1/rerank", content=b"cats")
    client.post("/cats/v1/rerank")
    client.head("/metrics")
    assert [(line["method"], line["route"], line["status"], line["documents"]) for line in lines(log)] == [
        ("POST", "/v1/rerank", 400, None),
        ("POST", "other", 404, None),
        ("HEAD", "/metrics", 200, None),
    ]


def test_probes_are_quiet_while_all_is_well(make_client: ClientFactory, log: io.StringIO) -> None:
    client = make_client()
    for page in ("/live", "/ready", "/health", "/.well-known/ready"):
        client.get(page)
    assert lines(log) == []
    client.app.state.is_stopping = True  # type: ignore[attr-defined]
    client.get("/ready")
    assert [line["status"] for line in lines(log)] == [503]


def test_ids_in_and_out(client: TestClient, log: io.StringIO) -> None:
    given = post(client, "/v1/rerank", model="m").headers["x-request-id"]
    assert len(given) == 32
    for sent, kept in (("req-1:a/b", True), ("two words", False), ("x" * 129, False), ('"', False)):
        response = client.get("/metrics", headers={"X-Request-Id": sent})
        assert (response.headers["x-request-id"] == sent) == kept
        assert response.headers["x-request-id"] not in ("", given)
    logged = [line["id"] for line in lines(log)]
    assert logged[:2] == [given, "req-1:a/b"] and len(set(logged)) == 5
    assert client.post("/none", headers={"X-Request-Id": "a"}).headers["x-request-id"] == "a"


def test_nothing_is_written_to_a_stream_that_may_be_closed(make_client: ClientFactory) -> None:
    with writing_access_log(written := io.StringIO()):
        pass
    written.close()
    assert not logging.getLogger("connector.access").isEnabledFor(logging.INFO)
    assert post(make_client(StandIn()), "/v1/rerank").status_code == 200
