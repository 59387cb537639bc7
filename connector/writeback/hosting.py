"""Our processors in a search pipeline of somebody else: put in behind its own, told by their tag, and taken out.

A search runs one pipeline, so what a pipeline does for its searches (filters of tenants, normalization of hybrid
queries) is lost where another one takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.errors import EngineError

__all__ = ["PARTS", "described", "empty_parts", "holds", "normalizes", "with_ours", "without_ours"]

PARTS = ("request_processors", "phase_results_processors", "response_processors")
_NORMALIZING = {"normalization-processor", "score-ranker-processor"}
_CUTTING = {"oversample", "truncate_hits"}


def holds(pipeline: Mapping[str, Any], tag: str) -> bool:
    """Some of its processors have this tag."""
    return any(_is_tagged(processor, tag) for part in PARTS for processor in pipeline.get(part, ()))


def normalizes(pipeline: Mapping[str, Any]) -> bool:
    """Hybrid queries get one score a hit; without, they come as lists with delimiters between."""
    return bool(_kinds(pipeline, "phase_results_processors") & _NORMALIZING)


def described(pipeline: Mapping[str, Any]) -> str:
    """What it does, in words: ``request_processors: filter_query``."""
    parts = (
        f"{part}: {', '.join(name for processor in pipeline[part] for name in processor)}"
        for part in PARTS
        if pipeline.get(part)
    )
    return "; ".join(parts) or "no processors"


def empty_parts(pipeline: Mapping[str, Any]) -> list[str]:
    """Lists that stand there without a processor, and so stay when ours go."""
    return [part for part in PARTS if pipeline.get(part) == []]


def without_ours(pipeline: Mapping[str, Any], tag: str, kept: list[str]) -> dict[str, Any]:
    """The pipeline as it was before our processors came, with what others changed since.

    Args:
        kept: lists that stay though they become empty.
    """
    left: dict[str, Any] = {}
    for key, value in pipeline.items():
        if key in PARTS:
            rest = [processor for processor in value if not _is_tagged(processor, tag)]
            if not rest and value and key not in kept:
                continue
            value = rest
        left[key] = value
    return left


def with_ours(pipeline: Mapping[str, Any], ours: Mapping[str, Any], tag: str, name: str) -> dict[str, Any]:
    """The pipeline with our processors behind its own, list by list; its normalization is kept for ours.

    Args:
        pipeline: the other one's body.
        ours: body of a pipeline of our own.
        tag: of our processors.
        name: of the other pipeline, for messages.

    Raises:
        EngineError: it cuts hits itself, so that oversampling would be undone before we rerank.
    """
    # Those that others add later stand behind ours; a second installation moves ours behind them.
    grown = without_ours(pipeline, tag, list(PARTS))
    cuts = sorted((_kinds(grown, PARTS[0]) | _kinds(grown, PARTS[2])) & _CUTTING)
    if cuts and _kinds(ours, PARTS[0]) & _CUTTING:
        raise EngineError(
            f"--oversample with --into {name}: that pipeline has {' and '.join(cuts)} of its own, which cuts the "
            "hits before they are reranked; leave --oversample out (--oversample 1)"
        )
    for part in PARTS:
        if not ours.get(part) or (part == PARTS[1] and normalizes(grown)):
            continue
        grown[part] = [*grown.get(part, []), *ours[part]]
    return {key: value for key, value in grown.items() if value != [] or pipeline.get(key) == []}


def _kinds(pipeline: Mapping[str, Any], part: str) -> set[str]:
    return {name for processor in pipeline.get(part, ()) for name in processor}


def _is_tagged(processor: Mapping[str, Any], tag: str) -> bool:
    return any(isinstance(about, Mapping) and about.get("tag") == tag for about in processor.values())
