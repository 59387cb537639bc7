"""``/rerank`` with ``texts``: text-embeddings-inference, which Elasticsearch's ``hugging_face`` service speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

from connector.documents import RerankResult
from connector.service.dialects.request import DialectRequest, Text, TopN, cut
from connector.service.errors import Style
from connector.service.numbers import json_number
from connector.service.scoring import RerankJob, json_score

__all__ = ["TeiAnswer", "TeiRerankRequest", "TeiResult"]


class TeiRerankRequest(DialectRequest):
    """Rerank as text-embeddings-inference has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "How long do cats sleep?",
                    "texts": ["Bridges are made of steel.", "A cat sleeps 12 to 16 hours a day."],
                }
            ]
        }
    )

    style: ClassVar[Style] = Style.TEI

    query: Text = Field(description="the query, as text")
    texts: list[Text] = Field(description="a list of documents, each text")
    raw_scores: bool | None = Field(None, description="true for scores of any size instead of 0 to 1, or false")
    return_text: bool | None = Field(None, description="true to get the texts back, or false")
    top_n: TopN | None = Field(None, description="how many results come back, a whole number; 0 or absent: all")

    def jobs(self) -> Sequence[RerankJob]:
        """One."""
        return [RerankJob(self.query, self.texts, self.first_stage_of(len(self.texts)), self.mode)]

    def answer(self, results: Sequence[RerankResult], model: str) -> list[dict[str, Any]]:
        """A bare array, best first."""
        (ranked,) = results
        texts = []
        for hit in cut(ranked.hits, self.top_n):
            score = json_number(hit.score) if self.raw_scores else json_score(ranked, hit)
            told: dict[str, Any] = {"index": hit.index, "score": score}
            if self.return_text:
                told["text"] = self.texts[hit.index]
            texts.append(told)
        return texts


class TeiResult(BaseModel):
    """One document in an answer."""

    index: int = Field(description="place of the document in the request, from 0")
    score: float = Field(description="between 0 and 1, or of any size with raw_scores")
    text: str | None = Field(None, description="the document, with return_text")


class TeiAnswer(RootModel[list[TeiResult]]):
    """Answer of ``/rerank`` to ``texts``, best first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [[{"index": 1, "score": 0.7310586}, {"index": 0, "score": 0.2689414}]]}
    )
