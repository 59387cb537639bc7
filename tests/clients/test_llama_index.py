"""LlamaIndex's postprocessors for Cohere, TEI and Jina."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.conftest import Service

pytestmark = pytest.mark.filterwarnings("ignore")


def ranked(postprocessor: Any, service: Service) -> list[tuple[int, float]]:
    schema = pytest.importorskip("llama_index.core.schema")
    nodes = [
        schema.NodeWithScore(node=schema.TextNode(text=text, id_=str(at)), score=0.1)
        for at, text in enumerate(service.texts)
    ]
    found = postprocessor.postprocess_nodes(nodes, query_str=service.query)
    return [(int(each.node.node_id), each.score) for each in found]


@pytest.mark.client("llama-index-postprocessor-cohere-rerank", "CohereRerank", "/v2/rerank")
def test_cohere(service: Service) -> None:
    module = pytest.importorskip("llama_index.postprocessor.cohere_rerank")
    postprocessor = module.CohereRerank(api_key=service.key, base_url=service.url, top_n=3, model="rerank-v3.5")
    service.check(ranked(postprocessor, service), 3)


@pytest.mark.client("llama-index-postprocessor-tei-rerank", "TextEmbeddingInference", "/rerank")
def test_tei(service: Service) -> None:
    module = pytest.importorskip("llama_index.postprocessor.tei_rerank")
    postprocessor = module.TextEmbeddingInference(base_url=service.url, top_n=4, auth_token=f"Bearer {service.key}")
    service.check(ranked(postprocessor, service), 4)


@pytest.mark.client("llama-index-postprocessor-jinaai-rerank", "JinaRerank", "/v1/rerank")
def test_jina(service: Service) -> None:
    module = pytest.importorskip("llama_index.postprocessor.jinaai_rerank")
    postprocessor = module.JinaRerank(base_url=f"{service.url}/v1", api_key=service.key, top_n=2)
    service.check(ranked(postprocessor, service), 2)


@pytest.mark.client("llama-index-postprocessor-jinaai-rerank", "JinaRerank, a wrong key", "/v1/rerank")
def test_jina_tells_the_error(service: Service) -> None:
    module = pytest.importorskip("llama_index.postprocessor.jinaai_rerank")
    postprocessor = module.JinaRerank(base_url=f"{service.url}/v1", api_key="wrong", top_n=2)
    # It reads the answer's "detail".
    with pytest.raises(RuntimeError, match="key"):
        ranked(postprocessor, service)
