"""Errors over HTTP: what can go wrong, which status it has, and the one function that writes its body."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, unique
from typing import Any, NamedTuple

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from connector.service.responses import AsciiJSONResponse

__all__ = [
    "Failure",
    "ServiceError",
    "Style",
    "SupersetError",
    "TeiError",
    "error_body",
    "error_response",
    "failure_of_status",
    "style_of",
]


class Style(Enum):
    """Whose error bodies a client expects."""

    SUPERSET = "superset"
    """Cohere's ``message``, Jina's ``detail`` and vLLM's ``error`` object in one body."""
    TEI = "tei"
    """``error`` as a string, as text-embeddings-inference answers and Elasticsearch parses."""


class _Kind(NamedTuple):
    status: int
    tei_status: int
    type: str
    tei_type: str
    retry_after: int | None = None


@unique
class Failure(Enum):
    """Everything that can go wrong, with its status in each style.

    Elasticsearch repeats a request answered 429, 502 or 503 for up to 30 seconds while the user waits
    (HuggingFaceResponseHandler), so in the TEI style these are 504: the search then fails over at once
    (``allow_rerank_failures``).
    """

    MALFORMED = _Kind(400, 400, "BadRequestError", "Validation")
    INVALID = _Kind(400, 422, "BadRequestError", "Validation")
    EMPTY = _Kind(400, 400, "BadRequestError", "Empty")
    UNAUTHORIZED = _Kind(401, 401, "AuthenticationError", "Unauthorized")
    NOT_FOUND = _Kind(404, 404, "NotFoundError", "NotFound")
    WRONG_METHOD = _Kind(405, 405, "MethodNotAllowedError", "MethodNotAllowed")
    TOO_LARGE = _Kind(413, 413, "RequestTooLargeError", "Validation")
    UNKNOWN_ENCODING = _Kind(415, 415, "UnsupportedMediaTypeError", "Validation")
    TOO_MANY_DOCUMENTS = _Kind(422, 413, "UnprocessableEntityError", "Validation")
    INCONSISTENT = _Kind(422, 422, "UnprocessableEntityError", "Validation")
    OVERLOADED = _Kind(429, 504, "RateLimitError", "Overloaded", retry_after=1)
    INTERNAL = _Kind(500, 500, "InternalServerError", "Backend")
    LOADING = _Kind(503, 504, "ServiceUnavailableError", "Unhealthy", retry_after=5)
    UNAVAILABLE = _Kind(503, 504, "ServiceUnavailableError", "Backend", retry_after=1)

    def status(self, style: Style) -> int:
        """The HTTP status of this failure for a client of that style."""
        return self.value.tei_status if style is Style.TEI else self.value.status


class ServiceError(Exception):
    """A request that is answered with an error.

    Args:
        failure: what went wrong.
        message: one line: what is wrong and how to mend it.
        headers: more response headers.
    """

    def __init__(self, failure: Failure, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.headers = dict(headers or {})


class _ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: int


class SupersetError(BaseModel):
    """Error body of every route but ``/rerank`` with ``texts``."""

    message: str = Field(description="As Cohere says it.")
    detail: str = Field(description="As Jina says it.")
    error: _ErrorObject = Field(description="As vLLM and Infinity say it.")


class TeiError(BaseModel):
    """Error body of ``/rerank`` with ``texts``, and of ``/rerank`` where the body could not be read."""

    error: str
    error_type: str


def error_body(failure: Failure, message: str, style: Style) -> dict[str, Any]:
    """The JSON body of an error."""
    kind: _Kind = failure.value
    if style is Style.TEI:
        return {"error": message, "error_type": kind.tei_type}
    inner = {"message": message, "type": kind.type, "param": None, "code": kind.status}
    return {"message": message, "detail": message, "error": inner}


def error_response(error: ServiceError, style: Style) -> Response:
    """The whole answer to a request that failed."""
    headers = dict(error.headers)
    status = error.failure.status(style)
    if status in (429, 503):
        headers.setdefault("Retry-After", str(error.failure.value.retry_after))
    return AsciiJSONResponse(error_body(error.failure, error.message, style), status, headers)


def failure_of_status(status: int) -> Failure:
    """The failure that stands for a status the web framework came up with."""
    for failure in Failure:
        if failure.value.status == status:
            return failure
    return Failure.INTERNAL if status >= 500 else Failure.MALFORMED


def style_of(request: Request) -> Style:
    """The style a request's errors are written in.

    ``/rerank`` serves TEI and vLLM clients; until its body is read, errors are TEI's, because Elasticsearch parses
    ``error`` as a string while vLLM's clients only look at the status.
    """
    style = getattr(request.state, "style", None)
    if isinstance(style, Style):
        return style
    return Style.TEI if request.url.path == "/rerank" else Style.SUPERSET
