"""Who is told how far long work has come."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Progress", "Quiet"]

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Who is told how far long work has come."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        """Pass items on; ``total`` will come."""
        ...


class Quiet:
    """Lines go to the log, and nothing is counted."""

    def say(self, text: str) -> None:
        """See ``Progress``."""
        logger.info(text)

    def track(self, label: str, items: Iterable[T], total: int) -> Iterator[T]:
        """See ``Progress``."""
        return iter(items)
