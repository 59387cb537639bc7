"""What the query routes is found where there is something to route, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from connector.statistics.signal_tables import SignalTable
from connector.studies.relevance.judged import Floats, Judged, held_out, one_vector, whole_collections
from connector.studies.relevance.routing import bilinear, gates, others, study
from connector.studies.relevance.states import StudyQuery
from tests.studies.relevance.worlds import HIDDEN, routed
from tests.training.test_train_signals import windows


def test_a_form_with_the_querys_state_beats_a_vector_where_the_query_decides() -> None:
    queries = routed()
    judged, own = (
        Judged.of([query.table for query in queries]),
        np.stack([query.own.reshape(-1) for query in queries]),
    )
    splits = whole_collections(judged, 3)

    def value(scores: Floats) -> float:
        return judged.mean(judged.ndcg(scores))

    plain = value(held_out(judged, splits, one_vector(judged, 0.02)))
    by_query = value(held_out(judged, splits, bilinear(judged, own, 0.02)))
    permuted = value(held_out(judged, splits, bilinear(judged, own[others(judged, 0)], 0.02)))
    assert by_query > 0.9 > plain + 0.15
    assert permuted < by_query - 0.15


def test_each_query_gets_the_state_of_another_of_its_collection() -> None:
    judged = Judged.of([window.table for window in windows(30)])
    places = others(judged, 1)
    assert sorted(places) == list(range(30)) and not (places == np.arange(30)).any()
    assert [judged.collections[at] for at in places] == list(judged.collections)


@pytest.mark.slow
def test_all_rows_and_no_routing_where_there_is_nothing_to_route() -> None:
    queries = [StudyQuery(window.table, np.ones((2, HIDDEN), dtype=np.float32)) for window in windows()]
    rows = study(queries, lambda text: None)
    assert rows["one vector"]["fused"] > rows["first stage"] + 0.05
    assert rows["gates"]["kappa"] == 0
    assert abs(rows["bilinear"]["difference"]) < 0.03
    assert set(rows["bilinear"]) >= {"alone", "fused", "weight", "difference", "error", "p_value", "strength"}


def test_gates_are_those_of_the_router() -> None:
    judged = Judged.of([window.table for window in windows(60)])
    found = gates(judged, np.ones((60, 2 * HIDDEN + 11), dtype=np.float32), 0.04)
    # The same embedding for all: the query cannot route.
    assert found["routed"] == pytest.approx(found["permuted"])


def test_held_out_collections_are_not_seen() -> None:
    judged = Judged.of([window.table for window in windows(30)])
    for parts in (3, None):
        splits = whole_collections(judged, parts)
        assert sorted(np.concatenate([held for _, held in splits]).tolist()) == list(range(30))
        names = np.array(judged.collections)
        assert all(not set(names[train]) & set(names[held]) for train, held in splits)


def test_documents_without_text_are_not_ranked() -> None:
    (window,) = windows(1)
    table = window.table
    empty = replace(table, documents=((), *table.documents[1:]))
    judged = Judged.of([empty, table])
    assert not judged.windows.there[0, 0] and judged.windows.there[1].all()
    assert isinstance(empty, SignalTable) and judged.windows.grades[0, 0] == 0
    worth = judged.ndcg(judged.windows.grades.double().numpy())
    assert worth.tolist() == [1.0, 1.0]
