"""Fusion with the first stage."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connector.heads.fusion import HYBRID_WEIGHT, fuse, fusion_of, rank_scores, standardize
from connector.settings import load_settings

scores = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=30)


@given(scores)
@example([1.1754943508222875e-38, 1.175494351e-38])
@example([1e6, 1e6 + 1e-5])
def test_standardized_scores_have_mean_0_and_deviation_1_or_are_all_0(values: list[float]) -> None:
    z = standardize(values)
    if not z.any():
        return
    assert abs(z.mean()) < 1e-6 and abs(z.std() - 1) < 1e-6


@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_no_bit(values: list[float], chance: random.Random) -> None:
    order = list(range(len(values)))
    chance.shuffle(order)
    first = [value / 3 for value in values]
    for method in (0.7, "rrf", "none"):
        straight = fuse(np.array(values), np.array(first), method)
        moved = fuse(np.array([values[at] for at in order]), np.array([first[at] for at in order]), method)
        np.testing.assert_array_equal(moved, straight[order])


@given(scores)
def test_fusion_keeps_an_order_that_both_agree_on(values: list[float]) -> None:
    own = np.array(values)
    for method in (0.0, 2.5, "rrf", "none"):
        fused = fuse(own, own * 2, method)
        assert (np.diff(fused[np.argsort(own, kind="stable")]) >= -1e-9).all()


def test_weights_shift_from_heads_to_first_stage() -> None:
    heads, first = np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0])
    assert fuse(heads, first, 0).argmax() == 0
    assert fuse(heads, first, 5).argmax() == 2
    np.testing.assert_array_equal(fuse(heads, None, 5), standardize(heads))
    np.testing.assert_array_equal(fuse(heads, first, "none"), standardize(heads))


def test_reciprocal_ranks_share_the_rank_of_ties() -> None:
    fused = fuse(np.array([1.0, 1.0, 0.0]), np.array([5.0, 4.0, 4.0]), "rrf")
    np.testing.assert_allclose(fused, [1 / 61 + 1 / 61, 1 / 61 + 1 / 62, 1 / 63 + 1 / 62])


def test_rank_scores_fall() -> None:
    np.testing.assert_allclose(rank_scores([1, 2, 3]), [0, -np.log(2), -np.log(3)])


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="median"):
        fuse(np.ones(2), np.ones(2), "median")


def test_single_and_equal_scores_are_zero_not_nan() -> None:
    assert standardize([7.0]).tolist() == [0.0]
    assert standardize([0.1 + 0.2, 0.3, 0.3]).tolist() == [0.0, 0.0, 0.0]


@given(scores, st.sampled_from([2.0**-1000, 2.0**-600, 2.0**400, 2.0**1000]))
def test_standardizing_does_not_depend_on_the_size_of_the_scores(values: list[float], unit: float) -> None:
    values = [round(value, 3) for value in values]
    assert standardize([value * unit for value in values]).tolist() == standardize(values).tolist()


def test_the_largest_numbers_are_standardized() -> None:
    assert standardize([1e308, -1e308, 0.0]) == pytest.approx([1.5**0.5, -(1.5**0.5), 0])
    assert standardize([1e154, 1e38, 0.0])[0] == pytest.approx(2**0.5)


def test_a_hybrid_first_stage_weighs_more_where_nothing_else_is_said() -> None:
    def weight(hybrid: bool = False, **options: object) -> str | float:
        named = {key.replace("__", "."): value for key, value in options.items()}
        return fusion_of(load_settings("/dev/null", named, {}), hybrid=hybrid)

    assert weight() == "auto"
    assert weight(engine__embedder="all-MiniLM-L6-v2") == weight(hybrid=True) == HYBRID_WEIGHT
    assert weight(hybrid=True, rerank__fusion=0.2) == 0.2 and weight(hybrid=True, rerank__fusion="rrf") == "rrf"
    # Weights of other layouts are of another unit.
    assert weight(hybrid=True, backbone__layout="late") == "auto"
