"""JSON texts whose parts can be moved and replaced while every other character stays as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Edit", "NotPlainJson", "Span", "decode", "edited", "encode", "read_value", "scan_list", "scan_object"]

_BLANKS = re.compile(r"[ \t\r\n]*")
# Longer ones may be refused by int(), and nobody counts that far.
_LONGEST_INTEGER = 400


class NotPlainJson(ValueError):
    """A text that is not the JSON that was expected."""


class Span(NamedTuple):
    """A value in a text: where it starts and ends, and what it is."""

    start: int
    end: int
    value: Any


class Edit(NamedTuple):
    """Put ``text`` in the place of everything from ``start`` to ``end``."""

    start: int
    end: int
    text: str


ReadValue = Callable[[str, int], tuple[Any, int]]


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONGEST_INTEGER else float(digits)


# Searches bring back what others have stored: half surrogate pairs and numbers of any size must be read as well.
_DECODER = json.JSONDecoder(parse_int=_integer)


def decode(body: bytes) -> str:
    """The text of a body; ``encode`` gives the same bytes back, whatever they are."""
    return body.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes of a text that came from ``decode``."""
    return text.encode("utf-8", "surrogateescape")


def read_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The value at ``start``, and where it ends.

    Raises:
        NotPlainJson: there is none, or it is nested too deeply.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError, OverflowError) as error:
        raise NotPlainJson(str(error)[:100]) from None


def scan_object(
    text: str, start: int = 0, readers: Mapping[str, ReadValue] | None = None
) -> tuple[dict[str, Span], int]:
    """The members of the object at ``start``, and where it ends. Of a name given twice, the last one counts.

    Args:
        text: holds the object.
        start: where it begins; blanks are skipped.
        readers: what reads the values of some names, instead of ``read_value``.

    Raises:
        NotPlainJson: there is no object.
    """
    members: dict[str, Span] = {}
    at = _past(text, start, "{")
    if text[at : at + 1] == "}":
        return members, at + 1
    while True:
        name, end = read_value(text, at)
        if not isinstance(name, str):
            raise NotPlainJson("a name is not a string")
        begin = _past(text, end, ":")
        value, end = (readers or {}).get(name, read_value)(text, begin)
        members[name] = Span(begin, end, value)
        at = _blanks(text, end)
        if text[at : at + 1] == "}":
            return members, at + 1
        at = _past(text, at, ",")


def scan_list(text: str, start: int = 0, reader: ReadValue = read_value) -> tuple[list[Span], int]:
    """The elements of the list at ``start``, and where it ends.

    Raises:
        NotPlainJson: there is no list.
    """
    elements: list[Span] = []
    at = _past(text, start, "[")
    if text[at : at + 1] == "]":
        return elements, at + 1
    while True:
        value, end = reader(text, at)
        elements.append(Span(at, end, value))
        at = _blanks(text, end)
        if text[at : at + 1] == "]":
            return elements, at + 1
        at = _past(text, at, ",")


def edited(text: str, edits: Iterable[Edit], start: int = 0, end: int | None = None) -> str:
    """The text from ``start`` to ``end`` with the edits, which must not overlap, applied."""
    pieces: list[str] = []
    at = start
    for edit in sorted(edits):
        pieces += (text[at : edit.start], edit.text)
        at = edit.end
    pieces.append(text[at : len(text) if end is None else end])
    return "".join(pieces)


def _blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return at if found is None else found.end()


def _past(text: str, at: int, sign: str) -> int:
    at = _blanks(text, at)
    if text[at : at + 1] != sign:
        raise NotPlainJson(f"'{sign}' is missing at character {at}")
    return _blanks(text, at + 1)
