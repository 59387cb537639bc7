"""The official Cohere SDK, unchanged, against the real server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cohere
import pytest

from connector.reranking.reranker import Reranker
from tests.service.conftest import service_settings
from tests.service.live import serving
from tests.service.standin import StandIn, not_reranked
from tests.service.test_admission import Gate
from tests.service.waiting import wait_until

QUERY = "cats sleep"
DOCUMENTS = ["steel bridges", "cats sleep a lot", "cats purr"]
ONCE: Any = {"max_retries": 0}
Client = cohere.Client | cohere.ClientV2


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(StandIn(), service_settings(api_keys="the-key")) as (url, _):
        yield url


def client_of(kind: type[Client], url: str, key: str = "the-key") -> Client:
    return kind(base_url=url, api_key=key)


@pytest.fixture(params=[cohere.Client, cohere.ClientV2])
def client(request: pytest.FixtureRequest, server: str) -> Iterator[Client]:
    with client_of(request.param, server) as client:
        yield client


def test_texts(client: Client) -> None:
    answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS)
    assert [result.index for result in answer.results] == [1, 2, 0]
    scores = [result.relevance_score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert answer.id
    assert answer.meta is not None
    assert answer.meta.api_version is not None
    assert answer.meta.api_version.version == ("2" if isinstance(client, cohere.ClientV2) else "1")


def test_top_n(client: Client) -> None:
    answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=DOCUMENTS, top_n=1)
    assert [result.index for result in answer.results] == [1]


def test_objects(client: Client) -> None:
    documents: Any = [{"text": document} for document in DOCUMENTS]
    answer = client.rerank(model="rerank-v3.5", query=QUERY, documents=documents)
    assert [result.index for result in answer.results] == [1, 2, 0]


def test_v1_returns_documents_and_reads_chosen_fields(server: str) -> None:
    documents = [{"title": document, "text": "cats sleep"} for document in DOCUMENTS]
    with cohere.Client(base_url=server, api_key="the-key") as client:
        answer = client.rerank(
            query=QUERY,
            documents=documents,
            rank_fields=["title"],
            return_documents=True,
            max_chunks_per_doc=3,
            top_n=2,
        )
        assert [result.index for result in answer.results] == [1, 2]
        assert [result.document.text for result in answer.results if result.document] == ["cats sleep"] * 2
        texts = client.rerank(query=QUERY, documents=DOCUMENTS, return_documents=True)
        assert [result.document.text for result in texts.results if result.document] == [
            DOCUMENTS[result.index] for result in texts.results
        ]


def test_v2_options(server: str) -> None:
    with cohere.ClientV2(base_url=server, api_key="the-key") as client:
        answer = client.rerank(model="m", query=QUERY, documents=DOCUMENTS, max_tokens_per_doc=99, priority=3)
    assert len(answer.results) == 3


@pytest.mark.parametrize("kind", [cohere.Client, cohere.ClientV2])
def test_a_wrong_key(server: str, kind: type[Client]) -> None:
    with client_of(kind, server, "wrong") as client, pytest.raises(cohere.UnauthorizedError) as caught:
        client.rerank(model="m", query=QUERY, documents=DOCUMENTS)
    assert "serve.api_keys" in caught.value.body["message"]


def test_no_documents(client: Client) -> None:
    with pytest.raises(cohere.BadRequestError) as caught:
        client.rerank(model="m", query=QUERY, documents=[])
    assert "no documents" in caught.value.body["message"]


def test_too_many_documents(client: Client) -> None:
    with pytest.raises(cohere.UnprocessableEntityError) as caught:
        client.rerank(model="m", query=QUERY, documents=["x"] * 1001)
    assert "serve.max_documents" in caught.value.body["message"]


@pytest.mark.parametrize("kind", [cohere.Client, cohere.ClientV2])
def test_not_reranked(kind: type[Client]) -> None:
    with (
        serving(StandIn(not_reranked("deadline")), service_settings()) as (url, _),
        client_of(kind, url) as client,
        pytest.raises(cohere.ServiceUnavailableError) as caught,
    ):
        client.rerank(model="m", query=QUERY, documents=DOCUMENTS, request_options=ONCE)
    assert caught.value.headers is not None
    assert caught.value.headers["retry-after"] == "1"


@pytest.mark.parametrize("kind", [cohere.Client, cohere.ClientV2])
def test_too_many_requests(kind: type[Client]) -> None:
    gate = Gate()
    with (
        serving(StandIn(gate), service_settings(max_queue=1)) as (url, app),
        client_of(kind, url) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        asked: dict[str, Any] = {"model": "m", "query": QUERY, "documents": DOCUMENTS}
        waiting = [pool.submit(client.rerank, **asked) for _ in range(2)]
        wait_until(lambda: app.state.admission.inside == 2)
        with pytest.raises(cohere.TooManyRequestsError):
            client.rerank(**asked, request_options=ONCE)
        gate.open()
        assert [len(each.result().results) for each in waiting] == [3, 3]


def test_with_the_real_model(reranker: Reranker, cats: list[str]) -> None:
    with serving(reranker, service_settings()) as (url, _):
        for kind in (cohere.Client, cohere.ClientV2):
            with client_of(kind, url) as client:
                answer = client.rerank(model="m", query="How long do cats sleep?", documents=cats)
            assert sorted(result.index for result in answer.results) == [0, 1, 2, 3, 4]
            assert answer.results[0].index == 2
