"""From the hits of an answer to what is reranked, and from the result to the caller's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.cancelling import CancelScope
from connector.documents import FirstStage, RerankResult, document_text
from connector.heads.pins import pin_floor
from connector.service.gateway.options import Options
from connector.service.gateway.parsing.raw_json import Edit
from connector.service.gateway.parsing.search_body import Mark, SearchAnswer, page_edits
from connector.service.gateway.passages import Passages
from connector.service.gateway.search_plan import Rerank
from connector.service.responses import one_line
from connector.service.scoring import RerankJob, json_score

__all__ = ["Texts", "brings_no_texts", "job_of", "passages_of", "ranked_edits", "texts_of", "without_texts"]

Texts = Mapping[tuple[Any, Any], Mapping[str, Any]]


def texts_of(answer: SearchAnswer) -> Texts:
    """The documents in an answer, by what tells hits apart."""
    sources = [hit.value.get("_source") for hit in answer.hits]
    return {key: source for key, source in zip(answer.keys(), sources, strict=True) if isinstance(source, Mapping)}


def without_texts(scope: CancelScope) -> str:
    """Why hits keep their places where their documents did not come."""
    return scope.reason or "the documents' text could not be fetched"


def brings_no_texts(answer: SearchAnswer, plan: Rerank) -> bool:
    """Whether none of the hits to be reranked has its document, whatever was to be expected."""
    return bool(answer.hits) and all("_source" not in hit.value for hit in answer.hits[: plan.window])


def _sources(answer: SearchAnswer, part: slice, texts: Texts | None) -> list[Mapping[str, Any] | None]:
    """The documents of a part of the hits; None where one is unknown. ``texts``: where the hits come without."""
    if texts is not None:
        return [texts.get(key) for key in answer.keys()[part]]
    sources = [hit.value.get("_source") for hit in answer.hits[part]]
    return [source if isinstance(source, Mapping) else None for source in sources]


def job_of(
    answer: SearchAnswer, plan: Rerank, fields: Sequence[str], options: Options, texts: Texts | None = None
) -> RerankJob | None:
    """What is reranked of an answer; None: nothing, all hits of the window keep their places.

    Args:
        answer: with at least one hit.
        plan: says how many.
        fields: that are read; empty: all text fields.
        options: of the request.
        texts: the documents, where the hits come without.
    """
    part = slice(_pins(answer, plan), plan.window)
    if not answer.hits[part]:
        return None
    documents = ["" if source is None else document_text(source, fields) for source in _sources(answer, part, texts)]
    scores = answer.scores()
    first_stage: FirstStage = "order" if scores is None else scores[part]
    return RerankJob(plan.query, documents, first_stage, options.mode)


def passages_of(
    answer: SearchAnswer,
    plan: Rerank,
    result: RerankResult | None,
    fields: Sequence[str],
    options: Options,
    texts: Texts | None = None,
) -> Passages | None:
    """The sentences that are added to hits; None: none are. See ``job_of``."""
    if result is None or plan.tags is None or not options.highlight:
        return None
    first = _pins(answer, plan)
    sources = _sources(answer, slice(first, plan.window), texts)
    return Passages(sources, result, fields, plan.tags, first)


def ranked_edits(
    text: str,
    answer: SearchAnswer,
    plan: Rerank,
    result: RerankResult | None,
    policy: str,
    missing: str | None = None,
    frame: SearchAnswer | None = None,
    passages: Passages | None = None,
) -> tuple[list[Edit], Mark]:
    """Edits that make the caller's page of an answer, and its mark.

    Args:
        text: holds the answer.
        answer: all hits.
        plan: which page, which window.
        result: of the window without its pins; None: it was not ranked.
        policy: the setting ``serve.gateway_scores``.
        missing: why it was not ranked.
        frame: see ``page_edits``.
        passages: what is added to hits.
    """
    order = list(range(len(answer.hits)))
    scores = None
    reason = missing or ("all pinned" if answer.hits else "no hits")
    reranked = result is not None and result.reranked
    if result is not None and reranked:
        pins = _pins(answer, plan)
        order[pins : pins + len(result.hits)] = [pins + hit.index for hit in result.hits]
        if policy == "rerank":
            scores = [1.0] * pins + [json_score(result, hit) for hit in result.hits]
    elif result is not None:
        reason = result.reason or "failed"
    mark = Mark(reranked, None if reranked else one_line(reason), plan.window, plan.query)
    page = slice(plan.start, plan.start + plan.size)
    added = None if passages is None else passages.added
    return page_edits(text, answer, order, page, mark, scores, frame, added), mark


def _pins(answer: SearchAnswer, plan: Rerank) -> int:
    """How many of the first hits something else than relevance put there."""
    scores = (answer.scores() or [])[: plan.window]
    floor = pin_floor(scores, plan.pin_times)
    return next((at for at, score in enumerate(scores) if score < floor), len(scores))
