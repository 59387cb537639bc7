"""The embedded engine: BM25 by tantivy, in a folder, for whoever has no cluster.

Every document is searchable as a whole (all its text fields, one after the other) and by each field alone, so that
weights can be given at search time. Field names are not known when the index is made: tantivy's schema is fixed, so
it holds a number of slots, and a record beside the index says which field has which.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import tantivy

from connector.documents import Document, Hit, clean_text, document_text
from connector.engines.engine import IndexReport
from connector.errors import EngineError

__all__ = ["STOP_WORDS", "EmbeddedEngine"]

_FORMAT = 1
_RECORD = "rh-index.json"
_ANALYZER = "rh_english_1"
_SLOTS = 24
_ALL = "all_text"
_WRITER_BYTES = 64_000_000
_MOST_TERMS = 1024

# Lucene's English stop words (EnglishAnalyzer.ENGLISH_STOP_WORDS_SET).
STOP_WORDS = [
    *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not"),
    *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was"),
    *("will", "with"),
]


class EmbeddedEngine:
    """One tantivy index in a folder.

    A crash while indexing leaves the last committed batch. One process may write at a time; any number may search.

    Args:
        path: folder of the index; made by the first ``index``.
        weights: field -> weight in searches; empty: all text as one field.
    """

    def __init__(self, path: Path, weights: Mapping[str, float] | None = None) -> None:
        self._path = path
        self._weights = dict(weights or {})
        self._analyzer = (
            tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
            .filter(tantivy.Filter.lowercase())
            .filter(tantivy.Filter.remove_long(128))
            .filter(tantivy.Filter.custom_stopword(STOP_WORDS))
            .filter(tantivy.Filter.stemmer("english"))
            .build()
        )
        self._schema = _schema()
        self._index: tantivy.Index | None = None
        self._slots: dict[str, int] = {}
        if (path / _RECORD).is_file():
            self._open()

    def search(self, query: str, size: int) -> list[Hit]:
        """See ``Engine.search``."""
        index = self._existing()
        terms = Counter(self._analyzer.analyze(clean_text(query)))
        parsed = self._query(terms)
        if parsed is None or size <= 0:
            return []
        index.reload()
        searcher = index.searcher()
        found = searcher.search(parsed, min(size, max(searcher.num_docs, 1))).hits
        hits = []
        for score, address in found:
            identity, fields = _stored(searcher.doc(address))
            hits.append(Hit(identity, float(score), fields))
        return sorted(hits, key=lambda hit: (-(hit.score or 0.0), hit.id))

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """See ``Engine.get``."""
        index = self._existing()
        index.reload()
        searcher = index.searcher()
        found = {}
        for identity in dict.fromkeys(map(clean_text, ids)):
            for _, address in searcher.search(tantivy.Query.term_query(self._schema, "id", identity), 1).hits:
                found[identity] = Document(*_stored(searcher.doc(address)))
        return found

    def index(
        self, documents: Iterable[Document], *, batch: int = 1000, committed: Callable[[int], None] | None = None
    ) -> IndexReport:
        """See ``Engine.index``."""
        if self._index is None:
            self._create()
        assert self._index is not None
        try:
            writer: Any = self._index.writer(heap_size=_WRITER_BYTES, num_threads=1)
        except ValueError as error:
            if "Lock" in str(error):
                raise EngineError(
                    f"another process is writing to the index in {self._path}; wait for it, or end it"
                ) from None
            raise EngineError(f"cannot write to the index in {self._path}: {error}") from None
        before, done = self.count(), 0
        remaining = iter(documents)
        try:
            while bulk := list(islice(remaining, batch)):
                self._claim_slots(bulk)
                for document in bulk:
                    writer.delete_documents_by_term("id", clean_text(document.id))
                    writer.add_document(self._prepare(document))
                writer.commit()
                done += len(bulk)
                if committed is not None:
                    committed(done)
            # Merges run in the background; an index must not be left before they are through.
            writer.wait_merging_threads()
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot write to the index in {self._path}: {error}") from None
        finally:
            del writer
        return IndexReport(done, before + done - self.count())

    def count(self) -> int:
        """See ``Engine.count``."""
        if self._index is None:
            return 0
        self._index.reload()
        return int(self._index.searcher().num_docs)

    def close(self) -> None:
        """See ``Engine.close``."""
        self._index = None

    def _existing(self) -> tantivy.Index:
        if self._index is None and (self._path / _RECORD).is_file():
            self._open()
        if self._index is None:
            raise EngineError(f"there is no index in {self._path}; make it with: rh-connector index SOURCE")
        return self._index

    def _open(self) -> None:
        try:
            record = json.loads((self._path / _RECORD).read_text(encoding="utf-8"))
            found = record["format"]
            slots = {str(name): int(slot) for name, slot in record["slots"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise EngineError(f"{self._path / _RECORD} is damaged; remove the folder and index again") from None
        if found != _FORMAT:
            raise EngineError(
                f"the index in {self._path} has format {found}, this version reads {_FORMAT}; index again"
            )
        try:
            self._index = tantivy.Index(self._schema, path=str(self._path))
            self._index.register_tokenizer(_ANALYZER, self._analyzer)
        except (OSError, ValueError) as error:
            raise EngineError(
                f"cannot open the index in {self._path}: {error}; remove the folder and index again"
            ) from None
        self._slots = slots

    def _create(self) -> None:
        if self._path.exists() and any(self._path.iterdir()) and not (self._path / _RECORD).is_file():
            left = {path.name for path in self._path.iterdir()}
            if not left <= {"meta.json", ".managed.json", ".tantivy-writer.lock", ".tantivy-meta.lock"}:
                raise EngineError(f"{self._path} is not an index of rh-connector; choose another folder")
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            tantivy.Index(self._schema, path=str(self._path))
            self._write_record()
        except (OSError, ValueError) as error:
            raise EngineError(f"cannot make an index in {self._path}: {error}") from None
        self._open()

    def _claim_slots(self, documents: Sequence[Document]) -> None:
        names = {name for document in documents for name in document.fields if _text_of(document, name)}
        new = sorted(names - self._slots.keys())
        if not new:
            return
        for name in new:
            # Fields that come after all slots are taken share the last one.
            self._slots[name] = min(len(self._slots), _SLOTS - 1)
        # Before the documents that use them: a crash in between wastes a slot, no more.
        self._write_record()

    def _write_record(self) -> None:
        temporary = self._path / f"{_RECORD}.{os.getpid()}.part"
        temporary.write_text(json.dumps({"format": _FORMAT, "slots": self._slots}), encoding="utf-8")
        temporary.replace(self._path / _RECORD)

    def _prepare(self, document: Document) -> tantivy.Document:
        made = tantivy.Document()
        made.add_text("id", clean_text(document.id))
        made.add_bytes("source", json.dumps(dict(document.fields), default=str).encode())
        texts = {name: text for name in document.fields if (text := _text_of(document, name))}
        made.add_text(_ALL, clean_text("\n".join(texts.values())))
        for name, text in texts.items():
            made.add_text(_slot(self._slots[name]), clean_text(text))
        return made

    def _query(self, terms: Mapping[str, int]) -> tantivy.Query | None:
        fields = {_ALL: 1.0}
        if self._weights:
            known = {name: weight for name, weight in self._weights.items() if name in self._slots}
            if not known:
                names = ", ".join(sorted(self._slots)) or "none"
                raise EngineError(
                    f"engine.fields names no field of the index in {self._path}; its text fields are: {names}"
                )
            fields = {_slot(self._slots[name]): weight for name, weight in known.items()}
        parts = []
        for term, times in islice(terms.items(), _MOST_TERMS):
            for field, weight in fields.items():
                query = tantivy.Query.term_query(self._schema, field, term, "freq")
                parts.append((tantivy.Occur.Should, tantivy.Query.boost_query(query, times * weight)))
        return tantivy.Query.boolean_query(parts) if parts else None


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_bytes_field("source", stored=True)
    for name in (_ALL, *map(_slot, range(_SLOTS))):
        builder.add_text_field(name, tokenizer_name=_ANALYZER, index_option="freq")
    return builder.build()


def _slot(number: int) -> str:
    return f"text_{number}"


def _text_of(document: Document, name: str) -> str:
    value = document.fields.get(name)
    if isinstance(value, bool | int | float) or value is None:
        return ""
    return document_text({name: value}, (name,)).strip()


def _stored(document: tantivy.Document) -> tuple[str, dict[str, Any]]:
    source: Any = document.get_first("source")
    return str(document.get_first("id")), json.loads(bytes(source))
