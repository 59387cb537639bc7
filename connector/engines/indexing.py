"""From a source into an engine: bad lines reported, progress kept, an interrupted run continued."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

from connector.documents import Document, document_text, has_text
from connector.engines.engine import Engine, IndexReport
from connector.engines.progress import ProgressFile, Reached
from connector.engines.sources import BadLine, Source
from connector.errors import DataError

__all__ = ["IndexOutcome", "index_source"]


@dataclass(frozen=True, slots=True)
class IndexOutcome:
    """A source that was indexed to its end.

    Attributes:
        reached: totals, with what was done before an interruption.
        resumed_after: line after which this run began; 0: it began at the first.
        without_text: documents of this run in which no search finds a word.
    """

    reached: Reached
    resumed_after: int
    without_text: int = 0


def index_source(
    engine: Engine,
    source: Source,
    progress: ProgressFile,
    *,
    strict: bool = False,
    restart: bool = False,
    batch: int = 1000,
    bad: Callable[[BadLine], None] | None = None,
    committed: Callable[[Reached], None] | None = None,
) -> IndexOutcome:
    """Put a source's documents into an engine.

    Args:
        engine: where they go.
        source: where they come from.
        progress: where it is kept how far this came.
        strict: stop at the first line or document that is wrong, instead of leaving it out.
        restart: begin at the first line, whatever was done before.
        batch: documents that become durable together.
        bad: called with each line that is left out.
        committed: called after each batch.

    Raises:
        DataError: the source cannot be read; with ``strict``, the first wrong line. What was committed stays.
        EngineError: see ``Engine.index``.
    """
    # An index that was emptied or made anew has nothing of what the progress tells.
    began = Reached() if restart or not engine.count() else progress.read()
    if strict and began.skipped:
        # A wrong line lies before the place: strict is not to pass it.
        began = Reached()
    run = _Run(source, progress, began, strict, bad, committed)
    documents = run.documents()
    # A source without a document, or with a wrong line that ends this run early, leaves no empty index behind.
    first = list(islice(documents, batch))
    report = engine.index(chain(first, documents), batch=batch, committed=run.committed) if first else IndexReport()
    progress.clear()
    return IndexOutcome(run.total(report), began.line, run.without_text)


class _Run:
    def __init__(
        self,
        source: Source,
        progress: ProgressFile,
        began: Reached,
        strict: bool,
        bad: Callable[[BadLine], None] | None,
        committed: Callable[[Reached], None] | None,
    ) -> None:
        self._source = source
        self._progress = progress
        self._began = began
        self._strict = strict
        self._bad = bad
        self._committed = committed
        self._skipped = 0
        self.without_text = 0
        # Line, and lines left out before it, of each document that is not committed yet: an engine may take
        # documents ahead.
        self._pending: deque[tuple[int, int]] = deque()
        self._done = 0
        self._told = 0
        self._reached = began

    def documents(self) -> Iterator[Document]:
        for line, document in self._source.documents(self._leave_out, after=self._began.line):
            self._pending.append((line, self._skipped))
            self.without_text += not has_text(document_text(document.fields))
            yield document

    def committed(self, report: IndexReport) -> None:
        lines, first = [], self._done
        while self._done < report.taken and self._pending:
            lines.append(self._pending.popleft())
            self._done += 1
        refused = report.failures[self._told :]
        self._told = len(report.failures)
        line, skipped = lines[-1] if lines else (self._reached.line, 0)
        began = self._began
        self._reached = Reached(
            line,
            began.indexed + report.indexed,
            began.replaced + report.replaced,
            began.skipped + skipped + len(report.failures),
        )
        self._progress.write(self._reached)
        for failure in refused:
            self._report(BadLine(self._source.name, lines[failure.place - first][0], f"refused: {failure.reason}"))
        if self._committed is not None:
            self._committed(self._reached)

    def total(self, report: IndexReport) -> Reached:
        skipped = self._began.skipped + self._skipped + len(report.failures)
        return replace(self._reached, skipped=skipped)

    def _leave_out(self, bad: BadLine) -> None:
        self._skipped += 1
        self._report(bad)

    def _report(self, bad: BadLine) -> None:
        if self._strict:
            raise DataError(f"{bad}; mend the line, or leave out --strict to skip it")
        if self._bad is not None:
            self._bad(bad)
