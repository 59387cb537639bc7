"""Ways of doing the same work, timed in turns: A B C A B C, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Timing", "Way", "alternate", "row"]

Parts = Mapping[str, float] | None


@dataclass(frozen=True)
class Way:
    """One way of doing some work.

    Attributes:
        name: of its row.
        call: does the work once; gets the number of the round (from 0; -1: before the first) and may return the
            seconds of parts of the work, each of which becomes a row; a part named like the way replaces its time.
        prepare: called before each call, not timed.
        about: what else its row says (window, tokens, batch …).
        warm_up: whether it is called once before it is timed.
    """

    name: str
    call: Callable[[int], Parts]
    prepare: Callable[[], object] = lambda: None
    about: Mapping[str, Any] = field(default_factory=dict)
    warm_up: bool = True


@dataclass(frozen=True)
class Timing:
    """Seconds of one way.

    Attributes:
        name: for instance ``warm_solo_20``.
        seconds: median.
        least, most: the shortest and the longest run.
        quarter, three_quarters: quartiles.
        runs: how many were timed.
        about: see ``Way``.
    """

    name: str
    seconds: float
    least: float
    most: float
    quarter: float
    three_quarters: float
    runs: int
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object; ``about`` comes last."""
        shown = ("seconds", "least", "most", "quarter", "three_quarters")
        return {"name": self.name, **{key: getattr(self, key) for key in shown}, "runs": self.runs, **self.about}


def row(name: str, taken: Sequence[float], about: Mapping[str, Any] | None = None) -> Timing:
    """Median and spread of some seconds.

    Raises:
        ValueError: nothing was timed.
    """
    if not taken:
        raise ValueError(f"{name} was not timed")
    low, middle, high = (float(value) for value in np.quantile(taken, (0.25, 0.5, 0.75)))
    return Timing(name, middle, min(taken), max(taken), low, high, len(taken), dict(about or {}))


def alternate(
    ways: Sequence[Way],
    repeats: int,
    *,
    at_most: float = float("inf"),
    progress: Callable[[str], None] = lambda name: None,
) -> list[Timing]:
    """Time ways in turns.

    Args:
        ways: each is called once a round, in this order.
        repeats: rounds.
        at_most: a way that has taken so many seconds sits out the rounds that are left; it is timed at least once.
        progress: called with the name of the way that is next.

    Returns:
        A row for every way, each followed by rows for its parts.
    """
    for way in ways:
        if way.warm_up:
            progress(way.name)
            way.prepare()
            way.call(-1)
    taken: dict[str, list[float]] = {way.name: [] for way in ways}
    parts: dict[str, dict[str, list[float]]] = {way.name: {} for way in ways}
    spent = dict.fromkeys(taken, 0.0)
    for turn in range(repeats):
        for way in ways:
            if spent[way.name] >= at_most:
                continue
            progress(way.name)
            way.prepare()
            started = time.perf_counter()
            found = way.call(turn)
            seconds = time.perf_counter() - started
            spent[way.name] += seconds
            own = dict(found or {})
            taken[way.name].append(own.pop(way.name, seconds))
            for name, part in own.items():
                parts[way.name].setdefault(name, []).append(part)
    rows = []
    for way in ways:
        rows.append(row(way.name, taken[way.name], way.about))
        rows.extend(row(name, part, way.about) for name, part in parts[way.name].items())
    return rows
