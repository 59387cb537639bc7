"""Calls side by side: results in order, errors raised, what nobody waits for not begun."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier, Event, current_thread
from time import sleep
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.side_by_side import SideBySide


@given(cores=st.integers(1, 4), items=st.lists(st.integers(), max_size=20))
def test_results_come_in_order(cores: int, items: list[int]) -> None:
    assert list(SideBySide(cores).map(lambda item: item * 2, items)) == [item * 2 for item in items]


def test_as_many_at_once_as_there_are_cores() -> None:
    together = Barrier(3)
    # Fewer at once would never come together.
    assert list(SideBySide(3).map(lambda item: (together.wait(20), item)[1], range(3))) == [0, 1, 2]


@pytest.mark.parametrize(("cores", "items"), [(1, 4), (3, 1)])
def test_nothing_to_divide_stays_in_the_caller_s_thread(cores: int, items: int) -> None:
    here = current_thread()
    assert all(thread is here for thread in SideBySide(cores).map(lambda _: current_thread(), range(items)))


@pytest.mark.parametrize("cores", [1, 3])
def test_an_error_is_raised(cores: int) -> None:
    def wrong(item: int) -> int:
        if item == 2:
            raise ValueError("wrong")
        return item

    side_by_side, found = SideBySide(cores), []
    with pytest.raises(ValueError, match="wrong"):
        found += [1 for _ in side_by_side.map(wrong, range(9))]
    assert list(side_by_side.map(wrong, [0, 1])) == [0, 1]


def test_what_is_not_wanted_any_more_is_not_begun() -> None:
    side_by_side, begun, left = SideBySide(2), [], Event()

    def call(item: int) -> int:
        begun.append(item)
        if item > 0:
            left.wait(20)
        return item

    with closing(cast("Iterator[int]", side_by_side.map(call, range(100)))) as results:  # type: ignore[type-var]
        assert next(results) == 0
    left.set()
    # Whatever was still in line would come before these.
    assert list(side_by_side.map(lambda item: item, range(4))) == [0, 1, 2, 3]
    assert set(begun) <= {0, 1, 2}


def test_a_long_call_keeps_no_core_waiting() -> None:
    second, third = Event(), Event()

    def call(item: int) -> int:
        if item == 0:
            # While the first one is at work, the other core goes on with the third.
            assert second.wait(20) and third.wait(20)
        (second if item == 1 else third).set()
        return item

    assert list(SideBySide(2).map(call, range(3))) == [0, 1, 2]


def test_closed_threads_end() -> None:
    side_by_side, threads = SideBySide(2), []
    with closing(side_by_side):
        assert list(side_by_side.map(lambda item: threads.append(current_thread()), range(2))) == [None, None]
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_others_have_their_turn_in_between() -> None:
    side_by_side, begun, go = SideBySide(2), [], Event()

    def slow(item: int) -> int:
        begun.append(item)
        go.wait(20)
        return item

    many = cast("Iterator[int]", side_by_side.map(slow, range(50)))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(next, many)
        while len(begun) < 2:
            sleep(0.001)
        other = pool.submit(lambda: list(side_by_side.map(lambda item: (item, len(begun)), [1, 2])))
        go.set()
        # Two were at work, and no more than two stood in line before these.
        assert all(before <= 4 for _, before in other.result(20))
        assert [first.result(20), *many] == list(range(50))
