"""A document's odds from those of its passages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from connector.studies.relevance.passages import POOLINGS, pooled_passages
from tests.training.test_train_signals import windows


def test_noisy_or_is_that_of_the_probabilities() -> None:
    odds = np.array([-1.0, 0.5, 2.0])
    told = 1 / (1 + np.exp(-odds))
    together = 1 - np.prod(1 - told)
    noisy = POOLINGS["noisy-or of the passages"]
    assert 1 / (1 + np.exp(-noisy(odds))) == pytest.approx(together)
    assert noisy(np.array([0.7])) == pytest.approx(0.7)
    # Nearly impossible, and nearly sure: still numbers.
    assert np.isfinite([noisy(np.array([-60.0])), noisy(np.array([60.0, 60.0]))]).all()


def test_the_passage_that_answers_counts() -> None:
    tables = []
    for window in windows(60, noise=0.3):
        # Behind each document's own passage one that says nothing: its mean tells less than its best.
        states = np.concatenate([window.table.states, np.full_like(window.table.states, 5.0)], axis=1)
        documents = tuple((at + 8, at) if at % 2 else (at,) for at in range(8))
        tables.append(replace(window.table, states=states, documents=documents))
    rows = pooled_passages(tables)
    assert rows["best passage"]["queries"] == 60
    assert rows["best passage"]["alone"] > rows["first passage"]["alone"]
    assert pooled_passages([window.table for window in windows(12)]) == {}
