"""``/rerank`` with ``documents``: vLLM and Infinity."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from connector.documents import RerankResult
from connector.service.dialects.cohere import RerankedResult, RerankV1Request, Usage

__all__ = ["VllmAnswer", "VllmRerankRequest"]


class VllmRerankRequest(RerankV1Request):
    """Rerank as vLLM and Infinity have it."""

    def answer(self, results: Sequence[RerankResult], model: str) -> dict[str, Any]:
        """vLLM's keys with Infinity's ``object`` and ``created``."""
        answer = super().answer(results, model)
        del answer["meta"]
        return {"object": "rerank", "created": int(time.time()), **answer, "id": f"rerank-{uuid.uuid4().hex}"}

    def _sends_documents(self) -> bool:
        # vLLM always sends documents back and has no key to say otherwise; Infinity has one.
        return self.return_documents is not False


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
