"""What load balancers, and the clients of other services, ask before they send a request: health, model, version."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from connector import __version__
from connector.sections import Settings
from connector.service.loading import Loading
from connector.service.responses import AsciiJSONResponse

__all__ = ["OPEN_PATHS", "add_probe_routes"]

OPEN_PATHS = ("/live", "/ready", "/health", "/.well-known/live", "/.well-known/ready")
"""Need no key: whoever probes has none."""


def add_probe_routes(app: FastAPI, loading: Loading, settings: Settings) -> None:
    """Add our own probes, and those of text-embeddings-inference, vLLM and Weaviate's reranker container."""
    _add_health(app, loading, settings)
    _add_descriptions(app, settings)


def _add_health(app: FastAPI, loading: Loading, settings: Settings) -> None:
    @app.get("/live", summary="Does the process answer?", tags=["health"])
    async def live() -> dict[str, str]:
        """Always 200, also while the model is being loaded."""
        return {"status": "live"}

    async def ready() -> Response:
        """200 once a golden query has been scored; 503 before, when the model could not be loaded, and at the end."""
        status = "stopping" if app.state.is_stopping else loading.status
        body = {"status": status}
        if status == "ready":
            return AsciiJSONResponse({**body, "model": settings.backbone.model})
        if status == "failed":
            return AsciiJSONResponse({**body, "reason": str(loading.error)}, 503)
        return AsciiJSONResponse(body, 503, {"Retry-After": "1"})

    async def ready_without_body() -> Response:
        """204 once a golden query has been scored, else 503."""
        return Response(status_code=204 if (await ready()).status_code == 200 else 503)

    async def live_without_body() -> Response:
        """Always 204."""
        return Response(status_code=204)

    unready: dict[int | str, dict[str, Any]] = {
        503: {"description": "The model is being loaded, or could not be, or the service stops."}
    }
    for path, summary in (("/ready", "Can requests be answered?"), ("/health", "As /ready (TEI, vLLM)")):
        app.add_api_route(
            path, ready, summary=summary, tags=["health"], responses=unready, operation_id=path.strip("/")
        )
    for path, endpoint, responses in (
        ("/.well-known/live", live_without_body, {}),
        ("/.well-known/ready", ready_without_body, unready),
    ):
        app.add_api_route(
            path,
            endpoint,
            status_code=204,
            summary=f"As /{path.rpartition('/')[2]}, without a body (Weaviate)",
            tags=["health"],
            responses=responses,
            operation_id=f"well_known_{path.rpartition('/')[2]}",
        )


def _add_descriptions(app: FastAPI, settings: Settings) -> None:
    backbone, serve = settings.backbone, settings.serve
    longest = backbone.max_document_tokens * backbone.max_passages

    @app.get("/info", summary="The model and the limits (TEI)", tags=["model"])
    async def info() -> dict[str, Any]:
        """What text-embeddings-inference tells of itself, as far as it means something here."""
        return {
            "model_id": backbone.model,
            "model_sha": None,
            "model_dtype": backbone.dtype,
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": serve.max_queue,
            "max_input_length": longest,
            "max_client_batch_size": serve.max_documents,
            "auto_truncate": True,
            "version": __version__,
        }

    @app.get("/v1/models", summary="The one model (OpenAI, vLLM)", tags=["model"])
    async def models() -> dict[str, Any]:
        """A list with one model; its ``id`` may be sent as ``model``, as may any other name."""
        model = {"id": backbone.model, "object": "model", "created": 0, "owned_by": "rh-connector"}
        return {"object": "list", "data": [{**model, "max_model_len": longest}]}

    @app.get("/meta", summary="The model (Weaviate)", tags=["model"])
    async def meta() -> dict[str, Any]:
        """What Weaviate shows of its reranker module."""
        return {"model": {"_name_or_path": backbone.model}, "version": __version__}
