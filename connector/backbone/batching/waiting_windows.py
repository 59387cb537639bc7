"""Tails of requests that wait at the same time are read in one pass of the LLM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from connector.backbone.batching.turns import Turns
from connector.backbone.reading import Rows
from connector.backbone.runtime import ReadRequest, Runtime
from connector.errors import BackboneError
from connector.settings import Layout

__all__ = ["WaitingWindows"]

logger = logging.getLogger(__name__)
# Document tokens of the windows of one pass: nine of 20 passages of 180 tokens. A window of a thousand is read alone,
# so that small ones do not wait for it twice.
_TOGETHER_TOKENS = 32_768


class _Asking:
    """A window that waits or is being read."""

    __slots__ = ("error", "rows", "window")

    def __init__(self, window: ReadRequest) -> None:
        self.window = window
        self.rows: Rows | None = None
        self.error: Exception | None = None

    @property
    def tokens(self) -> int:
        return sum(document.tokens for document in self.window.documents)


def _joins(asked: Sequence[_Asking]) -> bool:
    return sum(asking.tokens for asking in asked) <= _TOGETHER_TOKENS


class WaitingWindows:
    """Reads tails, those that wait at the same time in one pass where the runtime can. Thread-safe.

    A single thread computes at a time then, on all cores: threads that each compute on one core hinder each other at
    Python's lock. What comes out does not depend on it.

    Args:
        runtime: executes the LLM.
        prefix: ids at positions 0.. of every prompt.
        layout: of all documents.
    """

    def __init__(self, runtime: Runtime, prefix: Sequence[int], layout: Layout) -> None:
        self._runtime, self._prefix, self._layout = runtime, prefix, layout
        most = runtime.requests_together
        # A runtime that reads one window at a time keeps to one core under load.
        self._turns: Turns[_Asking] = Turns(1 if most > 1 else runtime.threads, most, _joins)

    def rows(self, window: ReadRequest, check: Callable[[], None]) -> Rows:
        """See ``Runtime.read``.

        Args:
            window: the tail, its documents and the heads.
            check: called before, and while others are read; may raise to stop.

        Raises:
            BackboneError: the LLM failed.
        """
        check()
        asking = _Asking(window)
        with self._turns.take(asking, check) as turn:
            if turn:
                self._read(turn)
        if asking.error is not None:
            raise asking.error
        assert asking.rows is not None
        return asking.rows

    def _read(self, batch: Sequence[_Asking]) -> None:
        try:
            if not self._read_together(batch):
                self._read_each(batch)
        finally:
            for asking in batch:
                if asking.rows is None and asking.error is None:
                    asking.error = BackboneError("the reading of this window was interrupted; ask again")

    def _read_together(self, batch: Sequence[_Asking]) -> bool:
        if len(batch) == 1:
            return False
        windows = [asking.window for asking in batch]
        try:
            found = self._runtime.read(self._prefix, windows, layout=self._layout)
        except Exception:
            logger.warning("%d windows could not be read together; each is read alone", len(batch), exc_info=True)
            return False
        for asking, rows in zip(batch, found, strict=True):
            asking.rows = rows
        return True

    def _read_each(self, batch: Sequence[_Asking]) -> None:
        for asking in batch:
            try:
                (asking.rows,) = self._runtime.read(self._prefix, [asking.window], layout=self._layout)
            except Exception as error:
                asking.error = error
