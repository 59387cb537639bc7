"""Signals that are no attention: what they need, what they say, and that no passage changes another's bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.heads.fusion import fuse
from connector.heads.likelihood import LikelihoodSignal
from connector.heads.needs import Needs
from connector.heads.probe import ProbeSignal
from connector.heads.readouts import HeadSignal
from connector.heads.routes import Absolute, Route, route_scores
from connector.heads.row_groups import QUERY_GROUPS, ROW_GROUPS
from connector.heads.signals import signal_scores
from tests.heads.observing import Arrays

RANDOM = np.random.default_rng(5)
PASSAGES = 7
STATES = RANDOM.standard_normal((3, PASSAGES, 16)).astype(np.float32)
TOLD = -RANDOM.random((PASSAGES, 4)).astype(np.float32)
PROBE = ProbeSignal("probe", (20, 16), RANDOM.standard_normal((2, 16)).astype(np.float32))
SIGNALS = (LikelihoodSignal("mean"), PROBE, LikelihoodSignal("sum"))
DOCUMENTS = tuple((at,) for at in range(PASSAGES))


def observed(chosen: list[int]) -> Arrays:
    nothing = np.zeros((0, len(ROW_GROUPS), 0), dtype=np.float32)
    return Arrays(nothing, np.ones(len(chosen), dtype=np.int64), (), (16, 18, 20), STATES[:, chosen], TOLD[chosen])


def test_numbers() -> None:
    found = signal_scores(SIGNALS, observed(list(range(PASSAGES))))
    told = TOLD.astype(np.float64)
    np.testing.assert_allclose(found[0], told.mean(axis=1))
    np.testing.assert_allclose(found[2], told.sum(axis=1))
    np.testing.assert_allclose(found[1], STATES[2] @ PROBE.weights[0] + STATES[0] @ PROBE.weights[1], rtol=1e-5)


@given(st.permutations(range(PASSAGES)), st.integers(1, PASSAGES))
def test_a_passage_has_the_same_bits_in_any_company(order: list[int], count: int) -> None:
    chosen = order[:count]
    route = Route(SIGNALS, (0.5, 1.0, 2.0), 1.0, (0.1, 2.0, 3.0), Absolute((-1.0, 0.5, -2.0), 0.25, 1.5))
    whole, _ = route_scores(route, signal_scores(SIGNALS, observed(list(range(PASSAGES)))), DOCUMENTS)
    some, _ = route_scores(route, signal_scores(SIGNALS, observed(chosen)), DOCUMENTS[:count])
    assert some.tobytes() == whole[chosen].tobytes()
    assert fuse(some, None, "none", 1.5).tobytes() == whole[chosen].tobytes()


def test_absolute_scores_are_the_sum_that_they_say() -> None:
    route = Route(SIGNALS[1:], (1.0, 2.0), 0.5, (2.0, 3.0), Absolute((0.5, -2.0), 0.25, 1.5))
    scores = np.array([[1.0, 3.0], [-2.0, 4.0]])
    found, _ = route_scores(route, scores, DOCUMENTS[:2])
    np.testing.assert_allclose(found, [0.25 + 0.25 + 0.0, 0.25 + 1.25 + 4.0])
    fused = fuse(found, np.array([7.0, 9.0]), 0.5, 1.5)
    np.testing.assert_allclose(fused, found + 0.5 * 1.5 * np.array([-1.0, 1.0]))


def test_what_is_needed() -> None:
    needs = Route((*SIGNALS, HeadSignal(3, 1, "query")), (1.0,) * 4, 0.0).needs
    assert needs == Needs(((3, 1),), QUERY_GROUPS, (16, 20), likelihood=True)
    assert needs.depth(30) == 30 and PROBE.needs.depth(30) == 20
    assert HeadSignal(3, 1, "query").needs.depth(30) == 4
    assert [str(signal) for signal in SIGNALS] == ["likelihood/mean", "probe", "likelihood/sum"]


def test_what_was_not_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="not in"):
        ProbeSignal.scores([ProbeSignal("deep", (24,), np.zeros((1, 16), dtype=np.float32))], observed([0]))
