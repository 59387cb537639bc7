"""Every document of an index ranked for each query, with no first stage; what was interrupted goes on."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connector.documents import Document, SupportsRerank, document_text, has_text
from connector.errors import BackboneError, DataError, SettingsError
from connector.evaluation.runs import RunEntry, run_lines
from connector.offline.workers import LoadedLlm, Workers
from connector.storage_faults import storage_mend

__all__ = ["rank_index"]

# Documents that are read together, and become durable together.
_BATCH = 8


def rank_index(
    documents: Iterable[Document],
    queries: Mapping[str, str],
    reranker: Callable[[], SupportsRerank],
    out: Path,
    *,
    fields: Sequence[str],
    keep: int,
    tag: str,
    made_by: str,
    workers: Workers | None = None,
) -> Iterator[Document]:
    """Rank all documents for every query, and write the best of each as a TREC run.

    Scores are kept in a file beside ``out`` (its name with .part) as they come: a document that was read for these
    queries is not read again, unless its text changed. Documents without text are left out.

    Args:
        documents: of the index, in any order.
        queries: id -> text.
        reranker: called when the first document is to be read.
        out: the file to write; one that is there is replaced at the end.
        fields: whose text is read; empty: all text fields.
        keep: documents of each query that are written.
        tag: last column of the run.
        made_by: names what scores depend on; a file .part must have been begun with the same.
        workers: read, with the same numbers; None: the reranker does.

    Yields:
        The documents that have text, each when it is done with.

    Raises:
        SettingsError: scores of the layout depend on the other documents of a list.
        DataError: the files cannot be written, or .part is of something else.
        BackboneError: the LLM failed.
    """
    part = out.with_name(f"{out.name}.part")
    head = json.dumps({"made by": made_by, "queries": _digest(json.dumps(dict(queries)))})
    known = _known(part, head)
    now: dict[str, str] = {}
    passed: list[list[Document]] = []

    def batches() -> Iterator[list[str]]:
        texts: list[str] = []
        passed.append([])
        for document in documents:
            text = document_text(document.fields, fields)
            if not has_text(text):
                continue
            passed[-1].append(document)
            now[document.id] = _digest(text)
            if known.get(document.id) != now[document.id]:
                texts.append(text)
            if len(texts) == _BATCH:
                yield texts
                passed.append([])
                texts = []
        if texts:
            yield texts

    work = _Score(tuple(queries.values()))
    scored = _scored(work, batches(), reranker) if workers is None else workers.map(work, batches())
    try:
        with part.open("a", encoding="utf-8") as file:
            if not part.stat().st_size:
                file.write(f"{head}\n")
            for rows in scored:
                given = passed.pop(0)
                new = [document for document in given if known.get(document.id) != now[document.id]]
                for document, scores in zip(new, rows, strict=True):
                    file.write(f"{json.dumps([document.id, now[document.id], scores])}\n")
                file.flush()
                yield from given
            for given in passed:
                yield from given
        best = _best(part, now, len(queries), keep)
        written = out.with_name(f"{out.name}.new")
        try:
            with written.open("w", encoding="utf-8") as file:
                for query, entries in zip(queries, best, strict=True):
                    file.write(run_lines(query, entries, tag))
            written.replace(out)
        finally:
            # On a full disk it would take the room that is wanted.
            with suppress(OSError):
                written.unlink(missing_ok=True)
        part.unlink()
    except OSError as error:
        mend = storage_mend(error, "name another --out")
        raise DataError(f"cannot write {error.filename or out}: {error.strerror or error}; {mend}") from None


@dataclass(frozen=True, slots=True)
class _Score:
    """Of each text its score for each query."""

    queries: tuple[str, ...]

    def __call__(self, llm: LoadedLlm, texts: Sequence[str]) -> list[list[float]]:
        return self.of(llm.reranker, texts)

    def of(self, reranker: SupportsRerank, texts: Sequence[str]) -> list[list[float]]:
        rows: list[list[float]] = [[] for _ in texts]
        for query in self.queries:
            result = reranker.rerank(query, texts)
            if not result.reranked:
                raise BackboneError(f"the query {query!r:.60} could not be ranked: {result.reason}")
            if not result.calibrated:
                raise SettingsError(
                    "rerank --whole-index compares documents of many lists, and scores of this layout or router mean "
                    "something in one list only; set backbone.layout to solo, with a router"
                )
            for hit in result.hits:
                rows[hit.index].append(hit.score)
        return rows


def _scored(
    work: _Score, batches: Iterable[list[str]], reranker: Callable[[], SupportsRerank]
) -> Iterator[list[list[float]]]:
    loaded: SupportsRerank | None = None
    for texts in batches:
        loaded = loaded or reranker()
        yield work.of(loaded, texts)


def _known(part: Path, head: str) -> dict[str, str]:
    """Documents that were scored before, and their texts' digests; half a line at the end is cut off."""
    if not part.exists():
        return {}
    data = part.read_bytes()
    whole = data.rpartition(b"\n")[0]
    lines = whole.split(b"\n") if whole else []
    if lines and lines[0].decode() != head:
        raise DataError(f"{part} was begun with other queries or settings; give those, or name another --out")
    if len(data) != len(whole) + bool(whole):
        with part.open("r+b") as file:
            file.truncate(len(whole) + bool(whole))
    return {identity: digest for identity, digest, _ in map(json.loads, lines[1:])}


def _best(part: Path, now: Mapping[str, str], queries: int, keep: int) -> list[list[RunEntry]]:
    """Of each query its best documents, among those that are in the index now; equal scores by id."""
    heaps: list[list[tuple[float, _Backwards]]] = [[] for _ in range(queries)]
    with part.open(encoding="utf-8") as file:
        next(file, None)
        for line in file:
            found: tuple[str, str, list[float]] = json.loads(line)
            identity, digest, scores = found
            if now.get(identity) != digest:
                continue
            for heap, score in zip(heaps, scores, strict=True):
                push: Any = heapq.heappush if len(heap) < keep else heapq.heappushpop
                push(heap, (score, _Backwards(identity)))
    return [[RunEntry(str(name), score) for score, name in sorted(heap, reverse=True)] for heap in heaps]


class _Backwards(str):
    """An id that is the better the sooner it comes."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
