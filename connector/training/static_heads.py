"""Finding static head sets from head statistics, on train queries only.

Three criteria for a single head: mean nDCG@10 of the ranking it makes by itself (QRHead's BEIR criterion), its
attention mass on relevant documents (QRHead, arXiv 2506.09944), and a contrastive score of relevant against other
documents (CoRe). The set's size and the first stage's weight are those with the best mean nDCG@10 of the fused
ranking; collections count the same, however many queries they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from connector.backbone.runtime import Head
from connector.errors import DataError
from connector.heads.fusion import standardize
from connector.heads.head_sets import HeadSet
from connector.sections import ReadOut
from connector.statistics.head_tables import HeadTable, first_stage_scores

__all__ = [
    "CRITERIA",
    "Criterion",
    "TrainQuery",
    "best_weight",
    "find_heads",
    "ideal_gain",
    "ndcg",
    "single_head_quality",
]

Criterion = Literal["ndcg", "mass", "contrast"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
_CUT = 10
# Temperature of the contrastive softmax, in standard deviations of a head's scores within the window.
_TEMPERATURE = 0.5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrainQuery:
    """A judged query with its head statistics.

    Attributes:
        collection: where it comes from.
        table: head scores of its window.
        grades: relevance of each document of the window, 0 where not relevant.
        ideal: DCG@10 of the best possible ranking of all judged documents.
    """

    collection: str
    table: HeadTable
    grades: Floats
    ideal: float

    @classmethod
    def of(cls, collection: str, table: HeadTable, qrels: Mapping[str, int]) -> TrainQuery | None:
        """Join statistics and judgments; None where the window holds no relevant document: nothing to learn."""
        grades = np.array([max(qrels.get(document, 0), 0) for document in table.ids], dtype=np.float64)
        if not grades.any():
            return None
        return cls(collection, table, grades, ideal_gain(np.array(list(qrels.values()), dtype=np.float64)))

    def first_stage(self) -> Floats:
        """First-stage scores, or their ranks' where a score is unknown."""
        return first_stage_scores(self.table.first_stage)


def _discounts(length: int) -> Floats:
    return np.asarray(1 / np.log2(np.arange(2, length + 2)))


def ideal_gain(grades: Floats) -> float:
    """What the best ranking of documents with these grades gains at 10; those below 0 count as 0."""
    best = np.sort(grades[grades > 0])[::-1][:_CUT]
    return float((best * _discounts(len(best))).sum())


def ndcg(scores: Floats, grades: Floats, ideal: float) -> Floats:
    """nDCG@10 of rankings by score, linear gains (as trec_eval); ties keep the order of the documents.

    Args:
        scores: [..., documents].
        grades: [documents].
        ideal: see ``TrainQuery``.

    Returns:
        float64 [...].
    """
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :_CUT]
    return np.asarray((grades[order] * _discounts(order.shape[-1])).sum(axis=-1) / ideal)


def single_head_quality(queries: Sequence[TrainQuery], readout: ReadOut, criterion: Criterion) -> Floats:
    """How well each head does by itself: float64 [heads], mean over collections of the mean over queries."""
    return _macro(queries, [_quality(query, readout, criterion) for query in queries])


def _quality(query: TrainQuery, readout: ReadOut, criterion: Criterion) -> Floats:
    scores = query.table.single_heads(readout)
    if criterion == "ndcg":
        return ndcg(scores, query.grades, query.ideal)
    relevant = query.grades > 0
    if criterion == "mass":
        return np.asarray(scores[:, relevant].sum(axis=1))
    deviation = scores.std(axis=1, keepdims=True)
    logits = (scores - scores.max(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1) / _TEMPERATURE
    weights = np.exp(logits)
    return np.asarray(weights[:, relevant].sum(axis=1) / weights.sum(axis=1))


def _macro(queries: Sequence[TrainQuery], values: Sequence[Floats | float]) -> Floats:
    names = sorted({query.collection for query in queries})
    means = []
    for name in names:
        own = [value for query, value in zip(queries, values, strict=True) if query.collection == name]
        means.append(np.mean(np.stack([np.asarray(value) for value in own]), axis=0))
    return np.asarray(np.mean(np.stack(means), axis=0))


def best_weight(
    queries: Sequence[TrainQuery], readout: ReadOut, heads: Sequence[Head] | None, scales: Sequence[float] = ()
) -> tuple[float, float]:
    """The first-stage weight with the best mean nDCG@10, and that mean; the smaller weight where two are equal."""
    per_query = []
    for query in queries:
        own = standardize(query.table.head_scores(readout, heads, scales))
        first = standardize(query.first_stage())
        per_query.append(ndcg(np.stack([own + weight * first for weight in WEIGHTS]), query.grades, query.ideal))
    means = _macro(queries, per_query)
    best = int(means.argmax())
    return WEIGHTS[best], float(means[best])


def find_heads(
    queries: Sequence[TrainQuery],
    readout: ReadOut,
    criterion: Criterion = "ndcg",
    *,
    size: int | None = None,
) -> tuple[HeadSet, float]:
    """The best heads by a criterion, as many as rank best, and how to fuse the first stage with them.

    Args:
        queries: judged train queries with a relevant document in their window.
        readout: how attention becomes a score.
        criterion: see the module's text.
        size: number of heads; None: the best of 1, 2, 3, 4, 6, 8, 12, 16.

    Returns:
        The head set, and its mean nDCG@10 with the first stage on these same queries.

    Raises:
        DataError: no queries.
    """
    if not queries:
        raise DataError(
            "no train query has a relevant document in its window; check the judgments, or widen --window"
        )
    layers, per_layer = queries[0].table.shape
    quality = single_head_quality(queries, readout, criterion)
    ranked = np.argsort(-quality, kind="stable").tolist()
    heads = [(at // per_layer, at % per_layer) for at in ranked]
    found: list[tuple[float, HeadSet]] = []
    scales = _macro(queries, [query.table.single_heads(readout).std(axis=1) for query in queries])[ranked].tolist()
    # A head that never tells documents apart cannot be scaled, and is never good.
    usable = [at for at, scale in enumerate(scales) if scale > 0]
    heads, scales = [heads[at] for at in usable], [scales[at] for at in usable]
    for count in (size,) if size is not None else SIZES:
        chosen = HeadSet(tuple(heads[:count]), 0.0, tuple(scales[:count]))
        weight, mean = best_weight(queries, readout, chosen.heads, chosen.scales)
        found.append((mean, replace(chosen, weight=weight)))
    # max() keeps the first of equals: the smaller set.
    mean, best = max(found, key=lambda entry: entry[0])
    return best, mean
