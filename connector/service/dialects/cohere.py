"""``/v1/rerank`` (Cohere v1 and Jina, one superset) and ``/v2/rerank`` (Cohere v2)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from connector.documents import RerankResult, document_text
from connector.service.dialects.notes import Notes
from connector.service.dialects.request import DialectRequest, Text
from connector.service.scoring import RerankJob

__all__ = ["RerankV1Request", "RerankV2Request", "RerankedAnswer", "RerankedResult", "Usage", "VoyageRerankRequest"]


class RerankV1Request(DialectRequest):
    """Rerank as Cohere v1 and Jina have it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "How long do cats sleep?",
                    "documents": ["Bridges are made of steel.", "A cat sleeps 12 to 16 hours a day."],
                    "top_n": 2,
                }
            ]
        }
    )

    api_version: ClassVar[str] = "1"

    query: Text = Field(description="the query, as text")
    documents: list[Text | dict[str, Any]] = Field(
        description='a list of documents, each text or an object such as {"text": "..."}'
    )
    rank_fields: list[Text] | None = Field(
        None, description="a list of the keys of object documents that are read; absent: text"
    )
    return_documents: bool | None = Field(
        None,
        validation_alias=AliasChoices("return_documents", "return_text"),
        description="true to get the documents back, or false",
    )

    def jobs(self) -> Sequence[RerankJob]:
        """One; object documents become the text of their fields."""
        texts = [self._text(document) for document in self.documents]
        return [RerankJob(self.query, texts, self.first_stage_of(len(texts)), self.mode)]

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> dict[str, Any]:
        """Cohere's keys and Jina's keys together."""
        (ranked,) = results
        documents = []
        for hit in self.kept(ranked):
            told: dict[str, Any] = {"index": hit.index, "relevance_score": self.score_of(ranked, hit)}
            if self._sends_documents():
                told["document"] = self._returned(self.documents[hit.index])
            documents.append(told)
        meta: dict[str, Any] = {"api_version": {"version": self.api_version}, "billed_units": {"search_units": 1}}
        if warnings := notes.warnings():
            meta["warnings"] = warnings
        return {
            "id": str(uuid.uuid4()),
            "model": self.model_name(model),
            "results": documents,
            "usage": {"total_tokens": 0, "prompt_tokens": 0},
            "meta": meta,
            **self.outcome_keys(results),
        }

    def _sends_documents(self) -> bool:
        return bool(self.return_documents)

    def _returned(self, document: str | dict[str, Any]) -> str | dict[str, Any]:
        return {"text": document} if isinstance(document, str) else document

    def _text(self, document: str | Mapping[str, Any]) -> str:
        if isinstance(document, str):
            return document
        if self.rank_fields:
            return document_text(document, self.rank_fields)
        # Cohere reads ``text`` alone unless told otherwise; an object without it would be scored as nothing.
        text = document.get("text")
        return text if isinstance(text, str) else document_text(document)


class RerankV2Request(RerankV1Request):
    """Rerank as Cohere v2 has it."""

    api_version: ClassVar[str] = "2"


class VoyageRerankRequest(RerankV1Request):
    """Rerank as Voyage has it, whose clients read ``data``."""

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> dict[str, Any]:
        """The keys of ``/v1/rerank``, and Voyage's beside them."""
        answer = super().answer(results, model, notes)
        data = [dict(told) for told in answer["results"]]
        for told in data:
            if "document" in told:
                told["document"] = self._text(self.documents[told["index"]])
        return {"object": "list", "data": data, **answer}


class RerankedResult(BaseModel):
    """One document in an answer."""

    index: int = Field(description="place of the document in the request, from 0")
    relevance_score: float = Field(description="between 0 and 1; in the layout solo the probability of relevance")
    document: dict[str, Any] | str | None = Field(None, description="the document, where the request asks for it")


class Usage(BaseModel):
    """Tokens; nothing is billed, so they are not counted and always 0."""

    total_tokens: int = 0
    prompt_tokens: int = 0


class _ApiVersion(BaseModel):
    version: str


class _BilledUnits(BaseModel):
    search_units: int


class _Meta(BaseModel):
    api_version: _ApiVersion
    billed_units: _BilledUnits
    warnings: list[str] | None = Field(None, description="texts that were cut, keys that had no effect")


class RerankedAnswer(BaseModel):
    """Answer of ``/v1/rerank`` and ``/v2/rerank``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "0b7f0f0e-5a43-4b5e-9d0d-3c7a3c0f6c2a",
                    "model": "smollm2-135m",
                    "results": [
                        {"index": 1, "relevance_score": 0.7310586},
                        {"index": 0, "relevance_score": 0.2689414},
                    ],
                    "usage": {"total_tokens": 0, "prompt_tokens": 0},
                    "meta": {"api_version": {"version": "1"}, "billed_units": {"search_units": 1}},
                    "reranked": True,
                    "reason": None,
                }
            ]
        }
    )

    id: str
    model: str
    results: list[RerankedResult] = Field(description="best first")
    usage: Usage
    meta: _Meta
    data: list[RerankedResult] | None = Field(None, description="the results again, where Voyage's keys were sent")
    reranked: bool = Field(description="false: this is the first-stage order")
    reason: str | None = Field(description="why it was not reranked")
