"""Judged queries side by side, and what a ranking of them is worth: collections count the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from connector.evaluation.significance import compare
from connector.heads.fusion import standardize
from connector.statistics.head_tables import first_stage_scores
from connector.statistics.signal_tables import SignalTable
from connector.training.probes import Windows, fit_probe
from connector.training.static_heads import ideal_gain, ndcg

__all__ = [
    "Fit",
    "Floats",
    "Judged",
    "Places",
    "Splits",
    "best_held_out",
    "held_out",
    "one_vector",
    "whole_collections",
]

_WEIGHTS = tuple(round(0.1 * at, 1) for at in range(11))

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Splits = Sequence[tuple[Places, Places]]
Fit = Callable[[Places, Places], Floats]
"""Learns from the first places and scores the second: float64 [held out, documents]."""


@dataclass(frozen=True)
class Judged:
    """Queries with the documents that were read for them.

    Attributes:
        windows: states and grades.
        first_stage: float64 [queries, documents]: standardized; 0 where there is no document.
        collections: of each query.
    """

    windows: Windows
    first_stage: Floats
    collections: tuple[str, ...]

    @classmethod
    def of(cls, tables: Sequence[SignalTable]) -> Judged:
        """Of each document its first passage, as in training."""
        most = max(len(table.ids) for table in tables)
        layers, _, hidden = tables[0].states.shape
        states, shape = torch.zeros(len(tables), most, layers, hidden), (len(tables), most)
        grades, first, there = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.bool_)
        for at, table in enumerate(tables):
            places = [place for place, passages in enumerate(table.documents) if passages]
            read = table.states[:, [table.documents[place][0] for place in places]]
            states[at, places] = torch.from_numpy(read.swapaxes(0, 1).copy())
            grades[at, places] = [max(table.qrels.get(table.ids[place], 0), 0) for place in places]
            first[at, places] = standardize(first_stage_scores(table.first_stage[places]))
            there[at, places] = True
        collections = tuple(table.source.partition(":")[0] for table in tables)
        weights = torch.tensor([1 / collections.count(name) for name in collections])
        own = Windows(states, torch.from_numpy(grades).float(), torch.from_numpy(there), weights / weights.mean())
        return cls(own, first, collections)

    def __len__(self) -> int:
        return len(self.collections)

    def take(self, places: Places) -> Judged:
        """Some of the queries; the rest counts for nothing."""
        own = self.windows.of(places.tolist())
        weights = own.weights / own.weights.mean()
        names = tuple(self.collections[at] for at in places.tolist())
        return Judged(replace(own, weights=weights), self.first_stage[places], names)

    def ndcg(self, scores: Floats, weight: float = 0.0) -> Floats:
        """nDCG@10 of each query: float64 [queries]; ``weight`` of the first stage beside standardized scores."""
        values = np.zeros(len(self))
        for at, there in enumerate(self.windows.there.numpy()):
            grades = self.windows.grades[at].double().numpy()[there]
            fused = standardize(scores[at][there]) + weight * self.first_stage[at][there]
            values[at] = ndcg(fused, grades, ideal_gain(grades))
        return values

    def mean(self, values: Floats) -> float:
        """Mean over collections of the mean over queries."""
        return float((values * self._weights).mean())

    def fused(self, scores: Floats) -> tuple[float, Floats]:
        """The first stage's weight that ranks best, and nDCG@10 of each query with it."""
        tried = {weight: self.ndcg(scores, weight) for weight in _WEIGHTS}
        weight = max(tried, key=lambda one: self.mean(tried[one]))
        return weight, tried[weight]

    def laid_out(self, values: Sequence[Floats], tables: Sequence[SignalTable]) -> Floats:
        """Of each document the number of its first passage: float64 [queries, documents]; 0 where there is none.

        Args:
            values: float64 [passages] of each table.
            tables: that this was made of.
        """
        found = np.zeros(self.first_stage.shape)
        for at, (own, table) in enumerate(zip(values, tables, strict=True)):
            for place, passages in enumerate(table.documents):
                if passages:
                    found[at, place] = own[passages[0]]
        return found

    def row(self, scores: Floats, other: Floats | None = None, **more: Any) -> tuple[dict[str, Any], Floats]:
        """Figures of a way to score, and nDCG@10 of each query with the first stage.

        Args:
            scores: float64 [queries, documents].
            other: float64 [queries]: nDCG@10 of what it is compared with.
            more: stands in the row.
        """
        weight, fused = self.fused(scores)
        row = {**more, "alone": self.mean(self.ndcg(scores)), "fused": self.mean(fused), "weight": weight}
        return {**row, **({} if other is None else self.against(fused, other))}, fused

    def beside(
        self, scores: Floats, others: Floats, compared: Floats | None, shares: Sequence[float]
    ) -> dict[str, Any]:
        """The row of two ways to score, standardized in each window, the other at the best of some shares.

        Args:
            scores, others: float64 [queries, documents].
            compared: float64 [queries]: nDCG@10 of what it is compared with.
            shares: that are tried.
        """
        mixed = {share: np.zeros_like(scores) for share in shares}
        for at, there in enumerate(self.windows.there.numpy()):
            for share, values in mixed.items():
                values[at][there] = standardize(scores[at][there]) + share * standardize(others[at][there])
        best = max(shares, key=lambda share: self.mean(self.fused(mixed[share])[1]))
        return self.row(mixed[best], compared, share=best)[0]

    def against(self, values: Floats, other: Floats) -> dict[str, float]:
        """Mean difference of two measured ways, its standard error, and the p-value over queries."""
        differences = (values - other) * self._weights
        keyed = [{str(at): float(value) for at, value in enumerate(own)} for own in (values, other)]
        return {
            "difference": float(differences.mean()),
            "error": float(differences.std() / np.sqrt(len(differences))),
            "p_value": compare(keyed[0], keyed[1]).p_value,
        }

    @property
    def _weights(self) -> Floats:
        return np.asarray(self.windows.weights.double().numpy())


def whole_collections(judged: Judged, parts: int | None = None, seed: int = 0) -> Splits:
    """(train, held out): so many parts of whole collections; None: one collection at a time."""
    names, own = np.array(sorted(set(judged.collections))), np.array(judged.collections)
    shuffled = np.random.default_rng(seed).permutation(names)
    held = [[name] for name in names] if parts is None else np.array_split(shuffled, parts)
    masks = [np.isin(own, part) for part in held]
    return [(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in masks]


def held_out(judged: Judged, splits: Splits, fit: Fit) -> Floats:
    """Scores of each window by what did not see it: float64 [queries, documents]."""
    found = np.zeros(judged.first_stage.shape)
    for train, held in splits:
        found[held] = fit(train, held)
    return found


def best_held_out(
    judged: Judged, splits: Splits, strengths: Sequence[float], fit: Callable[[float], Fit]
) -> tuple[Floats, float]:
    """Held-out scores of the penalty that ranks best beside the first stage, and that penalty.

    Args:
        judged: all windows.
        splits: see ``held_out``.
        strengths: penalties that are tried.
        fit: what learns with a penalty.
    """
    tried = {strength: held_out(judged, splits, fit(strength)) for strength in strengths}
    best = max(strengths, key=lambda strength: judged.mean(judged.fused(tried[strength])[1]))
    return tried[best], best


def one_vector(judged: Judged, strength: float) -> Fit:
    """A linear probe: see ``fit_probe``."""

    def fit(train: Places, held: Places) -> Floats:
        weights = torch.from_numpy(fit_probe(judged.windows.of(train.tolist()), strength))
        return np.asarray(torch.einsum("qdlh,lh->qd", judged.windows.states[held], weights).double().numpy())

    return fit
