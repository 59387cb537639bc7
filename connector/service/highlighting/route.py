"""The route ``/v1/highlight``: whatever hinders the model, the answer is one, for a search hangs on it."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from connector.sections import Settings
from connector.service.admission import ClientGone, while_connected
from connector.service.bodies import parse_object, read_plain_body
from connector.service.deadlines import scope_of
from connector.service.dialects.request import read_request
from connector.service.errors import ServiceError, SupersetError
from connector.service.gateway.ranking import rank_all
from connector.service.highlighting.request import HighlightAnswer, HighlightRequest, unwrapped
from connector.service.loading import Loading
from connector.service.metrics import Metrics
from connector.service.responses import AsciiJSONResponse

__all__ = ["HIGHLIGHT_PATH", "add_highlight_route"]

HIGHLIGHT_PATH = "/v1/highlight"


def add_highlight_route(app: FastAPI, loading: Loading, settings: Settings) -> None:
    """Add it. Wrong requests are errors; a model that is loading, busy or late gives documents without sentences."""

    async def endpoint(request: Request) -> Response:
        try:
            return await _answer(request, loading, settings)
        except ClientGone:
            # Nobody reads this; the status is what proxies log for it.
            return Response(status_code=499)
        except ServiceError as error:
            metrics: Metrics = request.app.state.metrics
            metrics.failure(error.failure)
            raise

    app.add_api_route(
        HIGHLIGHT_PATH,
        endpoint,
        methods=["POST"],
        summary="Sentences that answer (OpenSearch's semantic highlighter)",
        description=HighlightRequest.__doc__,
        operation_id="v1_highlight",
        tags=["highlight"],
        response_model=HighlightAnswer,
        responses={status: {"model": SupersetError} for status in (400, 401, 413, 415, 422)},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": HighlightRequest.schema_in_one()}},
            }
        },
    )


async def _answer(request: Request, loading: Loading, settings: Settings) -> Response:
    started = time.monotonic()
    payload = parse_object(await read_plain_body(request, settings.serve.max_body_mb))
    asked = read_request(HighlightRequest, unwrapped(payload))
    asked.check(settings.serve.max_documents)
    scope = scope_of(request.headers, settings, started, asked.deadline_ms)
    results = await while_connected(request, lambda: rank_all(request, loading, asked.jobs(), scope), scope)
    return AsciiJSONResponse(asked.answer(results), headers=asked.notes(results).headers())
