"""From signal statistics to a router of the layout ``solo``: a probe, its place beside the first stage, its odds.

The probe is fitted listwise (see ``probes``). Everything after works on scores of collections that the probe was not
fitted on: how strong its penalty is, how much the first stage counts, and which odds of relevance a score stands for.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from connector.embedding.embedder import Embedder
from connector.errors import DataError
from connector.heads.fusion import standardize
from connector.heads.needs import Head
from connector.routing.metadata import (
    AbsoluteRecord,
    EmbeddingRecipe,
    Member,
    ProbeMember,
    RouterMetadata,
    SimilarityMember,
    StaticSet,
)
from connector.statistics.head_tables import first_stage_scores
from connector.statistics.signal_tables import SignalTable
from connector.training.gain import Gain
from connector.training.probes import Windows, fit_log_odds, fit_probe
from connector.training.router import Router
from connector.training.static_heads import ideal_gain, ndcg
from connector.training.train_router import Backbone, Trained

__all__ = ["WHOLE", "JudgedWindow", "probe_layers", "train_signals"]

WHOLE = 20
"""Queries of each source whose window is read whole: what the first stage is worth shows there only."""

_FOLDS = 4
_STRENGTHS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
# Of an embedding model beside the probe, in deviations.
_SIMILARITY = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_FIRST_STAGE = tuple(round(0.1 * at, 1) for at in range(13))
# Where no judged query tells: what judged queries of thirteen collections taught the shipped router.
_UNTAUGHT = 0.1
_PROBE = "probe"
Floats = npt.NDArray[np.float64]


class JudgedWindow(NamedTuple):
    """A train query's window.

    Attributes:
        table: what the LLM saw.
        others: how many documents of a lower grade each of those in the table stands for.
        whole: whether the table holds the whole window.
    """

    table: SignalTable
    others: float
    whole: bool = False

    @property
    def made(self) -> bool:
        """Whether the query was made of a document."""
        return self.table.source.endswith(":made")


@dataclass(frozen=True)
class _Data:
    """Windows as numbers: for each, grades, standardized first stage, similarities or none, and the collection."""

    windows: Windows
    grades: list[Floats]
    first_stage: list[Floats]
    near: list[Floats]
    collections: list[str]


def probe_layers(layers: int) -> tuple[int, ...]:
    """Layers that a probe looks at, of an LLM with so many: 12 and 16 of 30, and alike.

    What the query's tokens have met in the document is clearest about there; later layers turn to the next token. Of
    SmolLM2's, 16 and 20 rank no better on train queries, and cost a quarter more.
    """
    return tuple(sorted({max(1, round(layers * share)) for share in (12 / 30, 16 / 30)}))


def train_signals(
    judged: Sequence[JudgedWindow],
    backbone: Backbone,
    record: dict[str, Any],
    seed: int = 0,
    shown: Sequence[Head] = (),
    say: Callable[[str], None] = lambda text: None,
    embedder: Embedder | None = None,
) -> Trained:
    """Fit a probe, and all that makes a router of it.

    Args:
        judged: windows, each with a document of a higher grade than another; all with the same layers.
        backbone: what the router is bound to.
        record: what is told of the training (collections, seeds, command).
        seed: of the folds.
        shown: see ``RouterMetadata.shown``.
        say: called with what is being done.
        embedder: gave the windows' similarities; they come into the pool where they make it rank better.

    Raises:
        DataError: fewer such windows than folds, which are four.
    """
    useful = [window for window in judged if _tells(window.table)]
    if len(useful) < _FOLDS:
        raise DataError(
            f"{len(useful)} windows hold a relevant document and another, {_FOLDS} are needed; "
            "give more judged queries"
        )
    data = _arranged([window.table for window in useful])
    say(f"fitting the probe on {len(useful)} windows")
    held = _held_out(data.collections, seed)
    every = list(range(len(useful)))
    # In windows that were made short, the first stage's best hits are missing: its weight is found in whole ones.
    whole = [at for at in every if useful[at].whole] or every
    judged_only = [at for at in whole if not useful[at].made]
    tried = {strength: _cross_fitted(data, strength, held) for strength in _STRENGTHS}
    strength, share, weight = _chosen(data, tried, every, whole, judged_only)
    scores = _beside(data, tried[strength], share, whole)
    weights = fit_probe(data.windows, strength)
    scale = _spread(scores, whole)
    mean = float(np.concatenate(scores).mean())
    slope, bias = _logistic(data, [(own - mean) / scale for own in scores], [window.others for window in useful])
    # The probe itself is fitted on all windows: its own numbers are brought to the mean and scale of those it had.
    own = _scores(data, weights)
    members: list[Member] = [ProbeMember(probe=_PROBE, layers=useful[0].table.layers)]
    parts, shares = [own], [1.0]
    if embedder is not None and share:
        members.append(SimilarityMember(similarity=embedder.name, digest=embedder.digest))
        parts, shares = [own, data.near], [1.0, share]
    # Alone, the probe is scaled by the pool itself.
    together = _spread(_beside(data, own, share, whole), whole) if share else 1.0
    gates = [slope * one / together for one in shares]
    router = _router(weights, gates, weight)
    gain = _held_out_gain(data, tried, held, whole, judged_only, seed)
    gains = {
        "measure": "nDCG@10 on train queries of collections that the probe was not fitted on, in windows of "
        f"{min(len(scores[at]) for at in whole)} to {max(len(scores[at]) for at in whole)} documents",
        "queries": len(whole),
        "first stage": round(_mean_ndcg(data, [np.zeros(len(one)) for one in scores], 1.0, whole), 4),
        "probe": round(_mean_ndcg(data, scores, 0.0, whole), 4),
        "probe and first stage": round(_mean_ndcg(data, scores, weight, whole), 4),
        "gain": gain.to_json(),
        "strength": strength,
    }
    if embedder is not None:
        gains["similarity"] = {
            "embedding model": embedder.name,
            "alone": round(_mean_ndcg(data, data.near, 0.0, whole), 4),
            "share": share,
        }
    hidden = weights.shape[1]
    metadata = RouterMetadata(
        model=backbone.model,
        fingerprint=backbone.fingerprint,
        layout=backbone.layout,
        template=backbone.template,
        pool=tuple(members),
        scales=tuple(_spread(part, whole) for part in parts),
        most_heads=len(members),
        activation="relu",
        # Nothing depends on the query: no pass over it is made.
        embedding=EmbeddingRecipe(form="query", layers=(0,), pooling="mean", features=False, dimension=hidden),
        kappa=0.0,
        deepest_layer=max(useful[0].table.layers) - 1,
        static=StaticSet(members=list(range(len(members))), gates=gates, first_stage=weight),
        absolute=AbsoluteRecord(
            means=tuple(float(np.concatenate(part).mean()) for part in parts), bias=bias, spread=slope
        ),
        shown=tuple(shown),
        training={**record, "queries": dict(Counter(data.collections)), "mode": "probe"},
        gains=gains,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return Trained(router, metadata, None, None, {}, gain)


def _tells(table: SignalTable) -> bool:
    """Whether there is something to learn: documents with text of two grades, one of them relevant."""
    grades = {table.qrels.get(own, 0) for own, passages in zip(table.ids, table.documents, strict=True) if passages}
    return len(grades) > 1 and max(grades) > 0


def _arranged(tables: Sequence[SignalTable]) -> _Data:
    # Of a document in several passages the first is taken: which of them answers nobody judged.
    with_text = [[at for at, passages in enumerate(table.documents) if passages] for table in tables]
    most = max(map(len, with_text))
    layers, _, hidden = tables[0].states.shape
    states = torch.zeros(len(tables), most, layers, hidden)
    grades, there = (torch.zeros(len(tables), most) for _ in range(2))
    own_grades, own_first, own_near = [], [], []
    for at, (table, places) in enumerate(zip(tables, with_text, strict=True)):
        passages = [table.documents[place][0] for place in places]
        states[at, : len(places)] = torch.from_numpy(table.states[:, passages].swapaxes(0, 1).copy())
        own_grades.append(np.array([max(table.qrels.get(table.ids[place], 0), 0) for place in places], dtype=float))
        if len(table.similarities):
            own_near.append(table.similarities[passages].astype(np.float64))
        own_first.append(standardize(first_stage_scores(table.first_stage[places])))
        grades[at, : len(places)] = torch.from_numpy(own_grades[-1])
        there[at, : len(places)] = 1
    collections = [table.source.partition(":")[0] for table in tables]
    counts = Counter(collections)
    # Every collection counts the same, whatever it has of queries.
    weights = torch.tensor([len(tables) / len(counts) / counts[name] for name in collections])
    return _Data(Windows(states, grades, there.bool(), weights), own_grades, own_first, own_near, collections)


def _held_out(collections: Sequence[str], seed: int) -> list[list[int]]:
    """Windows that are scored by a probe of the others: whole collections, or of one collection some queries."""
    order = np.random.default_rng(seed)
    names = sorted(set(collections))
    if len(names) == 1:
        return [part.tolist() for part in np.array_split(order.permutation(len(collections)), _FOLDS)]
    parts = np.array_split(order.permutation(len(names)), min(_FOLDS, len(names)))
    fold = {names[at]: number for number, part in enumerate(parts) for at in part}
    return [[at for at, name in enumerate(collections) if fold[name] == number] for number in range(len(parts))]


def _cross_fitted(data: _Data, strength: float, held_out: Sequence[Sequence[int]]) -> list[Floats]:
    found: dict[int, Floats] = {}
    for held in held_out:
        rest = sorted(set(range(len(data.grades))) - set(held))
        scores = _scores(data, fit_probe(data.windows.of(rest), strength))
        found.update({at: scores[at] for at in held})
    return [found[at] for at in range(len(found))]


def _scores(data: _Data, weights: npt.NDArray[np.float32]) -> list[Floats]:
    scores = torch.einsum("qdlh,lh->qd", data.windows.states, torch.from_numpy(weights)).double().numpy()
    return [row[: len(grades)] for row, grades in zip(scores, data.grades, strict=True)]


def _share(data: _Data, scores: Sequence[Floats], of: Sequence[int]) -> float:
    """How much of the similarities ranks best beside the scores, with the best of the first stage."""
    worth = {
        own: max(_mean_ndcg(data, _beside(data, scores, own, of), one, of) for one in _FIRST_STAGE)
        for own in _SIMILARITY
    }
    return max(_SIMILARITY, key=lambda own: worth[own])


def _beside(data: _Data, scores: Sequence[Floats], share: float, of: Sequence[int]) -> list[Floats]:
    """Scores with so much of the similarities, both in deviations; without any, as they are."""
    if not share:
        return list(scores)
    spread, near = _spread(scores, of), _spread(data.near, of)
    return [own / spread + share * close / near for own, close in zip(scores, data.near, strict=True)]


def _spread(scores: Sequence[Floats], of: Sequence[int]) -> float:
    """How far the scores of one window lie apart."""
    return float(np.mean([scores[at].std() for at in of])) or 1.0


def _chosen(
    data: _Data,
    tried: Mapping[float, list[Floats]],
    every: Sequence[int],
    whole: Sequence[int],
    judged_only: Sequence[int],
) -> tuple[float, float, float]:
    """Of these windows what ranks them best: the penalty, the share of similarities, the first stage's weight."""

    def best(strength: float) -> float:
        return max(_mean_ndcg(data, tried[strength], weight, every) for weight in _FIRST_STAGE)

    strength = max(tried, key=best)
    share = _share(data, tried[strength], whole) if data.near else 0.0
    # Made queries cannot teach how far to trust a first stage: its strength there comes from how they were made.
    if not judged_only:
        return strength, share, _UNTAUGHT
    scores = _beside(data, tried[strength], share, whole)
    return strength, share, max(_FIRST_STAGE, key=lambda one: _mean_ndcg(data, scores, one, judged_only))


def _held_out_gain(
    data: _Data,
    tried: Mapping[float, list[Floats]],
    held_out: Sequence[Sequence[int]],
    whole: Sequence[int],
    judged_only: Sequence[int],
    seed: int,
) -> Gain:
    """What is gained over the first stage in whole windows; all that is chosen is chosen without those held out."""
    before, after = {}, {}
    for held in held_out:
        rest = sorted(set(range(len(data.grades))) - set(held))
        whole_rest = [at for at in whole if at not in held] or rest
        judged_rest = [at for at in judged_only if at not in held]
        strength, share, weight = _chosen(data, tried, rest, whole_rest, judged_rest)
        scores = _beside(data, tried[strength], share, whole_rest)
        spread = _spread(scores, rest)
        for at in set(held) & set(whole):
            grades, first = data.grades[at], data.first_stage[at]
            ideal = ideal_gain(grades)
            before[str(at)] = float(ndcg(first, grades, ideal))
            after[str(at)] = float(ndcg(scores[at] / spread + weight * first, grades, ideal))
    return Gain.of(before, after, seed)


def _mean_ndcg(data: _Data, scores: Sequence[Floats], weight: float, of: Sequence[int]) -> float:
    """Mean over collections of the mean over some of their windows."""
    spread = _spread(scores, of)
    by_collection: dict[str, list[float]] = {}
    for at in of:
        final, grades = scores[at] / spread + weight * data.first_stage[at], data.grades[at]
        by_collection.setdefault(data.collections[at], []).append(float(ndcg(final, grades, ideal_gain(grades))))
    return float(np.mean([np.mean(values) for values in by_collection.values()]))


def _logistic(data: _Data, scores: Sequence[Floats], others: Sequence[float]) -> tuple[float, float]:
    """Slope and bias of the log-odds that a document is relevant, by Newton's method."""
    x = np.concatenate(scores)
    relevant = np.concatenate([grades > 0 for grades in data.grades]).astype(float)
    collections = Counter(data.collections)
    weights = np.concatenate(
        [
            np.where(grades > 0, 1.0, one) / collections[name]
            for grades, one, name in zip(data.grades, others, data.collections, strict=True)
        ]
    )
    return fit_log_odds(x, relevant, weights)


def _router(weights: npt.NDArray[np.float32], gates: Sequence[float], first_stage: float) -> Router:
    router = Router(weights.shape[1], 1, len(gates), len(gates))
    with torch.no_grad():
        router.prior.copy_(torch.tensor([*gates, first_stage]))
    router.probes = (torch.from_numpy(weights),)
    return router
