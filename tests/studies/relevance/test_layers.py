"""Layers of a probe: those that tell are found, each set compared with those in use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from connector.studies.relevance.layers import study
from tests.training.test_train_signals import LAYERS, windows


def test_a_layer_that_says_nothing_is_found_worse_and_a_likelihood_that_knows_better() -> None:
    tables = []
    for at, window in enumerate(windows(48, noise=0.4)):
        table = window.table
        states = table.states.copy()
        states[1] = np.random.default_rng(at).standard_normal(states[1].shape)
        grades = np.array([table.qrels[own] for own in table.ids], dtype=np.float32)
        # Two tokens of the query, each behind every document.
        told = np.stack([grades, grades], axis=1)
        tables.append(replace(table, states=states, log_probabilities=told))
    said: list[str] = []
    rows = study(tables, LAYERS, said.append)
    assert {"16", "20", "16 + 20", "likelihood", "16, likelihood"} < set(rows)
    assert "difference" not in rows["16 + 20"] and rows["20"]["difference"] < -0.05
    assert rows["16"]["difference"] > rows["20"]["difference"]
    assert rows["likelihood"]["alone"] == 1.0
    assert rows["20, likelihood"]["fused"] > rows["20"]["fused"]
    assert len(said) == len(rows)


def test_without_likelihoods_only_layers_are_compared() -> None:
    rows = study([window.table for window in windows(24)], LAYERS, lambda text: None)
    assert set(rows) == {"first stage", "16", "20", "16 + 20"}
