"""The text of a search as it came, whichever way it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from starlette.datastructures import Headers

from connector.service.bodies import NotGzip, unpacked
from connector.service.errors import ServiceError
from connector.service.gateway.cluster_errors import GatewayError
from connector.service.gateway.forwarding import ClusterRequest
from connector.service.gateway.parsing.raw_json import decode, encode
from connector.service.gateway.parsing.url_query import read_parameters, with_parameters

__all__ = ["Incoming", "Unreadable", "read_incoming"]

_OTHER_FORMATS = ("cbor", "smile", "yaml")


class Unreadable(Exception):
    """A search that the gateway does not understand; the cluster may."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A search.

    Attributes:
        request: as it came.
        parameters: of its URL.
        text: its body, or the URL parameter ``source`` that stands for it.
    """

    request: ClusterRequest
    parameters: Mapping[str, str]
    text: str

    def with_text(self, text: str) -> Incoming:
        """The same search with another body."""
        if text == self.text:
            return self
        if self.request.body:
            return replace(self, request=self.request.with_body(encode(text)), text=text)
        query = with_parameters(self.request.query, {"source": text})
        return replace(self, request=replace(self.request, query=query), text=text)


def read_incoming(request: ClusterRequest, limit_mb: int) -> Incoming:
    """Read a search.

    Raises:
        Unreadable: it, or the answer that is asked for, is not JSON.
        GatewayError: 413, unpacked it is larger than ``limit_mb``.
    """
    headers = Headers(raw=list(request.headers))
    accept = headers.get("accept", "").lower()
    if any(name in accept for name in _OTHER_FORMATS):
        raise Unreadable("the answer is not to be JSON")
    parameters = read_parameters(request.query)
    if not request.body:
        if "source" in parameters and "json" not in parameters.get("source_content_type", ""):
            raise Unreadable("the body is not JSON")
        return Incoming(request, parameters, parameters.get("source", ""))
    if "json" not in headers.get("content-type", "").lower():
        raise Unreadable("the body is not JSON")
    compression = headers.get("content-encoding", "identity").strip().lower()
    if compression not in ("identity", "gzip", ""):
        raise Unreadable("the body is compressed in an unknown way")
    body = _unpacked(request.body, limit_mb) if compression == "gzip" else request.body
    return Incoming(request, parameters, decode(body))


def _unpacked(body: bytes, limit_mb: int) -> bytes:
    try:
        return unpacked(body, limit_mb)
    except NotGzip:
        raise Unreadable("the body is not gzip") from None
    except ServiceError as error:
        raise GatewayError.of(error) from None
