"""Train queries without labels: parts of the user's own documents, taken out and asked for.

A title asks for its text, a heading for its section, a docstring for its code, a sentence (or its telling words) for
the document it stood in. The part is taken out, so that what is searched is the rest; of titles and docstrings it
is taken out of every document, else the relevant one would be known by what it lacks. A query that is still a copy of
something in the rest is no question, and is not used.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal, get_args

from connector.documents import Document, document_text

__all__ = ["KINDS", "Kind", "MadeQuery", "is_copy", "make_queries", "without_part"]

Kind = Literal["title", "heading", "docstring", "sentence", "words"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What queries are made of."""

_TITLES = ("title", "name", "heading", "headline", "subject", "summary", "question")
_WORD = re.compile(r"\w+")
# Lucene's English stop words and the words of questions: they tell nothing about a document.
_COMMON = {
    *("a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "did", "do", "does", "for", "from"),
    *("had", "has", "have", "how", "i", "if", "in", "into", "is", "it", "its", "may", "no", "not", "of"),
    *("on", "or", "our", "such", "than", "that", "the", "their", "then", "there", "these", "they", "this"),
    *("those", "to", "was", "we", "were", "what", "when", "where", "which", "who", "why", "will", "with"),
    *("you", "your"),
}
_DOCSTRING = re.compile(r"(?:\"\"\"|''')(.*?)(?:\"\"\"|''')", re.DOTALL)
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S.*?)[ \t#]*$", re.MULTILINE)
# A full stop ends a sentence where a capital, a bracket or a quotation mark follows, or (as in old collections) a
# stop that stands alone.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'])|\s\.{1,2}\s+")
_FEWEST_WORDS, _MOST_WORDS = 2, 48
_SENTENCE_WORDS = (6, 40)
_REST_WORDS = 8
# A run of the query's words that stands in the rest: so many words, or this share of the query, make it a copy.
_COPIED_WORDS, _COPIED_SHARE = 6, 0.6
_TELLING_WORDS = (2, 6)
_SHARED_WORDS = 0.25


@dataclass(frozen=True, slots=True)
class MadeQuery:
    """A query, and the document that answers it.

    Attributes:
        id: unique within one call: kind and document id.
        query: its text.
        document: the relevant document, without the part that the query was made of.
        kind: what it was made of.
    """

    id: str
    query: str
    document: Document
    kind: Kind


def make_queries(
    documents: Iterable[Document], count: int, *, kinds: Sequence[Kind] = KINDS, seed: int = 0
) -> list[MadeQuery]:
    """Make train queries of documents; at most one of each document.

    Args:
        documents: the collection; all are held in memory.
        count: most queries; kinds take turns, as far as the documents offer them.
        kinds: what queries may be made of.
        seed: which documents and parts are drawn.

    Returns:
        The queries, fewer than ``count`` where the documents offer no more.
    """
    pool = sorted(documents, key=lambda document: document.id)
    drawn = random.Random(seed)
    drawn.shuffle(pool)
    titles = Counter(_normal(_title(document)[1]) for document in pool)
    spread = Counter(word for document in pool for word in set(_content_words(document_text(document.fields))))

    def unique_title(document: Document) -> tuple[str, Document] | None:
        # The parts of one work share its title, which then asks for none of them.
        name, title = _title(document)
        return None if titles[_normal(title)] != 1 else _from_title(name, title, document)

    def words(document: Document) -> tuple[str, Document] | None:
        return _from_words(document, drawn, spread)

    makers: dict[Kind, Callable[[Document], tuple[str, Document] | None]] = {
        "title": unique_title,
        "heading": lambda document: _from_heading(document, drawn),
        "docstring": _from_docstring,
        "sentence": lambda document: _from_sentence(document, drawn),
        "words": words,
    }
    queues: dict[Kind, Iterator[MadeQuery]] = {}
    used: set[str] = set()

    def queue(kind: Kind) -> Iterator[MadeQuery]:
        for document in pool:
            if document.id not in used:
                made = makers[kind](document)
                if made is not None and _usable(made[0], made[1]):
                    used.add(document.id)
                    yield MadeQuery(f"{kind}:{document.id}", made[0], made[1], kind)

    queues = {kind: queue(kind) for kind in kinds}
    found: list[MadeQuery] = []
    while queues and len(found) < count:
        for kind in list(queues):
            if len(found) == count:
                break
            made = next(queues[kind], None)
            if made is None:
                del queues[kind]
            else:
                found.append(made)
    return found


def without_part(document: Document, kind: Kind) -> Document:
    """How every document of the collection is searched for queries of this kind."""
    if kind == "title":
        name, _ = _title(document)
        return Document(document.id, {key: value for key, value in document.fields.items() if key != name})
    if kind == "docstring":
        found = _code(document)
        return document if found is None else _replaced(document, found[0], _DOCSTRING.sub("", found[1]))
    return document


def is_copy(query: str, text: str) -> bool:
    """Whether most of the query stands in the text word for word."""
    words = _words(query)
    longest = max(2, min(_COPIED_WORDS, int(len(words) * _COPIED_SHARE) + 1))
    found = f" {' '.join(_words(text))} "
    return any(f" {' '.join(words[at : at + longest])} " in found for at in range(len(words) - longest + 1))


def _usable(query: str, rest: Document) -> bool:
    words = _words(query)
    text = document_text(rest.fields)
    if not _FEWEST_WORDS <= len(words) <= _MOST_WORDS or len(_words(text)) < _REST_WORDS:
        return False
    own = set(_content_words(query))
    # With no word in common no first stage finds the document; with few, the part was about something else.
    shared = len(own & set(_content_words(text)))
    return shared >= max(1, len(own) * _SHARED_WORDS) and not is_copy(query, text)


def _from_title(name: str, title: str, document: Document) -> tuple[str, Document] | None:
    return (title.strip(), without_part(document, "title")) if name and title.strip() else None


def _from_heading(document: Document, drawn: random.Random) -> tuple[str, Document] | None:
    name, text = _longest(document)
    headings = list(_HEADING.finditer(text))
    if len(headings) < 2:
        return None
    at = drawn.randrange(len(headings))
    end = headings[at + 1].start() if at + 1 < len(headings) else len(text)
    return headings[at].group(1), _replaced(document, name, text[headings[at].end() : end].strip())


def _from_docstring(document: Document) -> tuple[str, Document] | None:
    found = _code(document)
    if found is None:
        return None
    docstring = _DOCSTRING.search(found[1])
    lines = docstring.group(1).strip().splitlines() if docstring else []
    return (lines[0].strip().rstrip("."), without_part(document, "docstring")) if lines else None


def _sentences(text: str) -> list[tuple[int, int]]:
    starts, ends = [0], []
    for match in _SENTENCE_END.finditer(text):
        ends.append(match.start())
        starts.append(match.end())
    return list(zip(starts, [*ends, len(text)], strict=True))


def _from_sentence(document: Document, drawn: random.Random) -> tuple[str, Document] | None:
    name, text = _longest(document)
    if _code(document) is not None:
        return None
    low, high = _SENTENCE_WORDS
    whole = _sentences(text)
    long_enough = [(start, end) for start, end in whole if low <= len(_words(text[start:end])) <= high]
    if len(whole) < 3 or not long_enough:
        return None
    start, end = drawn.choice(long_enough)
    rest = f"{text[:start].rstrip()} {text[end:].lstrip()}".strip()
    return text[start:end].strip(), _replaced(document, name, rest)


def _from_words(document: Document, drawn: random.Random, spread: Mapping[str, int]) -> tuple[str, Document] | None:
    made = _from_sentence(document, drawn)
    if made is None:
        return None
    # Words of one document alone are names and misprints, those of many tell little; those that come back in the
    # rest are what the document is about.
    words = list(dict.fromkeys(word for word in _content_words(made[0]) if spread[word] > 1))
    within = Counter(_content_words(document_text(made[1].fields)))
    weight = {word: (1 + within[word]) / (1 + log(spread[word])) for word in words}
    low, high = _TELLING_WORDS
    telling = set(sorted(words, key=lambda word: (-weight[word], word))[: drawn.randint(low, high)])
    return " ".join(word for word in words if word in telling), made[1]


def _title(document: Document) -> tuple[str, str]:
    for name in _TITLES:
        value = document.fields.get(name)
        if isinstance(value, str) and value.strip() and len(document.fields) > 1:
            return name, value
    return "", ""


def _longest(document: Document) -> tuple[str, str]:
    texts = [(name, value) for name, value in document.fields.items() if isinstance(value, str)]
    return max(texts, key=lambda entry: len(entry[1]), default=("", ""))


def _code(document: Document) -> tuple[str, str] | None:
    name, text = _longest(document)
    return (name, text) if re.search(r"^\s*(?:def|class|async def) ", text, re.MULTILINE) else None


def _replaced(document: Document, name: str, text: str) -> Document:
    fields: dict[str, Any] = {key: text if key == name else value for key, value in document.fields.items()}
    return Document(document.id, fields)


def _words(text: str) -> list[str]:
    return [match.lower() for match in _WORD.findall(text)]


def _content_words(text: str) -> list[str]:
    return [word for word in _words(text) if word not in _COMMON]


def _normal(text: str) -> str:
    return " ".join(_words(text))
