"""What an answer's headers tell of a request is legal whatever the request's keys are."""

from __future__ import annotations

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.service.conftest import service_settings
from tests.service.live import serving
from tests.service.standin import StandIn


@pytest.mark.parametrize("key", ["\x04", "a\x00b", "é\u2028\x7f", "\x1b[31m", "😀" * 300])
def test_any_key_that_is_ignored(key: str) -> None:
    """On a real server: it breaks the connection where a header holds a control character."""
    with serving(StandIn(), service_settings()) as (url, _):
        answer = httpx2.post(f"{url}/v1/rerank", json={"query": "q", "documents": ["a", "b"], key: 1}, timeout=30)
    assert answer.status_code == 200
    told = answer.headers["X-Ignored-Keys"]
    assert told and told.isascii() and told.isprintable()


def test_weaviate_sends_an_empty_property(client: TestClient) -> None:
    """``RankInput`` of modules/reranker-transformers/clients/ranker.go: each of its keys is always sent."""
    body = {"query": "cats sleep", "documents": ["bridges", "cats sleep", "cats"], "property": ""}
    answer = client.post("/rerank", json=body).json()
    assert [each["document"] for each in answer["scores"]] == body["documents"]
    assert max(answer["scores"], key=lambda each: each["score"])["document"] == "cats sleep"
