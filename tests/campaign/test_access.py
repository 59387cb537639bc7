"""A few tries of each way in."""

from __future__ import annotations

import pytest

from tests.campaign.access import access


@pytest.mark.slow
def test_nobody_comes_in_without_a_key_and_no_secret_goes_out() -> None:
    rows = list(access(10))
    assert len(rows) == 5 and all(row.survived == row.tried >= 10 for row in rows), rows
