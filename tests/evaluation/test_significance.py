"""Paired tests: exact values for few queries, seeds, and degenerate input."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from connector.errors import DataError
from connector.evaluation.significance import compare


def _values(seed: int, shift: float, count: int = 120) -> tuple[dict[str, float], dict[str, float]]:
    chance = random.Random(seed)
    before = {str(at): chance.random() for at in range(count)}
    return {query: value + chance.gauss(shift, 0.2) for query, value in before.items()}, before


def test_few_queries_are_tested_exactly() -> None:
    comparison = compare({"a": 1.0, "b": 0.5, "c": 0.3}, {"a": 0.0, "b": 0.1, "c": 0.0})
    assert comparison.p_value == pytest.approx(2 / 8), "two of eight sign patterns are as extreme"
    assert comparison.difference == pytest.approx(1.7 / 3)


def test_a_clear_gain_is_significant_and_noise_is_not() -> None:
    gain = compare(*_values(1, 0.1))
    noise = compare(*_values(2, 0.0))
    assert gain.p_value < 0.001 < 0.05 < noise.p_value
    assert 0 < gain.interval[0] < gain.difference < gain.interval[1]
    assert noise.interval[0] < 0 < noise.interval[1]


def test_the_seed_decides_and_the_order_of_queries_does_not() -> None:
    after, before = _values(3, 0.02)
    turned = dict(reversed(after.items()))
    assert compare(after, before, 7) == compare(turned, before, 7)
    assert compare(after, before, 7).interval != compare(after, before, 8).interval


def test_turning_sides_turns_the_sign() -> None:
    after, before = _values(4, 0.05)
    there, back = compare(after, before), compare(before, after)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value, abs=0.01)


@pytest.mark.parametrize("values", [{"a": 0.5}, {"a": 0.5, "b": 0.1}])
def test_equal_rankings_differ_by_nothing(values: dict[str, float]) -> None:
    comparison = compare(values, dict(values))
    assert (comparison.difference, comparison.p_value, comparison.interval) == (0.0, 1.0, (0.0, 0.0))


def test_other_queries_are_refused() -> None:
    with pytest.raises(DataError, match=r"b is in one only"):
        compare({"a": 1.0}, {"a": 1.0, "b": 0.0})
    with pytest.raises(DataError, match="no query"):
        compare({}, {})


@pytest.mark.parametrize("count", [2, 5, 13, 14, 38, 300])
def test_the_numbers_are_those_of_scipy(count: int) -> None:
    after, before = _values(5, 0.03, count)
    ids = sorted(after)
    differences = np.array([after[query] - before[query] for query in ids])
    differences[::3] = 0.0
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=10_000, batch=500,
        rng=np.random.default_rng(3),
    )  # fmt: skip
    interval = stats.bootstrap(
        (differences,), np.mean, vectorized=True, n_resamples=10_000, batch=500, method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    found = compare(dict(zip(ids, differences.tolist(), strict=True)), dict.fromkeys(ids, 0.0), 3)
    assert found.p_value == pytest.approx(test.pvalue, abs=1e-12)
    assert found.interval == pytest.approx((interval.low, interval.high), abs=1e-12)
