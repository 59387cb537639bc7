"""A few jumps of the clock, in each place where one is looked at."""

from __future__ import annotations

import time

import pytest

from tests.campaign.clocks import clocks, jumping_clock


def test_the_clock_is_set_and_put_back() -> None:
    real = time.time
    with jumping_clock() as clock:
        clock.ahead = 7200
        assert 7190 < time.time() - real() < 7210 and 7190 < time.time_ns() / 1e9 - real() < 7210
    assert time.time is real


@pytest.mark.slow
def test_a_clock_that_jumps_loses_nothing() -> None:
    rows = list(clocks(10))
    assert len(rows) == 3 and all(row.survived == row.tried == 10 for row in rows), rows
