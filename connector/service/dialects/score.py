"""``/v1/score``: vLLM's scores of text pairs, in input order."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from connector.documents import RerankResult
from connector.service.dialects.cohere import Usage
from connector.service.dialects.notes import Notes
from connector.service.dialects.request import DialectRequest, Text
from connector.service.errors import Failure, ServiceError
from connector.service.scoring import RerankJob

__all__ = ["ScoreAnswer", "ScoreRequest", "ScoredPair"]


class ScoreRequest(DialectRequest):
    """Scores as vLLM has them: one query with N texts, or N pairs.

    Pairs are scored in groups of equal queries: except in the layout solo, a score compares a text with its group's.
    """

    scores_every_text: ClassVar[bool] = True

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text_1": "How long do cats sleep?",
                    "text_2": ["Bridges are made of steel.", "A cat sleeps 12 to 16 hours a day."],
                }
            ]
        }
    )

    documents_field: ClassVar[str] = "text_2"

    text_1: Text | list[Text] = Field(
        validation_alias=AliasChoices("text_1", "queries", "data_1"),
        description="the query, as text, or a list of queries, one a text",
    )
    text_2: Text | list[Text] = Field(
        validation_alias=AliasChoices("text_2", "documents", "data_2"),
        description="a list of texts that are scored, or one text",
    )

    def jobs(self) -> Sequence[RerankJob]:
        """One a query."""
        groups = self._groups()
        if len(groups) <= 1:
            texts = self._texts()
            query = next(iter(groups), "")
            return [RerankJob(query, texts, self.first_stage_of(len(texts)), self.mode)]
        if self.first_stage is not None or self.first_stage_scores is not None:
            raise ServiceError(
                Failure.INCONSISTENT, "the first stage belongs to one query; give one text_1, or no first stage"
            )
        texts = self._texts()
        return [
            RerankJob(query, [texts[place] for place in places], mode=self.mode) for query, places in groups.items()
        ]

    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> dict[str, Any]:
        """One score a pair, in input order."""
        scores = [0.0] * len(self._texts())
        for places, result in zip(self.places(results), results, strict=True):
            for place, score in zip(places, self.scores_of(result), strict=True):
                scores[place] = score
        return {
            "id": f"score-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": self.model_name(model),
            "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)],
            "usage": {"total_tokens": 0, "prompt_tokens": 0},
            **self.outcome_keys(results),
        }

    def places(self, results: Sequence[RerankResult]) -> Sequence[Sequence[int]]:
        """Of each query, where its texts stand in the request."""
        return list(self._groups().values())

    def _texts(self) -> list[str]:
        return [self.text_2] if isinstance(self.text_2, str) else self.text_2

    def _groups(self) -> dict[str, list[int]]:
        """Query -> places of its texts."""
        queries = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        count = len(self._texts())
        if len(queries) == 1:
            queries = queries * count
        if len(queries) != count:
            raise ServiceError(
                Failure.INCONSISTENT,
                f"{self.key_of('text_1')} has {len(queries)} texts and {self.key_of('text_2')} has {count}; give one"
                " query, or one a text",
            )
        groups: dict[str, list[int]] = {}
        for place, query in enumerate(queries):
            groups.setdefault(query, []).append(place)
        return groups


class ScoredPair(BaseModel):
    """The score of one pair."""

    index: int = Field(description="place of the pair in the request, from 0")
    object: Literal["score"]
    score: float = Field(description="between 0 and 1; comparable among texts of the same query only")


class ScoreAnswer(BaseModel):
    """Answer of ``/v1/score``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "score-7d1c2f5f0c9a4e0f8f3e",
                    "object": "list",
                    "created": 1767225600,
                    "model": "smollm2-135m",
                    "data": [
                        {"index": 0, "object": "score", "score": 0.2689414},
                        {"index": 1, "object": "score", "score": 0.7310586},
                    ],
                    "usage": {"total_tokens": 0, "prompt_tokens": 0},
                    "reranked": True,
                    "reason": None,
                }
            ]
        }
    )

    id: str
    object: Literal["list"]
    created: int = Field(description="seconds since 1970")
    model: str
    data: list[ScoredPair] = Field(description="in input order")
    usage: Usage
    reranked: bool = Field(description="false: some scores only follow the first-stage order")
    reason: str | None = Field(description="why it was not reranked")
