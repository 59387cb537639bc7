"""The cluster's own routes: whatever is none of the service's goes there."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from connector.sections import Settings
from connector.service.admission import ClientGone, while_connected
from connector.service.bodies import read_body
from connector.service.errors import Failure, ServiceError, error_response, style_of
from connector.service.gateway.access import check_access, is_index, names_endpoint, path_segments
from connector.service.gateway.cluster_errors import GatewayError, cluster_error_response
from connector.service.gateway.forwarding import Cluster, request_of
from connector.service.gateway.marking import marked
from connector.service.gateway.multi_searching import MultiSearching
from connector.service.gateway.options import read_options
from connector.service.gateway.searching import Searching
from connector.service.loading import Loading
from connector.service.paths import nearest_route, no_route, own_paths

__all__ = ["Gateway", "add_gateway"]

_log = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
# Searches of other kinds, told so; the rest of the cluster's answers carry no mark.
_OTHER_SEARCHES = {
    "_search/template": "search template",
    "_msearch/template": "search template",
    "_search/scroll": "scroll",
    "_async_search": "asynchronous search",
}


def add_gateway(app: FastAPI, loading: Loading, settings: Settings) -> Gateway:
    """Let all that no route of ``app`` answers go to the cluster. To be called after all routes were added.

    Raises:
        SettingsError: ``engine.url`` is no URL.
    """
    gateway = Gateway(loading, settings, own_paths(app.routes))
    app.router.routes.append(_ClusterRoute(gateway))
    return gateway


class _ClusterRoute(Route):
    """Takes every path but the service's own: a wrong method there must not reach the cluster."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__("/{path:path}", gateway, include_in_schema=False)
        self._gateway = gateway

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and not self._gateway.takes(scope["path"]):
            return Match.NONE, {}
        return super().matches(scope)


class Gateway:
    """Answers requests that are meant for the cluster; an ASGI application.

    Args:
        loading: the model.
        settings: the cluster, limits and defaults.
        own_paths: paths that are not meant for the cluster.
    """

    def __init__(self, loading: Loading, settings: Settings, own_paths: Collection[str]) -> None:
        self._settings = settings
        self._own_paths = frozenset(own_paths)
        self._cluster = Cluster(settings)
        self._searching = Searching(self._cluster, loading, settings)
        self._multi_searching = MultiSearching(self._cluster, loading, settings)

    def takes(self, path: str) -> bool:
        """Whether a path is meant for the cluster."""
        return path not in self._own_paths

    async def aclose(self) -> None:
        """Close the connections to the cluster."""
        await self._cluster.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        request = Request(scope, receive)
        if request.method == "POST" and not names_endpoint(scope["path"]):
            # A rerank client that missed its route: the cluster must not see its documents.
            nearest = nearest_route(scope["path"], self._own_paths)
            missed = no_route(scope["path"], nearest, self._settings.serve.root_path)
            await error_response(ServiceError(Failure.NOT_FOUND, missed), style_of(request))(scope, receive, send)
            return
        try:
            response = await self._answer(request, started)
            await response(scope, receive, watch)
        except Exception as error:
            if begun:
                raise
            await cluster_error_response(_told(error))(scope, receive, send)

    async def _answer(self, request: Request, started: float) -> Response:
        writes = self._settings.serve.gateway_writes
        if request.method not in _METHODS:
            raise GatewayError(405, "illegal_argument_exception", f"{request.method[:20]} is not passed on")
        raw_path: bytes = request.scope.get("raw_path") or request.url.path.encode()
        raw_path = raw_path.partition(b"?")[0]
        check_access(request.method, raw_path, writes=writes)
        segments = path_segments(raw_path)
        try:
            asked = request_of(request, await read_body(request, self._settings.serve.max_body_mb))
            if request.method in ("GET", "POST") and segments[-1:] in (["_search"], ["_msearch"]):
                index = segments[0] if len(segments) == 2 and is_index(segments[0]) else ""
                if len(segments) == 1 or index:
                    options = read_options(request.headers, self._settings, started)
                    if segments[-1] == "_search":
                        return await self._searching.answer(request, asked, index, options)
                    return await self._multi_searching.answer(request, asked, index, options)
            response = await while_connected(request, lambda: self._cluster.stream(asked))
        except ClientGone:
            # Nobody reads this; the status is what proxies log for it.
            return Response(status_code=499)
        last = "/".join(segments[-2:])
        reason = _OTHER_SEARCHES.get(last) or _OTHER_SEARCHES.get(last.rpartition("/")[2])
        return response if reason is None else marked(response, [False], reason, time.monotonic() - started)


def _told(error: Exception) -> GatewayError:
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, ServiceError):
        return GatewayError.of(error)
    _log.exception("a request could not be passed on")
    return GatewayError(
        500, "gateway_exception", f"internal error ({type(error).__name__}); the service's log says more"
    )
