"""What the address of the page asks for: ``?q=…&window=…&mode=…``, so that it can be shared."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import QueryParams

from connector.sections import MODES, Mode, Settings

__all__ = ["MOST_SHOWN", "Asked", "WrongAddress", "read_address", "windows"]

MOST_SHOWN = 200
"""Hits that one page shows at most."""
_WINDOWS = (5, 10, 20, 50, 100)
_LONGEST_QUERY = 10_000


class WrongAddress(Exception):
    """A parameter has a value that it cannot have; the message names it and the cure."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One look at the page.

    Attributes:
        query: the words to search for; empty: the page without hits.
        window: how many first-stage hits are reranked, and shown.
        mode: how signals are chosen; None: as the service is set.
    """

    query: str
    window: int
    mode: Mode | None


def read_address(given: QueryParams, settings: Settings) -> Asked:
    """What an address asks for; of a parameter that comes twice, the last counts.

    Raises:
        WrongAddress: ``window`` is no number from 1 to the most that may be, ``mode`` is none, ``q`` is too long.
    """
    most = _most(settings)
    query = " ".join(given.get("q", "").split())
    if len(query) > _LONGEST_QUERY:
        raise WrongAddress(f"q has {len(query):,} characters; give at most {_LONGEST_QUERY:,}")
    window = given.get("window") or str(min(settings.rerank.window, most))
    if not (window.isascii() and window.isdecimal() and len(window) < 6 and 1 <= int(window) <= most):
        raise WrongAddress(f"window is '{window[:40]}'; give a whole number from 1 to {most}")
    mode = given.get("mode") or None
    chosen = next((known for known in MODES if known == mode), None)
    if mode is not None and chosen is None:
        raise WrongAddress(f"mode is '{mode[:40]}'; give {', '.join(MODES)}, or leave it out")
    return Asked(query, int(window), chosen)


def windows(settings: Settings, chosen: int) -> list[int]:
    """The windows to choose from."""
    most = _most(settings)
    return sorted({*(size for size in _WINDOWS if size <= most), min(settings.rerank.window, most), chosen})


def _most(settings: Settings) -> int:
    return min(MOST_SHOWN, settings.serve.max_documents)
