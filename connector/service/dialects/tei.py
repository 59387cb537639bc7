"""``/rerank`` with ``texts``: text-embeddings-inference, which Elasticsearch's ``hugging_face`` service speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel

from connector.documents import RerankResult
from connector.service.dialects.notes import Notes
from connector.service.dialects.request import DialectRequest, Text
from connector.service.errors import Style
from connector.service.scoring import RerankJob

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
    documents_field: ClassVar[str] = "texts"

    query: Text = Field(description="the query, as text")
    texts: list[Text] = Field(description="a list of documents, each text")
    return_text: bool | None = Field(
        None,
        validation_alias=AliasChoices("return_text", "return_documents"),
        description="true to get the texts back, or false",
    )

    def jobs(self) -> Sequence[RerankJob]:
        """One."""
        return [RerankJob(self.query, self.texts, self.first_stage_of(len(self.texts)), self.mode)]

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> list[dict[str, Any]]:
        """A bare array, best first."""
        (ranked,) = results
        texts = []
        for hit in self.kept(ranked):
            told: dict[str, Any] = {"index": hit.index, "score": self.score_of(ranked, hit)}
            if self.return_text:
                told["text"] = self.texts[hit.index]
            texts.append(told)
        return texts

    def without_effect(self, results: Sequence[RerankResult]) -> list[str]:
        """A bare array has no place for the route."""
        return super().without_effect(results) + ["return_route"] * bool(self.return_route)


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
