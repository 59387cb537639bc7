"""A progress bar on standard error, with time left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["ConsoleProgress", "progress"]

T = TypeVar("T")


def progress(console: Console, label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Pass items on while a bar shows how many of ``total`` have come."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
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
        # A source is no smiley: ":train:" would be a tram. A command is copied from one line.
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        """See ``progress``."""
        return progress(self._console, label, items, total)
