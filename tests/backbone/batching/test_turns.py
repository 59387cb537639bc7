"""Only so many at a time, in the order in which they came; some go along; who gives up is in nobody's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from connector.backbone.batching.turns import Turns


def nothing() -> None:
    pass


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_at_once_and_no_more(at_once: int) -> None:
    turns: Turns[int] = Turns(at_once)
    lock, inside, most = threading.Lock(), 0, 0
    together = threading.Barrier(at_once)

    def work(number: int) -> None:
        nonlocal inside, most
        with turns.take(number, nothing) as turn:
            assert turn == [number]
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


class Crowd:
    """Some that wait, each in a thread, while a first turn is held."""

    def __init__(self, turns: Turns[int]) -> None:
        self._turns = turns
        self._came = 0
        self.turns: list[list[int]] = []
        self.late = threading.Event()

    def work(self, number: int, hurried: bool = False) -> None:
        looks = 0

        def check() -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                self._came += 1
            if hurried and self.late.is_set():
                raise TimeoutError

        with self._turns.take(number, check) as turn:
            if turn:
                self.turns.append(turn)

    def come(self, pool: ThreadPoolExecutor, number: int, hurried: bool = False) -> Future[None]:
        came = self._came
        coming = pool.submit(self.work, number, hurried)
        until(lambda: self._came > came)
        return coming


def test_first_come_first_served_and_who_gives_up_is_left_out() -> None:
    turns: Turns[int] = Turns(1)
    crowd = Crowd(turns)
    with ThreadPoolExecutor(5) as pool, turns.take(-1, nothing):
        waiting = [crowd.come(pool, number, hurried=number == 2) for number in range(5)]
        crowd.late.set()
        with pytest.raises(TimeoutError):
            waiting[2].result(60)
        assert crowd.turns == []
    assert crowd.turns == [[0], [1], [3], [4]]


@pytest.mark.parametrize(
    ("together", "most", "turns"),
    [
        (9, 99, [[1, 2, 3, 4, 5, 6]]),
        (4, 99, [[1, 2, 3, 4], [5, 6]]),
        (9, 6, [[1, 2, 3], [4], [5], [6]]),
    ],
)
def test_those_behind_go_along_as_long_as_they_fit(together: int, most: int, turns: list[list[int]]) -> None:
    own: Turns[int] = Turns(1, together, lambda works: sum(works) <= most)
    crowd = Crowd(own)
    with ThreadPoolExecutor(6) as pool, own.take(0, nothing):
        waiting = [crowd.come(pool, number) for number in range(1, 7)]
    for one in waiting:
        one.result(60)
    assert crowd.turns == turns


def test_a_turn_leaves_as_much_for_the_others() -> None:
    own: Turns[int] = Turns(2, 99)
    crowd = Crowd(own)
    with ThreadPoolExecutor(6) as pool:
        with own.take(0, nothing), own.take(0, nothing):
            waiting = [crowd.come(pool, number) for number in range(6)]
        for one in waiting:
            one.result(60)
    assert [0, 1, 2] in crowd.turns
    assert sorted(number for turn in crowd.turns for number in turn) == list(range(6))


def test_who_gives_up_when_it_is_served_does_not_stop_it() -> None:
    own: Turns[int] = Turns(1, 99)
    crowd = Crowd(own)
    begun, free = threading.Event(), threading.Event()
    served = []

    def lead() -> None:
        with own.take(1, nothing) as turn:
            begun.set()
            assert free.wait(60)
            served.extend(turn)

    with ThreadPoolExecutor(2) as pool:
        with own.take(0, nothing):
            leading = pool.submit(lead)
            until(lambda: len(own) == 1)
            hurried = crowd.come(pool, 2, hurried=True)
        assert begun.wait(60)
        crowd.late.set()
        with pytest.raises(TimeoutError):
            hurried.result(60)
        free.set()
        leading.result(60)
    assert served == [1, 2]


def test_an_error_gives_the_turn_back() -> None:
    turns: Turns[int] = Turns(1)
    for number in range(2):
        with pytest.raises(ValueError, match="wrong"), turns.take(number, nothing):
            raise ValueError("wrong")
