"""What a caller asks of the gateway, in headers of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers

from connector.cancelling import CancelScope
from connector.sections import MODES, Mode, Settings
from connector.service.deadlines import scope_of
from connector.service.gateway.cluster_errors import GatewayError

__all__ = ["OWN_PREFIX", "Options", "read_options"]

OWN_PREFIX = "x-rerank"
"""Headers that begin so are between caller and gateway: the cluster does not see them."""

_LARGEST_WINDOW = 10_000
_MODES: dict[str, Mode] = {mode: mode for mode in MODES}


@dataclass(frozen=True, slots=True)
class Options:
    """How one request is to be reranked.

    Attributes:
        enabled: False: not at all.
        window: how many hits of the first stage.
        query: the words, where the caller gave them apart from the search.
        mode: how heads are chosen; None: as the settings say.
        scope: until when an answer is of use.
        highlight: sentences that answer are added to hits' ``highlight``.
    """

    enabled: bool
    window: int
    query: str | None
    mode: Mode | None
    scope: CancelScope
    highlight: bool = False


def read_options(headers: Headers, settings: Settings, started: float) -> Options:
    """Read the ``X-Rerank…`` headers of a request that came at ``started`` (``time.monotonic``).

    Raises:
        GatewayError, ServiceError: 400, a header says something else than it may.
    """
    enabled = _switch(headers, "X-Rerank", True)
    window = headers.get("X-Rerank-Window")
    if window is not None and not (re.fullmatch(r"[0-9]{1,5}", window) and 1 <= int(window) <= _LARGEST_WINDOW):
        raise _wrong("X-Rerank-Window", window, f"a whole number from 1 to {_LARGEST_WINDOW}")
    mode = headers.get("X-Rerank-Mode")
    if mode is not None and mode not in _MODES:
        raise _wrong("X-Rerank-Mode", mode, "routed, static or all")
    scope = scope_of(headers, settings, started)
    return Options(
        enabled=enabled,
        window=settings.rerank.window if window is None else int(window),
        query=_query(headers.get("X-Rerank-Query", "")),
        mode=None if mode is None else _MODES[mode],
        scope=scope,
        highlight=_switch(headers, "X-Rerank-Highlight", settings.serve.gateway_highlight),
    )


def _switch(headers: Headers, name: str, default: bool) -> bool:
    value = headers.get(name, str(default)).strip().lower()
    if value not in ("true", "false"):
        raise _wrong(name, value, "true or false")
    return value == "true"


def _query(header: str) -> str | None:
    try:
        # Headers are bytes; a client may also have sent UTF-8 as it is.
        text = unquote_to_bytes(header.encode("latin-1")).decode("utf-8")
    except UnicodeDecodeError:
        raise _wrong("X-Rerank-Query", header, "percent-encoded UTF-8") from None
    return " ".join(text.split()) or None


def _wrong(name: str, value: str, wanted: str) -> GatewayError:
    return GatewayError(400, "illegal_argument_exception", f"{name} is '{value[:40]}'; give {wanted}")
