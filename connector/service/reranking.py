"""The rerank routes: read, admit, rank, answer; what differs between APIs is in ``dialects``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from connector.documents import RerankResult
from connector.sections import Settings
from connector.service.admission import Admission, ClientGone, QueueFull, while_connected
from connector.service.bodies import parse_object, read_plain_body
from connector.service.deadlines import DEADLINE_HEADER, scope_of
from connector.service.dialects import (
    DialectRequest,
    ExplainRequest,
    InfinityRerankRequest,
    RerankScoresRequest,
    RerankV1Request,
    RerankV2Request,
    ScoreRequest,
    TeiRerankRequest,
    VllmRerankRequest,
    VoyageRerankRequest,
    WeaviateRerankRequest,
    read_request,
)
from connector.service.dialects.cohere import RerankedAnswer
from connector.service.dialects.explain import ExplainAnswer
from connector.service.dialects.score import ScoreAnswer
from connector.service.dialects.scores import RerankScoresAnswer
from connector.service.dialects.tei import TeiAnswer
from connector.service.dialects.vllm import VllmAnswer
from connector.service.errors import Failure, ServiceError, SupersetError, TeiError
from connector.service.loading import Loading
from connector.service.metrics import Metrics
from connector.service.responses import AsciiJSONResponse
from connector.service.scoring import RerankJob, rank, rank_in_time

__all__ = ["add_rerank_routes"]

# The errors that can come of a request, for the schema.
_STATUSES = (400, 401, 413, 415, 422, 429, 500, 503, 504)

Choice = Callable[[Mapping[str, Any]], type[DialectRequest]]


def add_rerank_routes(app: FastAPI, loading: Loading, settings: Settings) -> None:
    """Add every route that reranks."""
    endpoints = _Endpoints(loading, settings)
    plain: list[tuple[str, type[DialectRequest], type[BaseModel], str]] = [
        ("/v1/rerank", RerankV1Request, RerankedAnswer, "Rerank (Cohere v1, Jina, Voyage)"),
        ("/v1/reranks", RerankV1Request, RerankedAnswer, "As /v1/rerank (Alibaba, Dify)"),
        ("/v2/rerank", RerankV2Request, RerankedAnswer, "Rerank (Cohere v2)"),
        ("/infinity/rerank", InfinityRerankRequest, VllmAnswer, "Rerank (Infinity, with documents as text)"),
        ("/v1/score", ScoreRequest, ScoreAnswer, "Scores of text pairs, in input order (vLLM)"),
        ("/score", ScoreRequest, ScoreAnswer, "As /v1/score"),
        ("/v1/rerank_scores", RerankScoresRequest, RerankScoresAnswer, "Scores in input order"),
        ("/v1/explain", ExplainRequest, ExplainAnswer, "Rerank, and how each score was computed"),
    ]
    for path, kind, answer, summary in plain:
        app.add_api_route(
            path,
            endpoints.of(_as_voyage if kind is RerankV1Request else _always(kind)),
            methods=["POST"],
            summary=summary,
            description=kind.__doc__,
            operation_id=path.strip("/").replace("/", "_"),
            tags=["rerank"],
            response_model=answer,
            responses={status: {"model": SupersetError} for status in _STATUSES},
            openapi_extra=_request_body(kind.model_json_schema()),
        )
    kinds = (TeiRerankRequest, VllmRerankRequest)
    app.add_api_route(
        "/rerank",
        endpoints.of(_texts_or_documents),
        methods=["POST"],
        summary="Rerank (texts: text-embeddings-inference, Elasticsearch; documents: vLLM, Infinity, Weaviate)",
        operation_id="rerank",
        tags=["rerank"],
        response_model=TeiAnswer | VllmAnswer,
        responses={status: {"model": TeiError | SupersetError} for status in _STATUSES},
        openapi_extra=_request_body({"oneOf": [kind.model_json_schema() for kind in kinds]}),
    )


class _Endpoints:
    """Makes the endpoint of a route; they share the model, its admission and the limits."""

    def __init__(self, loading: Loading, settings: Settings) -> None:
        self._loading = loading
        self._settings = settings

    def of(self, choose: Choice) -> Callable[[Request], Any]:
        """The endpoint that reads bodies as the request that ``choose`` picks."""

        async def endpoint(request: Request) -> Response:
            metrics: Metrics = request.app.state.metrics
            try:
                return await self._answer(request, choose, metrics)
            except ClientGone:
                # Nobody reads this; the status is what proxies log for it.
                return Response(status_code=499)
            except Exception as error:
                metrics.failure(error.failure if isinstance(error, ServiceError) else Failure.INTERNAL)
                raise

        return endpoint

    async def _answer(self, request: Request, choose: Choice, metrics: Metrics) -> Response:
        started = time.monotonic()
        payload = parse_object(await read_plain_body(request, self._settings.serve.max_body_mb))
        kind = choose(payload)
        request.state.style = kind.style
        asked = read_request(kind, payload)
        if asked.results_order is None and self._settings.serve.results_order == "input":
            asked.results_order = "input"
        most_tokens = asked.most_tokens(self._settings.backbone.max_document_tokens)
        jobs = [replace(job, instruction=asked.instruction, most_tokens=most_tokens) for job in asked.jobs()]
        self._check_size(jobs)
        asked.check_limits(sum(len(job.documents) for job in jobs))
        scope = scope_of(request.headers, self._settings, started, asked.deadline_ms)
        reranker = metrics.measured(self._loading.reranker())
        waited = started

        def begun() -> None:
            nonlocal waited
            waited = time.monotonic()

        async def ranked() -> list[RerankResult]:
            admission: Admission = request.app.state.admission
            return await rank_in_time(admission, jobs, lambda job, own: rank(reranker, job, own), scope, begun)

        try:
            results = await while_connected(request, ranked, scope)
        except QueueFull:
            raise ServiceError(
                Failure.OVERLOADED,
                f"{self._settings.serve.max_queue} requests wait already (serve.max_queue); try again",
            ) from None
        metrics.results(results)
        request.state.results = results
        notes = asked.notes(results)
        headers = {
            **notes.headers(),
            "X-Reranked": "true" if all(result.reranked for result in results) else "false",
            "Server-Timing": _server_timing(results, started, waited),
        }
        return AsciiJSONResponse(asked.answer(results, self._settings.backbone.model, notes), headers=headers)

    def _check_size(self, jobs: Sequence[RerankJob]) -> None:
        count = sum(len(job.documents) for job in jobs)
        most = self._settings.serve.max_documents
        if count == 0:
            raise ServiceError(Failure.EMPTY, "there are no documents; give at least one")
        if count > most:
            raise ServiceError(
                Failure.TOO_MANY_DOCUMENTS,
                f"{count} documents are too many; send at most {most} or raise serve.max_documents",
            )


def _always(kind: type[DialectRequest]) -> Choice:
    return lambda payload: kind


def _as_voyage(payload: Mapping[str, Any]) -> type[DialectRequest]:
    """Voyage's clients send one of these keys always; no other's do."""
    return VoyageRerankRequest if {"top_k", "truncation"} & payload.keys() else RerankV1Request


def _texts_or_documents(payload: Mapping[str, Any]) -> type[DialectRequest]:
    if "texts" in payload:
        return TeiRerankRequest
    if "documents" in payload:
        # Weaviate sends these two, and "property", which is empty; others send more.
        asked = payload.keys() - {"property"}
        return WeaviateRerankRequest if asked == {"query", "documents"} else VllmRerankRequest
    raise ServiceError(
        Failure.INVALID, "texts and documents are missing; give texts (TEI) or documents (vLLM, Infinity)"
    )


def _server_timing(results: Sequence[RerankResult], started: float, waited: float) -> str:
    stages = {"queue": (waited - started) * 1000}
    for result in results:
        for stage, milliseconds in result.timings_ms.items():
            name = "rerank" if stage == "total" else stage
            stages[name] = stages.get(name, 0.0) + milliseconds
    stages["total"] = (time.monotonic() - started) * 1000
    return ", ".join(f"{name};dur={milliseconds:.1f}" for name, milliseconds in stages.items())


def _request_body(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "parameters": [
            {
                "name": DEADLINE_HEADER,
                "in": "header",
                "schema": {"type": "number", "exclusiveMinimum": 0},
                "description": "Milliseconds after which the first-stage order goes back.",
            }
        ],
    }
