"""The page's route. Its answer needs nothing else: style and script are in it, and no other may run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from urllib.parse import quote

from fastapi import FastAPI
from jinja2 import Environment
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from connector.documents import SupportsRerank
from connector.errors import RequestError
from connector.sections import MODES, Mode, Settings
from connector.service.admission import ClientGone
from connector.service.loading import Loading
from connector.service.page.access import PAGE_PATH, closed_because
from connector.service.page.asking import Asked, WrongAddress, read_address, windows
from connector.service.page.searching import Found, search
from connector.service.page.view import BAR, LATENCY, view_of
from connector.templates import environment

__all__ = ["add_page"]

_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' fill='none' stroke='#5b74e8' stroke-width='1.8' "
    "stroke-linecap='round'><path d='M3 12.5h4M3 8h4M3 3.5h4M9.5 12 13 3.5M13 3.5l-2.6 1M13 3.5l1 2.6'/></svg>"
)


def add_page(app: FastAPI, loading: Loading, settings: Settings) -> None:
    """Add it. To be called before the gateway, which takes all that no route before it has."""
    app.add_route(PAGE_PATH, _Page(loading, settings).answer, methods=["GET"], include_in_schema=False)


class _Page:
    def __init__(self, loading: Loading, settings: Settings) -> None:
        self._loading, self._settings = loading, settings
        self._closed = closed_because(settings)

    async def answer(self, request: Request) -> Response:
        told: str | None = None
        try:
            asked = read_address(request.query_params, self._settings)
        except WrongAddress as wrong:
            asked, told = wrong.rest, f"{wrong}."
        if self._closed is not None:
            return self._page(asked, notice=self._closed, status=403)
        if told is not None:
            return self._page(asked, notice=told, status=400)
        if not asked.query:
            return self._page(asked)
        try:
            return self._page(asked, await search(request, asked, self._loading, self._settings))
        except ClientGone:
            # Nobody reads this; the status is what proxies log for it.
            return Response(status_code=499)

    def _page(
        self, asked: Asked, found: Found | None = None, notice: str | None = None, status: int = 200
    ) -> Response:
        engine = self._settings.engine
        default, modes = self._modes()
        first_stage = "BM25" if engine.kind == "embedded" else engine.kind
        told = notice if found is None else found.notice
        text = (
            _environment()
            .get_template("page.html")
            .render(
                asked=asked,
                view=None if found is None or (told and not found.hits) else view_of(found),
                notice=told,
                windows=windows(self._settings, asked.window),
                modes=modes,
                default_mode=default,
                first_stage=first_stage,
                model=self._settings.backbone.model,
                about=f"{self._settings.backbone.model} reranks {first_stage} hits of the index “{engine.index}”",
                icon="data:image/svg+xml," + quote(_ICON),
                css=_asset("page.css"),
                script=_asset("page.js"),
                bar_width=BAR,
                latency_width=LATENCY,
            )
        )
        return HTMLResponse(text, status, _headers())

    def _modes(self) -> tuple[str, list[Mode]]:
        """The mode of searches that name none, and those that can be named."""
        reranker: SupportsRerank | None = None
        if self._loading.status == "ready":
            reranker = self._loading.reranker()
        routes = getattr(reranker, "routes", None)
        if routes is None:
            return self._settings.router.mode, list(MODES)
        found: list[Mode] = []
        for mode in MODES:
            try:
                routes.check(mode)
            except RequestError:
                continue
            found.append(mode)
        return routes.default, found


@cache
def _environment() -> Environment:
    return environment("connector.service.page", ms=_milliseconds, signed=_signed)


def _milliseconds(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _signed(value: float) -> str:
    # Reciprocal ranks are small.
    return (f"{value:+.3f}" if abs(value) >= 0.1 or not value else f"{value:+.4f}").replace("-", "−")


@cache
def _asset(name: str) -> Markup:
    """A file of ours, as it stands in the page: not escaped, for it is no document's."""
    return Markup(resources.files("connector.service.page").joinpath("templates", name).read_text(encoding="utf-8"))


@cache
def _headers() -> dict[str, str]:
    """No source of anything but the page itself; its style and script are known by their hashes."""
    style, script = _source("page.css"), _source("page.js")
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # Hits change with the index; and what was searched for is nobody else's business.
        "Cache-Control": "no-store",
        "Vary": "Accept",
    }


def _source(name: str) -> str:
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
