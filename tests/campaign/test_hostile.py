"""A few requests of each hostile kind, to the real LLM."""

from __future__ import annotations

import pytest

from tests.campaign.hostile import hostile


@pytest.mark.slow
def test_hostile_input_loses_no_hit() -> None:
    rows = list(hostile(2))
    assert len(rows) == 11 and all(row.survived == row.tried == 2 for row in rows), rows
