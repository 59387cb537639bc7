"""What a command says on standard error while somebody waits: lines, and bars with time left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["ConsoleProgress", "progress", "waiting"]

T = TypeVar("T")
# Seconds after which somebody wonders whether anything happens, and after which a line is not enough.
_LINE, _BAR = 0.4, 3.0


@contextmanager
def waiting(label: str, console: Console | None = None) -> Iterator[Callable[[str, float | None], None]]:
    """Say what takes time: nothing for what is quick, soon a line, and after three seconds a bar on a terminal.

    Args:
        label: what is being done first.
        console: None: standard error.

    Yields:
        What is told each next step: (what is being done, fraction done or None).
    """
    shown = _Waiting(label, console or Console(stderr=True, highlight=False))
    ended = threading.Event()

    def watch() -> None:
        for seconds, show in ((_LINE, shown.say), (_BAR - _LINE, shown.draw)):
            if ended.wait(seconds):
                return
            show()

    thread = threading.Thread(target=watch, name="waiting", daemon=True)
    thread.start()
    try:
        yield shown.report
    finally:
        ended.set()
        thread.join()
        shown.bar.stop()


class _Waiting:
    """The step that is under way, as a line or as a bar."""

    def __init__(self, label: str, console: Console) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self.bar.add_task(label, total=None)
        self._console, self._label = console, label
        self._lock = threading.Lock()
        self._lines = self._drawn = False
        self._said: set[str] = set()

    def report(self, label: str, fraction: float | None) -> None:
        with self._lock:
            self._label = label
            total = None if fraction is None else 1.0
            self.bar.update(self._task, description=label, total=total, completed=fraction or 0.0)
            self._line()

    def say(self) -> None:
        with self._lock:
            self._lines = True
            self._line()

    def draw(self) -> None:
        with self._lock:
            self._drawn = self._console.is_terminal
            self.bar.start()

    def _line(self) -> None:
        if self._lines and not self._drawn and self._label not in self._said:
            self._said.add(self._label)
            self._console.print(f"{self._label} …", markup=False)


def progress(console: Console, label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Pass items on while a bar shows how many of ``total`` have come."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        for item in items:
            bar.advance(task)
            yield item


class ConsoleProgress:
    """Lines and bars on a console.

    Args:
        console: standard error, since standard output is for results.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        """See ``progress``."""
        return progress(self._console, label, items, total)
