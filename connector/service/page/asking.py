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


class WrongAddress(Exception):
    """A parameter has a value that it cannot have.

    Args:
        message: names it and the cure.
        rest: what the other parameters ask for, with the default in its place.
    """

    def __init__(self, message: str, rest: Asked) -> None:
        super().__init__(message)
        self.rest = rest


def read_address(given: QueryParams, settings: Settings) -> Asked:
    """What an address asks for; of a parameter that comes twice, the last counts.

    Raises:
        WrongAddress: ``window`` is no number from 1 to the most that may be, ``mode`` is none, ``q`` is too long.
    """
    most = _most(settings)
    query = " ".join(given.get("q", "").split())
    default = min(settings.rerank.window, most)
    window = given.get("window") or str(default)
    is_window = window.isascii() and window.isdecimal() and len(window) < 6 and 1 <= int(window) <= most
    mode = given.get("mode") or None
    chosen = next((known for known in MODES if known == mode), None)
    # What was typed stays, to be mended: a query that is too long, too.
    asked = Asked(query, int(window) if is_window else default, chosen)
    if len(query) > _LONGEST_QUERY:
        raise WrongAddress(f"q has {len(query):,} characters; give at most {_LONGEST_QUERY:,}", asked)
    if not is_window:
        raise WrongAddress(f"window is '{window[:40]}'; give a whole number from 1 to {most}", asked)
    if mode is not None and chosen is None:
        raise WrongAddress(f"mode is '{mode[:40]}'; give {', '.join(MODES)}, or leave it out", asked)
    return asked


def windows(settings: Settings, chosen: int) -> list[int]:
    """The windows to choose from."""
    most = _most(settings)
    return sorted({*(size for size in _WINDOWS if size <= most), min(settings.rerank.window, most), chosen})


def _most(settings: Settings) -> int:
    return min(MOST_SHOWN, settings.serve.max_documents)
