"""Pseudo labels: which heads of the pool a query should have been read by, found offline.

* ``search``: the heads of the best set found by greedy forward selection with swaps, at most P of them, by nDCG@10 of
  the heads' own ranking; multi-hot (RouteHead, arXiv 2604.24608).
* ``utility``: how much each head adds to a static set (or the set loses without it), by listwise log-likelihood plus
  nDCG@10 of the fused ranking, mean over views of the same query; soft, and comparable between queries.

A set that was searched on one view of a query says little about another view: searched labels are never a measure of
what routing could reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from connector.training.examples import Examples, fused_scores
from connector.training.static_heads import ndcg

__all__ = ["LABELS", "Labels", "pseudo_labels", "search_heads", "utilities"]

Labels = Literal["search", "utility"]
LABELS: tuple[Labels, ...] = get_args(Labels)

Floats = npt.NDArray[np.float64]
# Gains below this are rounding.
_GAIN = 1e-9


def pseudo_labels(
    kind: Labels,
    examples: Examples,
    *,
    most_heads: int,
    static: Sequence[float],
    first_stage_gate: float,
    seed: int = 0,
) -> Floats:
    """Labels of every query for every member of the pool.

    Args:
        kind: see the module's text.
        examples: train queries.
        most_heads: P; largest searched set.
        static: gate of each member in the static set (``utility``).
        first_stage_gate: the static set's gate of the first stage (``utility``).
        seed: which halves of the candidates make a view (``utility``).

    Returns:
        float64 [queries, members]: 0 or 1 (``search``), or utilities around 0 (``utility``).
    """
    if kind == "search":
        found = np.zeros(examples.scores.shape[:2])
        for at, present in enumerate(examples.present):
            chosen = search_heads(
                examples.scores[at][:, present], examples.grades[at][present], float(examples.ideal[at]), most_heads
            )
            found[at, chosen] = 1.0
        return found
    return utilities(examples, static, first_stage_gate, seed)


def search_heads(scores: Floats, grades: Floats, ideal: float, most_heads: int) -> list[int]:
    """Forward selection with swaps on nDCG@10 of the sum of scores.

    Args:
        scores: float64 [members, documents].
        grades: float64 [documents].
        ideal: see ``ndcg``.
        most_heads: largest set.

    Returns:
        Indices of the members, in the order found; smaller sets and earlier members first where nDCG is the same.
    """
    chosen: list[int] = []
    best = -1.0
    while len(chosen) < most_heads:
        total = scores[chosen].sum(axis=0)
        values = ndcg(total + scores, grades, ideal)
        values[chosen] = -1.0
        at = int(values.argmax())
        if values[at] <= best + _GAIN:
            break
        chosen.append(at)
        best = float(values[at])
        chosen, best = _swapped(scores, grades, ideal, chosen, best)
    return chosen


def _swapped(scores: Floats, grades: Floats, ideal: float, chosen: list[int], best: float) -> tuple[list[int], float]:
    """Exchange one member for another as long as that helps."""
    improved = True
    while improved and best < 1.0:
        improved = False
        for place in range(len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            values = ndcg(scores[others].sum(axis=0) + scores, grades, ideal)
            values[chosen] = -1.0
            at = int(values.argmax())
            if values[at] > best + _GAIN:
                chosen = [*chosen[:place], at, *chosen[place + 1 :]]
                best, improved = float(values[at]), True
    return chosen, best


def utilities(examples: Examples, static: Sequence[float], first_stage_gate: float, seed: int = 0) -> Floats:
    """Soft marginal utility of each member around the static set, mean over views: float64 [queries, members].

    The views: the instruction as it is served and in another wording, each on a random half of the candidates (all
    relevant ones among them stay in both halves' ideal) and on the other half.
    """
    gates = np.asarray(static, dtype=np.float64)
    drawn = np.random.default_rng(seed)
    first_half = np.zeros_like(examples.present)
    for at, present in enumerate(examples.present):
        places = np.flatnonzero(present)
        first_half[at, drawn.permutation(places)[: (len(places) + 1) // 2]] = True
    values = np.zeros(examples.scores.shape[:2])
    views = 0
    for scores in (examples.scores, examples.other_scores):
        for half in (first_half, examples.present & ~first_half):
            values += _marginal(examples, scores, half, gates, first_stage_gate)
            views += 1
    return values / views


def _marginal(
    examples: Examples, scores: Floats, present: npt.NDArray[np.bool_], gates: Floats, first_stage_gate: float
) -> Floats:
    count = len(gates)
    inside = gates > 0
    typical = float(gates[inside].mean()) if inside.any() else 1.0
    out = np.zeros((len(examples), count))
    for at in range(len(examples)):
        kept = present[at]
        grades = examples.grades[at][kept]
        # A view without a relevant document, or with nothing else, prefers no head.
        if kept.sum() < 2 or not grades.any() or (grades == grades[0]).all():
            continue
        changed = np.tile(gates, (count + 1, 1))
        # One member more, or one less; the last row is the static set itself.
        changed[np.arange(count), np.arange(count)] = np.where(inside, 0.0, typical)
        own = np.broadcast_to(scores[at][:, kept], (count + 1, count, int(kept.sum())))
        first = np.broadcast_to(examples.first_stage[at][kept], (count + 1, int(kept.sum())))
        fused = fused_scores(
            own, changed, first, np.full(count + 1, first_stage_gate), np.ones(first.shape, dtype=bool)
        )
        quality = _quality(fused, grades)
        out[at] = np.where(inside, quality[-1] - quality[:-1], quality[:-1] - quality[-1])
    return out


def _quality(fused: Floats, grades: Floats) -> Floats:
    """Listwise log-likelihood of the gains plus nDCG@10 within the view: float64 [rows]."""
    gains = grades / grades.sum()
    logits = fused - fused.max(axis=1, keepdims=True)
    likelihood = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))) @ gains
    ideal = float((np.sort(grades)[::-1][:10] / np.log2(np.arange(2, min(len(grades), 10) + 2))).sum())
    return np.asarray(likelihood + ndcg(fused, grades, ideal))
