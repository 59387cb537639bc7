"""Requests on their way to the cluster, and its answers on their way back."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import anyio
import httpx2
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from connector.cancelling import CancelScope
from connector.engines.cluster.connection import DEFAULT_URL
from connector.errors import SettingsError
from connector.sections import EngineSettings, Settings
from connector.service.gateway.cluster_errors import GatewayError
from connector.service.gateway.options import OWN_PREFIX

__all__ = [
    "Cluster",
    "ClusterAnswer",
    "ClusterRequest",
    "answer_headers",
    "cluster_url",
    "fetched_within",
    "request_of",
]

RawHeaders = tuple[tuple[bytes, bytes], ...]

_HOP_BY_HOP = frozenset(
    [b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"]
    + [b"trailer", b"trailers", b"transfer-encoding", b"upgrade"]
)
# Our server writes its own; the marks are ours to give.
_NOT_PASSED_BACK = frozenset([b"date", b"server", b"x-reranked", b"x-rerank-reason"])
_CONNECTIONS = 1000


def cluster_url(settings: Settings) -> httpx2.URL:
    """Where the cluster is, without the user and password that the setting may hold: those are not the caller's.

    Raises:
        SettingsError: ``engine.url`` is no URL.
    """
    text = settings.engine.url or DEFAULT_URL
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError("engine.url is not the URL of a cluster; give one as in https://localhost:9200")
    return httpx2.URL(scheme=url.scheme, host=url.host, port=url.port, path=url.path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class ClusterRequest:
    """A request for the cluster: path, query and headers are as the caller sent them."""

    method: str
    path: bytes
    query: bytes
    headers: RawHeaders
    body: bytes = b""

    def with_headers(self, changes: Mapping[bytes, bytes | None]) -> ClusterRequest:
        """The same with other values for some headers; None: without it."""
        kept = tuple(pair for pair in self.headers if pair[0] not in changes)
        added = tuple((name, value) for name, value in changes.items() if value is not None)
        return replace(self, headers=kept + added)

    def with_body(self, body: bytes) -> ClusterRequest:
        """The same with another body, which is not compressed."""
        return replace(self.with_headers({b"content-encoding": None}), body=body)


@dataclass(frozen=True, slots=True)
class ClusterAnswer:
    """An answer that has been read to its end."""

    status: int
    headers: RawHeaders
    body: bytes

    @property
    def is_plain(self) -> bool:
        """The body is not compressed, and says that it is JSON."""
        headers = Headers(raw=list(self.headers))
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        compression = headers.get("content-encoding", "identity").strip().lower()
        return compression in ("", "identity") and (kind == "application/json" or kind.endswith("+json"))

    def response(self, body: bytes | None = None) -> Response:
        """The answer for the caller; with another body where that is given."""
        response = Response(self.body if body is None else body, self.status)
        kept = [pair for pair in self.headers if pair[0] != b"content-length"]
        response.raw_headers = [*kept, (b"content-length", str(len(response.body)).encode())]
        return response


def request_of(request: Request, body: bytes) -> ClusterRequest:
    """What the caller sent, less what is between the caller and us alone."""
    scope = request.scope
    raw_path: bytes = scope.get("raw_path") or str(scope["path"]).encode()
    path = raw_path.partition(b"?")[0]
    kept = _end_to_end(request.headers.raw)
    own = OWN_PREFIX.encode()
    headers = tuple(
        (name, value)
        for name, value in kept
        if name not in (b"host", b"content-length", b"expect") and not name.startswith(own)
    )
    return ClusterRequest(request.method, path, scope["query_string"], headers, body)


def answer_headers(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """What of the cluster's headers goes back to the caller."""
    return tuple(pair for pair in _end_to_end(headers) if pair[0] not in _NOT_PASSED_BACK)


async def fetched_within(scope: CancelScope, fetch: Callable[[], Awaitable[ClusterAnswer]]) -> ClusterAnswer | None:
    """What only reranking asks the cluster for; None: it did not come while an answer is of use."""
    with anyio.move_on_after(scope.remaining()):
        try:
            return await fetch()
        except GatewayError:
            return None
    return None


class Cluster:
    """The cluster behind the gateway. To be used inside one event loop, and closed there.

    Nothing of the settings' credentials is used, neither user nor key nor client certificate: they would lend the
    caller our rights.

    Args:
        settings: where it is, how its certificate is checked, and how long to wait for it.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = cluster_url(settings)
        self._prefix = self._url.raw_path.rstrip(b"/")
        self._engine = settings.engine
        self._opened: httpx2.AsyncClient | None = None

    async def stream(self, request: ClusterRequest) -> Response:
        """Send a request, and hand its answer on as it comes in.

        Raises:
            GatewayError: there is no answer.
        """
        answer = await self._send(request)
        response = _Passing(answer)
        response.raw_headers = list(answer_headers(_lower(answer.headers.raw)))
        return response

    async def fetch(self, request: ClusterRequest) -> ClusterAnswer:
        """Send a request, and read its answer to the end.

        Raises:
            GatewayError: there is no answer, or it ended too early.
        """
        try:
            # Of a cluster that sends a few bytes now and then each wait alone is short.
            with anyio.fail_after(self._engine.timeout_ms / 1000):
                return await self._read(request)
        except TimeoutError:
            raise self._late() from None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.aclose()

    async def _read(self, request: ClusterRequest) -> ClusterAnswer:
        answer = await self._send(request)
        try:
            body = b"".join([chunk async for chunk in answer.aiter_raw()])
        except httpx2.HTTPError as error:
            raise self._failure(error) from None
        finally:
            await _close(answer)
        return ClusterAnswer(answer.status_code, answer_headers(_lower(answer.headers.raw)), body)

    async def _send(self, request: ClusterRequest) -> httpx2.Response:
        target = self._prefix + request.path + (b"?" + request.query if request.query else b"")
        outgoing = httpx2.Request(
            request.method,
            self._url,
            headers=list(request.headers),
            content=request.body or None,
            # A URL object would write some characters in another way.
            extensions={"target": target, "timeout": httpx2.Timeout(self._engine.timeout_ms / 1000).as_dict()},
        )
        try:
            return await self._client().send(outgoing, stream=True, auth=None, follow_redirects=False)
        except httpx2.HTTPError as error:
            raise self._failure(error) from None

    def _client(self) -> httpx2.AsyncClient:
        if self._opened is None:
            self._opened = httpx2.AsyncClient(
                verify=_certificates(self._engine) if self._url.scheme == "https" else True,
                limits=httpx2.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
                # Neither proxies nor .netrc of the machine.
                trust_env=False,
            )
        return self._opened

    def _failure(self, error: httpx2.HTTPError) -> GatewayError:
        if isinstance(error, httpx2.TimeoutException):
            return self._late()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return GatewayError(502, "connect_exception", f"the cluster at {self._url} cannot be reached: {reason}")

    def _late(self) -> GatewayError:
        within = f"did not answer within {self._engine.timeout_ms / 1000:g} s"
        return GatewayError(504, "timeout_exception", f"the cluster at {self._url} {within}")


def _certificates(engine: EngineSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=engine.ca_certs)
    if not engine.verify_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Passing(StreamingResponse):
    """Hands an answer on, and gives its connection back, also where nobody read a byte of it."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__(answer.aiter_raw(), answer.status_code)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _close(self._answer)


async def _close(answer: httpx2.Response) -> None:
    # Also when the caller has gone and all that waits is cancelled.
    with anyio.CancelScope(shield=True), suppress(httpx2.HTTPError):
        await answer.aclose()


def _lower(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    pairs: list[Any] = list(headers)
    named = {
        name.strip().lower() for key, value in pairs if key == b"connection" for name in value.split(b",") if name
    }
    return [pair for pair in pairs if pair[0] not in _HOP_BY_HOP and pair[0] not in named]
