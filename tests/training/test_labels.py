"""Pseudo labels: against brute force on small pools, and what utilities say."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.routing.query_embedding import QueryEmbedding
from connector.training.examples import Examples, choose_pool, make_examples
from connector.training.labels import pseudo_labels, search_heads
from connector.training.static_heads import ndcg
from tests.training.worlds import LAYERS, world


def examples(queries: int = 20, *, depends: bool = True) -> Examples:
    made = world(queries, depends=depends)
    return make_examples(made, choose_pool(made, 5, ("query",)), QueryEmbedding("query", (3,), "mean"), LAYERS)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 3))
def test_search_finds_what_brute_force_finds_or_a_set_that_no_step_betters(
    seed: int, members: int, most: int
) -> None:
    drawn = np.random.default_rng(seed)
    scores = drawn.standard_normal((members, 8))
    grades = (drawn.random(8) < 0.3).astype(float)
    grades[0] = 1.0
    ideal = float((np.sort(grades)[::-1] / np.log2(np.arange(2, 10))).sum())

    def value(chosen: tuple[int, ...] | list[int]) -> float:
        return float(ndcg(scores[list(chosen)].sum(axis=0), grades, ideal))

    found = search_heads(scores, grades, ideal, most)
    assert 1 <= len(found) <= most and len(set(found)) == len(found)
    best = max(value(chosen) for size in range(1, most + 1) for chosen in combinations(range(members), size))
    assert value(found) <= best + 1e-12
    # Forward selection starts from the best head, so it is never worse than that.
    assert value(found) >= max(value((at,)) for at in range(members)) - 1e-12
    if most == 1:
        assert value(found) == pytest.approx(best)
    for place in range(len(found)):
        for other in set(range(members)) - set(found):
            assert value([*found[:place], other, *found[place + 1 :]]) <= value(found) + 1e-9
    if len(found) < most:
        assert all(value([*found, other]) <= value(found) + 1e-9 for other in set(range(members)) - set(found))


def test_labels_of_the_search_are_multi_hot() -> None:
    own = examples()
    labels = pseudo_labels("search", own, most_heads=2, static=[0.2] * 5, first_stage_gate=1.0)
    assert labels.shape == (20, 5) and set(np.unique(labels)) == {0.0, 1.0}
    assert ((labels.sum(axis=1) >= 1) & (labels.sum(axis=1) <= 2)).all()


def test_utilities_prefer_the_head_that_is_right_for_the_query() -> None:
    made = world(60, depends=True)
    pool = choose_pool(made, 5, ("query",))
    own = make_examples(made, pool, QueryEmbedding("query", (3,), "mean"), LAYERS)
    labels = pseudo_labels("utility", own, most_heads=2, static=[0.2] * 5, first_stage_gate=1.0)
    assert np.isfinite(labels).all()
    for kind in (0, 1):
        right, wrong = (pool.members.index((2, head, "query")) for head in (kind, 1 - kind))
        assert labels[kind::2, right].mean() > 0 > labels[kind::2, wrong].mean()
    again = pseudo_labels("utility", own, most_heads=2, static=[0.2] * 5, first_stage_gate=1.0)
    np.testing.assert_array_equal(labels, again)


def test_the_first_view_of_a_query_without_the_other_wording_is_used_twice() -> None:
    import dataclasses

    made = [
        dataclasses.replace(q, table=dataclasses.replace(q.table, other_scores={})) for q in world(4, depends=True)
    ]
    own = make_examples(made, choose_pool(made, 5, ("query",)), QueryEmbedding("query", (3,), "mean"), LAYERS)
    np.testing.assert_array_equal(own.scores, own.other_scores)
