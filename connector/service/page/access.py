"""Who may look at the page: it shows what stands in the index, with the rights that the settings hold."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Scope

from connector.sections import Settings

__all__ = ["PAGE_PATH", "closed_because", "is_loopback", "path_of_page"]

PAGE_PATH = "/ui"


def path_of_page(settings: Settings) -> Callable[[Scope], str | None]:
    """Tells of a request for ``/`` whether it means the page: then ``PAGE_PATH``, else None.

    In front of a cluster only browsers mean it, where it is open: the cluster's clients ask there what it is.
    """
    is_open = closed_because(settings) is None

    def path(scope: Scope) -> str | None:
        if scope["path"] != "/":
            return None
        # No cluster takes POST there either.
        if not settings.has_gateway or scope["method"] == "POST":
            return PAGE_PATH
        is_browser = "text/html" in Headers(scope=scope).get("accept", "").lower()
        return PAGE_PATH if is_open and is_browser and scope["method"] in ("GET", "HEAD") else None

    return path


def closed_because(settings: Settings) -> str | None:
    """Why the page shows nothing, and how to open it; None: it is open.

    By itself it is open where everybody who reaches the service may see the index anyway: on this machine alone, with
    a key, or in front of a cluster that asks nobody who he is.
    """
    if settings.serve.page == "auto":
        is_open = bool(
            is_loopback(settings.serve.host) or settings.serve.api_keys or _is_shown_by_the_gateway(settings)
        )
    else:
        is_open = settings.serve.page
    if is_open:
        return None
    if settings.serve.page is False:
        return "The page is turned off: serve.page is false."
    return (
        f"The page would show the index to everybody who reaches {settings.serve.host}. Set serve.api_keys to ask "
        "for a key, or serve.page to true to show it to all."
    )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_shown_by_the_gateway(settings: Settings) -> bool:
    engine = settings.engine
    has_rights = any(
        (engine.username, engine.password, engine.api_key, engine.bearer_token, engine.aws_region, engine.client_cert)
    ) or "@" in (engine.url or "")
    return settings.has_gateway and not has_rights
