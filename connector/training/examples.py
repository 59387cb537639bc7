"""Train examples of a router: the pool's scores for each window, in arrays of one shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from connector.errors import DataError
from connector.heads.fusion import standardize
from connector.heads.readouts import HeadSignal
from connector.routing.query_embedding import FEATURES, QueryEmbedding
from connector.sections import READOUTS, ReadOut
from connector.statistics.head_tables import embedding_of
from connector.training.static_heads import TrainQuery, ndcg, single_head_quality

__all__ = ["Examples", "Pool", "choose_pool", "fused_scores", "make_examples", "source_weight"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """What a router may choose from.

    Attributes:
        members: (layer, head, read-out), best first.
        scales: for each member, the standard deviation of its scores in a window, mean over train queries.
        quality: for each member, nDCG@10 of the ranking that it makes alone.
    """

    members: tuple[HeadSignal, ...]
    scales: tuple[float, ...]
    quality: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """Train queries side by side; windows are padded to the longest.

    Attributes:
        scores: float64 [queries, members, documents]: divided by their scales, centred in each window.
        first_stage: float64 [queries, documents]: standardized.
        grades: float64 [queries, documents].
        ideal: float64 [queries]: DCG@10 of the best possible ranking.
        present: bool [queries, documents]: False for padding.
        embeddings: float32 [queries, d]; NaN where unknown.
        features: how many of the d, the last ones, are features (the others are hidden states).
        sources: for each query, where it comes from.
        other_scores: as ``scores``, for the instruction in another wording; where a query has none, its scores.
    """

    scores: Floats
    first_stage: Floats
    grades: Floats
    ideal: Floats
    present: npt.NDArray[np.bool_]
    embeddings: npt.NDArray[np.float32]
    features: int
    sources: tuple[str, ...]
    other_scores: Floats

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def weights(self) -> Floats:
        """Weight of each query, mean 1: every source counts the same, however many queries it has; those whose
        queries were made of documents count half, for nobody asked them."""
        counts = Counter(self.sources)
        raw = np.array([source_weight(source) / counts[source] for source in self.sources])
        return np.asarray(raw / raw.mean())

    def take(self, chosen: Sequence[int] | npt.NDArray[np.int64]) -> Examples:
        """Some of the queries."""
        at = np.asarray(chosen, dtype=np.int64)
        return replace(
            self,
            scores=self.scores[at],
            first_stage=self.first_stage[at],
            grades=self.grades[at],
            ideal=self.ideal[at],
            present=self.present[at],
            embeddings=self.embeddings[at],
            sources=tuple(self.sources[place] for place in at.tolist()),
            other_scores=self.other_scores[at],
        )

    def fused(self, gates: Floats, first_stage_gates: Floats) -> Floats:
        """Scores of a route for each query, as the reranker fuses them: float64 [queries, documents].

        Args:
            gates: float64 [queries, members].
            first_stage_gates: float64 [queries].
        """
        return fused_scores(self.scores, gates, self.first_stage, first_stage_gates, self.present)

    def ndcg(self, fused: Floats) -> Floats:
        """nDCG@10 of each query: float64 [queries]."""
        return np.array(
            [
                ndcg(fused[at][present], self.grades[at][present], float(self.ideal[at]))
                for at, present in enumerate(self.present)
            ]
        )

    def mean(self, values: Floats) -> float:
        """Mean over sources of the mean over queries."""
        return float((values * self.weights).mean())


def source_weight(source: str) -> float:
    """What a source counts beside others: half where its queries were made of documents."""
    return 0.5 if source.endswith(":made") else 1.0


def fused_scores(
    scores: Floats, gates: Floats, first_stage: Floats, first_stage_gates: Floats, present: npt.NDArray[np.bool_]
) -> Floats:
    """Gated sum of member scores, standardized in each window, and the gated first stage: [queries, documents]."""
    heads = np.einsum("qm,qmd->qd", gates, scores)
    count = present.sum(axis=1, keepdims=True)
    centred = (heads - (heads * present).sum(axis=1, keepdims=True) / count) * present
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / count)
    standard = centred / np.where(deviation > 0, deviation, 1)
    return np.asarray(standard + first_stage_gates[:, None] * first_stage)


def choose_pool(queries: Sequence[TrainQuery], size: int, readouts: Sequence[ReadOut] = READOUTS) -> Pool:
    """The best (head, read-out) pairs by mean single-head nDCG@10.

    Args:
        queries: judged train queries with a relevant document in their window.
        size: most members.
        readouts: what a head may be read by.

    Raises:
        DataError: no queries, or no head ever tells documents apart.
    """
    if not queries:
        raise DataError(
            "no train query has a relevant document in its window; check the judgments, or widen --window"
        )
    per_layer = queries[0].table.shape[1]
    found: list[tuple[float, float, HeadSignal]] = []
    for readout in readouts:
        quality = single_head_quality(queries, readout, "ndcg")
        scales = _spread(queries, readout)
        for at, (value, scale) in enumerate(zip(quality.tolist(), scales.tolist(), strict=True)):
            if scale > 0:
                found.append((value, scale, HeadSignal(at // per_layer, at % per_layer, readout)))
    if not found:
        raise DataError("no head tells any two documents of these windows apart; check the documents")
    best = sorted(found, key=lambda entry: (-entry[0], entry[2]))[:size]
    return Pool(
        tuple(member for _, _, member in best),
        tuple(scale for _, scale, _ in best),
        tuple(value for value, _, _ in best),
    )


def _spread(queries: Sequence[TrainQuery], readout: ReadOut) -> Floats:
    counts = Counter(query.collection for query in queries)
    total = np.zeros(queries[0].table.scores[readout].shape[0])
    for query in queries:
        total += query.table.single_heads(readout).std(axis=1) / counts[query.collection]
    return np.asarray(total / len(counts))


def make_examples(
    queries: Sequence[TrainQuery], pool: Pool, embedding: QueryEmbedding, layers: int, *, most_documents: int = 100
) -> Examples:
    """Lay train queries side by side.

    Args:
        queries: judged train queries.
        pool: whose scores are taken.
        embedding: how the query's vector is made.
        layers: decoder layers of the LLM.
        most_documents: windows are cut to so many.

    Raises:
        DataError: a table lacks the query's hidden states.
    """
    width = min(max(len(query.table.ids) for query in queries), most_documents)
    shape = (len(queries), width)
    scores = np.zeros((len(queries), len(pool.members), width))
    other = np.zeros_like(scores)
    first, grades, present = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for at, query in enumerate(queries):
        count = min(len(query.table.ids), width)
        scores[at, :, :count] = _pool_scores(query, pool, count, other=False)
        other[at, :, :count] = _pool_scores(query, pool, count, other=True)
        first[at, :count] = standardize(query.first_stage()[:count])
        grades[at, :count] = query.grades[:count]
        present[at, :count] = True
    return Examples(
        scores,
        first,
        grades,
        np.array([query.ideal for query in queries]),
        present,
        np.stack([embedding_of(query.table, embedding, layers) for query in queries]),
        len(FEATURES) if embedding.features else 0,
        tuple(query.collection for query in queries),
        other,
    )


def _pool_scores(query: TrainQuery, pool: Pool, count: int, *, other: bool) -> Floats:
    table = query.table
    per_layer = table.shape[1]
    by_readout = {
        readout: table.other_single_heads(readout) if other and table.other_scores else table.single_heads(readout)
        for readout in {readout for _, _, readout in pool.members}
    }
    rows = np.stack([by_readout[readout][layer * per_layer + head] for layer, head, readout in pool.members])
    own = rows[:, :count] / np.array(pool.scales)[:, None]
    return np.asarray(own - own.mean(axis=1, keepdims=True))
