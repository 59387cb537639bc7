"""Passages: the parts of a document that are read, tokenized once and remembered for as long as there is room."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import ceil

import numpy as np
import numpy.typing as npt

from connector.backbone.caching.counted_cache import CountedCache, Lookups
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.prompt.tokenizer import EncodedText, Tokenizer

__all__ = ["Passage", "Passages", "SplitText", "passage_key", "split_text"]

# No tokenizer makes fewer tokens than one per so many characters of real text; what is longer is cut before it is
# tokenized, so that a document of 100 MB costs no more than one of the size that is read.
_CHARACTERS_PER_TOKEN = 64
# What Python keeps beside the characters and numbers, measured: of a text, and of each of its passages.
_BYTES_A_TEXT, _BYTES_A_PASSAGE = 650, 400


def passage_key(namespace: str, ids: TokenIds) -> bytes:
    """The key of a passage: hash of what encodes it (fingerprint, layout, pool) and of its token ids."""
    digest = hashlib.blake2b(namespace.encode(), digest_size=16)
    digest.update(ids.astype("<i4", copy=False).tobytes())
    return digest.digest()


@dataclass(slots=True, eq=False)
class Passage:
    """A part of a document that is scored by itself. Not to be changed.

    Attributes:
        ids: int32 [tokens], never empty.
        spans: int32 [tokens, 2]: (start, end) characters of each token in the document.
    """

    ids: TokenIds
    spans: npt.NDArray[np.int32] = field(repr=False)
    _key: tuple[str, bytes] = field(default=("", b""), init=False, repr=False)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.spans)

    @property
    def content(self) -> bytes:
        """What tells passages apart, and puts them in an order that does not depend on where they came from."""
        return self.ids.tobytes()

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """(start, end) characters of each token in the document."""
        return tuple((start, end) for start, end in self.spans.tolist())

    def key(self, namespace: str) -> bytes:
        """The document cache's key; the one asked for last is remembered."""
        known, key = self._key
        if known != namespace:
            key = passage_key(namespace, self.ids)
            self._key = (namespace, key)
        return key


@dataclass(frozen=True, slots=True)
class SplitText:
    """A text's passages, and whether tokens were left out behind them."""

    passages: tuple[Passage, ...]
    truncated: bool

    def parts(self, text: str) -> list[str]:
        """The passages as they stand in their text."""
        return [text[int(own.spans[0, 0]) : int(own.spans[-1, 1])] for own in self.passages]


def split_text(encoding: EncodedText, budget: int, most: int) -> SplitText:
    """Cut a text into passages of equal length.

    Args:
        encoding: the whole text.
        budget: most tokens of a passage.
        most: most passages; tokens behind them are left out.
    """
    total = min(len(encoding.ids), budget * most)
    if not total:
        return SplitText((), False)
    # A copy: what is cut off is not to be kept.
    ids = encoding.ids[:total].copy()
    spans = np.frombuffer(array("i", chain.from_iterable(encoding.offsets[:total])), dtype=np.int32).reshape(-1, 2)
    parts = ceil(total / budget)
    bounds = [total * at // parts for at in range(parts + 1)]
    passages = tuple(
        Passage(ids[start:end], spans[start:end]) for start, end in zip(bounds, bounds[1:], strict=False)
    )
    return SplitText(passages, len(encoding.ids) > total)


class Passages:
    """Makes passages of texts. Thread-safe.

    Args:
        tokenizer: of the LLM that reads them.
        budget: most tokens of a passage; longer texts are split evenly.
        most: most passages of a text.
        limit: most bytes of texts and passages that are remembered, least recently used out first; 0: none.
    """

    def __init__(self, tokenizer: Tokenizer, budget: int, most: int, limit: int) -> None:
        self._tokenizer, self._budget, self._most = tokenizer, budget, most
        self._known: CountedCache[str, _Remembered] = CountedCache(limit, lambda known: known.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered."""
        return self._known.statistics().bytes

    def lookups(self) -> Lookups:
        """How many texts were remembered, and how many were not."""
        return self._known.lookups()

    def of(self, texts: Sequence[str]) -> list[SplitText]:
        """The passages of each text; only texts that are not remembered are tokenized."""
        longest = self._budget * self._most * _CHARACTERS_PER_TOKEN
        cut = [text[:longest] for text in texts]
        remembered = [self._known.get(text) for text in cut]
        found = {text: known.split for text, known in zip(cut, remembered, strict=True) if known is not None}
        new = [text for text in dict.fromkeys(cut) if text not in found]
        for text, encoding in zip(new, self._tokenizer.encode_user(new) if new else (), strict=True):
            found[text] = split_text(encoding, self._budget, self._most)
        for text in new:
            self._known.put(text, _Remembered.of(text, found[text]))
        return [
            found[short] if len(short) == len(text) else SplitText(found[short].passages, True)
            for short, text in zip(cut, texts, strict=True)
        ]

    def beginnings(self, texts: Sequence[str], most: int) -> list[str]:
        """Of each text so much as has at most ``most`` tokens."""
        cut = [text[: most * _CHARACTERS_PER_TOKEN] for text in texts]
        encodings = self._tokenizer.encode_user(cut)
        return [
            text if len(encoding.ids) <= most else text[: encoding.offsets[most - 1][1]]
            for text, encoding in zip(cut, encodings, strict=True)
        ]

    def clear(self) -> None:
        """Forget every text."""
        self._known.clear()


@dataclass(frozen=True, slots=True)
class _Remembered:
    split: SplitText
    nbytes: int

    @classmethod
    def of(cls, text: str, split: SplitText) -> _Remembered:
        own = sum(passage.ids.nbytes + passage.spans.nbytes + _BYTES_A_PASSAGE for passage in split.passages)
        return cls(split, sys.getsizeof(text) + own + _BYTES_A_TEXT)
