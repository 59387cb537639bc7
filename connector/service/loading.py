"""The model on its way: loading, ready (after a golden query was scored), or failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal

from connector.backbone.batching.work_queue import SchedulerStatistics
from connector.backbone.caching.counted_cache import Lookups
from connector.backbone.caching.document_cache import CacheStatistics
from connector.backbone.reader import Reader
from connector.backbone.runtime import DeviceStatistics
from connector.documents import SupportsRerank
from connector.errors import BackboneError, RhConnectorError
from connector.golden import GOLDEN_ANSWER, GOLDEN_DOCUMENTS, GOLDEN_QUERY
from connector.reranking.cascade import Cascade
from connector.sections import Settings
from connector.service.errors import Failure, ServiceError
from connector.service.scoring import check_result

__all__ = ["Loading"]

_log = logging.getLogger(__name__)


class Loading:
    """Makes a reranker once, checks it with the golden query, and says how far that is.

    Args:
        source: a reranker, or what makes one of the settings.
        settings: for ``source``.
        when_failed: called, in the loading thread, when there will be no reranker.
    """

    def __init__(
        self,
        source: SupportsRerank | Callable[[Settings], SupportsRerank],
        settings: Settings,
        when_failed: Callable[[], None] | None = None,
    ) -> None:
        self._source = source
        self._settings = settings
        self._when_failed = when_failed
        self._once = threading.Lock()
        self._reranker: SupportsRerank | None = None
        self.error: RhConnectorError | None = None
        """Why there is no reranker and will be none."""

    @property
    def status(self) -> Literal["loading", "ready", "failed"]:
        """How far it is."""
        if self.error is not None:
            return "failed"
        return "loading" if self._reranker is None else "ready"

    def start(self) -> None:
        """Load in a thread of its own, which does not keep the process alive."""
        threading.Thread(target=self.load, name="load-model", daemon=True).start()

    def load(self) -> None:
        """Load now, unless that is done; returns when it is. Never raises: see ``error``."""
        with self._once:
            if self.status != "loading":
                return
            began = time.monotonic()
            try:
                source = self._source
                reranker = source if isinstance(source, SupportsRerank) else source(self._settings)
                _score_golden_query(reranker)
                self._reranker = reranker
                _log.info("ready after %.1f s", time.monotonic() - began)
                return
            except RhConnectorError as error:
                self.error = error
            except Exception as error:
                _log.exception("the model could not be loaded")
                self.error = BackboneError(f"the model could not be loaded: {type(error).__name__}: {error}")
        if self._when_failed is not None:
            self._when_failed()

    def close(self) -> None:
        """Let go of what the reranker holds outside of the process: its document cache writes what is left."""
        close: Callable[[], None] | None = getattr(self._reranker, "close", None)
        if close is not None:
            close()

    def cache_statistics(self) -> CacheStatistics | None:
        """Counts of the reranker's document cache; None while there is no reranker, or it has no cache."""
        return None if (reader := self._reader()) is None else reader.statistics()

    def lookups(self) -> Mapping[str, Lookups] | None:
        """Look-ups of the reranker's caches by name; None while there is no reranker, or it has no cache.

        Those of a cascade's second LLM have names that begin with ``second-``.
        """
        reader, second = self._reader(), self._second()
        if reader is None:
            return None
        behind = {} if second is None else second.lookups()
        return {**reader.lookups(), **{f"second-{name}": own for name, own in behind.items()}}

    def second_cache_statistics(self) -> CacheStatistics | None:
        """Counts of the document cache of a cascade's second LLM; None while there is none."""
        return None if (second := self._second()) is None else second.statistics()

    def scheduler_statistics(self) -> SchedulerStatistics | None:
        """What waits for the LLM; None while there is no reranker, or it has no LLM."""
        return None if (reader := self._reader()) is None else reader.scheduler_statistics()

    def device_statistics(self) -> DeviceStatistics | None:
        """The accelerator's memory; None while there is no reranker, or the LLM runs without one."""
        return None if (reader := self._reader()) is None else reader.device_statistics()

    def plan(self) -> Mapping[str, str] | None:
        """What this machine lets the LLM do; None while there is no reranker, or it has no LLM."""
        return None if (reader := self._reader()) is None else reader.plan

    def _reader(self) -> Reader | None:
        """What reads for the reranker; None: there is none yet, or it has no LLM of its own."""
        reader: Reader | None = getattr(self._reranker, "reader", None)
        return reader

    def _second(self) -> Reader | None:
        """What reads behind it in a cascade; None: nothing does."""
        cascade: Cascade | None = getattr(self._reranker, "cascade", None)
        return None if cascade is None else cascade.reader

    def reranker(self) -> SupportsRerank:
        """The reranker.

        Raises:
            ServiceError: it is still being loaded, or could not be.
        """
        if self._reranker is not None:
            return self._reranker
        if self.error is not None:
            raise ServiceError(Failure.UNAVAILABLE, f"the model could not be loaded: {self.error}")
        raise ServiceError(Failure.LOADING, "the model is being loaded; try again in some seconds, see /ready")


def _score_golden_query(reranker: SupportsRerank) -> None:
    result = reranker.rerank(GOLDEN_QUERY, GOLDEN_DOCUMENTS)
    if not result.reranked:
        raise BackboneError(f"the golden query was not reranked: {result.reason}")
    try:
        check_result(result, len(GOLDEN_DOCUMENTS))
    except RuntimeError as error:
        raise BackboneError(f"the golden query failed: {error}") from None
    if result.second_hits == 0:
        _log.warning("the second model of the cascade has read nothing of the golden query: look at cascade.model")
    if result.hits[0].index != GOLDEN_ANSWER:
        _log.warning("the golden query's best document is not the one on cats: check model and head set")
