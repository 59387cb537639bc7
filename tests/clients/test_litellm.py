"""LiteLLM, by each provider whose address can be set."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import Service

pytestmark = pytest.mark.filterwarnings("ignore")


def rerank(service: Service, model: str, base: str = "", **more: Any) -> Any:
    litellm = pytest.importorskip("litellm")
    return litellm.rerank(
        model=model,
        query=service.query,
        documents=service.texts,
        api_base=base or service.url,
        api_key=service.key,
        **more,
    )


def check(service: Service, answer: Any, count: int | None = None, documents: bool = False) -> None:
    service.check([(each["index"], each["relevance_score"]) for each in answer.results], count)
    if documents:
        assert [each["document"]["text"] for each in answer.results] == [
            service.texts[place] for place in service.order[:count]
        ]


@pytest.mark.client("litellm", "rerank, cohere/", "/v1/rerank")
def test_cohere(service: Service) -> None:
    answer = rerank(service, "cohere/rerank-english-v2.0", top_n=3, return_documents=True)
    check(service, answer, 3, documents=True)


@pytest.mark.client("litellm", "rerank, cohere/ (v2)", "/v2/rerank")
def test_cohere_v2(service: Service) -> None:
    check(service, rerank(service, "cohere/rerank-v3.5", f"{service.url}/v2/rerank", top_n=3), 3)


@pytest.mark.client("litellm", "rerank, infinity/", "/infinity/rerank")
def test_infinity(service: Service) -> None:
    check(service, rerank(service, "infinity/bge-reranker", f"{service.url}/infinity", top_n=3), 3)


@pytest.mark.client("litellm", "rerank, infinity/, return_documents", "/infinity/rerank")
def test_infinity_documents(service: Service) -> None:
    """It takes an answer's document for text."""
    check(
        service,
        rerank(service, "infinity/bge-reranker", f"{service.url}/infinity", return_documents=True),
        documents=True,
    )


@pytest.mark.client("litellm", "rerank, huggingface/", "/rerank")
def test_huggingface(service: Service) -> None:
    check(service, rerank(service, "huggingface/BAAI/bge-reranker-base", return_documents=True), documents=True)


@pytest.mark.client("litellm", "rerank, jina_ai/", "/v1/rerank")
def test_jina(service: Service) -> None:
    answer = rerank(service, "jina_ai/jina-reranker-v2-base-multilingual", top_n=3, return_documents=True)
    check(service, answer, 3, documents=True)


@pytest.mark.client("litellm", "rerank, hosted_vllm/", "/v1/rerank")
def test_vllm(service: Service) -> None:
    check(service, rerank(service, "hosted_vllm/bge-reranker", top_n=3), 3)
