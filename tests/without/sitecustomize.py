"""Read by Python at its start where this folder is in PYTHONPATH: hides the packages of WITHOUT_PACKAGES."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_GONE = frozenset(filter(None, os.environ.get("WITHOUT_PACKAGES", "").split(",")))


class _Without:
    """Finders, but for some packages: as where these were never installed."""

    def __init__(self, finders: Sequence[Any]) -> None:
        self._finders = finders

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in _GONE:
            return None
        found = (finder.find_spec(name, path, target) for finder in self._finders)
        return next((spec for spec in found if spec is not None), None)

    def find_distributions(self, context: Any) -> Iterator[Any]:
        """What importlib.metadata knows of packages."""
        for finder in self._finders:
            if hasattr(finder, "find_distributions"):
                yield from finder.find_distributions(context)

    def invalidate_caches(self) -> None:
        """The import system asks it of every finder."""


if _GONE:
    sys.meta_path[:] = [_Without(list(sys.meta_path))]
