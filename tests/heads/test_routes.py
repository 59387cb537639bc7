"""Routes: a head set as a route scores as it always did; gates mix signals as they should."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from connector.heads.readouts import HeadSignal
from connector.heads.routes import Route, route_scores
from connector.heads.row_groups import QUERY_GROUPS, ROW_GROUPS
from connector.heads.scoring import document_scores

SIGNALS = (HeadSignal(0, 1, "query"), HeadSignal(2, 0, "query"), HeadSignal(3, 3, "share"))
DOCUMENTS = ((0,), (1, 2), (), (3,))


def drawn_scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 4))


@given(st.integers(0, 999))
def test_equal_gates_are_the_plain_mean(seed: int) -> None:
    drawn = drawn_scores(seed)
    for scales in ((), (0.5, 1.0, 4.0)):
        scores, best = route_scores(Route(SIGNALS, (1.0,) * 3, 1.0, scales), drawn, DOCUMENTS)
        expected, places = document_scores(drawn, DOCUMENTS, scales)
        np.testing.assert_array_equal(scores, expected)
        assert best == places


@given(st.integers(0, 999), st.floats(0.01, 100))
def test_only_the_proportions_of_gates_count_and_their_order_does_not(seed: int, factor: float) -> None:
    drawn = drawn_scores(seed)
    gates, scales = (0.5, 0.2, 0.1), (1.0, 2.0, 3.0)
    one = route_scores(Route(SIGNALS, gates, 1.0, scales), drawn, DOCUMENTS)[0]
    other = Route(SIGNALS[::-1], tuple(gate * factor for gate in gates[::-1]), 1.0, scales[::-1])
    np.testing.assert_allclose(route_scores(other, drawn[::-1], DOCUMENTS)[0], one, atol=1e-12)
    rows = 0.5 * drawn[0] / 1 + 0.2 * drawn[1] / 2 + 0.1 * drawn[2] / 3
    np.testing.assert_allclose(one[[0, 3]], rows[[0, 3]] / 0.8, atol=1e-12)
    np.testing.assert_allclose(one[1], max(rows[1], rows[2]) / 0.8, atol=1e-12)
    assert one[2] < one[[0, 1, 3]].min()


def test_what_a_route_needs_to_be_read() -> None:
    signals = (HeadSignal(5, 1, "query"), HeadSignal(2, 0, "share"), HeadSignal(5, 1, "share"))
    route = Route(signals, (3.0, 2.0, 1.0), 0.5)
    assert route.heads == ((2, 0), (5, 1)) and route.needs.deepest_head == 5
    assert route.needs.groups == ROW_GROUPS and Route(signals[:1], (1.0,), 0.5).needs.groups == QUERY_GROUPS
