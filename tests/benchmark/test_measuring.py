"""Ways in turns, with their spread and parts."""

from __future__ import annotations

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


class Clock:
    """Stands still but for what the ways say that they take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def takes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("connector.benchmark.measuring.time", made)
    return made


def test_preparing_is_not_timed(clock: Clock) -> None:
    (found,) = alternate([Way("a", lambda turn: clock.takes(2), lambda: clock.takes(100))], 1)
    assert found.seconds == 2


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


def test_a_slow_way_sits_out_the_rest(clock: Clock) -> None:
    slow = Way("slow", lambda turn: clock.takes(5), warm_up=False)
    fast = Way("fast", lambda turn: clock.takes(1), warm_up=False)
    rows = alternate([slow, fast], 4, at_most=5)
    assert [(each.runs, each.seconds) for each in rows] == [(1, 5), (4, 1)]


def test_nothing_timed_has_no_median() -> None:
    with pytest.raises(ValueError, match="x was not timed"):
        row("x", [])
