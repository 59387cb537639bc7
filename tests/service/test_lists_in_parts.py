"""Clients that send a list in several requests and sort all of it by score, with the real LLM as it is shipped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from connector.reranking.reranker import Reranker

QUERY = "How long do cats sleep each day?"
TEXTS = [
    "A healthy adult cat sleeps between twelve and sixteen hours a day.",
    "Kittens may sleep up to twenty hours a day while they grow.",
    "Cats are most active at dawn and dusk and nap in between.",
    "Dogs sleep about twelve hours a day.",
    "How to keep a cat awake during the day so it sleeps at night.",
    "Cat beds come in many shapes and colours.",
    "Lions sleep up to twenty hours a day.",
    "Steel bridges are painted regularly.",
    "The central bank left its rate unchanged.",
    "Bread is made from flour, water and yeast.",
    "Rust is a systems programming language.",
    "The capital of France is Paris.",
    "Photosynthesis turns light into sugar.",
    "A violin has four strings.",
    "The train to Berlin leaves at nine.",
    "Gold melts at 1064 degrees Celsius.",
    "Bees dance to tell others where flowers are.",
]

# Elasticsearch's ES|QL command RERANK, through hugging_face: RerankOperator.DEFAULT_BATCH_SIZE.
ESQL = {"return_text": False}
# RAGFlow's HuggingfaceRerank.
RAGFLOW = {"raw_scores": False, "truncate": True}


@pytest.mark.parametrize(
    ("size", "more"),
    [(10, ESQL), (8, RAGFLOW), (8, {"raw_scores": True}), (1, {})],
    ids=["ES|QL RERANK", "RAGFlow", "raw scores", "one at a time"],
)
def test_parts_get_the_scores_of_the_whole(
    make_client: Callable[..., TestClient], reranker: Reranker, size: int, more: dict[str, bool]
) -> None:
    client = make_client(reranker)

    def scores(texts: list[str]) -> list[float]:
        answer = client.post("/rerank", json={"query": QUERY, "texts": texts, **more})
        assert answer.headers["X-Reranked"] == "true"
        found = {hit["index"]: hit["score"] for hit in answer.json()}
        return [found[at] for at in range(len(texts))]

    whole = scores(TEXTS)
    parts = [score for at in range(0, len(TEXTS), size) for score in scores(TEXTS[at : at + size])]
    assert parts == whole
    # Unlike scores in units of one list, they tell lists apart: what answers stands above what does not.
    assert min(parts[:2]) > max(parts[7:])
