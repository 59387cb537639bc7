"""A cascade: what a larger model adds to the first few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from connector.studies.relevance.cascade import log_odds, study
from connector.studies.relevance.judged import Judged, whole_collections
from tests.training.test_train_signals import windows


def test_log_odds_keep_the_order_and_say_how_likely_a_document_is() -> None:
    judged = Judged.of([window.table for window in windows(48, noise=0.3)])
    there, relevant = judged.windows.there.numpy(), judged.windows.grades.numpy() > 0
    scores = np.where(relevant, 1.0, -1.0) + np.random.default_rng(0).standard_normal(relevant.shape)
    found = log_odds(judged, scores, whole_collections(judged, 4))
    for at, mask in enumerate(there):
        assert np.array_equal(np.argsort(found[at][mask]), np.argsort(scores[at][mask]))
    told = expit(found[there])
    assert told.mean() == pytest.approx(relevant[there].mean(), abs=0.05)
    assert told[relevant[there]].mean() > told[~relevant[there]].mean() + 0.3


def test_a_larger_model_that_sees_more_is_found_to_pay() -> None:
    seen = [window.table for window in windows(48, noise=0.3)]
    dim = [
        replace(table, states=table.states + np.random.default_rng(at).standard_normal(table.states.shape) * 8)
        for at, table in enumerate(seen)
    ]
    judged = {
        "small": Judged.of([replace(table, states=table.states.astype(np.float32)) for table in dim]),
        "large": Judged.of(seen),
    }
    rows = study(judged, lambda text: None)
    assert rows["large"]["difference"] > 0.05
    few, many = (rows[f"small, then large on the first {first}"]["fused"] for first in (3, 10))
    assert rows["small"]["fused"] < few and rows["small"]["fused"] < many
