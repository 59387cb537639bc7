"""When an answer is due: what the request says, else the setting. The one place that knows this default."""

from __future__ import annotations

import math

from starlette.datastructures import Headers

from connector.cancelling import CancelScope
from connector.sections import Settings
from connector.service.errors import Failure, ServiceError

__all__ = ["DEADLINE_HEADER", "scope_of"]

DEADLINE_HEADER = "X-Rerank-Deadline-Ms"


def scope_of(headers: Headers, settings: Settings, arrived: float, deadline_ms: float | None = None) -> CancelScope:
    """The scope in which a request is answered; the deadline counts from its arrival.

    Args:
        headers: of the request.
        settings: ``rerank.deadline_ms`` counts where the request names no deadline.
        arrived: in seconds of ``time.monotonic``.
        deadline_ms: what the body says, in milliseconds; of body and header the sooner counts.

    Raises:
        ServiceError: 400, the header is no number above 0.
    """
    given = [] if deadline_ms is None else [deadline_ms]
    header = headers.get(DEADLINE_HEADER)
    if header is not None:
        given.append(_milliseconds(header))
    milliseconds = min(given) if given else settings.rerank.deadline_ms
    return CancelScope(math.inf if milliseconds is None else arrived + milliseconds / 1000)


def _milliseconds(header: str) -> float:
    try:
        value = float(header)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ServiceError(
            Failure.INVALID, f"{DEADLINE_HEADER} is '{header[:40]}'; give milliseconds, a number above 0"
        )
    return value
