"""The head sets in the package: whole, for the models and layout they are said to be for."""

from __future__ import annotations

from typing import get_args

import pytest

from connector.heads.head_sets import StaticHeads, shipped_path
from connector.reranking.reranker import Reranker
from connector.routing.selection import fixed_route
from connector.sections import READOUTS, ReadOut


@pytest.fixture(scope="module")
def reranker(late_reranker: Reranker) -> Reranker:
    """Heads are read in the layout ``late``."""
    return late_reranker


def test_every_readout_has_heads_and_says_how_they_were_found() -> None:
    path = shipped_path("smollm2-135m", "late")
    assert path is not None
    static = StaticHeads.load(path)
    assert (static.model, static.layout, set(static.sets)) == ("smollm2-135m", "late", set(get_args(ReadOut)))
    assert all(len(entry.scales) == len(entry.heads) for entry in static.sets.values())
    splits = {(used["collection"], used["split"]) for used in static.found["collections"]}
    # Heads are chosen on train and dev queries only.
    assert splits == {("cosqa", "dev"), ("scifact", "train"), ("nfcorpus", "train")}
    assert "train --static" in static.found["command"]


def test_the_default_set_fits_the_default_model(reranker: Reranker) -> None:
    path = shipped_path("smollm2-135m", "late")
    assert path is not None
    static = StaticHeads.load(path)
    assert static.fingerprint == reranker.reader.fingerprint
    assert reranker.routes.route("cats") == fixed_route(static.sets["query"], "query")
    assert set(static.all_weights) == set(READOUTS)
