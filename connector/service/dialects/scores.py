"""``/v1/rerank_scores``: a bare list of scores in input order, for OpenSearch's ``ml_inference`` processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from connector.documents import RerankResult
from connector.service.dialects.cohere import RerankV1Request
from connector.service.dialects.notes import Notes

__all__ = ["RerankScoresAnswer", "RerankScoresRequest"]


class RerankScoresRequest(RerankV1Request):
    """Query and documents, as for ``/v1/rerank``; nothing is cut."""

    scores_every_text: ClassVar[bool] = True

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> dict[str, Any]:
        """One score a document, in input order."""
        return {"scores": self.scores_of(results[0]), **self.outcome_keys(results)}


class RerankScoresAnswer(BaseModel):
    """Answer of ``/v1/rerank_scores``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"scores": [0.2689414, 0.7310586], "reranked": True, "reason": None}]}
    )

    scores: list[float] = Field(description="one a document, in input order, between 0 and 1")
    reranked: bool = Field(description="false: the scores only follow the first-stage order")
    reason: str | None = Field(description="why it was not reranked")
