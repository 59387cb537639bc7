"""Fusion of head scores with the first stage, within one window."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from connector.sections import Settings

__all__ = ["HYBRID_WEIGHT", "RRF_CONSTANT", "fuse", "fusion_of", "rank_scores", "standardize"]

RRF_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""

HYBRID_WEIGHT = 0.4
"""Of a first stage that searches by vectors beside words, in the layout ``solo``. A router's own gate was learned
from BM25, which says less. Mean nDCG@10 of 240 train queries (scifact, nfcorpus, cosqa; first 20 hits), before
reranking, then with weights of .1, .4 and 1: BM25 with bge-small .5997, .5972, .6063, .6061; with MiniLM .5764,
.5968, .5997, .5941."""

Floats = npt.NDArray[np.float64]


def standardize(scores: Sequence[float] | Floats) -> Floats:
    """z-scores; zeros where all scores are equal. Sums are exact, so the order of the input changes no bit."""
    # Scaled by a power of two, which changes no bit either, squares stay finite and above 0, however large or small.
    _, exponent = math.frexp(max(abs(float(score)) for score in scores))
    values = [math.ldexp(float(score), -exponent) for score in scores]
    least = min(values)
    # Differences of close numbers are exact, where the rounding of their mean may be as large as what they differ by.
    above = [value - least for value in values]
    mean = math.fsum(above) / len(above)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in above) / len(above))
    # Below the rounding of the values themselves a deviation is noise.
    if deviation == 0 or max(above) <= 1e-12 * max(map(abs, values)):
        return np.zeros(len(values))
    return np.array([(value - mean) / deviation for value in above])


def rank_scores(ranks: Sequence[int]) -> Floats:
    """-log(rank) for ranks from 1: a first-stage score where only the order is known."""
    return -np.log(np.array(ranks, dtype=np.float64))


def fuse(heads: Floats, first_stage: Floats | None, method: str | float, spread: float | None = None) -> Floats:
    """One score for each document.

    Args:
        heads: float64 [documents], head scores.
        first_stage: float64 [documents], first-stage scores (or ``rank_scores``); None where there are none:
            the head scores are then standardized alone.
        method: weight of the first stage, or ``rrf``, or ``none``.
        spread: of absolute head scores: how far those of one query usually lie apart. They stay as they are, and the
            first stage's weight is in this unit. None: the head scores are standardized over these documents.

    Returns:
        float64 [documents]: ``z(heads) + weight * z(first_stage)``, or the sum of reciprocal ranks.

    Raises:
        ValueError: an unknown method.
    """
    own = standardize(heads) if spread is None else heads
    if first_stage is None or method == "none":
        return own
    if method == "rrf":
        return 1 / (RRF_CONSTANT + _ranks(heads)) + 1 / (RRF_CONSTANT + _ranks(first_stage))
    if isinstance(method, str):
        raise ValueError(f"fusion '{method}' is not a weight, rrf or none")
    return own + method * (spread or 1.0) * standardize(first_stage)


def fusion_of(settings: Settings, *, hybrid: bool = False) -> str | float:
    """What ``rerank.fusion`` comes to: where it is ``auto``, the weight may be that of a hybrid first stage.

    Args:
        settings: an embedded engine with an embedding model is a hybrid first stage.
        hybrid: the first stage searches by vectors too, whatever the settings say of it.
    """
    chosen = settings.rerank.fusion
    by_vectors = hybrid or settings.engine.embedder is not None
    return HYBRID_WEIGHT if chosen == "auto" and by_vectors and settings.backbone.layout == "solo" else chosen


def _ranks(scores: Floats) -> Floats:
    """Rank from 1 of each score, best first; equal scores share the better rank."""
    ordered = np.sort(-scores)
    return np.asarray(np.searchsorted(ordered, -scores, side="left") + 1, dtype=np.float64)
