"""Documents embedded apart from the query: what only the two together know is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from connector.documents import Hit
from connector.reranking.reranker import Reranker
from connector.statistics.head_tables import SearchedQuery
from connector.studies.relevance.apart import embedded, study
from connector.studies.relevance.judged import Judged
from tests.studies.relevance.worlds import routed
from tests.training.test_train_signals import windows


def test_a_product_of_the_querys_and_the_documents_states_is_learned() -> None:
    queries = routed()
    vectors = [{name: query.table.states[:, at] for at, name in enumerate(query.table.ids)} for query in queries]
    rows = study(queries, vectors, lambda text: None)
    best = max(rows["apart, rank 8"]["alone"], rows["apart, rank 32"]["alone"])
    assert best > rows["probe"]["alone"] + 0.1
    assert rows["probe and apart"]["share"] in (0.1, 0.25, 0.5)


def test_states_of_a_document_are_made_once_and_kept(reranker: Reranker, tmp_path: Path) -> None:
    hits = [Hit("1", 2.0, {"text": "Cats sleep."}), Hit("2", 1.0, {"text": "Bread rises."})]
    query = SearchedQuery("q", "cats", hits, {"1": 1}, "world:test")
    found = embedded(reranker.reader, [query], tmp_path / "world.npz")
    assert set(found) == {"1", "2"} and found["1"].shape == (2, reranker.reader.runtime.shape.hidden)
    again = embedded(reranker.reader, [], tmp_path / "world.npz")
    assert all(np.array_equal(found[name], again[name]) for name in found)


def test_a_share_of_another_score_is_chosen() -> None:
    judged = Judged.of([window.table for window in windows(24)])
    grades = judged.windows.grades.double().numpy()
    row = judged.beside(-grades, grades, None, (0.5, 2.0))
    assert row["share"] == 2.0 and row["alone"] == 1.0
