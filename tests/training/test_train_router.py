"""Routers learn what there is to learn, and nothing where there is nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from connector.errors import DataError
from connector.training.train_router import Backbone, RouterOptions, Trained, train_router
from tests.training.worlds import LAYERS, world

BACKBONE = Backbone("a-model", "a" * 64, "b" * 64, "late", LAYERS)
OPTIONS = RouterOptions(pool=6)


def trained(queries: int, *, depends: bool, options: RouterOptions = OPTIONS) -> Trained:
    return train_router(world(queries, depends=depends), BACKBONE, options, {"seed": 0})


@pytest.fixture(scope="module")
def routed() -> Trained:
    return trained(160, depends=True)


@pytest.mark.slow
def test_where_the_right_head_depends_on_the_query_routing_wins(routed: Trained) -> None:
    assert routed.metadata.kappa > 0
    for measured in (routed.cross_validated, routed.left_out):
        assert measured is not None
        assert measured.routed > measured.static + 0.05
        # With another query's embedding the gain is gone.
        assert measured.permuted < measured.static
        assert measured.routed > measured.first_stage + 0.1


def test_the_right_head_is_chosen(routed: Trained) -> None:
    pool = routed.metadata.pool
    first, second = pool.index((2, 0, "query")), pool.index((2, 1, "query"))
    samples = routed.router.samples.numpy()
    gates, _, _ = routed.router.gates(samples)
    kind = samples[:, 0] > 0
    assert (gates[kind, second] > gates[kind, first]).mean() > 0.9
    assert (gates[~kind, first] > gates[~kind, second]).mean() > 0.9


@pytest.mark.slow
def test_where_it_does_not_kappa_is_0_and_the_router_is_its_static_set() -> None:
    plain = trained(80, depends=False)
    assert plain.metadata.kappa == 0
    gates, _, first = plain.router.gates(np.random.default_rng(0).standard_normal((5, 17)).astype(np.float32))
    static = plain.metadata.static
    expected = np.zeros(len(plain.metadata.pool))
    expected[static["members"]] = static["gates"]
    np.testing.assert_allclose(gates, np.tile(expected, (5, 1)), atol=1e-6)
    np.testing.assert_allclose(first, static["first_stage"], atol=1e-6)
    assert plain.cross_validated.routed == plain.cross_validated.static


@pytest.mark.slow
def test_the_same_seed_and_tables_give_the_same_router() -> None:
    threads = torch.get_num_threads()
    options = dataclasses.replace(OPTIONS, fit=dataclasses.replace(OPTIONS.fit, steps=40))
    one, again = (trained(40, depends=True, options=options) for _ in range(2))
    assert torch.get_num_threads() == threads
    for name, value in one.router.arrays().items():
        np.testing.assert_array_equal(value, again.router.arrays()[name], err_msg=name)
    undated = [each.metadata.model_copy(update={"created_at": ""}) for each in (one, again)]
    assert undated[0].to_json() == undated[1].to_json()


def test_paper_mode_gives_multi_hot_gates_and_no_first_stage() -> None:
    fit = dataclasses.replace(OPTIONS.fit, most_heads=2)
    paper = trained(60, depends=True, options=RouterOptions(mode="paper", pool=6, fit=fit))
    assert paper.metadata.activation == "binary" and not paper.metadata.embedding.features
    gates, _, first = paper.router.gates(paper.router.samples.numpy())
    assert set(np.unique(gates)) <= {0.0, 0.5, 1.0}
    assert not first.any()
    assert paper.cross_validated.routed > paper.cross_validated.permuted


@pytest.mark.slow
def test_few_queries_are_not_routed_and_none_are_an_error() -> None:
    assert trained(6, depends=True).metadata.kappa == 0
    with pytest.raises(DataError, match="no train query"):
        train_router([], BACKBONE, OPTIONS, {})


def test_the_record_tells_what_was_trained_on(routed: Trained) -> None:
    training = routed.metadata.training
    assert training["queries"] == {"one": 80, "two": 80}
    assert training["mode"] == "listwise" and training["seed"] == 0
    gains = routed.metadata.gains
    assert set(gains["folds"]) == {"first_stage", "static", "routed", "permuted", "by_source"}  # type: ignore[arg-type]
