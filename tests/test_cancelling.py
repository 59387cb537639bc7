"""When work is to stop, and that those who wait are woken."""

from __future__ import annotations

import math
import threading

import pytest

from connector.cancelling import Cancelled, CancelScope


def test_a_scope_without_a_deadline_goes_on() -> None:
    scope = CancelScope()
    scope.check()
    assert scope.reason is None and scope.remaining() == math.inf
    assert CancelScope.after(None).remaining() == math.inf


def test_a_passed_deadline_stops() -> None:
    scope = CancelScope.after(0)
    assert scope.remaining() == 0
    with pytest.raises(Cancelled) as raised:
        scope.check()
    assert raised.value.reason == scope.reason == "deadline"


def test_cancel_stops_and_wakes_from_another_thread() -> None:
    scope, woken = CancelScope.after(3_600_000), threading.Event()
    with scope.waking(woken.set):
        thread = threading.Thread(target=scope.cancel)
        thread.start()
        assert woken.wait(60)
        thread.join()
    with pytest.raises(Cancelled) as raised:
        scope.check()
    assert raised.value.reason == "cancelled"


def test_who_comes_after_cancel_is_woken_at_once_and_who_has_left_is_not() -> None:
    scope = CancelScope()
    calls: list[str] = []
    with scope.waking(lambda: calls.append("left")):
        pass
    scope.cancel()
    with scope.waking(lambda: calls.append("late")):
        assert calls == ["late"]
