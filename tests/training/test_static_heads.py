"""Finding heads: planted ones are found, measures equal the library's."""

from __future__ import annotations

from collections.abc import Sequence

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.errors import DataError
from connector.sections import READOUTS
from connector.statistics.head_tables import HeadTable
from connector.training.static_heads import CRITERIA, Criterion, TrainQuery, best_weight, find_heads, ndcg
from connector.training.static_heads import single_head_quality as quality

LAYERS, HEADS, DOCUMENTS = 3, 4, 20


def world(
    good: Sequence[tuple[int, int]], noise: float = 0.3, queries: int = 40, first_stage: float = 0.0, seed: int = 1
) -> list[TrainQuery]:
    """Queries in which only some heads (and, if wished, the first stage) know the one relevant document."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(queries):
        relevant = int(rng.integers(DOCUMENTS))
        truth = np.zeros(DOCUMENTS)
        truth[relevant] = 1.0
        scores = rng.normal(size=(LAYERS * HEADS, DOCUMENTS))
        for layer, head in good:
            scores[layer * HEADS + head] = truth + noise * rng.normal(size=DOCUMENTS)
        table = HeadTable(
            f"q{number}",
            tuple(f"d{at}" for at in range(DOCUMENTS)),
            np.sort(rng.normal(size=DOCUMENTS))[::-1] + first_stage * truth,
            {name: scores.astype(np.float32) for name in READOUTS},
            tuple((at,) for at in range(DOCUMENTS)),
            (LAYERS, HEADS),
        )
        query = TrainQuery.of("world", table, {f"d{relevant}": 1})
        assert query is not None
        made.append(query)
    return made


@pytest.mark.parametrize("criterion", CRITERIA)
def test_planted_heads_are_found(criterion: Criterion) -> None:
    good = [(0, 1), (2, 3)]
    found, mean = find_heads(world(good), "query", criterion, size=2)
    assert set(found.heads) == set(good)
    assert mean > 0.95


def test_the_size_follows_from_how_many_heads_know_something() -> None:
    found, _ = find_heads(world([(1, 1)], noise=0.05), "query")
    assert found.heads == ((1, 1),)
    several = [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2), (1, 3)]
    found, _ = find_heads(world(several, noise=1.0, queries=80), "query")
    assert len(set(found.heads) & set(several)) >= 4


def test_the_first_stage_gets_weight_only_where_it_knows_something() -> None:
    assert best_weight(world([(1, 1)], noise=0.05), "query", [(1, 1)])[0] == 0.0
    weight, mean = best_weight(world([], first_stage=8.0), "query", [(1, 1)])
    assert weight >= 1.0 and mean > 0.8


def test_collections_count_the_same_however_many_queries_they_have() -> None:
    many, few = world([(0, 0)], queries=60), world([(2, 2)], queries=6, seed=2)
    both = [
        *many,
        *(TrainQuery("other", query.table, query.grades, query.ideal) for query in few),
    ]
    values = quality(both, "query", "ndcg").reshape(LAYERS, HEADS)
    assert values[2, 2] == pytest.approx(values[0, 0], abs=0.1)


def test_no_queries_are_an_error() -> None:
    with pytest.raises(DataError, match="judgments"):
        find_heads([], "query")


def test_a_window_without_a_relevant_document_teaches_nothing() -> None:
    table = world([])[0].table
    assert TrainQuery.of("world", table, {"elsewhere": 2}) is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=25), st.integers(0, 99))
def test_ndcg_equals_the_library(grades: list[int], seed: int) -> None:
    if not any(grades):
        return
    scores = np.random.default_rng(seed).permutation(len(grades)).astype(float)
    qrels = {"q": {f"d{at}": grade for at, grade in enumerate(grades)}}
    run = {"q": {f"d{at}": float(score) for at, score in enumerate(scores)}}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    best = np.sort(grades)[::-1][:10]
    ideal = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
    assert float(ndcg(scores, np.array(grades, dtype=float), ideal)) == pytest.approx(expected, abs=1e-9)
