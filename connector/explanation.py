"""Why hits stand where they stand: the numbers from which their scores can be computed again.

One function makes them, for the command line, for HTTP and for the page.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from connector.documents import RankedHit, RerankResult, UsedHead, Workings
from connector.heads.fusion import RRF_CONSTANT, rank_scores, standardize

__all__ = ["Counted", "Explanation", "HitExplanation", "SecondCounted", "explain"]

_SUM = "head_score = bias + sum of gate * (value - mean) / scale"
_SECOND = " + second.counted"
_STANDINGS = "standing = (value - mean) / deviation"
_RANKS = f"score = 1 / ({RRF_CONSTANT} + head_standing) + 1 / ({RRF_CONSTANT} + standing), both ranks"
_NO_TEXT = "it has no text: it stands below all hits that were read"
_KEPT = "it was not read: it keeps its place"


@dataclass(frozen=True, slots=True)
class Counted:
    """One thing that counts in a score.

    Attributes:
        name: of the signal.
        value: what was found.
        counted: what it adds to the head score.
    """

    name: str
    value: float
    counted: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"signal": self.name, "value": self.value, "counted": self.counted}


@dataclass(frozen=True, slots=True)
class SecondCounted:
    """What the second LLM of a cascade says.

    Attributes:
        value: its own log-odds; None: it did not read the hit.
        counted: what it adds to the head score.
    """

    value: float | None
    counted: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"value": self.value, "counted": self.counted}


@dataclass(frozen=True, slots=True)
class HitExplanation:
    """The parts of one hit's score.

    Attributes:
        index: the hit's place in the request, from 0.
        id: the document's id, where the request had one.
        score: the score that the order follows.
        probability: of being relevant, 0 to 1, where scores are the logarithm of odds; else None.
        signals: what each signal adds to the head score.
        second: of a cascade, what the second LLM adds to the head score, and what it says alone (``value``: None
            where it did not read the hit, which then moves with those that it has read); else None.
        head_score: the LLM's score alone; None where nothing was read.
        head_counted: what the head score adds to the score.
        first_stage_value: the first stage's score, or -log(rank) where only its order is known; None: no first stage.
        first_stage_counted: what the first stage adds to the score.
        standing: the first stage's value, standardized over the hits that were read; with ``rrf`` its rank there.
        head_standing: the same of the head score, where it is standardized (or ranked); else None.
        why: what else decided its place, or None.
        passage: (start, end) characters of what the heads looked at most, or None.
    """

    index: int
    id: str | None
    score: float
    probability: float | None = None
    signals: tuple[Counted, ...] = ()
    second: SecondCounted | None = None
    head_score: float | None = None
    head_counted: float | None = None
    first_stage_value: float | None = None
    first_stage_counted: float | None = None
    standing: float | None = None
    head_standing: float | None = None
    why: str | None = None
    passage: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; numbers are not rounded."""
        first_stage = None
        if self.first_stage_value is not None:
            first_stage = {
                "value": self.first_stage_value,
                "standing": self.standing,
                "counted": self.first_stage_counted,
            }
        return {
            "index": self.index,
            **({} if self.id is None else {"id": self.id}),
            "score": self.score,
            "probability": self.probability,
            "signals": [signal.to_json() for signal in self.signals],
            **({} if self.second is None else {"second": self.second.to_json()}),
            "head_score": self.head_score,
            "head_standing": self.head_standing,
            "head_counted": self.head_counted,
            "first_stage": first_stage,
            "why": self.why,
            "passage": None if self.passage is None else list(self.passage),
        }


@dataclass(frozen=True, slots=True)
class _Spread:
    """Of what is standardized over the hits that were read."""

    mean: float
    deviation: float

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "deviation": self.deviation}


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the scores of one result were computed.

    Attributes:
        formula: by the names of the JSON.
        unit: ``log-odds``, ``standard deviations`` or ``reciprocal ranks``.
        names: of the signals.
        workings: gates, means, scales and bias.
        first_stage: None where the score holds nothing of it; ``of`` is ``scores`` or ``order``.
        heads: mean and deviation that head scores are standardized with; None where they are not.
        hits: best first.
    """

    formula: str
    unit: str
    names: tuple[str, ...]
    workings: Workings
    first_stage: dict[str, Any] | None
    heads: _Spread | None
    hits: tuple[HitExplanation, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; numbers are not rounded."""
        own = self.workings
        return {
            "formula": self.formula,
            "unit": self.unit,
            "bias": own.bias,
            "signals": [
                {"signal": name, "gate": gate, "mean": mean, "scale": scale}
                for name, gate, mean, scale in zip(self.names, own.gates, own.means, own.scales, strict=True)
            ],
            "heads": None if self.heads is None else self.heads.to_json(),
            "first_stage": self.first_stage,
            "hits": [hit.to_json() for hit in self.hits],
        }


def explain(result: RerankResult) -> Explanation | None:
    """The parts of every score; None where nothing was reranked, for then there is nothing but the first stage."""
    own = result.workings
    if not result.reranked or own is None:
        return None
    read = [hit for hit in result.hits if hit.head_score is not None]
    heads = [hit.head_score or 0.0 for hit in read]
    values, of = (None, "") if own.fusion == "none" else _first_stage(read)
    fused = _fused_ranks(heads, values, of) if own.fusion == "rrf" and values else _fused(own, heads, values, of)
    names = tuple(
        f"{used.layer}.{used.head} {used.readout}" if isinstance(used, UsedHead) else used.signal
        for used in result.gates
    )
    parts = {
        hit.index: HitExplanation(
            hit.index,
            hit.id,
            hit.score,
            _probability(hit.score) if fused.unit == "log-odds" else None,
            _signals(names, own, hit),
            SecondCounted(hit.second_score, hit.second_counted) if result.second_hits else None,
            hit.head_score,
            fused.head_counted[at],
            values[at] if values else None,
            fused.counted[at] if values else None,
            fused.standings[at] if values else None,
            fused.head_standings[at] if fused.head_standings else None,
            None if hit.signals else _NO_TEXT,
            hit.passage,
        )
        for at, hit in enumerate(read)
    }
    hits = tuple(
        parts.get(hit.index) or HitExplanation(hit.index, hit.id, hit.score, why=_KEPT) for hit in result.hits
    )
    formula = fused.formula.replace(_SUM, _SUM + _SECOND) if result.second_hits else fused.formula
    return Explanation(formula, fused.unit, names, own, fused.first_stage, fused.heads, hits)


@dataclass(frozen=True, slots=True)
class _Fused:
    """Head scores and first stage of the hits that were read, in one order: see ``Explanation`` and its hits."""

    formula: str
    unit: str
    head_counted: Sequence[float]
    head_standings: Sequence[float] = ()
    standings: Sequence[float] = ()
    counted: Sequence[float] = ()
    first_stage: dict[str, Any] | None = None
    heads: _Spread | None = None


def _fused(own: Workings, heads: Sequence[float], values: Sequence[float] | None, of: str) -> _Fused:
    absolute = own.spread is not None
    counted = list(heads) if absolute else standardize(heads).tolist()
    formula = f"{_SUM}; score = {'head_score' if absolute else 'head_standing'}"
    fused = _Fused(
        formula if absolute else f"{formula}; {_STANDINGS}",
        "log-odds" if absolute else "standard deviations",
        counted,
        () if absolute else counted,
        heads=None if absolute else _spread(heads),
    )
    if not values or isinstance(own.fusion, str):
        return fused
    standings = standardize(values).tolist()
    unit = own.spread or 1.0
    return replace(
        fused,
        formula=f"{formula} + first_stage.gate * first_stage.unit * standing; {_STANDINGS}",
        standings=standings,
        counted=[own.fusion * unit * standing for standing in standings],
        first_stage={"of": of, "gate": own.fusion, "unit": unit, **_spread(values).to_json()},
    )


def _fused_ranks(heads: Sequence[float], values: Sequence[float], of: str) -> _Fused:
    head_ranks, ranks = _ranks(heads), _ranks(values)
    return _Fused(
        f"{_SUM}; {_RANKS}",
        "reciprocal ranks",
        [1 / (RRF_CONSTANT + rank) for rank in head_ranks],
        head_ranks,
        ranks,
        [1 / (RRF_CONSTANT + rank) for rank in ranks],
        {"of": of},
    )


def _first_stage(read: Sequence[RankedHit]) -> tuple[list[float] | None, str]:
    """What the first stage says of the hits that were read, and whether these are its scores or its order."""
    scores = [hit.first_stage_score for hit in read if hit.first_stage_score is not None]
    if read and len(scores) == len(read):
        return scores, "scores"
    ranks = [hit.first_stage_rank for hit in read if hit.first_stage_rank is not None]
    if read and len(ranks) == len(read):
        return rank_scores(ranks).tolist(), "order"
    return None, ""


def _signals(names: Sequence[str], own: Workings, hit: RankedHit) -> tuple[Counted, ...]:
    if not hit.signals:
        return ()
    rows = zip(names, hit.signals, own.gates, own.means, own.scales, strict=True)
    return tuple(Counted(name, value, gate * (value - mean) / scale) for name, value, gate, mean, scale in rows)


def _spread(values: Sequence[float]) -> _Spread:
    # By fractions: whatever the size of scores, neither squares nor sums leave the range of numbers.
    return _Spread(float(statistics.mean(values)), float(statistics.pstdev(values)))


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1, best first; equal ones share the better rank."""
    return [1.0 + sum(other > value for other in values) for value in values]


def _probability(log_odds: float) -> float:
    grown = math.exp(-abs(log_odds))
    return 1 / (1 + grown) if log_odds >= 0 else grown / (1 + grown)
