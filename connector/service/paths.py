"""The service's own paths: as proxies, probes and clients write them, and which of them somebody may have meant."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OwnPaths", "is_own", "nearest_route", "no_route", "own_paths"]

# One letter off in a word of five.
_ALIKE = 0.8


def own_paths(routes: Sequence[BaseRoute]) -> frozenset[str]:
    """The service's own paths; routes with a pattern are for paths of others."""
    paths = [getattr(route, "path", "") for route in routes]
    return frozenset(path for path in paths if path and "{" not in path)


def is_own(scope: Scope) -> bool:
    """Whether a request is for one of the service's own paths, as ``OwnPaths`` found."""
    return bool(scope.get("state", {}).get("is_own_path", False))


class OwnPaths:
    """Lets a route be asked for below a prefix, with slashes at its end, and a page by HEAD; ASGI middleware.

    What stands inside sees plain paths, and GET, and whether the path ``is_own``. Paths of others, which a gateway
    passes on, keep their slashes and their HEAD.

    Args:
        app: has the routes.
        prefix: a proxy's, which it may or may not have taken off; empty: none.
        routes: those of the app. Asked for once, at the first request: routes are added after middleware.
        renamed: the path that is meant by a request, where it is another one; None: it is not.
    """

    def __init__(
        self,
        app: ASGIApp,
        prefix: str,
        routes: Callable[[], Sequence[BaseRoute]],
        renamed: Callable[[Scope], str | None],
    ) -> None:
        self.app = app
        self._prefix = prefix
        self._routes = routes
        self._renamed = renamed
        self._paths: frozenset[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._paths is None:
            self._paths = own_paths(self._routes())
        self._take_prefix_off(scope)
        plain = self._renamed(scope) or scope["path"].rstrip("/") or "/"
        if plain not in self._paths:
            await self.app(scope, receive, send)
            return
        scope["path"], scope["raw_path"] = plain, plain.encode()
        scope.setdefault("state", {})["is_own_path"] = True
        if scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        # What is logged is what was asked.
        scope["state"]["method"] = "HEAD"
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
    """The route that a path ends like, as ``/v1/rerank`` for ``/api/v1/reranker``; None: like none.

    Args:
        path: that is no route.
        paths: of the routes.
    """
    asked = _singular(path)
    words = {word for own in paths for word in _singular(own)[-1:]}
    # A misspelt word is read as the one that it is like.
    asked[-1:] = [word for last in asked[-1:] for word in get_close_matches(last, words, 1, _ALIKE) or [last]]
    found = [(_common_end(asked, _singular(own)), own.startswith("/v1/"), -len(own), own) for own in paths]
    best = max(found, default=(0, False, 0, ""))
    return best[-1] if best[0] else None


def no_route(path: str, nearest: str | None, prefix: str | None = None) -> str:
    """What a request for a path that is no route is told.

    Args:
        path: the request's, without the prefix.
        nearest: see ``nearest_route``.
        prefix: a proxy's; its clients know no paths without it.
    """
    public = prefix or ""
    cure = (
        f"the routes are listed in {public}/openapi.json" if nearest is None else f"did you mean {public}{nearest}?"
    )
    return f"there is no {public}{path[:100]} here; {cure}"


def _singular(path: str) -> list[str]:
    return [part.lower().removesuffix("s") for part in path.split("/") if part]


def _common_end(one: list[str], other: list[str]) -> int:
    count = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        count += 1
    return count
