"""How the embedded index cuts text into terms: the same for documents and queries."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import tantivy

from connector.documents import clean_text, has_text
from connector.sections import Language

__all__ = ["ENGLISH", "STOP_WORDS", "analyzer", "searchable", "texts_of"]

ENGLISH: Language = "english"
# Those that tantivy has a list of stop words for.
_STOPPED = frozenset(
    [
        *("danish", "dutch", "finnish", "french", "german", "hungarian", "italian", "norwegian", "portuguese"),
        *("russian", "spanish", "swedish"),
    ]
)

# Lucene's English stop words (EnglishAnalyzer.ENGLISH_STOP_WORDS_SET).
STOP_WORDS = [
    *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not"),
    *("of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was"),
    *("will", "with"),
]

# A word is a run of letters, digits and their marks. Chinese and Japanese put no blanks between words: there every
# sign is a term, as in Lucene's standard tokenizer.
_IDEOGRAPHS = r"\p{Han}\p{Hiragana}\p{Katakana}"
_WORD = rf"[{_IDEOGRAPHS}]|[\p{{L}}\p{{N}}\p{{M}}--[{_IDEOGRAPHS}]]+"
_LONGEST_WORD = 128


def analyzer(language: Language) -> tantivy.TextAnalyzer:
    """Words in lower case, without stop words, stemmed.

    Args:
        language: none: words as they are, in lower case.
    """
    builder = (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(_WORD))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.remove_long(_LONGEST_WORD))
    )
    if language == ENGLISH:
        builder = builder.filter(tantivy.Filter.custom_stopword(STOP_WORDS))
    elif language in _STOPPED:
        builder = builder.filter(tantivy.Filter.stopword(language))
    if language != "none":
        builder = builder.filter(tantivy.Filter.stemmer(language))
    return builder.build()


def searchable(text: str) -> str:
    """The text as tantivy takes it: composed accents, and no lone surrogates, which UTF-8 cannot carry."""
    return unicodedata.normalize("NFC", clean_text(text))


def texts_of(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted field name and text of every text in a JSON value, in its order; numbers are no text."""
    if isinstance(value, str):
        if has_text(value):
            yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts_of(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner, name)
