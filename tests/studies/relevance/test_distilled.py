"""A larger model as the teacher of a small one's probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from connector.studies.relevance.distilled import study
from connector.studies.relevance.judged import Judged
from tests.training.test_train_signals import windows


def test_a_small_model_learns_from_what_a_larger_one_says() -> None:
    seen = [window.table for window in windows(96, noise=0.3)]
    dim = [
        replace(table, states=table.states + np.random.default_rng(at).standard_normal(table.states.shape))
        for at, table in enumerate(seen)
    ]
    small = Judged.of([replace(table, states=table.states.astype(np.float32)) for table in dim])
    rows = study(small, Judged.of(seen), lambda text: None)
    untaught = rows["first stage"]["fused"]
    assert rows["what the larger one says of the other half"]["fused"] > untaught + 0.05
    assert rows["both"]["difference"] > -0.01
    assert rows["judgments of both halves"]["fused"] >= rows["judgments of one half"]["fused"] - 0.01


def test_a_teacher_that_knows_nothing_teaches_nothing() -> None:
    seen = [window.table for window in windows(96, noise=0.3)]
    blind = [
        replace(table, states=np.random.default_rng(at).standard_normal(table.states.shape).astype(np.float32))
        for at, table in enumerate(seen)
    ]
    rows = study(Judged.of(seen), Judged.of(blind), lambda text: None)
    told, judged = rows["what the larger one says of the other half"], rows["judgments of one half"]
    assert told["alone"] < judged["alone"] - 0.05
