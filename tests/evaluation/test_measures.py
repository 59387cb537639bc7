"""Measures: known values, ties, empty windows, and the same mean as ir-measures itself."""

from __future__ import annotations

import math
import random

import ir_measures
import pytest

from connector.errors import DataError
from connector.evaluation.measures import MEASURES, Bin, calibration_error, mean, per_query, reliability

QRELS = {"q1": {"a": 3, "b": 1, "c": 0}, "q2": {"a": 1}, "unjudged": {"a": 0}}


def test_values_by_hand() -> None:
    values = per_query(MEASURES, QRELS, {"q1": ["c", "b", "a"], "q2": []})
    ideal = 3 + 1 / math.log2(3)
    assert values["nDCG@10"]["q1"] == pytest.approx((1 / math.log2(3) + 3 / 2) / ideal)
    assert values["MRR@10"]["q1"] == 0.5
    assert per_query(["MRR@10"], QRELS, {"q1": ["c", "b", "a"]}, relevant_from=2)["MRR@10"]["q1"] == pytest.approx(
        1 / 3
    )


def test_an_empty_window_counts_zero_and_an_unjudged_query_does_not_count() -> None:
    values = per_query(MEASURES, QRELS, {"q1": ["a", "b"], "unjudged": ["a"], "other": ["a"]})
    assert values["nDCG@10"] == {"q1": 1.0, "q2": 0.0}
    assert mean(values["MRR@10"]) == 0.5


def test_the_tenth_place_is_the_last_that_counts() -> None:
    others = [f"x{at}" for at in range(10)]
    at_ten, at_eleven = [*others[:9], "a"], [*others, "a"]
    values = per_query(MEASURES, {"in": {"a": 1}, "out": {"a": 1}}, {"in": at_ten, "out": at_eleven})
    assert values["MRR@10"] == {"in": pytest.approx(0.1), "out": 0.0}
    assert values["nDCG@10"]["out"] == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_the_aggregate_of_ir_measures(seed: int) -> None:
    chance = random.Random(seed)
    documents = [f"d{at}" for at in range(40)]
    qrels = {f"q{at}": {name: chance.randrange(4) for name in chance.sample(documents, 15)} for at in range(25)}
    rankings = {query: chance.sample(documents, 20) for query in list(qrels)[3:]}
    values = per_query(MEASURES, qrels, rankings, relevant_from=2)
    run = {query: {name: -float(place) for place, name in enumerate(names)} for query, names in rankings.items()}
    measures = {"nDCG@10": ir_measures.nDCG @ 10, "MRR@10": ir_measures.RR(rel=2) @ 10}
    expected = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    for name, measure in measures.items():
        assert mean(values[name]) == pytest.approx(expected[measure], abs=1e-12)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="document stands twice in the ranking of query q1"):
        per_query(MEASURES, QRELS, {"q1": ["a", "a"]})
    with pytest.raises(DataError, match="no query has a document with a grade above 0"):
        per_query(MEASURES, {"q1": {"a": 0}}, {})
    with pytest.raises(DataError, match="F1 is not a measure"):
        per_query(["F1"], QRELS, {})
    with pytest.raises(DataError, match="no query"):
        mean({})


def missed(log_odds: list[float], relevant: list[bool]) -> float:
    return calibration_error(reliability(log_odds, relevant))


def test_calibration_error() -> None:
    certain = [50.0, -50.0, 50.0, -50.0]
    assert missed(certain, [True, False, True, False]) < 1e-12
    assert missed(certain, [False, True, False, True]) == pytest.approx(1)
    # One half, told of each of ten, of which three came true.
    assert missed([0.0] * 10, [True] * 3 + [False] * 7) == pytest.approx(0.2)
    # Bins do not make up for each other.
    assert missed([0.0, -50.0], [False, True]) == pytest.approx(0.75)
    assert missed([1e9, -1e9], [True, False]) == pytest.approx(0)


def test_reliability() -> None:
    told = [0.0, 0.0, 50.0, -50.0]
    bins = reliability(told, [True, False, True, False])
    assert [each.hits for each in bins] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert bins[5] == Bin(2, 0.5, 0.5) and bins[9].relevant == 1 and bins[1] == Bin(0, 0.0, 0.0)
