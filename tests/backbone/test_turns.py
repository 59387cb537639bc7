"""Only so many at a time, in the order in which they came; who gives up is in nobody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from connector.backbone.turns import Turns


def nothing() -> None:
    pass


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_at_once_and_no_more(at_once: int) -> None:
    turns, lock, inside, most = Turns(at_once), threading.Lock(), 0, 0
    together = threading.Barrier(at_once)

    def work(_: int) -> None:
        nonlocal inside, most
        with turns.take(nothing):
            with lock:
                inside += 1
                most = max(most, inside)
            # Goes on only when as many are here as may be.
            together.wait(60)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert most == at_once


def test_first_come_first_served_and_who_gives_up_is_left_out() -> None:
    turns, came, served = Turns(1), [], []

    def work(number: int) -> None:
        looks = 0

        def check() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                came.append(number)
            if number == 2 and looks > 3:
                raise TimeoutError

        with turns.take(check):
            served.append(number)

    with ThreadPoolExecutor(5) as pool, turns.take(nothing):
        waiting = []
        for number in range(5):
            waiting.append(pool.submit(work, number))
            until(lambda: len(came) == len(waiting))
        with pytest.raises(TimeoutError):
            waiting[2].result(60)
        assert served == []
    assert served == [0, 1, 3, 4]


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"), turns.take(nothing):
            raise ValueError("wrong")
