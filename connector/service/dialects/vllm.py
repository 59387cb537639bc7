"""``/rerank`` with ``documents``: vLLM and Infinity."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from connector.service.dialects.cohere import RerankedResult, RerankV1Request, Usage
from connector.service.scoring import Ranking

__all__ = ["VllmAnswer", "VllmRerankRequest"]


class VllmRerankRequest(RerankV1Request):
    """Rerank as vLLM and Infinity have it."""

    def answer(self, rankings: Sequence[Ranking], model: str) -> dict[str, Any]:
        """vLLM's keys with Infinity's ``object`` and ``created``."""
        answer = super().answer(rankings, model)
        del answer["meta"]
        return {"object": "rerank", "created": int(time.time()), **answer, "id": f"rerank-{uuid.uuid4().hex}"}

    def _sends_documents(self) -> bool:
        # vLLM always sends documents back and has no key to say otherwise; Infinity has one.
        return self.return_documents is not False


class VllmAnswer(BaseModel):
    """Answer of ``/rerank`` to ``documents``."""

    object: Literal["rerank"]
    created: int = Field(description="seconds since 1970")
    id: str
    model: str
    results: list[RerankedResult] = Field(description="best first")
    usage: Usage
    reranked: bool = Field(description="false: this is the first-stage order")
    reason: str | None = Field(description="why it was not reranked")
