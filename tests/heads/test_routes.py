"""Routes: a head set as a route scores as it always did; gates and read-outs mix as they should."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from connector.heads.routes import Route, route_scores
from connector.heads.scoring import document_scores

HEADS = ((0, 1), (2, 0), (3, 3))
DOCUMENTS = ((0,), (1, 2), (), (3,))


def tables(seed: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed)
    return {name: drawn.standard_normal((3, 4)) for name in ("query", "share")}


@given(st.integers(0, 999))
def test_equal_gates_are_the_plain_mean(seed: int) -> None:
    table = tables(seed)
    for scales in ((), (0.5, 1.0, 4.0)):
        route = Route(tuple((layer, head, "query") for layer, head in HEADS), (1.0,) * 3, 1.0, scales)
        scores, best = route_scores(route, table, HEADS, DOCUMENTS)  # type: ignore[arg-type]
        expected, places = document_scores(table["query"], DOCUMENTS, scales)
        np.testing.assert_array_equal(scores, expected)
        assert best == places


@given(st.integers(0, 999), st.floats(0.01, 100))
def test_only_the_proportions_of_gates_count_and_their_order_does_not(seed: int, factor: float) -> None:
    table = tables(seed)
    members = ((2, 0, "share"), (0, 1, "query"), (2, 0, "query"))
    gates, scales = (0.5, 0.2, 0.1), (1.0, 2.0, 3.0)
    one = route_scores(Route(members, gates, 1.0, scales), table, HEADS, DOCUMENTS)[0]  # type: ignore[arg-type]
    other = Route(members[::-1], tuple(gate * factor for gate in gates[::-1]), 1.0, scales[::-1])  # type: ignore[arg-type]
    np.testing.assert_allclose(route_scores(other, table, HEADS, DOCUMENTS)[0], one, atol=1e-12)  # type: ignore[arg-type]
    rows = 0.5 * table["share"][1] / 1 + 0.2 * table["query"][0] / 2 + 0.1 * table["query"][1] / 3
    np.testing.assert_allclose(one[[0, 3]], rows[[0, 3]] / 0.8, atol=1e-12)
    np.testing.assert_allclose(one[1], max(rows[1], rows[2]) / 0.8, atol=1e-12)
    assert one[2] < one[[0, 1, 3]].min()


def test_heads_are_read_once_and_the_deepest_is_known() -> None:
    route = Route(((5, 1, "query"), (2, 0, "share"), (5, 1, "share")), (3.0, 2.0, 1.0), 0.5)
    assert route.heads == ((2, 0), (5, 1)) and route.deepest_layer == 5
