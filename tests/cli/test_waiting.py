"""What is said while somebody waits: nothing of quick steps, each slow one once."""

from __future__ import annotations

import threading
from typing import Any

import click
import pytest

from connector.cli import waiting as module
from connector.cli.waiting import waiting


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(click, "echo", lambda text, err=False: lines.append(text) if err else pytest.fail("stdout"))
    return lines


def after(monkeypatch: pytest.MonkeyPatch, name: str) -> threading.Event:
    """Set when a method of the steps is through."""
    done, real = threading.Event(), getattr(module._Steps, name)

    def told(steps: Any) -> None:
        real(steps)
        done.set()

    monkeypatch.setattr(module._Steps, name, told)
    return done


def test_quick_steps_are_not_told(said: list[str]) -> None:
    with waiting("loading") as report:
        report("reading", None)
    assert not said


def test_slow_steps_are_told_once(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINE", 0.0)
    first = after(monkeypatch, "say")
    with waiting("loading") as report:
        assert first.wait(60)
        for fraction in (None, 0.5, 1.0):
            report("downloading", fraction)
        report("loading", None)
    assert said == ["loading …", "downloading …"]


def test_what_fails_meanwhile_fails(said: list[str]) -> None:
    with pytest.raises(ValueError, match="broken"), waiting("loading"):
        raise ValueError("broken")
    assert not said
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]


def test_a_bar_comes_where_it_takes_long(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "_LINE", 0.0)
    monkeypatch.setattr(module, "_BAR", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    drawn = after(monkeypatch, "draw")
    with waiting("loading") as report:
        assert drawn.wait(60)
        report("downloading", 0.5)
    written = capfd.readouterr()
    assert "downloading" in written.err and not written.out
