"""Which settings each row of a report stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from connector.evaluation.cascaded import CASCADE
from connector.evaluation.report import FIRST_STAGE, Report, System
from connector.evaluation.running import FUSED, POOL
from connector.sections import Settings

__all__ = ["Meaning", "as_set", "assignment", "meaning", "to_set"]

# What a row shares with all others, and whoever wants it must set too.
_SHARED = ("engine.embedder", "backbone.model", "backbone.layout", "router.bundle", "rerank.window")
_WHAT = {
    "all": "all heads, as in ICR",
    "static": "one fixed set of heads",
    "routed": "the router",
    CASCADE: "a cascade: the router, and what a second LLM says of the hits that it ranked first",
    "likelihood": "how likely the LLM finds the query behind a document, as published",
    "left-out": "a control: a router that was trained without this collection",
    "random": "a control: as many heads as the router takes, drawn at random",
    "permuted": "a control: the router, asked for another query",
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a row is.

    Attributes:
        what: in words.
        settings: key -> value, all that a search needs to rank like this; None: no setting does, it is there to
            compare with.
    """

    what: str
    settings: Mapping[str, Any] | None


def meaning(system: System, report: Report, settings: Settings) -> Meaning:
    """What a row is, and which settings give it.

    Args:
        system: the row.
        report: all rows.
        settings: those that it was measured with.
    """
    if system.name == FIRST_STAGE:
        return Meaning("the search as it is, without reranking", None)
    name = system.name.removesuffix(FUSED)
    fused = name != system.name
    what = _WHAT.get(name, "an embedding model, without the LLM") + (", and the first stage" if fused else "")
    own = _own(name, system.readout, report, settings)
    if own is None:
        return Meaning(what, None)
    shared = {key: _value(settings, key) for key in _SHARED}
    if report.provenance.router_embedder is not None:
        shared["router.embedder"] = settings.router.embedder
    if settings.cascade.model is not None and name != CASCADE:
        own = {**own, "cascade.model": None}
    return Meaning(what, {**shared, **own, "rerank.fusion": _fusion(settings) if fused else "none"})


def as_set(report: Report, settings: Settings) -> System | None:
    """The row that ranks as a search with these settings does, or comes closest; None: no setting gives any row."""
    fixed = [("static", settings.rerank.readout), ("static", POOL), ("routed", POOL), ("likelihood", POOL)]
    every = [("all", "icr")]
    modes = {"all": [*every, *fixed], "static": [*fixed, *every]}
    wanted = modes.get(settings.router.mode, [("routed", POOL), *fixed, *every])
    if settings.cascade.model is not None:
        wanted = [(CASCADE, POOL), *wanted]
    suffix = "" if settings.rerank.fusion == "none" else FUSED
    rows = {(system.name, system.readout): system for system in report.systems}
    found = (rows.get((f"{name}{suffix}", readout)) for name, readout in wanted)
    return next((system for system in found if system is not None), None)


def to_set(own: Meaning, settings: Settings) -> dict[str, Any]:
    """Of the settings of a row, those that are no defaults, and those that are something else now."""
    defaults = Settings()
    return {
        key: value
        for key, value in (own.settings or {}).items()
        if value != _value(defaults, key) or value != _value(settings, key)
    }


def assignment(key: str, value: Any) -> str:
    """A setting as ``--set`` takes it, which like config.yaml reads nothing as null."""
    return f"{key}={'' if value is None else value}"


def _own(name: str, readout: str | None, report: Report, settings: Settings) -> dict[str, Any] | None:
    rows = {(system.name.removesuffix(FUSED), system.readout) for system in report.systems}
    mode = settings.router.mode
    if name == "all":
        return {"router.mode": "all", "rerank.readout": readout}
    if name == "static" and readout != POOL:
        return {"router.mode": "static", "rerank.readout": readout}
    # A head set goes before the router's own static set, and a router before the likelihood.
    if name == "static" and ("static", settings.rerank.readout) not in rows:
        return {"router.mode": "static"}
    if name in ("routed", CASCADE) or name == "likelihood" and ("routed", POOL) not in rows:
        taken = mode in ("auto", "routed") or mode == "static" and settings.backbone.layout == "solo"
        return {"router.mode": mode if taken else "auto", **(_cascade(settings) if name == CASCADE else {})}
    return None


def _cascade(settings: Settings) -> dict[str, Any]:
    told = settings.cascade
    own = {"cascade.model": told.model, "cascade.hits": told.hits}
    return own if told.bundle is None else {**own, "cascade.bundle": told.bundle}


def _fusion(settings: Settings) -> str | float:
    """Fused rows have the weight found with their heads; the layout ``solo`` also takes one that is set."""
    given = settings.rerank.fusion
    return given if settings.backbone.layout == "solo" and not isinstance(given, str) else "auto"


def _value(settings: Settings, key: str) -> Any:
    return reduce(getattr, key.split("."), settings)
