"""How far scores of the built-in documents lie from stored ones."""

from __future__ import annotations

import numpy as np
import pytest

from connector.golden import REFERENCE_DOCUMENTS, REFERENCE_QUERIES
from connector.heads.reference import TEXTS, ReferenceScores

SHAPE = (len(REFERENCE_QUERIES), len(REFERENCE_DOCUMENTS))
OWN = np.random.default_rng(0).standard_normal(SHAPE) * 5
STORED = ReferenceScores.of(OWN)


def test_the_same_scores_are_no_difference_and_another_model_s_are_a_large_one() -> None:
    assert STORED.difference(OWN) < 1e-6
    others = np.random.default_rng(1).standard_normal(SHAPE) * 5
    assert STORED.difference(others) > 1
    assert STORED.difference(-OWN) > STORED.difference(others)
    # Documents that all look alike are no sign that the model is the same.
    assert STORED.difference(np.zeros(SHAPE)) == pytest.approx(1, abs=0.2)


def test_what_moves_all_documents_of_a_query_alike_changes_no_order_and_does_not_count() -> None:
    assert STORED.difference(OWN + np.arange(SHAPE[0])[:, None]) < 1e-6


def test_the_unit_of_the_scores_does_not_count() -> None:
    found = OWN + np.linspace(0, 1, SHAPE[1])
    assert ReferenceScores.of(OWN * 100).difference(found * 100) == pytest.approx(STORED.difference(found), rel=1e-3)


def test_scores_of_other_texts_are_kept_and_of_these_are_complete() -> None:
    assert ReferenceScores("0" * 64, ((1.0,),)).scores == ((1.0,),)
    with pytest.raises(ValueError, match="one for each"):
        ReferenceScores(TEXTS, ((1.0,),))
