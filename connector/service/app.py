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
from connector.service.admission import Admission, places
from connector.service.authentication import BearerAuthentication
from connector.service.errors import Failure, ServiceError, error_response, failure_of_status, style_of
from connector.service.gateway.cluster_errors import GatewayError, cluster_error_response
from connector.service.gateway.routes import Gateway, add_gateway
from connector.service.highlighting.route import add_highlight_route
from connector.service.loading import Loading
from connector.service.metrics import METRICS_PATH, MeasuredRequests, Metrics
from connector.service.reranking import add_rerank_routes
from connector.service.responses import AsciiJSONResponse
from connector.settings import CLUSTER_KINDS, Settings

__all__ = ["create_app"]

_OPEN_PATHS = ("/live", "/ready")


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
    metrics.watch_scheduler(loading.scheduler_statistics)
    metrics.watch_plan(loading.plan)
    gateway: Gateway | None = None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        at_once = settings.serve.at_once or places()
        admission = Admission(at_once + settings.serve.max_queue)
        metrics.watch_queue(lambda: admission.inside, at_once)
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
    )
    app.state.loading = loading
    app.state.metrics = metrics
    # Cancelled when the server is to stop and requests still run.
    app.state.stopping = CancelScope()
    keys = [key.get_secret_value() for key in settings.serve.api_keys]

    def refuse(request: Request, error: ServiceError) -> Response:
        if gateway is not None and gateway.takes(request.url.path):
            return cluster_error_response(GatewayError.of(error))
        return error_response(error, style_of(request))

    app.add_middleware(BearerAuthentication, keys=keys, open_paths=_OPEN_PATHS, answer=refuse)
    # The last one added is the outermost: refused keys are counted too.
    app.add_middleware(MeasuredRequests, metrics=metrics, paths=lambda: [getattr(r, "path", "") for r in app.routes])
    app.add_exception_handler(ServiceError, _answer_service_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(Exception, _answer_unexpected)
    _add_health_routes(app, loading, settings)
    _add_metrics_route(app, metrics)
    add_rerank_routes(app, loading, settings)
    add_highlight_route(app, loading, settings)
    if settings.serve.gateway and settings.engine.kind in CLUSTER_KINDS:
        # Last, because it takes every path that no route before it has.
        gateway = add_gateway(app, loading, settings)
    return app


def _add_health_routes(app: FastAPI, loading: Loading, settings: Settings) -> None:
    @app.get("/live", summary="Does the process answer?", tags=["health"])
    async def live() -> dict[str, str]:
        """Always 200, also while the model is being loaded."""
        return {"status": "live"}

    @app.get(
        "/ready",
        summary="Can requests be answered?",
        tags=["health"],
        responses={503: {"description": "The model is being loaded, or could not be."}},
    )
    async def ready() -> Response:
        """200 once a golden query has been scored; 503 before, and when the model could not be loaded."""
        status = loading.status
        body = {"status": status}
        if status == "ready":
            return AsciiJSONResponse({**body, "model": settings.backbone.model})
        if status == "failed":
            return AsciiJSONResponse({**body, "reason": str(loading.error)}, 503)
        return AsciiJSONResponse(body, 503, {"Retry-After": "1"})


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
    messages = {
        404: f"there is no {path[:100]} here; the routes are listed in /openapi.json",
        405: f"{path} is not for {request.method}; see the Allow header",
    }
    failure = failure_of_status(error.status_code)
    message = messages.get(error.status_code, error.detail)
    return error_response(ServiceError(failure, message, error.headers), style_of(request))


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    # Starlette logs the traceback after this answer.
    message = f"internal error ({type(error).__name__}); the service's log says more"
    return error_response(ServiceError(Failure.INTERNAL, message), style_of(request))
