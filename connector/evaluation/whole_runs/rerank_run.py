"""A whole TREC run reranked into another one, query by query; what was interrupted goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from connector.documents import Hit, SupportsRerank
from connector.errors import DataError
from connector.evaluation.runs import Run, RunEntry, run_lines
from connector.offline.workers import LoadedLlm, Workers
from connector.storage_faults import storage_mend

__all__ = ["FieldsById", "Outcome", "rerank_run"]

FieldsById: TypeAlias = Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]]
"""Fields of the documents with these ids; ids that are unknown are left out."""

_Window: TypeAlias = tuple[str, Sequence[Hit]]
# Best first; and why the first-stage order was kept, None when it was not.
_Ranked: TypeAlias = tuple[list[RunEntry], str | None]
# Between documents behind the window: small beside head scores, far above the precision of a run's scores.
_TAIL_STEP = 0.001


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one query.

    Attributes:
        query: its id.
        kept: it stood in the output already.
        reason: why its first-stage order was kept, None when it was reranked (now or before).
    """

    query: str
    kept: bool
    reason: str | None = None


def rerank_run(
    run: Run,
    queries: Mapping[str, str],
    fields: FieldsById,
    reranker: Callable[[], SupportsRerank],
    out: Path,
    *,
    window: int,
    tag: str,
    workers: Workers | None = None,
) -> Iterator[Outcome]:
    """Rerank the first ``window`` documents of every query; the others follow in first-stage order.

    Every document of the run is written, with strictly decreasing scores. A query is written as a whole and flushed;
    when ``out`` holds some queries already, with this tag, they are kept and the rest follows.

    Args:
        run: the first stage.
        queries: id -> text, for every query of the run.
        fields: where the documents' text comes from.
        reranker: called when the first query is to be reranked.
        out: the file to write or to go on with.
        window: documents of a query that are reranked.
        tag: last column of the run.
        workers: rerank, with the same numbers; None: the reranker does.

    Raises:
        DataError: a query or document has no text, ``out`` is something else or cannot be written.
    """
    missing = [query for query in run if query not in queries]
    if missing:
        raise DataError(
            f"query {missing[0]} of the run has no text ({len(missing)} in all); give it one with --queries"
        )
    finished, size = _finished(out, run, tag)
    windows = (
        (queries[query], _hits(query, entries[:window], fields))
        for query, entries in run.items()
        if query not in finished
    )
    # Both take the windows one by one, and give them back in their order.
    ranked = _reranked(windows, reranker) if workers is None else workers.map(_rerank_there, windows)
    with _opened(out) as file:
        # The rest of a query that was being written when the last call ended.
        file.truncate(size)
        file.seek(size)
        for query, entries in run.items():
            if query in finished:
                yield Outcome(query, kept=True)
                continue
            best, reason = next(ranked)
            lines = run_lines(query, [*best, *_tail(best, entries[window:])], tag)
            try:
                file.write(lines.encode())
                file.flush()
            except OSError as error:
                raise _unwritten(out, error) from None
            yield Outcome(query, kept=False, reason=reason)


def _reranked(windows: Iterable[_Window], reranker: Callable[[], SupportsRerank]) -> Iterator[_Ranked]:
    loaded: SupportsRerank | None = None
    for query, hits in windows:
        loaded = loaded or reranker()
        yield _entries(loaded, query, hits)


def _rerank_there(llm: LoadedLlm, window: _Window) -> _Ranked:
    return _entries(llm.reranker, *window)


def _entries(reranker: SupportsRerank, query: str, hits: Sequence[Hit]) -> _Ranked:
    result = reranker.rerank(query, hits)
    # Half a cascade would be taken for a whole one.
    reason = "the second model has read nothing of it" if result.second_hits == 0 else result.reason
    return [RunEntry(hits[hit.index].id, hit.score) for hit in result.hits], reason


def _hits(query: str, entries: Sequence[RunEntry], fields: FieldsById) -> list[Hit]:
    found = fields([entry.id for entry in entries])
    for entry in entries:
        if entry.id not in found:
            raise DataError(
                f"the run's document {entry.id} (query {query}) has no text; "
                f"give the corpus or index that the run was made from"
            )
    return [Hit(entry.id, entry.score, found[entry.id]) for entry in entries]


def _tail(ranked: Sequence[RunEntry], rest: Sequence[RunEntry]) -> list[RunEntry]:
    lowest = min((entry.score for entry in ranked), default=0.0)
    return [RunEntry(entry.id, lowest - _TAIL_STEP * place) for place, entry in enumerate(rest, 1)]


def _finished(out: Path, run: Run, tag: str) -> tuple[set[str], int]:
    """The queries that ``out`` holds whole, and how many bytes they take."""
    try:
        raw = out.read_bytes() if out.exists() else b""
    except OSError as error:
        raise DataError(f"cannot read {out}: {error.strerror or error}") from None
    # What follows the last line feed is half a line.
    lines = raw.split(b"\n")[:-1]
    finished: set[str] = set()
    size = at = 0
    for query, entries in run.items():
        block = lines[at : at + len(entries)]
        whole = len(block) == len(entries)
        wanted = {entry.id for entry in entries}
        for number, line in enumerate(block, at + 1):
            columns = line.decode("utf-8", "replace").split(" ")
            if len(columns) != 6 or columns[0] != query or columns[2] not in wanted or columns[5] != tag:
                raise DataError(
                    f"{out}, line {number} is not of this run with the tag {tag}; "
                    f"remove the file or give another one with --out"
                )
            wanted.discard(columns[2])
        if not whole:
            return finished, size
        finished.add(query)
        size += sum(len(line) + 1 for line in block)
        at += len(entries)
    if at < len(lines) or len(raw) > size:
        raise DataError(f"{out} holds more than this run; remove the file or give another one with --out")
    return finished, size


def _opened(out: Path) -> IO[bytes]:
    try:
        out.touch()
        return out.open("r+b")
    except OSError as error:
        raise _unwritten(out, error) from None


def _unwritten(out: Path, error: OSError) -> DataError:
    mend = storage_mend(error, "name another --out")
    return DataError(f"cannot write {out}: {error.strerror or error}; {mend}")
