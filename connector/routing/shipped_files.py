"""The router and head set that the package ships for what ``backbone.model`` names, in whatever format it comes."""

from __future__ import annotations

from pathlib import Path

from connector.checkpoints.identifying import known_as
from connector.embedding.embedder import known_name
from connector.heads.head_sets import shipped_path
from connector.routing.bundle import shipped_bundle
from connector.sections import Layout, Settings

__all__ = ["shipped_heads", "shipped_router"]


def shipped_router(settings: Settings, layout: Layout | None = None) -> Path | None:
    """Of a layout; None: of the layout of the settings.

    It weighs what ``router.embedder`` names, where one is shipped that does.
    """
    model, layout = known_as(settings.backbone.model, settings.cache.path), layout or settings.backbone.layout
    embedder = None if settings.router.embedder is None else known_name(settings.router.embedder)
    beside = None if embedder is None else shipped_bundle(model, layout, embedder)
    return beside or shipped_bundle(model, layout)


def shipped_heads(settings: Settings, layout: Layout | None = None) -> Path | None:
    """Of a layout; None: of the layout of the settings."""
    model = known_as(settings.backbone.model, settings.cache.path)
    return shipped_path(model, layout or settings.backbone.layout)
