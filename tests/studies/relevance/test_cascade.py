"""A cascade: the larger model orders the first few anew, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from connector.studies.relevance.cascade import cascaded, study
from connector.studies.relevance.judged import Judged
from tests.training.test_train_signals import windows

_SCORES = arrays(np.float64, 8, elements=st.integers(-4, 4).map(float))


@given(small=_SCORES, large=_SCORES, first=st.integers(1, 10))
def test_what_the_small_model_puts_first_stays_first_and_the_rest_in_its_order(
    small: np.ndarray, large: np.ndarray, first: int
) -> None:
    before = np.argsort(-small, kind="stable")
    after = np.argsort(-cascaded(small, large, first), kind="stable")
    assert sorted(after[:first]) == sorted(before[:first])
    assert after[first:].tolist() == before[first:].tolist()
    kept = large[after[:first]]
    assert (np.diff(kept) <= 0).all()


def test_of_a_whole_window_the_large_model_decides() -> None:
    small, large = np.array([3.0, 2.0, 1.0]), np.array([0.0, 5.0, 1.0])
    assert np.argsort(-cascaded(small, large, 3)).tolist() == [1, 2, 0]


def test_with_half_a_share_the_small_one_settles_what_the_large_one_leaves_open() -> None:
    small, large = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, -9.0])
    assert np.argsort(-cascaded(small, large, 3, share=0.5)).tolist() == [1, 0, 2]


def test_a_larger_model_that_sees_more_is_found_to_pay() -> None:
    seen = [window.table for window in windows(48, noise=0.3)]
    dim = [
        replace(table, states=table.states + np.random.default_rng(at).standard_normal(table.states.shape) * 8)
        for at, table in enumerate(seen)
    ]
    judged = {
        "small": Judged.of([replace(table, states=table.states.astype(np.float32)) for table in dim]),
        "large": Judged.of(seen),
    }
    rows = study(judged, lambda text: None)
    assert rows["large"]["difference"] > 0.05
    few, many = (rows[f"small, then large on the first {first}, share 0.0"]["fused"] for first in (3, 10))
    assert rows["small"]["fused"] < few and rows["small"]["fused"] < many
