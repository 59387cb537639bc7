"""Haystack's rankers for TEI and vLLM."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.clients.conftest import Service

pytestmark = pytest.mark.filterwarnings("ignore")


def documents(service: Service) -> list[Any]:
    haystack = pytest.importorskip("haystack")
    return [haystack.Document(content=text, id=str(place)) for place, text in enumerate(service.texts)]


def key(service: Service) -> Any:
    return pytest.importorskip("haystack.utils").Secret.from_token(service.key)


def pairs(answer: Any) -> list[tuple[int, float]]:
    return [(int(document.id), document.score) for document in answer["documents"]]


@pytest.mark.client("huggingface-api-haystack", "HuggingFaceTEIRanker.run", "/rerank")
def test_tei(service: Service) -> None:
    module = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
    ranker = module.HuggingFaceTEIRanker(url=service.url, top_k=3, token=key(service))
    service.check(pairs(ranker.run(query=service.query, documents=documents(service))), 3)


@pytest.mark.client("huggingface-api-haystack", "HuggingFaceTEIRanker.run, truncation_direction", "/rerank")
def test_tei_truncates(service: Service) -> None:
    module = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
    ranker = module.HuggingFaceTEIRanker(url=service.url, token=key(service))
    answer = ranker.run(
        query=service.query, documents=documents(service), truncation_direction=module.TruncationDirection.RIGHT
    )
    service.check(pairs(answer))


@pytest.mark.client("huggingface-api-haystack", "HuggingFaceTEIRanker.run_async", "/rerank")
def test_tei_asynchronous(service: Service) -> None:
    module = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
    ranker = module.HuggingFaceTEIRanker(url=service.url, token=key(service))
    service.check(pairs(asyncio.run(ranker.run_async(query=service.query, documents=documents(service)))))


@pytest.mark.client("vllm-haystack", "VLLMRanker.run", "/v1/rerank")
def test_vllm(service: Service) -> None:
    module = pytest.importorskip("haystack_integrations.components.rankers.vllm")
    ranker = module.VLLMRanker(model="rh", api_base_url=f"{service.url}/v1", api_key=key(service), top_k=3)
    answer = ranker.run(query=service.query, documents=documents(service))
    service.check(pairs(answer), 3)
    assert answer["meta"]["model"] == "rh"


@pytest.mark.client("vllm-haystack", "VLLMRanker.run, score_threshold", "/rerank")
def test_vllm_threshold(service: Service) -> None:
    module = pytest.importorskip("haystack_integrations.components.rankers.vllm")
    second, third = (service.scores[place] for place in service.order[1:3])
    ranker = module.VLLMRanker(
        model="rh", api_base_url=service.url, api_key=key(service), score_threshold=(second + third) / 2
    )
    service.check(pairs(ranker.run(query=service.query, documents=documents(service))), 2)
