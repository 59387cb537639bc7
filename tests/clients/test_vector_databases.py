"""What Weaviate and Milvus send and read: the servers cannot be had here, so this is written after their source.

Weaviate: ``modules/reranker-transformers/clients`` (ranker.go, startup.go, ranker_meta.go). Milvus:
``internal/util/function/models`` (tei, vllm, cohere, siliconflow) and its ``rerank`` providers, which put results in
input order and then take them by place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from tests.clients.conftest import Service

WEAVIATE = "1e25081"
MILVUS = "1bf3af6"


def post(service: Service, path: str, body: Mapping[str, Any], scheme: str = "Bearer") -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"{scheme} {service.key}"}
    answer = httpx2.post(f"{service.url}{path}", json=dict(body), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def by_place(results: list[dict[str, Any]], key: str) -> list[float]:
    """As Milvus does: sorted by index, then the i-th result is the i-th document's."""
    return [each[key] for each in sorted(results, key=lambda each: int(each["index"]))]


def check(service: Service, scores: list[float]) -> None:
    assert scores == pytest.approx(service.scores, rel=1e-4)


@pytest.mark.client("Weaviate", "reranker-transformers: Rank", "/rerank", version=WEAVIATE)
def test_weaviate(service: Service) -> None:
    body = {"query": service.query, "documents": service.texts, "property": ""}
    answer = post(service, "/rerank", body)
    # Chunks of 32 come back in the order of their documents.
    assert [each["document"] for each in answer["scores"]] == service.texts
    check(service, [each["score"] for each in answer["scores"]])


@pytest.mark.client("Weaviate", "reranker-transformers: start-up probe", "/.well-known/ready", version=WEAVIATE)
def test_weaviate_waits_for_start_up(service: Service) -> None:
    # It sends no key.
    assert httpx2.get(f"{service.url}/.well-known/ready").status_code <= 299


@pytest.mark.client("Weaviate", "reranker-transformers: MetaInfo", "/meta", version=WEAVIATE)
def test_weaviate_reads_meta(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.key}"}
    assert isinstance(httpx2.get(f"{service.url}/meta", headers=headers).raise_for_status().json(), dict)


@pytest.mark.client("Milvus", "model ranker, provider tei", "/rerank", version=MILVUS)
def test_milvus_tei(service: Service) -> None:
    body = {"query": service.query, "texts": service.texts, "truncate": True, "truncation_direction": "Right"}
    answer = post(service, "/rerank", body)
    check(service, by_place(answer, "score"))


@pytest.mark.client("Milvus", "model ranker, provider vllm", "/rerank", version=MILVUS)
def test_milvus_vllm(service: Service) -> None:
    answer = post(service, "/rerank", {"query": service.query, "documents": service.texts})
    assert isinstance(answer["id"], str) and isinstance(answer["usage"]["total_tokens"], int)
    check(service, by_place(answer["results"], "relevance_score"))


@pytest.mark.client("Milvus", "model ranker, provider cohere", "/v2/rerank", version=MILVUS)
def test_milvus_cohere(service: Service) -> None:
    body = {"model": "rerank-v3.5", "query": service.query, "documents": service.texts, "max_tokens_per_doc": 4096}
    answer = post(service, "/v2/rerank", body, scheme="bearer")
    assert isinstance(answer["meta"]["api_version"]["version"], str)
    check(service, by_place(answer["results"], "relevance_score"))


@pytest.mark.client("Milvus", "model ranker, provider siliconflow", "/v1/rerank", version=MILVUS)
def test_milvus_siliconflow(service: Service) -> None:
    body = {"model": "bge-reranker", "query": service.query, "documents": service.texts}
    check(service, by_place(post(service, "/v1/rerank", body)["results"], "relevance_score"))
