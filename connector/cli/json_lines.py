"""One rerank request as a line of JSON, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connector.documents import FirstStage
from connector.errors import RequestError
from connector.json_kinds import json_kind
from connector.sections import MODES, Mode

__all__ = ["LineRequest", "read_request"]

_KEYS = ("id", "query", "documents", "first_stage", "first_stage_scores", "router_mode", "deadline_ms")


@dataclass(frozen=True, slots=True)
class LineRequest:
    """A line of ``rh-connector rerank``.

    Attributes:
        query: its text.
        documents: texts, or objects with text fields.
        first_stage: scores, ``"order"``, or None.
        deadline_ms: None: the settings' own.
        mode: how the heads are chosen; None: as the settings say.
        echoed: goes into the answer: ``id`` as it came, and ``ignored_keys``, where there are some.
    """

    query: str
    documents: list[str | Mapping[str, Any]]
    first_stage: FirstStage
    deadline_ms: float | None
    mode: Mode | None
    echoed: Mapping[str, str | int | list[str]]


def read_request(line: bytes) -> LineRequest:
    """Parse one line. Keys that are not known have no effect, as producers add their own; the answer names them.

    Raises:
        RequestError: not UTF-8, not JSON, a key is missing or has a value that it cannot have.
    """
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8 ({error.reason}); write lines as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON ({error}); give one object a line") from None
    if not isinstance(value, dict):
        raise RequestError(f"{json_kind(value)}; give one object a line, with query and documents")
    query, documents = value.get("query"), value.get("documents")
    if not isinstance(query, str):
        raise RequestError(f"query is {_kind(value, 'query')}; give text")
    if not isinstance(documents, list):
        raise RequestError(f"documents is {_kind(value, 'documents')}; give a list of texts or objects")
    for at, document in enumerate(documents):
        if not isinstance(document, str | dict):
            raise RequestError(f"documents[{at}] is {json_kind(document)}; give text or an object with text fields")
    ignored = [key for key, given in value.items() if key not in _KEYS and given is not None]
    echoed = {**_identity(value), **({"ignored_keys": ignored} if ignored else {})}
    return LineRequest(query, documents, _first_stage(value), _deadline(value), _mode(value), echoed)


def _first_stage(value: Mapping[str, Any]) -> FirstStage:
    order, scores = value.get("first_stage"), value.get("first_stage_scores")
    if order is not None and scores is not None:
        raise RequestError("first_stage and first_stage_scores are both given; give one of them")
    if order is not None and order != "order":
        raise RequestError('first_stage is not "order"; give "order", or numbers in first_stage_scores')
    if scores is None:
        return "order" if order else None
    if not isinstance(scores, list):
        raise RequestError(f"first_stage_scores is {json_kind(scores)}; give one number for each document")
    return [_number(score, f"first_stage_scores[{at}]") for at, score in enumerate(scores)]


def _deadline(value: Mapping[str, Any]) -> float | None:
    if value.get("deadline_ms") is None:
        return None
    deadline = _number(value["deadline_ms"], "deadline_ms")
    if deadline <= 0:
        raise RequestError(f"deadline_ms = {deadline:g}; give milliseconds above 0")
    return deadline


def _mode(value: Mapping[str, Any]) -> Mode | None:
    mode = value.get("router_mode")
    if mode is None:
        return None
    for known in MODES:
        if mode == known:
            return known
    raise RequestError(f"router_mode is {mode!r}; give {', '.join(MODES)}")


def _identity(value: Mapping[str, Any]) -> dict[str, str | int]:
    identity = value.get("id")
    if identity is None:
        return {}
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise RequestError(f"id is {json_kind(identity)}; give text or a whole number")
    return {"id": identity}


def _number(value: Any, name: str) -> float:
    # Python's True is 1. A whole number may be too large for a float.
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(f"{name} is not a finite number")
    return number


def _kind(value: Mapping[str, Any], key: str) -> str:
    return json_kind(value[key]) if key in value else "missing"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
