"""Bearer keys."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.service.errors import Failure, ServiceError, error_response, style_of

__all__ = ["BearerAuthentication"]


class BearerAuthentication:
    """Lets a request in when it carries one of the keys; ASGI middleware.

    Args:
        app: what is protected.
        keys: the keys; none: everybody is let in.
        open_paths: paths that need no key.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], open_paths: Collection[str] = ()) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]
        self.open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.keys or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        message = self._refusal(scope)
        if message is None:
            await self.app(scope, receive, send)
            return
        error = ServiceError(Failure.UNAUTHORIZED, message, {"WWW-Authenticate": "Bearer"})
        await error_response(error, style_of(Request(scope)))(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        if header is None:
            return "no key; send the header 'Authorization: Bearer KEY' with one of serve.api_keys"
        scheme, _, given = header.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            return "not a bearer key; send the header 'Authorization: Bearer KEY'"
        # Every key is compared, and in constant time, so that the answer's delay tells nothing.
        matches = [hmac.compare_digest(given.strip(), key) for key in self.keys]
        return None if any(matches) else "wrong key; send one of serve.api_keys as 'Authorization: Bearer KEY'"
