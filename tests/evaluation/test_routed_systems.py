"""Routes of a real bundle and of its controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.documents import Hit
from connector.evaluation.routed_systems import DRAWS, derangement, route_ranking, route_summary, trained_on
from connector.heads.readouts import HeadSignal
from connector.heads.routes import Route
from connector.routing.bundle import Bundle
from tests.evaluation.routing_world import bundle, tables, ways, windows
from tests.training.worlds import metadata


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(tmp_path_factory.mktemp("bundle") / "r.onnx")


@given(st.integers(2, 40), st.integers(0, 1000))
def test_nobody_keeps_its_own(count: int, seed: int) -> None:
    names = [f"q{at}" for at in range(count)]
    exchanged = derangement(names, seed)
    assert sorted(exchanged) == sorted(exchanged.values()) == sorted(names)
    assert all(query != other for query, other in exchanged.items())
    assert derangement(names, seed) == exchanged


def test_permuted_queries_get_the_route_of_another(router: Bundle) -> None:
    found = {way.name: way.draws for way in ways(router, tables())}
    assert list(found) == ["random", "static", "routed", "permuted"]
    (own,) = found["routed"]
    assert len(found["permuted"]) == DRAWS and len({str(draw) for draw in found["permuted"]}) == DRAWS
    for draw in found["permuted"]:
        # Every query's first-stage gate is its own: a query that kept its embedding would show.
        assert sorted(route.first_stage_gate for route in draw.values()) == sorted(
            route.first_stage_gate for route in own.values()
        )
        assert all(draw[query].first_stage_gate != own[query].first_stage_gate for query in own)


def test_random_heads_are_as_many_as_the_router_s_and_drawn_again_alike(router: Bundle) -> None:
    statistics = tables()
    found = {way.name: way.draws for way in ways(router, statistics)}
    again = {way.name: way.draws for way in ways(router, dict(reversed(statistics.items())))}
    other = {way.name: way.draws for way in ways(router, statistics, seed=1)}
    assert found == again
    assert found["random"] != other["random"] and found["permuted"] != other["permuted"]
    scale = dict(zip(router.metadata.pool, router.metadata.scales, strict=True))
    for draw in found["random"]:
        for query, route in draw.items():
            assert len(set(route.signals)) == len(found["routed"][0][query].signals)
            assert set(route.gates) == {1.0} and route.first_stage_gate == 0.25
            assert route.scales == tuple(scale[signal] for signal in route.signals)


def test_one_query_alone_has_no_permuted_row(router: Bundle) -> None:
    query, table = next(iter(tables().items()))
    assert [way.name for way in ways(router, {query: table})] == ["random", "static", "routed"]
    assert route_summary([{}]) == {}


def test_the_order_in_which_the_llm_saw_the_documents_changes_no_ranking() -> None:
    query, table = next(iter(tables().items()))
    hits = windows(tables())[query]
    unknown = np.full(len(table.ids), np.nan)
    turned = list(reversed(range(len(table.ids))))
    route = Route((HeadSignal(2, 0, "query"), HeadSignal(5, 1, "share")), (1.0, 0.5), 0.75)
    # Equal head scores: only the first stage's order, or its ranks, can decide.
    flat = {name: np.zeros_like(scores) for name, scores in table.scores.items()}
    for own in (table, replace(table, first_stage=unknown), replace(table, first_stage=unknown, scores=flat)):
        seen = replace(
            own,
            ids=tuple(own.ids[at] for at in turned),
            first_stage=own.first_stage[turned],
            documents=tuple(own.documents[at] for at in turned),
        )
        for fused in (False, True):
            assert route_ranking(hits, seen, route, fused=fused) == route_ranking(hits, own, route, fused=fused)
    assert route_ranking(hits, replace(own, first_stage=unknown), route, fused=False) == [hit.id for hit in hits]


def test_a_document_without_text_goes_last_however_well_it_was_found() -> None:
    table = replace(next(iter(tables().values())), documents=((), *((at,) for at in range(1, 12))))
    hits = [Hit(identity, score, {}) for identity, score in zip(table.ids, table.first_stage, strict=True)]
    table = replace(table, first_stage=np.array([1e6, *range(11, 0, -1)], dtype=np.float64))
    assert route_ranking(hits, table, Route((HeadSignal(2, 0, "query"),), (1.0,), 1.0), fused=True)[-1] == "d0"


def test_a_router_that_knows_the_collection_is_no_left_out_one() -> None:
    sources = [{"source": "scifact:train", "used": 3}, {"source": "med:made", "used": 5}]
    known = metadata(training={"sources": sources, "left out": ["med"]})
    assert trained_on(known, "scifact")
    assert not trained_on(known, "med") and not trained_on(known, "cisi")
    assert not trained_on(metadata(), "scifact"), "nothing is known of its training"


def test_the_summary_is_over_all_draws() -> None:
    one = Route((HeadSignal(2, 0, "query"), HeadSignal(2, 0, "share"), HeadSignal(4, 1, "icr")), (1.0, 1.0, 1.0), 0.5)
    two = Route((HeadSignal(1, 0, "query"),), (1.0,), 2.0)
    assert route_summary([{"a": one, "b": one}, {"a": two, "b": two}]) == {
        "heads": 1.5,
        "deepest_layer": 2.5,
        "first_stage_gate": 1.25,
        "lowest_gate": 0.5,
        "highest_gate": 2.0,
    }
