"""The query embedding: the same from the LLM and from the table; features free of the first stage's scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.documents import Hit
from connector.errors import DataError
from connector.reranking.reranker import Reranker
from connector.routing.query_embedding import FEATURES, QueryEmbedding, query_features
from connector.statistics.head_tables import SearchedQuery, embedding_of, gather

SCORES = st.lists(st.floats(0.5, 50), min_size=3, max_size=40)


@pytest.fixture(scope="module")
def reranker(late_reranker: Reranker) -> Reranker:
    """Heads are read in the layout ``late``."""
    return late_reranker


def test_table_and_llm_give_the_same(reranker: Reranker, cats: list[str], tmp_path: Path) -> None:
    hits = [Hit(f"d{at}", 9.0 - at, {"text": text}) for at, text in enumerate(cats)]
    window = SearchedQuery("q", "how long do cats sleep", hits)
    (table,) = gather(reranker.reader, [window], tmp_path, layers=2, embed=True)
    for form in ("query", "prompt"):
        for pooling in ("mean", "last"):
            made = QueryEmbedding(form, (9, 18), pooling)  # type: ignore[arg-type]
            one = made.of_query(reranker.reader, window.query, [9.0 - at for at in range(5)])
            assert one.shape == (2 * 576 + len(FEATURES),) and one.dtype == np.float32
            np.testing.assert_array_equal(one, embedding_of(table, made, 30))
    without = QueryEmbedding(features=False).of_query(reranker.reader, window.query)
    assert without.shape == (576,)
    with pytest.raises(DataError, match="gather them again"):
        embedding_of(table, QueryEmbedding(layers=(10,)), 30)
    with pytest.raises(DataError, match="gather them again"):
        embedding_of(replace(table, embeddings=None), QueryEmbedding(), 30)


@given(SCORES, st.floats(0.1, 100), st.randoms())
def test_features_depend_on_neither_scale_nor_order(scores: list[float], scale: float, drawn: object) -> None:
    plain = query_features("cats", scores)
    mixed = list(scores)
    drawn.shuffle(mixed)  # type: ignore[attr-defined]
    assert plain.shape == (len(FEATURES),) and np.isfinite(plain).all()
    np.testing.assert_allclose(query_features("cats", [scale * score for score in mixed]), plain, atol=1e-6)


def test_what_is_unknown_is_nan_and_the_text_is_always_known() -> None:
    for scores in (None, [], [1.0, 2.0]):
        found = query_features("how long do cats sleep", scores)
        assert np.isnan(found[:-2]).all() and found[-2] == pytest.approx(np.log(6)) and found[-1] == 1
    assert query_features("cats sleep", None)[-1] == 0
    # Ratios of scores below 0 mean nothing.
    below = query_features("cats", [-1.0, -2.0, -3.0])
    assert np.isnan(below[6:9]).all() and np.isfinite(below[:6]).all()
    assert (query_features("cats", [2.0, 2.0, 2.0])[:6] == 0).all()
