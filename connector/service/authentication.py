"""The service's own keys."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Collection

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.service.errors import Failure, ServiceError, error_response, style_of
from connector.service.page.access import PAGE_PATH

__all__ = ["BearerAuthentication"]


def _answer_refused(request: Request, error: ServiceError) -> Response:
    return error_response(error, style_of(request))


class BearerAuthentication:
    """Lets a request in when it carries one of the keys, as ``Authorization: Bearer KEY`` or ``X-Api-Key: KEY``.

    The page takes it as the password of basic authentication too, which browsers ask for. No other path does:
    browsers add it to whatever another site sends here.

    ASGI middleware. What carried a key is taken off the request: it is meant for this service, and must not go on to
    another one.

    Args:
        app: what is protected.
        keys: the keys; none: everybody is let in, and no header is touched.
        open_paths: paths that need no key.
        answer: writes the answer to a request that is refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Collection[str],
        open_paths: Collection[str] = (),
        answer: Callable[[Request, ServiceError], Response] = _answer_refused,
    ) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]
        self.open_paths = frozenset(open_paths)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.keys or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        headers, is_page = scope["headers"], scope["path"] == PAGE_PATH and scope["method"] in ("GET", "HEAD")
        kept = [(name, value) for name, value in headers if not self._is_key(name, value, is_page)]
        if len(kept) < len(headers):
            # In place: what stands outside reads from the same scope which route it was.
            scope["headers"] = kept
            await self.app(scope, receive, send)
            return
        challenge = (
            'Basic realm="rh-connector: any name, a key as password", charset="UTF-8"' if is_page else "Bearer"
        )
        error = ServiceError(Failure.UNAUTHORIZED, _refusal(scope), {"WWW-Authenticate": challenge})
        await self._answer(Request(scope), error)(scope, receive, send)

    def _is_key(self, name: bytes, value: bytes, is_page: bool) -> bool:
        given = (_password(name, value) if is_page else None) or _given(name, value)
        if given is None:
            return False
        # Every key is compared, and in constant time, so that the answer's delay tells nothing.
        matches = [hmac.compare_digest(given, key) for key in self.keys]
        return any(matches)


def _given(name: bytes, value: bytes) -> bytes | None:
    """The key in a header, if it is one for keys."""
    if name == b"x-api-key":
        return value.strip()
    scheme, _, rest = value.strip().partition(b" ")
    return rest.strip() if name == b"authorization" and scheme.lower() == b"bearer" else None


def _password(name: bytes, value: bytes) -> bytes | None:
    """The password in a header of basic authentication, if it is one."""
    scheme, _, rest = value.strip().partition(b" ")
    if name != b"authorization" or scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return None


def _refusal(scope: Scope) -> str:
    names = {name for name, _ in scope["headers"]}
    if any(_given(name, value) is not None for name, value in scope["headers"]):
        return "wrong key; send one of serve.api_keys as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
    if b"authorization" in names:
        return "not a bearer key; send the header 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
    return "no key; send the header 'Authorization: Bearer KEY' or 'X-Api-Key: KEY' with one of serve.api_keys"
