"""``/v1/highlight``: the shapes of OpenSearch's ``semantic`` highlighter, one document or many.

Forms: ``MLCommonsClientAccessor`` and ``HighlightTagApplier`` of neural-search. It counts in Java's characters, and
wants the sentences of a document in their order, without overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from connector.documents import RankedHit, RerankResult, has_text
from connector.sections import Mode
from connector.sentences import shown_sentences
from connector.service.dialects.notes import Notes
from connector.service.dialects.request import JsonRequest, Milliseconds, Text
from connector.service.errors import Failure, ServiceError
from connector.service.scoring import RerankJob

__all__ = ["HighlightAnswer", "HighlightRequest", "unwrapped"]

_BLANK = "the question is blank"
_NO_HEADS = "the model reads no heads that show passages"


class HighlightInput(BaseModel):
    """One document of a batch."""

    question: Text = Field(description="the query, as text")
    context: Text = Field(description="the document, as text")


class HighlightRequest(JsonRequest):
    """The sentences of documents that answer a question: of one document, or of many (``inputs``).

    The same keys inside ``parameters``, as ML Commons' ``_predict`` takes them, are fine too.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "How long do cats sleep?",
                    "context": "Bridges are made of steel. A cat sleeps 12 to 16 hours a day.",
                }
            ]
        },
    )

    question: Text | None = Field(None, description="the query, as text")
    context: Text | None = Field(None, description="the document, as text")
    inputs: list[HighlightInput] | None = Field(
        None, description="a list of objects with question and context, each text"
    )
    deadline_ms: Milliseconds | None = Field(
        None, description="milliseconds after which documents come without sentences, a number above 0"
    )
    mode: Mode | None = Field(
        None, validation_alias="router_mode", description='how the heads are chosen: "routed", "static" or "all"'
    )

    @classmethod
    def schema_in_one(cls) -> dict[str, Any]:
        """Its JSON schema without references, which would point outside of where it is put."""
        schema = cls.model_json_schema()
        definitions = schema.pop("$defs")
        schema["properties"]["inputs"]["anyOf"][0]["items"] = definitions[HighlightInput.__name__]
        return schema

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """Question and document, one or many."""
        # Connectors that serve both shapes send the other one empty.
        if self.inputs:
            return [(own.question, own.context) for own in self.inputs]
        return [] if self.question is None or self.context is None else [(self.question, self.context)]

    def check(self, most: int) -> None:
        """Refuse what names no documents, two shapes at once, or more documents than ``most``.

        Raises:
            ServiceError: so it is.
        """
        if self.inputs and (self.question or self.context):
            raise ServiceError(
                Failure.INCONSISTENT, "inputs and question with context are both given; give one of them"
            )
        if not self.pairs and (self.inputs is None or self.question or self.context):
            missing = "question" if self.question is None else "context"
            raise ServiceError(Failure.INVALID, f"{missing} is missing; give question and context, or inputs")
        if len(self.pairs) > most:
            raise ServiceError(
                Failure.TOO_MANY_DOCUMENTS,
                f"inputs has {len(self.pairs)} documents; send at most {most} or raise serve.max_documents",
            )

    def jobs(self) -> list[RerankJob]:
        """One a question. They come with a first stage, so that a failure is no error: the search goes on."""
        pairs = self.pairs
        return [
            RerankJob(question, [pairs[at][1] for at in places], "order", self.mode, second=False)
            for question, places in self._groups().items()
        ]

    def answer(self, results: Sequence[RerankResult]) -> dict[str, Any]:
        """The sentences of each document; ``results``: one a job."""
        pairs, groups = self.pairs, self._groups()
        found: list[list[dict[str, Any]]] = [[] for _ in pairs]
        reasons = [_BLANK] if pairs and not groups else []
        for places, result in zip(groups.values(), results, strict=True):
            for hit in result.hits:
                place = places[hit.index]
                found[place] = _highlights(pairs[place][1], hit)
            if not result.reranked:
                reasons.append(result.reason or "failed")
            elif not result.heads and not any(hit.looked_at for hit in result.hits):
                reasons.append(_NO_HEADS)
        many = self.inputs or not pairs
        return {"highlights": found if many else found[0], "reason": reasons[0] if reasons else None}

    def notes(self, results: Sequence[RerankResult]) -> Notes:
        """Texts of which only the beginning was read, and keys that had no effect; ``results``: one a job."""
        cut = sorted(
            places[hit.index]
            for places, result in zip(self._groups().values(), results, strict=True)
            for hit in result.hits
            if hit.truncated
        )
        texts = ["question"] * any(result.query_truncated for result in results)
        if self.inputs:
            return Notes(texts, cut, self.ignored, "inputs[{}].context")
        return Notes([*texts, *["context"] * len(cut)], (), self.ignored)

    def _groups(self) -> dict[str, list[int]]:
        """Question -> places of its documents; blank questions are not asked."""
        groups: dict[str, list[int]] = {}
        for at, (question, _) in enumerate(self.pairs):
            if has_text(question):
                groups.setdefault(question, []).append(at)
        return groups


def _highlights(text: str, hit: RankedHit) -> list[dict[str, Any]]:
    return [
        {"start": _java(text, start), "end": _java(text, end), "text": text[start:end], "position": at}
        for at, (start, end) in shown_sentences(text, hit.looked_at)
    ]


def _java(text: str, at: int) -> int:
    """A place in a text counted as Java does, in UTF-16 code units."""
    return at + sum(character > "\uffff" for character in text[:at])


def unwrapped(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The request's keys, which ``_predict`` has inside ``parameters``.

    Raises:
        ServiceError: ``parameters`` is no object; a key has another value inside it than outside.
    """
    outer = {key: value for key, value in payload.items() if key != "parameters" and value is not None}
    inner = payload.get("parameters")
    if inner is None:
        return outer
    if not isinstance(inner, Mapping):
        raise ServiceError(
            Failure.INVALID, "parameters is no object; give one with question and context, or inputs, or leave it out"
        )
    for key, value in inner.items():
        if value is not None and outer.setdefault(key, value) != value:
            raise ServiceError(
                Failure.INCONSISTENT, f"{key} has two values, inside parameters and outside; give one of them"
            )
    return outer


class HighlightedSentence(BaseModel):
    """A sentence in an answer."""

    start: int = Field(description="first character, counted in UTF-16 code units as Java does")
    end: int = Field(description="behind the last character, counted alike")
    text: str = Field(description="the sentence")
    position: int = Field(description="its place among the document's sentences, from 0")


class HighlightAnswer(BaseModel):
    """Answer of ``/v1/highlight``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "highlights": [
                        {"start": 27, "end": 61, "text": "A cat sleeps 12 to 16 hours a day.", "position": 1}
                    ],
                    "reason": None,
                }
            ]
        }
    )

    highlights: list[HighlightedSentence] | list[list[HighlightedSentence]] = Field(
        description="of one document its sentences, of inputs one such list a document, in input order"
    )
    reason: str | None = Field(description="why there are no sentences, where there are none")
