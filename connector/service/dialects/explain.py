"""``/v1/explain``: ``/v1/rerank`` with the numbers from which each score can be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from connector.documents import RerankResult
from connector.explanation import explain
from connector.service.dialects.cohere import RerankedAnswer, RerankV1Request
from connector.service.dialects.notes import Notes

__all__ = ["ExplainAnswer", "ExplainRequest"]


class ExplainRequest(RerankV1Request):
    """Query and documents, as for ``/v1/rerank``; the explanation holds every document, whatever ``top_n`` is."""

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> dict[str, Any]:
        """As ``/v1/rerank``, and ``explanation``."""
        explanation = explain(results[0])
        told = None if explanation is None else explanation.to_json()
        return {**super().answer(results, model, notes), "explanation": told}


class ExplainAnswer(RerankedAnswer):
    """Answer of ``/v1/explain``."""

    explanation: dict[str, Any] | None = Field(
        description="formula, gates and each document's signals, as search --json --explain prints them; "
        "null where nothing was reranked"
    )
