from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.service.numbers import json_number, probability

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite)
def test_a_number_is_short_and_never_an_integer(value: float) -> None:
    text = json.dumps(json_number(value))
    assert len(text) <= 17
    assert "." in text or "e" in text
    assert math.isfinite(float(text))
    if abs(value) < 1e12:
        assert float(text) == pytest.approx(value, rel=1e-6)


@given(finite, finite)
def test_rounding_never_reorders(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert json_number(low) <= json_number(high)
    assert probability(low) <= probability(high)


@given(finite)
def test_a_probability_is_strictly_between_0_and_1(score: float) -> None:
    value = probability(score)
    assert 0 < value < 1
    assert len(json.dumps(value)) <= 17


@pytest.mark.parametrize(
    ("score", "text"), [(0.0, "0.5"), (2.0, "0.8807971"), (-20.0, "2.061154e-09"), (99.0, "0.9999999")]
)
def test_probabilities_are_logistic(score: float, text: str) -> None:
    assert json.dumps(probability(score)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.0"), (-0.0, "0.0"), (0.08134572863578796, "0.08134573"), (1e-7, "1e-07"), (-1e300, "-1000000000000.0")],
)
def test_numbers_as_written(value: float, text: str) -> None:
    assert json.dumps(json_number(value)) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not a score"):
        json_number(value)
    with pytest.raises(ValueError, match="not a score"):
        probability(value)
