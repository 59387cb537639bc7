"""The URL parameter ``filter_path``: what it leaves of an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["keeps"]


def keeps(filter_path: str, path: str) -> bool:
    """Whether an answer cut by ``filter_path`` still has ``path``, with all that is inside.

    Args:
        filter_path: patterns joined by commas, ``*`` for one name or part of it, ``**`` for any number of names,
            ``-`` before what is left out.
        path: names joined by dots, such as ``hits.hits._id``.
    """
    patterns = [pattern.strip() for pattern in filter_path.split(",") if pattern.strip()]
    names = path.split(".")
    excluded = [pattern[1:].split(".") for pattern in patterns if pattern.startswith("-")]
    included = [pattern.split(".") for pattern in patterns if not pattern.startswith("-")]
    if any(_covers(pattern, names) or _is_inside(pattern, names) for pattern in excluded):
        return False
    return not included or any(_covers(pattern, names) for pattern in included)


def _covers(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """The pattern names the path, or something that the path is inside of."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_covers(pattern[1:], names[at:]) for at in range(len(names) + 1))
    return bool(names) and _is_named(pattern[0], names[0]) and _covers(pattern[1:], names[1:])


def _is_inside(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """The pattern may name something inside the path."""
    if not names or not pattern:
        return bool(pattern)
    if pattern[0] == "**":
        return True
    return _is_named(pattern[0], names[0]) and _is_inside(pattern[1:], names[1:])


def _is_named(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
