"""The embedded engine: BM25 by tantivy, in a folder, for whoever has no cluster.

Every document is searchable as a whole (all its text, one field after the other) and by each field alone, so that
weights can be given at search time. Field names are not known when the index is made and tantivy's schema is fixed:
it holds a number of slots, and a record beside the index says which field has which.

With an embedding model an index holds a vector of each document too, and hits come from both: see
``connector.engines.vectors`` and ``connector.embedding.hybrid.fused``.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Self

import tantivy

from connector.documents import Document, Hit, clean_text
from connector.engines.acceptance import Refused, json_of
from connector.engines.engine import IndexReport, ItemFailure
from connector.engines.finding import VECTOR_FIELD, by_both, by_words, stored, vector_key
from connector.engines.index_record import INDEX_AGAIN, RECORD, IndexRecord, cause_and_mend, check_files
from connector.engines.linked_folder import LinkedFolder
from connector.engines.text_analysis import ENGLISH, analyzer, searchable, texts_of
from connector.engines.vectors import VECTORS_FILE, Vectors
from connector.errors import EngineError, MissingIndexError
from connector.sections import Language

__all__ = ["EmbeddedEngine", "embedded_indexes"]

# A name alone: each index has the analyzer of its own language under it.
_ANALYZER = "rh_english"
_SLOTS = 24
_ALL = "all_text"
_WRITER_BYTES = 64_000_000
_MOST_TERMS = 1024
_LISTS = ("meta.json", ".managed.json")


def embedded_indexes(folder: Path) -> list[str]:
    """Names of the indexes in a folder; none where there is no folder.

    Raises:
        EngineError: the folder cannot be read.
    """
    try:
        return [path.name for path in folder.iterdir() if (path / RECORD).is_file()] if folder.is_dir() else []
    except OSError as error:
        raise EngineError(f"cannot read {folder}: {cause_and_mend(error)}") from None


class EmbeddedEngine:
    """One tantivy index in a folder.

    A crash while indexing leaves the last committed batch. One process may write at a time; any number may search.

    Args:
        path: folder of the index; made by the first ``index``.
        weights: field (dotted names reach into objects) -> weight in searches; empty: all text as one field.
        vectors: of the documents in that folder; None: words alone are searched.
        language: of the analysis; None: that of the index, English for a new one.

    Raises:
        EngineError: the index is damaged, of another version or language, or its vectors were made otherwise.
    """

    def __init__(
        self,
        path: Path,
        weights: Mapping[str, float] | None = None,
        vectors: Vectors | None = None,
        language: Language | None = None,
    ) -> None:
        self._path = path
        self._weights = dict(weights or {})
        self._vectors = vectors
        self._language = language
        self._record = IndexRecord({}, language or ENGLISH, None if vectors is None else vectors.record())
        self._analyzer = analyzer(self._record.language)
        self._schema = _schema(vectors is not None)
        self._index: tantivy.Index | None = None
        self._links: LinkedFolder | None = None
        if (path / RECORD).is_file():
            self._open()

    def search(self, query: str, size: int) -> list[Hit]:
        """See ``Engine.search``."""
        index = self._existing()
        # A word that stands twice counts twice.
        terms = Counter(self._analyzer.analyze(searchable(query)))
        parsed = self._query(terms)
        if size <= 0 or not any(char.isalnum() for char in query):
            return []
        with self._failures("search"):
            self._reload(index)
            searcher = index.searcher()
            if self._vectors is not None:
                return by_both(searcher, self._schema, parsed, self._vectors, query, size)
            return [] if parsed is None else by_words(searcher, parsed, size)

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """See ``Engine.get``."""
        index = self._existing()
        found = {}
        with self._failures("read"):
            self._reload(index)
            searcher = index.searcher()
            for identity in dict.fromkeys(ids):
                term = tantivy.Query.term_query(self._schema, "id", clean_text(identity))
                for _, address in searcher.search(term, 1).hits:
                    kept = Document(*stored(searcher.doc(address)))
                    if kept.id == identity:
                        found[identity] = kept
        return found

    def documents(self) -> Iterator[Document]:
        """See ``Engine.documents``."""
        index = self._found()
        if index is None:
            return
        with self._failures("read"):
            self._reload(index)
            searcher = index.searcher()
            hits = searcher.search(tantivy.Query.all_query(), max(int(searcher.num_docs), 1)).hits
        for _, address in hits:
            with self._failures("read"):
                kept = stored(searcher.doc(address))
            yield Document(*kept)

    def index(
        self,
        documents: Iterable[Document],
        *,
        batch: int = 1000,
        committed: Callable[[IndexReport], None] | None = None,
    ) -> IndexReport:
        """See ``Engine.index``."""
        index = self._found() or self._made()
        if self._links is not None:
            mend = "give this user the right to write there, or index under another folder (cache.path, engine.url)"
            raise EngineError(f"the index in {self._path} may only be read; {mend}")
        writer = self._writer(index)
        try:
            self._agree()
            self._index = index
            report, before = IndexReport(), self.count()
            self._tidy_vectors()
            remaining = iter(documents)
            while bulk := list(islice(remaining, batch)):
                failures = list(report.failures)
                # Of an id that comes twice the last one stays.
                taken: dict[str, Document] = {}
                with self._failures("write to"):
                    for place, document in enumerate(bulk, report.taken):
                        try:
                            made = self._prepare(document)
                        except Refused as refused:
                            failures.append(ItemFailure(document.id, str(refused), place))
                            continue
                        writer.delete_documents_by_term("id", document.id)
                        writer.add_document(made)
                        taken[document.id] = document
                with self._with_vectors(taken), self._failures("write to"):
                    writer.commit()
                self._let_others_read()
                indexed = report.taken + len(bulk) - len(failures)
                report = IndexReport(indexed, before + indexed - self.count(), tuple(failures))
                if committed is not None:
                    committed(report)
            with self._failures("write to"):
                # Merges run in the background; a process must not end before they are through.
                writer.wait_merging_threads()
            self._let_others_read()
            return report
        finally:
            # Ends the writer's threads and gives the lock back, also while an exception passes.
            del writer

    def _let_others_read(self) -> None:
        """Give tantivy's lists, which only their maker may read, the rights of all other files here."""
        for name in _LISTS:
            with suppress(OSError):
                (self._path / name).chmod(stat.S_IMODE((self._path / RECORD).stat().st_mode))

    @contextmanager
    def _with_vectors(self, documents: Mapping[str, Document]) -> Iterator[None]:
        """Around a commit: the documents' vectors are there before it, those of what they replace go after it."""
        if self._vectors is None:
            yield
            return
        own = {self._vectors.key(document): document for document in documents.values()}
        replaced = self._keys(documents)
        self._vectors.add(own)
        yield
        self._vectors.drop(replaced - own.keys())

    def _keys(self, ids: Collection[str] | None = None) -> set[int]:
        """Keys of the vectors of all documents, or of those with these ids."""
        index = self._existing()
        with self._failures("read"):
            self._reload(index)
            searcher = index.searcher()
            if ids is None:
                asked = tantivy.Query.all_query()
            else:
                asked = tantivy.Query.term_set_query(self._schema, "id", list(ids))
            hits = searcher.search(asked, max(int(searcher.num_docs), 1)).hits
            return {vector_key(searcher.doc(address)) for _, address in hits}

    def _tidy_vectors(self) -> None:
        """Drop the vectors that an interrupted run left without a document."""
        if self._vectors is None:
            return
        self._vectors.refresh()
        documents = self.count()
        self._vectors.check_count(documents)
        if self._vectors.count() > documents:
            self._vectors.drop(self._vectors.keys() - self._keys())

    def count(self) -> int:
        """See ``Engine.count``."""
        index = self._found()
        if index is None:
            return 0
        with self._failures("read"):
            self._reload(index)
            return int(index.searcher().num_docs)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._index = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """tantivy's errors, and panics on damaged files, which are no ``Exception``, as ours."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, OSError | ValueError) and type(error).__name__ != "PanicException":
                raise
            written = self._path if what in ("make", "write to") else None
            raise EngineError(f"cannot {what} the index in {self._path}: {cause_and_mend(error, written)}") from None

    def _reload(self, index: tantivy.Index) -> None:
        """Take what was committed since."""
        if self._links is not None:
            self._links.refresh()
        index.reload()

    def _existing(self) -> tantivy.Index:
        index = self._found()
        if index is None:
            raise MissingIndexError(f"there is no index in {self._path}; make it with: rh-connector index SOURCE")
        return index

    def _found(self) -> tantivy.Index | None:
        if self._index is None and (self._path / RECORD).is_file():
            self._open()
        return self._index

    def _open(self) -> None:
        record = self._read_record()
        if self._vectors is not None:
            self._vectors.check(record.vectors)
        self._record, self._analyzer = record, analyzer(record.language)
        self._schema = _schema(record.vectors is not None)
        with self._failures("open"):
            if not tantivy.Index.exists(str(self._path)):
                # Opening would make an empty one.
                raise ValueError("meta.json is missing")
            check_files(self._path)
            self._links = None if os.access(self._path, os.W_OK) else LinkedFolder(self._path)
            index = tantivy.Index(self._schema, path=str(self._links.path if self._links else self._path))
            index.register_tokenizer(_ANALYZER, self._analyzer)
        self._index = index

    def _made(self) -> tantivy.Index:
        """A new index, without a record yet."""
        with self._failures("make"):
            self._path.mkdir(parents=True, exist_ok=True)
            # What a crash before the record was written may have left.
            own = {"meta.json", ".managed.json", ".tantivy-writer.lock", ".tantivy-meta.lock"}
            ours = (RECORD, VECTORS_FILE)
            strange = any(path.name not in own and not path.name.startswith(ours) for path in self._path.iterdir())
            # In this order: a process that makes the index meanwhile writes its record first.
            if strange and not (self._path / RECORD).is_file():
                raise EngineError(f"{self._path} is not an index of rh-connector; choose another folder")
            index = tantivy.Index(self._schema, path=str(self._path))
            index.register_tokenizer(_ANALYZER, self._analyzer)
            return index

    def _agree(self) -> None:
        """Under the writer's lock: take the slots that other writers have given, or write the first record."""
        with self._failures("make"):
            if (self._path / RECORD).is_file():
                self._record = self._read_record()
                made = self._record.vectors
                if self._vectors is not None:
                    self._vectors.check(made)
                elif made is not None:
                    raise EngineError(
                        f"the index in {self._path} has vectors of {made['embedder']}; set engine.embedder to it, so "
                        f"that new documents have theirs, or {INDEX_AGAIN}"
                    )
            else:
                self._record.slots.clear()
                self._record.write(self._path)

    def _writer(self, index: tantivy.Index) -> Any:
        try:
            return index.writer(heap_size=_WRITER_BYTES, num_threads=1)
        except ValueError as error:
            # The lock is the operating system's: one of a killed process is gone with it.
            if "LockBusy" in str(error):
                raise EngineError(
                    f"another process is writing to the index in {self._path}; wait for it, or end it"
                ) from None
            told = cause_and_mend(error, self._path)
            raise EngineError(f"cannot write to the index in {self._path}: {told}") from None

    def _read_record(self) -> IndexRecord:
        record = IndexRecord.read(self._path)
        if self._language not in (None, record.language):
            raise EngineError(
                f"the index in {self._path} was made with engine.language {record.language}, and it is "
                f"{self._language} now; leave it out, or {INDEX_AGAIN}"
            )
        return record

    def _prepare(self, document: Document) -> tantivy.Document:
        source = json_of(document)
        texts: dict[str, str] = {}
        for name, text in texts_of(document.fields):
            texts[name] = f"{texts[name]}\n{text}" if name in texts else text
        self._claim_slots(texts)
        made = tantivy.Document()
        made.add_text("id", document.id)
        made.add_bytes("source", source.encode())
        made.add_text(_ALL, searchable("\n".join(texts.values())))
        for name, text in texts.items():
            made.add_text(_slot(self._record.slots[name]), searchable(text))
        if self._vectors is not None:
            made.add_unsigned(VECTOR_FIELD, self._vectors.key(document))
        return made

    def _claim_slots(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self._record.slots]
        if not new:
            return
        for name in new:
            # Fields that come after all slots are taken share the last one.
            self._record.slots[name] = min(len(self._record.slots), _SLOTS - 1)
        # Before the documents that use them: a crash in between wastes a slot, no more.
        self._record.write(self._path)

    def _query(self, terms: Mapping[str, int]) -> tantivy.Query | None:
        fields = self._weighted_slots() if self._weights else {_ALL: 1.0}
        parts = []
        for term, times in islice(terms.items(), _MOST_TERMS):
            for field, weight in fields.items():
                query = tantivy.Query.term_query(self._schema, field, term, "freq")
                parts.append((tantivy.Occur.Should, tantivy.Query.boost_query(query, times * weight)))
        return tantivy.Query.boolean_query(parts) if parts else None

    def _weighted_slots(self) -> dict[str, float]:
        found = _matching(self._weights, self._record.slots)
        if len(found) < len(self._weights):
            # Another process may have indexed new fields since.
            self._record = self._read_record()
            found = _matching(self._weights, self._record.slots)
        if not found:
            names = ", ".join(sorted(self._record.slots)) or "none"
            raise EngineError(
                f"engine.fields names no field of the index in {self._path}; its text fields are: {names}"
            )
        weights: dict[str, float] = {}
        for name, slots in found.items():
            for slot in slots:
                weights[_slot(slot)] = max(self._weights[name], weights.get(_slot(slot), 0.0))
        return weights


def _schema(with_vectors: bool) -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_bytes_field("source", stored=True)
    if with_vectors:
        builder.add_unsigned_field(VECTOR_FIELD, stored=True, indexed=True)
    for name in (_ALL, *map(_slot, range(_SLOTS))):
        builder.add_text_field(name, tokenizer_name=_ANALYZER, index_option="freq")
    return builder.build()


def _slot(number: int) -> str:
    return f"text_{number}"


def _matching(names: Iterable[str], slots: Mapping[str, int]) -> dict[str, list[int]]:
    """Name -> slots of the field and of what is inside it; names without any are left out."""
    found = {
        name: [slot for field, slot in slots.items() if field == name or field.startswith(f"{name}.")]
        for name in names
    }
    return {name: inside for name, inside in found.items() if inside}
