"""Effectiveness of rankings: nDCG@10 and MRR@10, per query and in the mean, by ir-measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from connector.errors import DataError, MissingExtraError
from connector.evaluation.runs import Qrels

__all__ = [
    "MEASURES",
    "Bin",
    "PerQuery",
    "Rankings",
    "calibration_error",
    "check_measures",
    "mean",
    "per_query",
    "reliability",
]

MEASURES = ("nDCG@10", "MRR@10")
Rankings: TypeAlias = Mapping[str, Sequence[str]]
"""Query id -> document ids, best first."""
PerQuery: TypeAlias = dict[str, float]
"""Query id -> value of a measure."""

_MEASURE = re.compile(r"(nDCG|MRR|RR|R|P|AP)@([1-9][0-9]*)")


def per_query(
    measures: Sequence[str], qrels: Qrels, rankings: Rankings, relevant_from: int = 1
) -> dict[str, PerQuery]:
    """Each measure of each query that has a positive judgment; a query without a ranking, or with an empty one, is 0.

    Args:
        measures: names such as ``nDCG@10``, ``MRR@10`` (also ``R@k``, ``P@k``, ``AP@k``). nDCG uses the grades as
            gains; the others count grades from ``relevant_from`` up.
        qrels: judgments.
        rankings: document ids, best first. Order is all that counts: ties of scores cannot change a value.
        relevant_from: lowest grade that counts as relevant in binary measures.

    Raises:
        DataError: no query has a positive judgment, a document stands twice in a ranking, an unknown measure.
        MissingExtraError: ir-measures is not installed.
    """
    judged = {query: dict(grades) for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not judged:
        raise DataError("no query has a document with a grade above 0; nothing can be measured")
    named = {_measure(name, relevant_from): name for name in measures}
    evaluator = _ir_measures().evaluator(list(named), judged)
    values: dict[str, PerQuery] = {name: {} for name in measures}
    for metric in evaluator.iter_calc(_as_run(rankings, judged)):
        values[named[metric.measure]][metric.query_id] = float(metric.value)
    return {name: {query: by_query.get(query, 0.0) for query in judged} for name, by_query in values.items()}


def mean(values: Mapping[str, float]) -> float:
    """The mean over queries.

    Raises:
        DataError: there are none.
    """
    if not values:
        raise DataError("there is no query to take the mean of")
    return sum(values.values()) / len(values)


class Bin(NamedTuple):
    """Scores that told about the same probability.

    Attributes:
        hits: how many there are.
        told: their mean probability.
        relevant: the share of them that is relevant.
    """

    hits: int
    told: float
    relevant: float


def reliability(log_odds: Sequence[float], relevant: Sequence[bool], bins: int = 10) -> tuple[Bin, ...]:
    """Told probabilities beside what came true, in bins of equal width; an empty bin is all zeros.

    Args:
        log_odds: of being relevant, as they were told.
        relevant: what came true.
        bins: of probability.
    """
    told = 1 / (1 + np.exp(-np.clip(np.array(log_odds, dtype=np.float64), -500, 500)))
    true = np.array(relevant, dtype=np.float64)
    place = np.minimum((told * bins).astype(int), bins - 1)
    own = [place == at for at in range(bins)]
    return tuple(
        Bin(int(here.sum()), float(told[here].mean()), float(true[here].mean())) if here.any() else Bin(0, 0.0, 0.0)
        for here in own
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """How far told probabilities lie from what came true: ECE (Guo et al., ICML 2017); bins as of ``reliability``."""
    missed = sum(each.hits * abs(each.told - each.relevant) for each in bins)
    return missed / sum(each.hits for each in bins)


def _as_run(rankings: Rankings, judged: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    run = {}
    for query, documents in rankings.items():
        if query in judged and documents:
            # Scores made from places, because trec_eval breaks ties of scores by document id.
            scores = {document: float(len(documents) - place) for place, document in enumerate(documents)}
            if len(scores) != len(documents):
                raise DataError(f"a document stands twice in the ranking of query {query}; keep one of the two")
            run[query] = scores
    return run


def _measure(name: str, relevant_from: int) -> Any:
    match = _MEASURE.fullmatch(name)
    if match is None:
        raise DataError(f"{name} is not a measure; give one such as {', '.join(MEASURES)} or R@100")
    kind, cutoff = match[1], int(match[2])
    library = _ir_measures()
    if kind == "nDCG":
        return library.nDCG @ cutoff
    return getattr(library, "RR" if kind == "MRR" else kind)(rel=relevant_from) @ cutoff


def check_measures() -> None:
    """Whether anything can be measured here: to be asked before hours of reading.

    Raises:
        MissingExtraError: ir_measures is not installed.
    """
    _ir_measures()


def _ir_measures() -> Any:
    try:
        import ir_measures
    except ImportError:
        raise MissingExtraError("ir_measures", "evaluate") from None
    return ir_measures
