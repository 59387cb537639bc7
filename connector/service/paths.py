"""The service's own paths: as proxies, probes and clients write them, and which of them somebody may have meant."""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OwnPaths", "nearest_route", "no_route"]


class OwnPaths:
    """Lets a route be asked for below a prefix, with slashes at its end, and a page by HEAD; ASGI middleware.

    What stands inside sees plain paths, and GET. Paths of others, which a gateway passes on, keep their slashes and
    their HEAD.

    Args:
        app: has the routes.
        prefix: a proxy's, which it may or may not have taken off; empty: none.
        paths: makes the service's own paths. Called once, at the first request: routes are added after middleware.
    """

    def __init__(self, app: ASGIApp, prefix: str, paths: Callable[[], Collection[str]]) -> None:
        self.app = app
        self._prefix = prefix
        self._list_paths = paths
        self._paths: frozenset[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._paths is None:
            self._paths = frozenset(self._list_paths())
        self._take_prefix_off(scope)
        plain = scope["path"].rstrip("/") or "/"
        if plain not in self._paths:
            await self.app(scope, receive, send)
            return
        scope["path"], scope["raw_path"] = plain, plain.encode()
        if scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        # What is logged is what was asked.
        scope.setdefault("state", {})["method"] = "HEAD"
        scope["method"] = "GET"

        async def send_headers(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app(scope, receive, send_headers)

    def _take_prefix_off(self, scope: Scope) -> None:
        prefix = self._prefix
        if prefix and f"{scope['path']}/".startswith(f"{prefix}/"):
            scope["path"] = scope["path"].removeprefix(prefix) or "/"
            raw: bytes = scope.get("raw_path") or b""
            scope["raw_path"] = raw.removeprefix(prefix.encode()) or b"/"


def nearest_route(path: str, paths: Collection[str]) -> str | None:
    """The route that a path ends like, as ``/v1/rerank`` for ``/api/v1/reranks``; None: like none.

    Args:
        path: that is no route.
        paths: of the routes.
    """
    asked = _singular(path)
    found = [(_common_end(asked, _singular(own)), own.startswith("/v1/"), -len(own), own) for own in paths]
    best = max(found, default=(0, False, 0, ""))
    return best[-1] if best[0] else None


def no_route(path: str, nearest: str | None) -> str:
    """What a request for a path that is no route is told."""
    cure = "the routes are listed in /openapi.json" if nearest is None else f"did you mean {nearest}?"
    return f"there is no {path[:100]} here; {cure}"


def _singular(path: str) -> list[str]:
    return [part.lower().removesuffix("s") for part in path.split("/") if part]


def _common_end(one: list[str], other: list[str]) -> int:
    count = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        count += 1
    return count
