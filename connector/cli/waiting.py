"""What a command says on standard error while somebody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from connector.checkpoints.package_files import Progress

__all__ = ["waiting"]

# Seconds after which somebody wonders whether anything happens, and after which a line is not enough.
_LINE, _BAR = 0.4, 3.0


@contextmanager
def waiting(label: str) -> Iterator[Progress]:
    """Say what takes time: nothing for what is quick, soon a line a step, after three seconds a bar on a terminal.

    Args:
        label: what is being done first.

    Yields:
        What is told each next step: (what is being done, fraction done or None).
    """
    shown = _Steps(label)
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
        shown.close()


class _Steps:
    """The step that is under way, as a line or as a bar."""

    def __init__(self, label: str) -> None:
        self._lock = threading.Lock()
        self._label = label
        self._fraction: float | None = None
        self._lines = False
        self._said: set[str] = set()
        self._bar: Progress | None = None
        self.close: Callable[[], None] = lambda: None

    def report(self, label: str, fraction: float | None) -> None:
        with self._lock:
            self._label, self._fraction = label, fraction
            if self._bar is not None:
                self._bar(label, fraction)
            else:
                self._line()

    def say(self) -> None:
        with self._lock:
            self._lines = True
            self._line()

    def draw(self) -> None:
        # Imported here: a bar takes longer to import than most steps take.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        if not console.is_terminal:
            # In a file or a pipe a bar is noise.
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        progress = Progress(*columns, console=console, transient=True)
        task = progress.add_task("")

        def show(label: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            progress.update(task, description=label, total=total, completed=fraction or 0.0)

        with self._lock:
            show(self._label, self._fraction)
            progress.start()
            self._bar, self.close = show, progress.stop

    def _line(self) -> None:
        if self._lines and self._label not in self._said:
            self._said.add(self._label)
            click.echo(f"{self._label} …", err=True)
