"""What all rerank requests share: the first stage, what is read and kept, errors that name key and cure."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PrivateAttr,
    ValidationError,
)

from connector.documents import FirstStage, RankedHit, RerankResult
from connector.sections import Mode
from connector.service.dialects.notes import Notes
from connector.service.errors import Failure, ServiceError, Style
from connector.service.numbers import json_number, probability
from connector.service.scoring import RerankJob, json_score

__all__ = ["DialectRequest", "JsonRequest", "Milliseconds", "Text", "read_request"]

_LONGEST_SHOWN = 40


def _no_boolean(value: Any) -> Any:
    # Python's True is 1, and pydantic follows it.
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return value


Text = Annotated[str, Field(strict=True)]
Number = Annotated[FiniteFloat, BeforeValidator(_no_boolean)]
Milliseconds = Annotated[FiniteFloat, Field(gt=0), BeforeValidator(_no_boolean)]
WholeNumber = Annotated[int, BeforeValidator(_no_boolean)]
Probability = Annotated[FiniteFloat, Field(ge=0, le=1), BeforeValidator(_no_boolean)]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class JsonRequest(BaseModel):
    """A request. Keys that are not known have no effect, and the answer names them."""

    model_config = ConfigDict(extra="ignore")

    _ignored: tuple[str, ...] = PrivateAttr(())
    _names: dict[str, str] = PrivateAttr(default_factory=dict)

    def key_of(self, field: str) -> str:
        """The name under which the request gave a field that has several."""
        return self._names.get(field, field)

    @property
    def ignored(self) -> Sequence[str]:
        """Keys that are not known, as they came."""
        return self._ignored


class DialectRequest(JsonRequest):
    """A rerank request in one API's shape."""

    style: ClassVar[Style] = Style.SUPERSET
    documents_field: ClassVar[str] = "documents"
    """What holds the documents."""
    scores_every_text: ClassVar[bool] = False
    """Whether the answer has one score a text, so that nothing can be left out of it or moved."""

    model: Any = Field(None, description="any name; it is sent back, the service has one model")
    first_stage: Literal["order"] | None = Field(
        None, description='"order" when the documents come in first-stage order, best first'
    )
    first_stage_scores: list[Number] | None = Field(
        None, description="a list of first-stage scores, one number a document, higher is better"
    )
    deadline_ms: Milliseconds | None = Field(
        None, description="milliseconds after which the first-stage order goes back, a number above 0"
    )

    mode: Mode | None = Field(
        None,
        validation_alias="router_mode",
        description='how the heads are chosen: "routed", "static" or "all"; absent: as the service is set',
    )

    return_route: bool | None = Field(
        None, description="true to get the heads that were read with their gates, under route, or false"
    )
    instruction: Text | None = Field(
        None,
        validation_alias=AliasChoices("instruction", "instruct"),
        description="what the query is after, as text; it is read before the query",
    )
    top_n: Annotated[WholeNumber, Field(ge=0)] | None = Field(
        None,
        validation_alias=AliasChoices("top_n", "top_k", "topN", "topK", "limit"),
        description="how many results come back, a whole number; 0 or absent: all",
    )
    score_threshold: Probability | None = Field(
        None, description="the lowest probability of relevance of a result, a number from 0 to 1"
    )
    raw_scores: bool | None = Field(None, description="true for scores of any size instead of 0 to 1, or false")
    use_activation: bool | None = Field(
        None,
        validation_alias=AliasChoices("use_activation", "activation", "softmax"),
        description="false for scores of any size instead of 0 to 1, or true",
    )
    results_order: Literal["score", "input"] | None = Field(
        None, description='"input" to get the results in the order of the documents; "score": best first'
    )
    max_tokens_per_doc: Annotated[WholeNumber, Field(ge=1)] | None = Field(
        None, description="how many tokens of a document are read at most, a whole number from 1"
    )
    max_chunks_per_doc: Annotated[WholeNumber, Field(ge=1)] | None = Field(
        None, description="how many passages of a document are read at most, a whole number from 1"
    )
    truncation: bool | None = Field(
        None,
        validation_alias=AliasChoices("truncation", "truncate"),
        description="false to refuse texts that would be cut; true: they are cut",
    )
    truncation_side: Annotated[Literal["right"], BeforeValidator(_lower)] | None = Field(
        None,
        validation_alias=AliasChoices("truncation_side", "truncation_direction"),
        description='"right", or leave it out: what is too long is cut at its end',
    )
    truncate_prompt_tokens: Annotated[WholeNumber, Field(ge=-1, le=-1)] | None = Field(
        None, description="-1, or leave it out: the limit of documents is max_tokens_per_doc"
    )

    @abstractmethod
    def jobs(self) -> Sequence[RerankJob]:
        """The queries with their documents; one, except for pairs of texts.

        Raises:
            ServiceError: the keys contradict one another.
        """

    @abstractmethod
    def answer(self, results: Sequence[RerankResult], model: str, notes: Notes) -> Any:
        """The JSON answer; one result a job.

        Raises:
            ServiceError: see ``kept``.
        """

    def notes(self, results: Sequence[RerankResult]) -> Notes:
        """What is to be told beside the results.

        Raises:
            ServiceError: texts were cut that were not to be (``truncation`` is false).
        """
        documents = sorted(
            places[hit.index]
            for places, result in zip(self.places(results), results, strict=True)
            for hit in result.hits
            if hit.truncated
        )
        texts = ["query"] * any(result.query_truncated for result in results)
        texts += ["instruction"] * any(result.instruction_truncated for result in results)
        if self.truncation is False and (texts or documents):
            what = f"the {texts[0]}" if texts else f"{self.key_of(self.documents_field)}[{documents[0]}]"
            key = self.key_of("truncation")
            raise ServiceError(
                Failure.INCONSISTENT,
                f"{what} is too long to be read whole, and {key} is false; send a shorter text, or true",
            )
        name = f"{self.key_of(self.documents_field)}[{{}}]"
        return Notes(texts, documents, self.without_effect(results), name)

    def without_effect(self, results: Sequence[RerankResult]) -> list[str]:
        """Keys of the request that changed nothing, as they came."""
        keys = list(self.ignored)
        if self.model is not None and not isinstance(self.model, str):
            keys.append("model")
        if self.score_threshold is not None and not all(result.reranked for result in results):
            # Of what was not reranked nothing is known: all of it goes back.
            keys.append("score_threshold")
        if self.return_route and len(results) != 1:
            keys.append("return_route")
        return keys

    def outcome_keys(self, results: Sequence[RerankResult]) -> dict[str, Any]:
        """The keys ``reranked`` and ``reason``, and ``route``, the heads of its one query, where it is asked for."""
        left = next((result for result in results if not result.reranked), None)
        keys: dict[str, Any] = {"reranked": left is None, "reason": None if left is None else left.reason}
        if self.return_route and len(results) == 1 and results[0].mode is not None:
            keys["route"] = _route(results[0])
        return keys

    def most_tokens(self, passage: int) -> int | None:
        """How many tokens of a document are to be read at most; None: as many as the service reads.

        Args:
            passage: tokens of a passage.
        """
        limits = [self.max_tokens_per_doc, self.max_chunks_per_doc and self.max_chunks_per_doc * passage]
        return min((limit for limit in limits if limit), default=None)

    def check_limits(self, count: int) -> None:
        """Refuse keys that contradict one another, or leave results out where there is one score a text.

        Args:
            count: of texts.

        Raises:
            ServiceError: they would.
        """
        if self.raw_scores is not None and self.raw_scores is self.use_activation:
            both = f"raw_scores and {self.key_of('use_activation')} are both {json.dumps(self.raw_scores)}"
            raise ServiceError(Failure.INCONSISTENT, f"{both}, and one is the other's opposite; give one of them")
        if not self.scores_every_text:
            return
        if self.top_n and self.top_n < count:
            asked = f"{self.key_of('top_n')} is {self.top_n} and there are {count} texts"
            raise ServiceError(
                Failure.INCONSISTENT,
                f"{asked}; this route gives a score of each: leave it out, or use /v1/rerank",
            )
        for key, value in (("score_threshold", self.score_threshold), ("results_order", self.results_order)):
            if value not in (None, "input"):
                raise ServiceError(
                    Failure.INCONSISTENT,
                    f"{key} is {value}; this route gives a score of each text, in input order: leave it out, or use"
                    " /v1/rerank",
                )

    def kept(self, result: RerankResult) -> Sequence[RankedHit]:
        """The hits that go back, in the order in which they do.

        Raises:
            ServiceError: ``score_threshold`` is asked for, and the scores are no probabilities.
        """
        hits: Sequence[RankedHit] = result.hits
        threshold = self.score_threshold
        # Of what was not reranked nothing is known: see ``without_effect``.
        if threshold is not None and result.reranked:
            if not result.calibrated:
                raise ServiceError(
                    Failure.INCONSISTENT,
                    f"score_threshold is {threshold}, and the scores of this service are no probabilities; leave it"
                    " out, or set backbone.layout to solo",
                )
            hits = [hit for hit in hits if not threshold or _is_relevant(hit, threshold)]
        if self.top_n:
            hits = hits[: self.top_n]
        return sorted(hits, key=lambda hit: hit.index) if self.results_order == "input" else hits

    def score_of(self, result: RerankResult, hit: RankedHit) -> float:
        """A hit's score as a JSON number: between 0 and 1, or of any size where that is asked for."""
        raw = self.raw_scores or self.use_activation is False
        return json_number(hit.score) if raw else json_score(result, hit)

    def scores_of(self, result: RerankResult) -> list[float]:
        """The scores in the order in which the texts came."""
        return [self.score_of(result, hit) for hit in sorted(result.hits, key=lambda hit: hit.index)]

    def places(self, results: Sequence[RerankResult]) -> Sequence[Sequence[int]]:
        """For each result, where its documents stand in the request."""
        return [range(len(result.hits)) for result in results]

    def first_stage_of(self, count: int) -> FirstStage:
        """What the first stage said of ``count`` documents.

        Raises:
            ServiceError: both keys are given, or the number of scores is wrong.
        """
        if self.first_stage_scores is None:
            return self.first_stage
        if self.first_stage is not None:
            raise ServiceError(
                Failure.INCONSISTENT, "first_stage and first_stage_scores are both given; give one of them"
            )
        if len(self.first_stage_scores) != count:
            raise ServiceError(
                Failure.INCONSISTENT,
                f"first_stage_scores and documents differ in number ({len(self.first_stage_scores)} and {count});"
                " give one score a document",
            )
        return self.first_stage_scores

    def model_name(self, model: str) -> str:
        """The model's name as the client gave it, else the service's."""
        return self.model if isinstance(self.model, str) and self.model else model


RequestT = TypeVar("RequestT", bound=JsonRequest)


def read_request(kind: type[RequestT], payload: Mapping[str, Any]) -> RequestT:
    """The request in a JSON object.

    Raises:
        ServiceError: a key is missing or has a value that it cannot have; two names of one key have two values.
    """
    chosen: dict[str, Any] = {}
    known: set[str] = set()
    called: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        names = _aliases(field.validation_alias) or [name]
        known.update(names)
        given = [own for own in names if payload.get(own) is not None]
        for other in given[1:]:
            if payload[other] != payload[given[0]]:
                raise ServiceError(
                    Failure.INCONSISTENT, f"{given[0]} and {other} are one key with two values; give one of them"
                )
        chosen.update({own: payload[own] for own in given[:1] or names if own in payload})
        if given:
            called[name] = given[0]
    try:
        request = kind.model_validate(chosen)
    except ValidationError as error:
        raise ServiceError(Failure.INVALID, _explain(error, kind)) from None
    request._names = called
    request._ignored = tuple(own for own, value in payload.items() if own not in known and value is not None)
    return request


def _is_relevant(hit: RankedHit, threshold: float) -> bool:
    # A pin keeps its place: it was not read, and what put it first is not about relevance.
    if hit.head_score is None:
        return True
    # The LLM's own score: the first stage's share in the other one is no probability. Without text there is none.
    return bool(hit.passages) and probability(hit.head_score) >= threshold


def _route(result: RerankResult) -> dict[str, Any]:
    return {
        "mode": result.mode,
        "first_stage_gate": result.first_stage_gate,
        "deepest_layer": result.deepest_layer,
        "gates": [used.to_json() for used in result.gates],
    }


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    errors = error.errors(include_url=False, include_context=False)
    key = str(errors[0]["loc"][0])
    # A union reports one error a member; the one that got farthest into the value says most.
    worst = max((each for each in errors if str(each["loc"][0]) == key), key=lambda each: len(each["loc"]))
    wanted = next(
        (
            field.description
            for name, field in kind.model_fields.items()
            if key in (name, *_aliases(field.validation_alias))
        ),
        "",
    )
    # Between the places in lists stand the names of union members, which mean nothing to the client.
    path = key + "".join(f"[{part}]" for part in worst["loc"][1:] if isinstance(part, int))
    if worst["type"] == "missing":
        inner = f".{worst['loc'][-1]}" if len(worst["loc"]) > 1 else ""
        return f"{path}{inner} is missing; give {wanted}"
    return f"{path} is {_shorten(worst['input'])}; give {wanted}"


def _aliases(alias: Any) -> Sequence[str]:
    return [alias] if isinstance(alias, str) else [c for c in getattr(alias, "choices", ()) if isinstance(c, str)]


def _shorten(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
