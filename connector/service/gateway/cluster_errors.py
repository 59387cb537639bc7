"""Errors of the gateway itself, in the shape in which the cluster tells its own."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from connector.service.errors import Failure, ServiceError, Style
from connector.service.responses import AsciiJSONResponse

__all__ = ["GatewayError", "cluster_error_response"]

_TYPES: Mapping[Failure, str] = {
    Failure.UNAUTHORIZED: "security_exception",
    Failure.TOO_LARGE: "content_too_long_exception",
    Failure.INTERNAL: "gateway_exception",
}


class GatewayError(Exception):
    """A request that the gateway answers with an error.

    Args:
        status: of the answer.
        kind: the ``type`` of the error, where there is one as the clusters name theirs.
        reason: one line: what is wrong and how to mend it.
        headers: more response headers.
    """

    def __init__(self, status: int, kind: str, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.kind = kind
        self.reason = reason
        self.headers = dict(headers or {})

    @property
    def is_broken_off(self) -> bool:
        """The cluster could not be reached or broke off; it was not waited for in vain."""
        return self.status == 502

    @classmethod
    def of(cls, error: ServiceError) -> GatewayError:
        """The same error, told as a cluster tells it."""
        kind = _TYPES.get(error.failure, "illegal_argument_exception")
        return cls(error.failure.status(Style.SUPERSET), kind, error.message, error.headers)


def cluster_error_response(error: GatewayError) -> Response:
    """The whole answer to a request that failed."""
    cause = {"type": error.kind, "reason": error.reason}
    body = {"error": {"root_cause": [cause], **cause}, "status": error.status}
    return AsciiJSONResponse(body, error.status, error.headers)
