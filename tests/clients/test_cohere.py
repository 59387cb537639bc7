"""Cohere's own client; tests/service/test_cohere_sdk.py has its errors and options."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.clients.conftest import Service

pytestmark = pytest.mark.filterwarnings("ignore")


def pairs(answer: Any) -> list[tuple[int, float]]:
    return [(result.index, result.relevance_score) for result in answer.results]


@pytest.mark.client("cohere", "Client.rerank", "/v1/rerank")
def test_version_1(service: Service) -> None:
    cohere = pytest.importorskip("cohere")
    with cohere.Client(base_url=service.url, api_key=service.key) as client:
        answer = client.rerank(
            model="rerank-v3.5", query=service.query, documents=service.texts, top_n=2, return_documents=True
        )
    service.check(pairs(answer), 2)
    assert [result.document.text for result in answer.results] == [service.texts[at] for at in service.order[:2]]


@pytest.mark.client("cohere", "ClientV2.rerank", "/v2/rerank")
def test_version_2(service: Service) -> None:
    cohere = pytest.importorskip("cohere")
    with cohere.ClientV2(base_url=service.url, api_key=service.key) as client:
        answer = client.rerank(
            model="rerank-v3.5", query=service.query, documents=service.texts, max_tokens_per_doc=4096
        )
    service.check(pairs(answer))
    assert answer.meta.api_version.version == "2"


@pytest.mark.client("cohere", "AsyncClientV2.rerank", "/v2/rerank")
def test_asynchronous(service: Service) -> None:
    cohere = pytest.importorskip("cohere")

    async def ask() -> Any:
        async with cohere.AsyncClientV2(base_url=service.url, api_key=service.key) as client:
            return await client.rerank(model="rerank-v3.5", query=service.query, documents=service.texts)

    service.check(pairs(asyncio.run(ask())))
