"""Of a cascade the settings of its second LLM, and of the first one alone. Imports no library."""

from __future__ import annotations

from connector.errors import SettingsError
from connector.sections import Settings

__all__ = ["second_settings", "without_second"]


def second_settings(settings: Settings) -> Settings | None:
    """The settings with the second LLM in the place of the first; None: they name none.

    Raises:
        SettingsError: the layout has no scores that two LLMs can share.
    """
    told = settings.cascade
    if told.model is None:
        return None
    if settings.backbone.layout != "solo":
        raise SettingsError(
            f"cascade.model = {told.model} with backbone.layout = {settings.backbone.layout}: two LLMs share scores "
            "of the layout solo only; set backbone.layout to solo, or cascade.model to null"
        )
    return settings.model_copy(
        update={
            "backbone": settings.backbone.model_copy(update={"model": told.model}),
            "router": settings.router.model_copy(update={"bundle": told.bundle, "mode": "auto"}),
        }
    )


def without_second(settings: Settings) -> Settings:
    """The same settings with the first LLM alone."""
    alone = settings.cascade.model_copy(update={"model": None})
    return settings.model_copy(update={"cascade": alone})
