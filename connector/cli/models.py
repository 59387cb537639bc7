"""The models that a call of the command line uses, each loaded once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from connector.cli.waiting import waiting
from connector.sections import Settings

if TYPE_CHECKING:
    from connector.backbone.reader import Reader
    from connector.reranking.reranker import Reranker

__all__ = ["Models"]

# The settings that a reader and a reranker depend on.
_READER: dict[str, Any] = {"backbone": True, "cache": True, "router": {"embedder": True}}
_RERANKER: dict[str, Any] = {**_READER, "router": True, "rerank": True, "cascade": True, "engine": {"fields": True}}


class Models:
    """Loads what settings name at the first call, and hands it out again where they name the same. Thread-safe.

    Commands take their models from ``Context.models``. Whoever calls the command line from Python gives one that
    holds the LLM already: ``cli.main(arguments, obj=Context(models=…))``.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._readers: dict[str, Reader] = {}
        self._rerankers: dict[str, Reranker] = {}

    def reader(self, settings: Settings, progress: Callable[[str, float | None], None] | None = None) -> Reader:
        """The LLM of these settings; one for all that agree in backbone and cache.

        Args:
            settings: see ``load_settings``.
            progress: see ``open_reader``; None: standard error says what takes time.

        Raises:
            SettingsError, BackboneError, MissingExtraError: see ``open_reader``.
        """
        key = settings.model_dump_json(include=_READER)
        with self._lock:
            if key not in self._readers:
                self._readers[key] = _open(settings, progress)
            return self._readers[key]

    def reranker(self, settings: Settings, progress: Callable[[str, float | None], None] | None = None) -> Reranker:
        """The reranker of these settings, on ``reader``'s LLM.

        Args:
            settings: see ``load_settings``.
            progress: see ``open_reader``.

        Raises:
            SettingsError, BackboneError, MissingExtraError: see ``Reranker.from_settings``.
        """
        from connector.reranking.reranker import Reranker
        from connector.reranking.second_settings import check_routers, second_settings

        key = settings.model_dump_json(include=_RERANKER)
        with self._lock:
            if key not in self._rerankers:
                other = second_settings(settings)
                check_routers(settings)
                reader = self.reader(settings, progress)
                second = None if other is None else self.reader(other, progress)
                self._rerankers[key] = Reranker.from_settings(settings, reader=reader, second=second)
            return self._rerankers[key]


def _open(settings: Settings, progress: Callable[[str, float | None], None] | None) -> Reader:
    with nullcontext(progress) if progress else waiting(f"loading {settings.backbone.model}") as report:
        # Imported here: torch takes seconds, and most commands need no model.
        from connector.routing.opening import open_reader

        return open_reader(settings, report)
