"""The HTTP application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from connector import __version__
from connector.cancelling import CancelScope
from connector.documents import SupportsRerank
from connector.sections import Settings
from connector.service.admission import Admission, places
from connector.service.authentication import BearerAuthentication
from connector.service.errors import Failure, ServiceError, error_response, failure_of_status, style_of
from connector.service.gateway.cluster_errors import GatewayError, cluster_error_response
from connector.service.gateway.routes import Gateway, add_gateway
from connector.service.highlighting.route import add_highlight_route
from connector.service.loading import Loading
from connector.service.metrics import METRICS_PATH, MeasuredRequests, Metrics
from connector.service.observing.access_log import log_request
from connector.service.observing.request_ids import RequestIds
from connector.service.page.access import path_of_page
from connector.service.page.routes import add_page
from connector.service.paths import OwnPaths, nearest_route, no_route, own_paths
from connector.service.probing import OPEN_PATHS, add_probe_routes
from connector.service.reranking import add_rerank_routes
from connector.service.responses import AsciiJSONResponse

__all__ = ["create_app"]


def create_app(
    reranker: SupportsRerank | Callable[[Settings], SupportsRerank],
    settings: Settings,
    *,
    when_load_failed: Callable[[], None] | None = None,
) -> FastAPI:
    """The application. At start-up it loads the model in a thread; ``app.state.loading`` says how far it is.

    Args:
        reranker: a reranker, or what makes one of the settings (``Reranker.from_settings``).
        settings: limits, keys and defaults.
        when_load_failed: called, in the loading thread, when the model cannot be loaded.
    """
    loading = Loading(reranker, settings, when_load_failed)
    metrics = Metrics(settings.backbone.model)
    metrics.watch_model(lambda: loading.status == "ready")
    metrics.watch_cache(loading.cache_statistics)
    metrics.watch_second_cache(loading.second_cache_statistics)
    metrics.watch_lookups(loading.lookups)
    metrics.watch_scheduler(loading.scheduler_statistics)
    metrics.watch_plan(loading.plan)
    metrics.watch_device(loading.device_statistics)
    gateway: Gateway | None = None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        at_once = settings.serve.at_once or places()
        async with Admission(at_once + settings.serve.max_queue) as admission:
            metrics.watch_queue(lambda: admission.inside, at_once, settings.serve.max_queue)
            app.state.admission = admission
            loading.start()
            yield
        if gateway is not None:
            await gateway.aclose()
        await to_thread.run_sync(loading.close)

    app = FastAPI(
        title="rh-connector",
        version=__version__,
        summary="Reranks search hits with what a frozen language model knows.",
        lifespan=lifespan,
        default_response_class=AsciiJSONResponse,
        # The pages would load their scripts from another host.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": settings.serve.root_path}] if settings.serve.root_path else None,
    )
    app.state.loading = loading
    app.state.prefix = settings.serve.root_path
    app.state.metrics = metrics
    # Cancelled when the server is to stop and requests still run.
    app.state.stopping = CancelScope()
    # Told to stop: probes send new requests elsewhere, those that run are not cancelled yet.
    app.state.is_stopping = False
    keys = [key.get_secret_value() for key in settings.serve.api_keys]

    def refuse(request: Request, error: ServiceError) -> Response:
        if gateway is not None and gateway.takes(request.url.path):
            return cluster_error_response(GatewayError.of(error))
        return error_response(error, style_of(request))

    app.add_middleware(BearerAuthentication, keys=keys, open_paths=OPEN_PATHS, answer=refuse)
    # Each one added stands around those before it: refused keys are counted too, under plain paths.
    app.add_middleware(MeasuredRequests, metrics=metrics, when_done=log_request)
    app.add_middleware(
        OwnPaths,
        prefix=settings.serve.root_path or "",
        routes=lambda: app.routes,
        renamed=path_of_page(settings),
    )
    app.add_middleware(RequestIds)
    app.add_exception_handler(ServiceError, _answer_service_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(Exception, _answer_unexpected)
    add_probe_routes(app, loading, settings)
    _add_metrics_route(app, metrics)
    add_rerank_routes(app, loading, settings)
    add_highlight_route(app, loading, settings)
    add_page(app, loading, settings)
    if settings.has_gateway:
        # Last, because it takes every path that no route before it has.
        gateway = add_gateway(app, loading, settings)
    return app


def _add_metrics_route(app: FastAPI, metrics: Metrics) -> None:
    # Not in the schema: it is not JSON, and its clients know the format.
    @app.get(METRICS_PATH, include_in_schema=False)
    async def read_metrics(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})


async def _answer_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(error, style_of(request))


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    message, headers = error.detail, dict(error.headers or {})
    if error.status_code == 404:
        message = no_route(path, nearest_route(path, own_paths(request.app.routes)), request.app.state.prefix)
    elif error.status_code == 405:
        message = f"{request.app.state.prefix or ''}{path} is not for {request.method}; see the Allow header"
        methods = set(headers.get("Allow", "").split(", "))
        # Every page answers HEAD: see OwnPaths.
        headers["Allow"] = ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
    return error_response(ServiceError(failure_of_status(error.status_code), message, headers), style_of(request))


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    # Starlette logs the traceback after this answer.
    message = f"internal error ({type(error).__name__}); the service's log says more"
    return error_response(ServiceError(Failure.INTERNAL, message), style_of(request))
