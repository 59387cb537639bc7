"""How long the steps of a reading take."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Milliseconds between laps.

    Attributes:
        laps: name -> milliseconds.
    """

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last lap, or since the start, to this name's."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + (now - self._last) * 1000
        self._last = now
