"""What all rerank requests share: the first stage, the deadline, and errors that name the key and the cure."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from connector.documents import FirstStage, RankedHit, RerankResult
from connector.service.errors import Failure, ServiceError, Style
from connector.service.scoring import RerankJob
from connector.settings import Mode

__all__ = ["DialectRequest", "Milliseconds", "Text", "TopN", "cut", "read_request"]

_LONGEST_SHOWN = 40


def _no_boolean(value: Any) -> Any:
    # Python's True is 1, and pydantic follows it.
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")
    return value


Text = Annotated[str, Field(strict=True)]
Number = Annotated[FiniteFloat, BeforeValidator(_no_boolean)]
Milliseconds = Annotated[FiniteFloat, Field(gt=0), BeforeValidator(_no_boolean)]
TopN = Annotated[int, Field(ge=0), BeforeValidator(_no_boolean)]


class DialectRequest(BaseModel):
    """A rerank request in one API's shape. Keys that are not known are ignored, as clients send their own."""

    model_config = ConfigDict(extra="ignore")

    style: ClassVar[Style] = Style.SUPERSET

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

    @abstractmethod
    def jobs(self) -> Sequence[RerankJob]:
        """The queries with their documents; one, except for pairs of texts.

        Raises:
            ServiceError: the keys contradict one another.
        """

    @abstractmethod
    def answer(self, results: Sequence[RerankResult], model: str) -> Any:
        """The JSON answer; one result a job."""

    def outcome_keys(self, results: Sequence[RerankResult]) -> dict[str, Any]:
        """The keys ``reranked`` and ``reason``, and ``route``, the heads of its one query, where it is asked for."""
        left = next((result for result in results if not result.reranked), None)
        keys: dict[str, Any] = {"reranked": left is None, "reason": None if left is None else left.reason}
        if self.return_route and len(results) == 1 and results[0].mode is not None:
            keys["route"] = _route(results[0])
        return keys

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


RequestT = TypeVar("RequestT", bound=BaseModel)


def read_request(kind: type[RequestT], payload: dict[str, Any]) -> RequestT:
    """The request in a JSON object.

    Raises:
        ServiceError: a key is missing or has a value that it cannot have.
    """
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise ServiceError(Failure.INVALID, _explain(error, kind)) from None


def cut(hits: Sequence[RankedHit], top_n: int | None) -> Sequence[RankedHit]:
    """The best ``top_n`` hits; all where it is absent or 0 (as vLLM has it)."""
    return hits[:top_n] if top_n else hits


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
