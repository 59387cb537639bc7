"""Ways in turns, with their spread and parts."""

from __future__ import annotations

import time

import pytest

from connector.benchmark.measuring import Way, alternate, row


def test_ways_run_in_turns_after_a_warm_up() -> None:
    order: list[str] = []

    def way(name: str, *, warm_up: bool = True) -> Way:
        def call(turn: int) -> None:
            order.append(f"{name}{turn}")

        return Way(name, call, lambda: order.append("prepare"), warm_up=warm_up)

    rows = alternate([way("a"), way("b", warm_up=False)], 2)
    assert [step for step in order if step != "prepare"] == ["a-1", "a0", "b0", "a1", "b1"]
    assert order.count("prepare") == 5
    assert [(each.name, each.runs) for each in rows] == [("a", 2), ("b", 2)]


def test_preparing_is_not_timed() -> None:
    (found,) = alternate([Way("a", lambda turn: None, lambda: time.sleep(0.2))], 1)
    assert found.seconds < 0.2


def test_parts_become_rows_and_may_stand_for_the_whole() -> None:
    rows = alternate([Way("a", lambda turn: {"a": 4.0 + turn, "inner": 1.0}, about={"window": 3})], 3)
    assert [(each.name, each.seconds) for each in rows] == [("a", 5.0), ("inner", 1.0)]
    assert (rows[0].least, rows[0].most) == (4.0, 6.0)
    assert rows[1].to_json() == {
        "name": "inner",
        "seconds": 1.0,
        "least": 1.0,
        "most": 1.0,
        "quarter": 1.0,
        "three_quarters": 1.0,
        "runs": 3,
        "window": 3,
    }


def test_a_slow_way_sits_out_the_rest() -> None:
    slow = Way("slow", lambda turn: time.sleep(0.05), warm_up=False)
    fast = Way("fast", lambda turn: None, warm_up=False)
    rows = alternate([slow, fast], 4, at_most=0.01)
    assert [each.runs for each in rows] == [1, 4]


def test_nothing_timed_has_no_median() -> None:
    with pytest.raises(ValueError, match="x was not timed"):
        row("x", [])
