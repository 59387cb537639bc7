"""``/rerank`` with ``documents``: vLLM, Infinity and Weaviate."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from connector.documents import RerankResult
from connector.service.dialects.cohere import RerankedResult, RerankV1Request, Usage
from connector.service.dialects.notes import Notes

__all__ = ["InfinityRerankRequest", "VllmAnswer", "VllmRerankRequest", "WeaviateRerankRequest"]


class VllmRerankRequest(RerankV1Request):
    """Rerank as vLLM and Infinity have it."""

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> dict[str, Any]:
        """vLLM's keys with Infinity's ``object`` and ``created``."""
        answer = super().answer(results, model, notes)
        del answer["meta"]
        return {"object": "rerank", "created": int(time.time()), **answer, "id": f"rerank-{uuid.uuid4().hex}"}

    def _sends_documents(self) -> bool:
        # vLLM always sends documents back and has no key to say otherwise; Infinity has one.
        return self.return_documents is not False


class InfinityRerankRequest(VllmRerankRequest):
    """Rerank as Infinity has it: each ``document`` is plain text, and comes back where it is asked for."""

    def _sends_documents(self) -> bool:
        return bool(self.return_documents)

    def _returned(self, document: str | dict[str, Any]) -> str | dict[str, Any]:
        return self._text(document)


class WeaviateRerankRequest(VllmRerankRequest):
    """Rerank as Weaviate asks its reranker container: a query, documents, and nothing else."""

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> dict[str, Any]:
        """vLLM's keys, and Weaviate's beside them: ``scores`` holds the documents in input order."""
        (ranked,) = results
        texts = [self._text(document) for document in self.documents]
        scores = [
            {"document": text, "score": score} for text, score in zip(texts, self.scores_of(ranked), strict=True)
        ]
        return {**super().answer(results, model, notes), "query": self.query, "scores": scores}


class WeaviateScore(BaseModel):
    """The score of one document, as Weaviate has it."""

    document: str
    score: float


class VllmAnswer(BaseModel):
    """Answer of ``/rerank`` to ``documents``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "rerank",
                    "created": 1767225600,
                    "id": "rerank-7d1c2f5f0c9a4e0f8f3e",
                    "model": "smollm2-135m",
                    "results": [
                        {
                            "index": 1,
                            "relevance_score": 0.7310586,
                            "document": {"text": "A cat sleeps 12 to 16 hours a day."},
                        }
                    ],
                    "usage": {"total_tokens": 0, "prompt_tokens": 0},
                    "reranked": True,
                    "reason": None,
                }
            ]
        }
    )

    object: Literal["rerank"]
    created: int = Field(description="seconds since 1970")
    id: str
    model: str
    results: list[RerankedResult] = Field(description="best first")
    usage: Usage
    reranked: bool = Field(description="false: this is the first-stage order")
    reason: str | None = Field(description="why it was not reranked")
    query: str | None = Field(None, description="to Weaviate: the query")
    scores: list[WeaviateScore] | None = Field(None, description="to Weaviate: in input order")
