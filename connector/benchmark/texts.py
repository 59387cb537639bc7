"""Queries and documents of one length, made of real texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from connector.backbone.prompt.tokenizer import Tokenizer
from connector.documents import document_text, has_text
from connector.engines.standard_library import QUESTIONS, standard_library_documents
from connector.errors import DataError
from connector.evaluation.collections import read_documents, read_queries

__all__ = ["Texts", "read_texts"]

_QUERIES = 400


@dataclass(frozen=True)
class Texts:
    """What is reranked.

    Attributes:
        source: where the texts come from.
        queries: distinct; every timed request takes another one, so that nothing is answered from memory.
        documents: distinct, each of ``tokens`` tokens.
        tokens: of the backbone's tokenizer, to one or two: a cut text may be tokenized a little differently.
    """

    source: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    tokens: int

    def query(self, turn: int) -> str:
        """The query of a round; rounds before the first one have their own."""
        return self.queries[turn % len(self.queries)]


def read_texts(folder: Path | None, tokenizer: Tokenizer, count: int, tokens: int) -> Texts:
    """Documents cut to one length; short ones are put together with those that follow.

    Args:
        folder: a collection as BEIR lays it out; None: the documentation of Python's standard library.
        tokenizer: counts the tokens.
        count: how many documents.
        tokens: length of each.

    Raises:
        DataError: the folder cannot be read, or has too little text.
    """
    if folder is None:
        # Not a list: parsing the whole library takes seconds.
        texts: Iterable[str] = (document_text(document.fields, ()) for document in standard_library_documents())
        asked = [f"what does {document.id} do" for document in islice(standard_library_documents(), _QUERIES)]
        queries: Iterable[str] = (*QUESTIONS, *asked)
        source = "standard library of Python"
    else:
        queries = read_queries(folder / "queries.jsonl").values()
        texts = (
            document_text(document.fields, ("title", "text")) for document in read_documents(folder / "corpus.jsonl")
        )
        source = folder.resolve().name
    documents = tuple(islice(_cut(texts, tokenizer, tokens), count))
    if len(documents) < count:
        raise DataError(
            f"{source} has text for {len(documents)} documents of {tokens} tokens, {count} are needed; give a larger "
            "collection, or smaller windows (--window)"
        )
    chosen = tuple(islice((query for query in queries if has_text(query)), _QUERIES))
    if not chosen:
        raise DataError(f"{source} has no queries; give a collection with queries.jsonl")
    return Texts(source, chosen, documents, tokens)


def _cut(texts: Iterable[str], tokenizer: Tokenizer, tokens: int) -> Iterator[str]:
    seen = set()
    waiting = ""
    for text in texts:
        waiting = f"{waiting}\n\n{text}" if waiting else text
        encoded = tokenizer.encode_user([waiting])[0]
        if len(encoded.ids) >= tokens:
            document = waiting[: encoded.offsets[tokens - 1][1]]
            waiting = ""
            if document not in seen:
                seen.add(document)
                yield document
