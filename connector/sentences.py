"""The sentences of a text, and those of them that a passage shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

__all__ = ["Span", "sentences", "shown_sentences"]

Span = tuple[int, int]
"""(start, end) characters of a text."""

# The end of a sentence: a line break, a full stop of a script that puts no blanks between sentences, or a sign that
# ends one with a blank behind it.
_END = re.compile(r"\n|[。！？．]+[」』”’）\"')]*|[.!?…]+[\"'”’»)\]]*(?=\s)")
# A full stop behind these, one letter, or a line's own number ends no sentence; nor does any before a small letter.
_SHORT = re.compile(
    r"(?:^|\n)\s*\d{1,3}\.$|(?:^|[\s(])(?:[^\W\d_]|[Mm]rs?|Ms|Drs?|Profs?|St|vs|cf|[Nn]os?|[Ff]igs?|e\.g|i\.e|[Ee]qs?|approx)\.$"
)
_LONGEST_SHORT = 9
# A sentence longer than this, in characters, is a list or a table: only the passage in it is shown, with whole words.
_LONGEST, _LONGEST_WORD = 400, 40
# Of what the sentence got that was looked at most, others must have so much to be shown.
_SHARE = 0.5


def sentences(text: str) -> Iterator[Span]:
    """The sentences of a text in their order, without the blanks around them; no rule of any one language."""
    begin = 0
    for found in _END.finditer(text):
        end = found.end()
        if found[0] == "." and not _is_end(text, found.start()):
            continue
        yield from _trimmed(text, begin, end)
        begin = end
    yield from _trimmed(text, begin, len(text))


def shown_sentences(text: str, tokens: Sequence[tuple[int, int, float]]) -> list[tuple[int, Span]]:
    """The sentences that a passage shows: that which was looked at most, and those looked at half as much or more.

    Args:
        text: the whole text.
        tokens: of the passage, as in ``RankedHit.looked_at``.

    Returns:
        (place among the text's sentences, (start, end) characters) in the text's order; they do not overlap. Empty
        where nothing was looked at.
    """
    if not tokens:
        return []
    passage = tokens[0][0], tokens[-1][1]
    found: list[tuple[float, int, Span]] = []
    for at, (first, last) in enumerate(sentences(text)):
        if first >= passage[1]:
            break
        # By their last characters: tokens begin with the blank before a word.
        looked = sum(weight for _, end, weight in tokens if first < end <= last)
        if looked > 0:
            found.append((looked, at, (first, last)))
    most = max((looked for looked, _, _ in found), default=0.0)
    return [(at, _cut(text, sentence, passage)) for looked, at, sentence in found if looked >= _SHARE * most]


def _is_end(text: str, at: int) -> bool:
    """Whether the full stop there ends a sentence."""
    behind = text[at + 1 : at + 1 + _LONGEST_WORD].lstrip()[:1]
    return not behind.islower() and _SHORT.search(text[max(0, at - _LONGEST_SHORT) : at + 1]) is None


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    own = text[start:end]
    stripped = own.strip()
    if stripped:
        first = start + len(own) - len(own.lstrip())
        yield first, first + len(stripped)


def _cut(text: str, sentence: Span, passage: Span) -> Span:
    if sentence[1] - sentence[0] <= _LONGEST:
        return sentence
    start, end = max(sentence[0], passage[0]), min(sentence[1], passage[1])
    first, last = max(sentence[0], start - _LONGEST_WORD), min(sentence[1], end + _LONGEST_WORD)
    while start > first and text[start - 1 : start + 1].isalnum():
        start -= 1
    while end < last and text[end - 1 : end + 1].isalnum():
        end += 1
    ((start, end),) = _trimmed(text, start, end)
    return start, end
