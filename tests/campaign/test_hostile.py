"""A few requests of each hostile kind, to the real LLM."""

from __future__ import annotations

import pytest

from tests.campaign.hostile import hostile_bodies, hostile_texts


@pytest.mark.slow
def test_hostile_input_loses_no_hit() -> None:
    rows = [*hostile_texts(2), *hostile_bodies(2)]
    assert len(rows) == 11 and all(row.survived == row.tried == 2 for row in rows), rows
