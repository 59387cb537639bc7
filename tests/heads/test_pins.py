"""Which hits tower over the rest."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.heads.pins import BOOSTED, finite_score, pin_floor

organic = st.lists(st.floats(0.01, 40), min_size=1, max_size=30)


def pins(scores: list[float], times: float = 10) -> int:
    floor = pin_floor(scores, times)
    return sum(score >= floor for score in scores)


@pytest.mark.parametrize(
    ("scores", "count"),
    [
        ([1e6, 1e5, 3.8, 3.6, 0.4], 2),
        ([1e6, 1e5, 1e4, 1e3, 1e2, 2.3, 0.2], 5),
        ([1000, 1000, 1002.5, 3.1], 3),
        ([1.7014122e38 + 4e31, 1.7014122e38 + 2e31, 1.7014122e38, 2.3, 1.1], 3),
        ([1e308, -1e308, 0], 1),
        ([1e308, 4, 0], 1),
        ([1e308, 9e307], 2),
        ([1000, 0.8, 0.7], 1),
        # A page of pins alone.
        ([1.7014122e38, 1.7014123e38], 2),
        ([12, 11, 10, 3, 2, 1], 0),
        ([7], 0),
        ([], 0),
    ],
)
def test_pins_are_what_stands_above_the_lowest_gap(scores: list[float], count: int) -> None:
    assert pins(scores) == count


def test_a_search_that_boosts_has_pins_above_a_smaller_gap() -> None:
    assert pins([12, 11, 10, 3, 2, 1], BOOSTED) == 3
    assert pins([3.1, 3, 2.9, 2.5, 1], BOOSTED) == 0


@given(organic, st.lists(st.floats(0, 1), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_boosts_of_a_thousand_are_found_over_any_scores(
    below: list[float], steps: list[float], chance: random.Random
) -> None:
    scores = [*below, *(1000 + step for step in steps)]
    chance.shuffle(scores)
    assert pins(scores) == len(steps) + pins(below)


@given(st.lists(st.floats(-1, 1), max_size=50))
def test_cosines_and_probabilities_have_none(scores: list[float]) -> None:
    assert pins(scores) == pins(scores, BOOSTED) == 0


@given(st.lists(st.lists(st.integers(1, 100), min_size=1, max_size=4), max_size=50), st.integers(1, 60))
def test_rank_fusion_has_none(ranks: list[list[int]], constant: int) -> None:
    assert pins([sum(1 / (constant + rank) for rank in lists) for lists in ranks]) == 0


@given(st.integers(1, 4), st.lists(st.floats(0.3, 1), min_size=1, max_size=40), st.floats(0.1, 30))
def test_scores_of_words_have_none(best: int, shares: list[float], unit: float) -> None:
    # BM25: documents have more or less of what the query's words are worth together; a winner has all of it, twice.
    assert pins([*(unit * share for share in shares), *[2 * unit] * best]) == 0


@pytest.mark.parametrize(
    "scores",
    [
        # BM25 of real queries: some documents have a rare word, all others a common one.
        [13.52, 12.43, 11.29, 2.56, 2.56, 2.54, 2.53, 2.52],
        [17.97, 17.02, 3.91, 3.83, 3.82, 3.79],
        [76.6, 15.96, 15.7, 15.37, 14.93],
        [12.4, 7.15, 6.89, 2.26],
        # In a small index, a word that every document has is worth nothing.
        [8.1, 7.9, 7.2, 0.02, 0.01],
    ],
)
def test_a_rare_word_is_no_pin(scores: list[float]) -> None:
    assert pins(scores) == 0


def test_a_clear_winner_of_a_short_window_is_none() -> None:
    assert pins([30, 3.5]) == pins([9.0, 0.01]) == pins([25.0, 4.0, 3.9]) == 0


def test_scores_around_0_have_none_by_being_near_it() -> None:
    assert pins([11, 0.1, -0.1, -10]) == 0
    assert pins([2000, 0.1, -0.1, -10]) == 1


def test_infinite_scores_are_pins_too() -> None:
    assert pins([finite_score(math.inf), 3.0, finite_score(-math.inf)]) == 1
    assert pins([finite_score(math.inf), 3.0, 2.0]) == 1
    assert finite_score(3.5) == 3.5
