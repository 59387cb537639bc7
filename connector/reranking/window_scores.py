"""Scores of one window: head scores of one LLM or of two, fused with the first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from connector.backbone.reading import Reading
from connector.cancelling import CancelScope
from connector.documents import RankedHit, Workings
from connector.errors import BackboneError
from connector.heads.fusion import fuse, rank_scores
from connector.heads.routes import Route
from connector.heads.scoring import below
from connector.reranking.cascade import Cascade, cascaded
from connector.reranking.inputs import WITHOUT_TEXT, Input
from connector.reranking.looked_at import looked_at

__all__ = ["Scored", "Window", "ranked_hits", "scored", "scored_again"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """The documents that are ranked, and what the first stage says of them: see ``first_stage_of``."""

    inputs: Sequence[Input]
    scores: Sequence[float] | None
    ranks: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Scored:
    """A window's scores, in its order.

    Attributes:
        window, route, workings: what they are made of.
        own: float64 [documents]: head scores by the first LLM.
        heads: float64 [documents]: head scores; of a cascade, of both LLMs.
        best: of each document the place of its best passage among its passages; None: it has no text.
        final: float64 [documents]: what the order follows.
        second: document -> what the second LLM says alone.
    """

    window: Window
    route: Route
    workings: Workings
    own: Floats
    heads: Floats
    best: Sequence[int | None]
    final: Floats
    second: Mapping[int, float] = field(default_factory=dict)

    @property
    def order(self) -> list[int]:
        """The documents, best first. Ties keep first-stage order."""
        ranks = self.window.ranks
        return sorted(range(len(self.final)), key=lambda at: (-self.final[at], ranks[at] if ranks else at))


def scored(window: Window, route: Route, workings: Workings, heads: Floats, best: Sequence[int | None]) -> Scored:
    """The first LLM's."""
    if not np.isfinite(heads).all():
        raise BackboneError("a head score is not finite; check the weights and the dtype")
    return Scored(window, route, workings, heads, heads, best, _final(window, route, workings, heads, best))


def scored_again(
    cascade: Cascade,
    before: Scored,
    query: str,
    instruction: str | None,
    most_tokens: int | None,
    scope: CancelScope,
) -> Scored:
    """Both LLMs'; the first one's where there is no time for the second."""
    order = [at for at in before.order if before.best[at] is not None]
    texts = [before.window.inputs[at].text for at in order]
    found = cascade.scores(
        query,
        texts,
        scope,
        instruction=instruction or "",
        most_tokens=most_tokens,
    )
    if not len(found):
        return before
    # What is said of a text is said of all hits that have it.
    said = dict(zip(texts, found.tolist(), strict=False))
    second = {at: said[text] for at, text in zip(order, texts, strict=True) if text in said}
    heads = cascaded(before.own, list(second), np.array(list(second.values())))
    final = _final(before.window, before.route, before.workings, heads, before.best)
    return replace(before, heads=heads, final=final, second=second)


def _final(window: Window, route: Route, workings: Workings, heads: Floats, best: Sequence[int | None]) -> Floats:
    """float64 [documents]: head scores fused with the first stage; without text below all others."""
    first = None
    if window.ranks is not None:
        first = rank_scores(window.ranks) if window.scores is None else np.array(window.scores)
    final = fuse(heads, first, workings.fusion, workings.spread)
    # Of absolute scores they are those of the caller.
    final = final.copy()
    lowest = below(final[[at for at, place in enumerate(best) if place is not None]])
    if route.absolute is not None:
        # As unlikely wherever it is sent, alone or with others.
        lowest = min(lowest, WITHOUT_TEXT)
    for at, place in enumerate(best):
        if place is None:
            final[at] = min(lowest, final[at])
    return final


def ranked_hits(own: Scored, signals: Floats, reading: Reading) -> list[RankedHit]:
    """What was read, best first; ``index`` is the place in the window."""
    window, best = own.window, own.best
    shown = looked_at(reading, best)
    return [
        RankedHit(
            index=at,
            score=float(own.final[at]),
            head_score=float(own.heads[at]),
            first_stage_score=None if window.scores is None else float(window.scores[at]),
            first_stage_rank=None if window.ranks is None else window.ranks[at],
            truncated=reading.truncated[at],
            passages=len(reading.documents[at]),
            passage=None if not shown[at] else (shown[at][0][0], shown[at][-1][1]),
            id=window.inputs[at].id,
            looked_at=shown[at],
            signals=_best_values(signals, reading.documents[at], best[at]),
            second_score=own.second.get(at),
            second_counted=float(own.heads[at] - own.own[at]),
        )
        for at in own.order
    ]


def _best_values(signals: npt.NDArray[np.float64], passages: Sequence[int], best: int | None) -> tuple[float, ...]:
    """The values of all signals for a document's best passage."""
    return () if best is None else tuple(signals[:, passages[best]].tolist())
