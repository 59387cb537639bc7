"""Judged collections: documents, queries and judgments in a folder as BEIR lays it out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection as Ids
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from connector.documents import Document, has_text
from connector.errors import DataError
from connector.evaluation.runs import Qrels, read_pairs, read_qrels
from connector.evaluation.text_lines import json_objects, object_id, object_text

__all__ = ["Collection", "load_collection", "read_documents", "read_queries"]


@dataclass(frozen=True)
class Collection:
    """One split of a judged collection. The documents stay on disk until they are asked for.

    Attributes:
        name: of the folder.
        path: the folder.
        split: ``test``, ``train``, ``dev`` …
        queries: id -> text of the queries with a positive judgment, in the order of the file.
        qrels: judgments of these queries, without the excluded pairs.
        excluded: (query, document) pairs that are dropped from rankings, such as the paper a query was made from.
        qrels_file: the judgments' file, relative to the folder where it lies in it.
        relevant_from: lowest grade that counts as relevant in binary measures.
        is_indexed: the documents stand in the settings' own index; there is no ``corpus.jsonl``.
        shown: query -> ids of the hits that a click log says were shown, best first; empty: a search finds them.
    """

    name: str
    path: Path
    split: str
    queries: Mapping[str, str]
    qrels: Qrels
    excluded: frozenset[tuple[str, str]]
    qrels_file: str
    relevant_from: int = 1
    is_indexed: bool = False
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def documents(self) -> Iterator[Document]:
        """All documents, with the fields ``title`` and ``text``.

        Raises:
            DataError: see ``read_documents``.
        """
        return read_documents(self.path / "corpus.jsonl")

    def documents_by_id(self, ids: Ids[str]) -> dict[str, Document]:
        """The documents with these ids; those that the corpus lacks are left out.

        Raises:
            DataError: see ``read_documents``.
        """
        wanted = frozenset(ids)
        return {document.id: document for document in self.documents() if document.id in wanted}

    def corpus_hash(self) -> str:
        """SHA-256 of ``corpus.jsonl``: names its index.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            with (self.path / "corpus.jsonl").open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"cannot read {self.path / 'corpus.jsonl'}: {error.strerror or error}") from None


def load_collection(
    path: Path | str, split: str = "test", qrels: Path | str | None = None, relevant_from: int = 1
) -> Collection:
    """Read the queries and judgments of one split.

    Args:
        path: folder with ``corpus.jsonl``; for the split test ``queries.jsonl`` and ``qrels.tsv`` or
            ``qrels/test.tsv``, for another one ``queries_<split>.jsonl`` (else ``queries.jsonl``) and
            ``qrels_<split>.tsv`` or ``qrels/<split>.tsv``; optionally ``exclude.tsv``.
        split: which queries.
        qrels: another file of judgments, in the folder or anywhere.
        relevant_from: lowest grade that counts as relevant in binary measures.

    Raises:
        DataError: a file is missing or wrong, a judged query has no text, no query has a positive judgment.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give one with corpus.jsonl, queries.jsonl and qrels.tsv")
    if not (path / "corpus.jsonl").is_file():
        raise DataError(f"{path} has no corpus.jsonl; give a folder as BEIR lays it out")
    qrels_path = _qrels_path(path, split, qrels)
    queries_path = _queries_path(path, split)
    excluded = read_pairs(path / "exclude.tsv") if (path / "exclude.tsv").is_file() else frozenset()
    judgments = {}
    for query, grades in read_qrels(qrels_path).items():
        kept = {document: grade for document, grade in grades.items() if (query, document) not in excluded}
        if any(grade > 0 for grade in kept.values()):
            judgments[query] = kept
    texts = read_queries(queries_path)
    missing = [query for query in judgments if query not in texts]
    if missing:
        raise DataError(f"{qrels_path}: query {missing[0]} is not in {queries_path.name}; give it a text there")
    queries = {query: text for query, text in texts.items() if query in judgments}
    if not queries:
        raise DataError(f"{qrels_path}: no query has a document with a grade above 0; nothing can be measured")
    return Collection(
        name=path.resolve().name,
        path=path,
        split=split,
        queries=queries,
        qrels={query: judgments[query] for query in queries},
        excluded=frozenset(pair for pair in excluded if pair[0] in queries),
        qrels_file=str(qrels_path.relative_to(path)) if qrels_path.is_relative_to(path) else qrels_path.name,
        relevant_from=relevant_from,
    )


def read_queries(path: Path | str) -> dict[str, str]:
    """Query id -> text, of a JSONL file with ``_id`` and ``text``.

    Raises:
        DataError: unreadable file, a line that is none, an id twice, an empty text; names file and line.
    """
    queries: dict[str, str] = {}
    for where, value in json_objects(Path(path)):
        identity, text = object_id(value, where), object_text(value, "text", where)
        if identity in queries:
            raise DataError(f"{where}: query {identity} is there already; ids must be unique")
        if not has_text(text):
            raise DataError(f"{where}: query {identity} has no text; give it one or take it out")
        queries[identity] = text
    return queries


def read_documents(path: Path | str) -> Iterator[Document]:
    """The documents of a JSONL file with ``_id``, ``title`` and ``text``.

    Raises:
        DataError: unreadable file, a line that is none, an id twice; names file and line.
    """
    seen: set[str] = set()
    for where, value in json_objects(Path(path)):
        identity = object_id(value, where)
        if identity in seen:
            raise DataError(f"{where}: document {identity} is there already; ids must be unique")
        seen.add(identity)
        yield Document(identity, {key: object_text(value, key, where) for key in ("title", "text")})


def _qrels_path(folder: Path, split: str, given: Path | str | None) -> Path:
    if given is not None:
        for candidate in (folder / given, Path(given)):
            if candidate.is_file():
                return candidate
        raise DataError(f"there is no file of judgments {given}, neither in {folder} nor here")
    names = [f"qrels_{split}.tsv", f"qrels/{split}.tsv"]
    if split == "test":
        names.insert(0, "qrels.tsv")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    splits = sorted(
        {found.stem.removeprefix("qrels_") for found in [*folder.glob("qrels_*.tsv"), *folder.glob("qrels/*.tsv")]}
    )
    if split != "test" and (folder / "qrels.tsv").is_file():
        splits.append("test (qrels.tsv)")
    others = f"; there are those of {', '.join(splits)}" if splits else ""
    raise DataError(f"{folder} has no judgments for the split {split} ({' or '.join(names)}){others}")


def _queries_path(folder: Path, split: str) -> Path:
    # BEIR keeps the queries of all splits in one file; ours stand in one file a split.
    own = folder / f"queries_{split}.jsonl"
    return own if own.is_file() else folder / "queries.jsonl"
