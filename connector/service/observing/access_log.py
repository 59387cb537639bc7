"""The access log: one JSON line a request, without any text of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.types import Scope

from connector.documents import RerankResult
from connector.service.probing import OPEN_PATHS

__all__ = ["log_request", "writing_access_log"]

_log = logging.getLogger("connector.access")


@contextmanager
def writing_access_log(stream: TextIO) -> Iterator[None]:
    """Write the log's lines to a stream, as they are, until the context ends: the stream may be closed then."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.propagate = False
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        level, _log.propagate = before
        _log.setLevel(level)


def log_request(scope: Scope, route: str, status: int, seconds: float) -> None:
    """Log a request that was answered. Probes that found all well leave no line.

    Args:
        scope: of the request; its state holds ``request_id``, ``results`` where something was ranked, and ``method``
            where the scope has another one.
        route: as the metrics name it.
        status: of the answer.
        seconds: from its arrival to the end of the answer.
    """
    if not _log.isEnabledFor(logging.INFO) or (route in OPEN_PATHS and status < 400):
        return
    state = scope.get("state", {})
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": state.get("request_id"),
        "method": state.get("method", scope["method"]),
        "route": route,
        "status": status,
        **_outcome(state.get("results", ())),
        "ms": round(seconds * 1000, 1),
    }
    _log.info(json.dumps(line))


def _outcome(results: Sequence[RerankResult]) -> dict[str, Any]:
    if not results:
        return {"documents": None, "encoded": None, "cached": None, "reranked": None, "reason": None}
    left = next((result for result in results if not result.reranked), None)
    return {
        "documents": sum(len(result.hits) for result in results),
        "encoded": sum(result.encoded for result in results),
        "cached": sum(result.cached for result in results),
        "reranked": left is None,
        # What follows the colon quotes an exception, and that may quote a text.
        "reason": None if left is None else (left.reason or "failed").partition(":")[0],
    }
