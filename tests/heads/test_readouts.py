"""Read-outs against the formulas, written out slowly."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.heads.readouts import passage_scores
from connector.sections import READOUTS, ReadOut
from tests.heads.observing import Arrays


def slow(rows: npt.NDArray[np.float32], lengths: list[int], readout: ReadOut) -> npt.NDArray[np.float64]:
    out = np.zeros((rows.shape[0], len(lengths)))
    for head in range(rows.shape[0]):
        all_query, all_none = (float(rows[head, group].astype(np.float64).sum()) for group in (0, 1))
        start = 0
        for passage, length in enumerate(lengths):
            part = rows[head, :, start : start + length].astype(np.float64)
            start += length
            if readout == "share":
                query = part[0].sum() / all_query if all_query else 1 / len(lengths)
                none = part[1].sum() / all_none if all_none else 1 / len(lengths)
                out[head, passage] = math.log(query + 0.001) - math.log(none + 0.001)
                continue
            c = part[0] - part[1] if readout == "icr" else part[2] - part[3]
            if length >= 4 and c.std() > 0:
                c = c[c > c.mean() - 2 * c.std()]
            out[head, passage] = c.sum() / (math.sqrt(length) if readout == "query" else 1)
    return out


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
    st.sampled_from(READOUTS),
)
def test_scores_follow_the_formulas(lengths: list[int], heads: int, seed: int, readout: ReadOut) -> None:
    rows = np.random.default_rng(seed).random((heads, 4, sum(lengths)), dtype=np.float32)
    scores = passage_scores(Arrays(rows, np.array(lengths)), readout)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, slow(rows, lengths, readout), atol=1e-9)


@pytest.mark.parametrize("readout", READOUTS)
def test_one_token_and_no_attention_give_no_nan(readout: ReadOut) -> None:
    rows = np.zeros((2, 4, 3), dtype=np.float32)
    rows[0, 0] = [0.5, 0.0, 0.25]
    assert np.isfinite(passage_scores(Arrays(rows, np.array([1, 1, 1])), readout)).all()


def test_an_outlier_below_two_deviations_is_dropped() -> None:
    rows = np.zeros((1, 4, 10), dtype=np.float32)
    rows[0, 0] = [0.1] * 9 + [0.0]
    rows[0, 1, 9] = 1.0
    assert passage_scores(Arrays(rows, np.array([10])), "icr")[0, 0] == pytest.approx(0.9)


def test_equal_tokens_are_all_kept() -> None:
    """At a deviation of 0 nothing is below the mean."""
    rows = np.zeros((1, 4, 6), dtype=np.float32)
    rows[0, 0] = 0.1
    assert passage_scores(Arrays(rows, np.array([6])), "icr")[0, 0] == pytest.approx(0.6)


@pytest.mark.parametrize("readout", READOUTS)
def test_permuted_passages_give_permuted_scores(readout: ReadOut) -> None:
    rng = np.random.default_rng(5)
    lengths = np.array([5, 9, 1, 30])
    parts = [rng.random((3, 4, length), dtype=np.float32) for length in lengths]
    order = [2, 0, 3, 1]
    scores = passage_scores(Arrays(np.concatenate(parts, axis=2), lengths), readout)
    moved = passage_scores(Arrays(np.concatenate([parts[at] for at in order], axis=2), lengths[order]), readout)
    np.testing.assert_allclose(moved, scores[:, order], atol=1e-12)
