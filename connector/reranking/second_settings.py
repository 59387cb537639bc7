"""Of a cascade the settings of its second LLM, and of the first one alone. Imports no library."""

from __future__ import annotations

from connector.errors import BackboneError, SettingsError
from connector.sections import Settings

__all__ = ["check_routers", "of_second", "second_settings", "without_budget", "without_router", "without_second"]


def second_settings(settings: Settings) -> Settings | None:
    """The settings with the second LLM in the place of the first; None: they name none.

    Raises:
        SettingsError: the layout has no scores that two LLMs can share.
    """
    told = settings.cascade
    if told.model is None:
        return None
    if settings.router.mode == "all":
        raise SettingsError(
            f"cascade.model = {told.model} with router.mode = all: two LLMs share scores of a router only; set "
            "router.mode to auto, or cascade.model to null"
        )
    if settings.backbone.layout != "solo":
        raise SettingsError(
            f"cascade.model = {told.model} with backbone.layout = {settings.backbone.layout}: two LLMs share scores "
            "of the layout solo only; set backbone.layout to solo, or cascade.model to null"
        )
    second = settings.model_copy(
        update={
            "backbone": settings.backbone.model_copy(update={"model": told.model}),
            "router": settings.router.model_copy(update={"bundle": told.bundle, "mode": "auto"}),
        }
    )
    if told.bundle is not None or settings.router.embedder is None:
        return second
    from connector.routing.shipped_files import shipped_router

    # An embedding model that the shipped router does not weigh would be loaded for nothing.
    alone = second.model_copy(update={"router": second.router.model_copy(update={"embedder": None})})
    return alone if shipped_router(second) == shipped_router(alone) else second


def without_second(settings: Settings) -> Settings:
    """The same settings with the first LLM alone."""
    alone = settings.cascade.model_copy(update={"model": None})
    return settings.model_copy(update={"cascade": alone})


def without_budget(settings: Settings) -> Settings:
    """The same settings with all the time that the second LLM takes: what comes out depends on no clock."""
    freely = settings.cascade.model_copy(update={"budget_ms": None})
    return settings.model_copy(update={"cascade": freely})


def check_routers(settings: Settings) -> None:
    """Is there a router for both LLMs of a cascade? Asked before any weights are fetched.

    Raises:
        SettingsError: see ``second_settings``.
        BackboneError: there is none.
    """
    from connector.routing.shipped_files import shipped_router

    second = second_settings(settings)
    if second is None:
        return
    for own, section in ((settings, "backbone"), (second, "cascade")):
        if own.router.bundle is None and shipped_router(own) is None:
            raise BackboneError(without_router(own.backbone.model, section))


def without_router(model: str, section: str) -> str:
    """Why a cascade cannot be made with a model.

    Args:
        model: its name.
        section: of the settings, that names it.
    """
    key = "cascade.bundle" if section == "cascade" else "router.bundle"
    return (
        f"{section}.model = {model}: a cascade needs a router whose scores are probabilities, and this model has "
        f"none here; make one with 'rh-connector train' in the layout solo and set {key} to its file, or set "
        "cascade.model to null"
    )


def of_second(message: str, model: str) -> str:
    """An error of the second LLM, with the keys that name it."""
    told = message.replace("router.bundle", "cascade.bundle").replace("backbone.model", "cascade.model")
    return told if told.startswith("cascade.model") else f"cascade.model = {model}: {told}"
