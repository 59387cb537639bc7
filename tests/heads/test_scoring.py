"""From passages to documents."""

from __future__ import annotations

import numpy as np

from connector.heads.scoring import below, document_scores


def test_the_best_passage_counts_after_the_mean_over_heads() -> None:
    scores = np.array([[1.0, 5.0, 2.0], [3.0, -4.0, 2.0]])
    values, best = document_scores(scores, [(0, 1), (2,)])
    assert values.tolist() == [2.0, 2.0]
    assert best == [0, 0]


def test_an_empty_document_scores_below_all() -> None:
    values, best = document_scores(np.array([[-3.0, 4.0]]), [(0,), (), (1,)])
    assert best == [0, None, 0]
    assert values[1] < values.min(initial=np.inf, where=[True, False, True])


def test_below_is_clearly_below_even_of_equal_or_no_scores() -> None:
    assert below([2.0, 2.0]) == 1.0
    assert below([]) == 0.0
    assert below([1.0, 3.0]) == -1.0


def test_scales_let_quiet_heads_speak() -> None:
    scores = np.array([[100.0, 0.0], [0.0, 3.0]])
    assert document_scores(scores, [(0,), (1,)])[0].argmax() == 0
    assert document_scores(scores, [(0,), (1,)], (100.0, 1.0))[0].tolist() == [0.5, 1.5]
