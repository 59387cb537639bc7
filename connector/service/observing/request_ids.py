"""Ids by which a request is found again: the caller's, or a new one."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["REQUEST_ID_HEADER", "RequestIds"]

REQUEST_ID_HEADER = "X-Request-Id"
# What is written into a log as it came: no blanks, no quotes, nothing but ASCII.
_GOOD = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")


class RequestIds:
    """Gives every request an id, under ``request_id`` in its state, and sends it back; ASGI middleware.

    A caller's own id is kept where it is one word of at most 128 ASCII characters.

    Args:
        app: what is asked.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        own = given if _GOOD.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = own

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault(REQUEST_ID_HEADER, own)
            await send(message)

        await self.app(scope, receive, send_with_id)
