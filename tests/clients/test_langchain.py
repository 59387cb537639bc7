"""LangChain's Cohere reranker."""

from __future__ import annotations

import pytest

from tests.clients.conftest import Service

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.client("langchain-cohere", "CohereRerank.compress_documents", "/v2/rerank")
def test_documents_are_compressed(service: Service) -> None:
    langchain = pytest.importorskip("langchain_cohere")
    core = pytest.importorskip("langchain_core.documents")
    reranker = langchain.CohereRerank(model="rerank-v3.5", base_url=service.url, cohere_api_key=service.key, top_n=3)
    documents = [core.Document(text, metadata={"place": place}) for place, text in enumerate(service.texts)]
    found = reranker.compress_documents(documents, service.query)
    service.check([(each.metadata["place"], each.metadata["relevance_score"]) for each in found], 3)


@pytest.mark.client("langchain-cohere", "CohereRerank.rerank", "/v2/rerank")
def test_fields_are_ranked(service: Service) -> None:
    langchain = pytest.importorskip("langchain_cohere")
    reranker = langchain.CohereRerank(model="rerank-v3.5", base_url=service.url, cohere_api_key=service.key)
    documents = [{"text": text, "price": 3} for text in service.texts]
    found = reranker.rerank(documents, service.query, rank_fields=["text"], top_n=None, max_tokens_per_doc=4096)
    assert found[0]["index"] == 2 and sorted(each["index"] for each in found) == [0, 1, 2, 3, 4]
