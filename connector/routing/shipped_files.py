"""The router and head set that the package ships for what ``backbone.model`` names, in whatever format it comes."""

from __future__ import annotations

from pathlib import Path

from connector.checkpoints.identifying import known_as
from connector.embedding.embedder import known_name
from connector.heads.head_sets import shipped_path
from connector.routing.bundle import shipped_bundle
from connector.sections import Layout, Settings

__all__ = ["shipped_heads", "shipped_router", "shipped_routers"]


def shipped_router(settings: Settings, layout: Layout | None = None) -> Path | None:
    """The first of ``shipped_routers``, or None."""
    return next(iter(shipped_routers(settings, layout)), None)


def shipped_routers(settings: Settings, layout: Layout | None = None) -> list[Path]:
    """First the one that weighs what ``router.embedder`` names, where one is shipped that does, then the one without.

    Args:
        settings: see ``load_settings``.
        layout: that they are for; None: that of the settings.
    """
    model = known_as(settings.backbone.model, settings.cache.path)
    embedder = None if settings.router.embedder is None else known_name(settings.router.embedder)
    asked = [None] if embedder is None else [embedder, None]
    found = (shipped_bundle(model, layout or settings.backbone.layout, own) for own in asked)
    return [path for path in found if path is not None]


def shipped_heads(settings: Settings, layout: Layout | None = None) -> Path | None:
    """Of a layout; None: of the layout of the settings."""
    model = known_as(settings.backbone.model, settings.cache.path)
    return shipped_path(model, layout or settings.backbone.layout)
