"""A world in which the query's own state decides what relevance looks like; and a cache to study it with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from connector.sections import Settings
from connector.studies.relevance.states import StudyQuery
from tests.training.test_train_signals import windows

HIDDEN = 12


def cache_with_models(folder: Path, settings: Settings) -> Path:
    """An empty cache folder, with the models of the settings' own."""
    folder.mkdir()
    models = settings.cache.path / "models"
    if models.exists():
        (folder / "models").symlink_to(models)
    return folder


def routed(queries: int = 240) -> list[StudyQuery]:
    """Which sign of a direction means relevance, the query's own state says."""
    random = np.random.default_rng(3)
    direction = random.standard_normal((2, 1, HIDDEN)).astype(np.float32)
    found = []
    for number, window in enumerate(windows(queries, noise=0.5)):
        sign = 1.0 if number // 6 % 2 else -1.0
        table = window.table
        grades = np.array([table.qrels[own] for own in table.ids], dtype=np.float32)
        noise = 0.5 * random.standard_normal(table.states.shape).astype(np.float32)
        own = np.full((2, HIDDEN), sign, dtype=np.float32) + 0.1 * random.standard_normal((2, HIDDEN))
        states = sign * direction * grades[None, :, None] + noise
        found.append(StudyQuery(replace(table, states=states.astype(np.float32)), own.astype(np.float32)))
    return found
