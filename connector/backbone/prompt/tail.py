"""The tail of a prompt: the query, and the content-free "N/A" that what it gets is compared with.

Both runtimes read the same tail: its ids, where they stand and who sees whom are said here once, in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from connector.heads.row_groups import QUERY_GROUPS, RowGroup

__all__ = ["SHARED", "Tail", "TokenIds", "causal_bias", "make_tail", "solo_tail"]

TokenIds = npt.NDArray[np.int32]
"""Token ids of a text: int32 [tokens]."""
Bias = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

SHARED = -1
"""Variant of the tokens that all variants of a tail share."""
_UNSEEN = np.float32("-inf")


@dataclass(frozen=True, eq=False)
class Tail:
    """The tail of a prompt in variants (the query, and "N/A") that share their beginning.

    The variants are one sequence: shared ids, then the query's, then N/A's; a variant sees the shared part and
    itself. Each token stands at the position that it would have if its variant were alone. All tokens but the query's
    are the fixed ones: the same for every query.

    Attributes:
        ids: int32 [tokens].
        positions: int64 [tokens].
        variants: int64 [tokens]: ``SHARED``, then 0 for the query, 1 for N/A.
        rows: float32 [groups, tokens]: each group's weights over the rows; attention is averaged with them.
        prefix: tokens of the prefix, which stand at positions from 0 on.
        instruction: tokens of the caller's instruction, the first ones of the query's variant; no rows count them.
    """

    ids: TokenIds
    positions: Places
    variants: Places
    rows: npt.NDArray[np.float32]
    prefix: int
    instruction: int = 0

    @classmethod
    def of(
        cls,
        shared: Sequence[int] | TokenIds,
        variants: Sequence[Sequence[int] | TokenIds],
        rows: npt.NDArray[np.float32],
        position: int,
        prefix: int,
        instruction: int = 0,
    ) -> Tail:
        """Lay a tail out.

        Args:
            shared: ids before the query.
            variants: ids of each variant, from the query on.
            rows: float32 [groups, tokens].
            position: position of the first shared id.
            prefix: tokens of the prefix.
            instruction: tokens of the caller's instruction, which begin the first variant.
        """
        parts = (shared, *variants)
        behind = position + len(shared)
        return cls(
            np.concatenate([np.asarray(part, dtype=np.int32) for part in parts]),
            np.concatenate(
                [np.arange(position, behind), *(np.arange(behind, behind + len(own)) for own in variants)]
            ),
            np.repeat(np.arange(SHARED, len(variants)), [len(part) for part in parts]),
            rows,
            prefix,
            instruction,
        )

    @cached_property
    def shared(self) -> int:
        """Tokens of the shared beginning."""
        return int(np.count_nonzero(self.variants == SHARED))

    @cached_property
    def query(self) -> slice:
        """Places of the query, and of the caller's instruction before it."""
        return slice(self.shared, self.shared + int(np.count_nonzero(self.variants == 0)))

    @cached_property
    def fixed(self) -> Places:
        """Places of all tokens but the query's."""
        return np.flatnonzero(self.variants != 0)

    @cached_property
    def counted(self) -> Places:
        """Places of the rows that count in a group; the others need not be computed."""
        return np.flatnonzero(self.rows.any(axis=0))

    @cached_property
    def fixed_key(self) -> bytes:
        """What the states of the fixed tokens depend on, apart from the prefix's ids and the LLM."""
        parts = (self.ids[self.fixed], self.positions[self.fixed], self.variants[self.fixed])
        return b"".join(part.tobytes() for part in parts)

    def bias(self, places: Places, documents: Places, sliding_window: int | None) -> Bias:
        """0 where some tokens may look, else -inf: float32 [places, documents' tokens + prefix + tail].

        Args:
            places: of the tokens that look.
            documents: int64: positions of the documents' tokens.
            sliding_window: of the layer's attention, in tokens; None: it sees everything behind it.
        """
        before = np.concatenate((documents, np.arange(self.prefix)))
        return np.concatenate(
            (self._behind(places, before, sliding_window), self.own_bias(places, sliding_window)), axis=1
        )

    def own_bias(self, places: Places, sliding_window: int | None, seen: Places | None = None) -> Bias:
        """Of some of the tail's tokens over others (default: all): a variant sees the shared part and itself."""
        looked_at = np.arange(len(self.ids)) if seen is None else seen
        bias = causal_bias(self.positions[places], self.positions[looked_at], sliding_window)
        of, by = self.variants[looked_at], self.variants[places]
        bias[(of[None, :] != SHARED) & (by[:, None] != of[None, :])] = _UNSEEN
        return bias

    def fixed_bias(self, sliding_window: int | None) -> Bias:
        """Of the fixed tokens, over the prefix and themselves."""
        return self._over(self.fixed, self.fixed, sliding_window)

    def query_bias(self, sliding_window: int | None) -> Bias:
        """Of the query, over the prefix, the shared tokens and itself."""
        every = np.arange(self.query.stop)
        return self._over(every[self.query], every, sliding_window)

    def _over(self, places: Places, seen: Places, sliding_window: int | None) -> Bias:
        behind = self._behind(places, np.arange(self.prefix), sliding_window)
        return np.concatenate((behind, self.own_bias(places, sliding_window, seen)), axis=1)

    def _behind(self, places: Places, before: Places, sliding_window: int | None) -> Bias:
        """Over what always stands behind the tail, and only a sliding window can hide."""
        bias: Bias = np.zeros((len(places), len(before)), dtype=np.float32)
        if sliding_window is not None:
            bias[self.positions[places][:, None] - before[None, :] >= sliding_window] = _UNSEEN
        return bias


def causal_bias(queries: Places, keys: Places, sliding_window: int | None) -> Bias:
    """0 where a query may look, -inf elsewhere: float32 [queries, keys], from their positions."""
    distance = queries[:, None] - keys[None, :]
    hidden = distance < 0
    if sliding_window is not None:
        hidden |= distance >= sliding_window
    return np.where(hidden, _UNSEEN, np.float32(0))


def make_tail(
    shared: Sequence[int],
    asked: tuple[TokenIds, TokenIds],
    after: Sequence[int],
    position: int,
    prefix: int,
    groups: Sequence[RowGroup],
    instruction: Sequence[int] | TokenIds = (),
) -> Tail:
    """The tail for a query and "N/A", which stand side by side and do not see each other.

    Args:
        shared: ids before the query.
        asked: ids of the query and of "N/A".
        after: ids behind the query; left out where no group needs their rows, since no id of the query sees them.
        position: position of the first shared id.
        prefix: tokens of the prefix.
        groups: whose rows are wanted, in the order of ``Tail.rows``.
        instruction: ids of the caller's instruction, before the query and not before "N/A".
    """
    told = np.asarray(instruction, dtype=np.int32)
    behind = () if set(groups) <= set(QUERY_GROUPS) else after
    variants = [
        np.concatenate((before, ids, np.array(behind, dtype=np.int32)))
        for before, ids in zip((told, told[:0]), asked, strict=True)
    ]
    rows = np.zeros((len(groups), len(shared) + sum(map(len, variants))), dtype=np.float32)
    starts = (len(shared) + len(told), len(shared) + len(variants[0]))
    ends = (len(shared) + len(variants[0]), rows.shape[1])
    for row, group in zip(rows, groups, strict=True):
        number = 1 if group.endswith("N/A") else 0
        start, own = starts[number], len(asked[number])
        if group in QUERY_GROUPS:
            row[start : start + own] = 1 / own
        else:
            end = ends[number]
            row[: len(shared)] = row[start:end] = 1 / (len(shared) + end - start)
    return Tail.of(shared, variants, rows, position, prefix, len(told))


def solo_tail(
    last: int,
    query: TokenIds,
    prefix: int,
    groups: Sequence[RowGroup],
    instruction: Sequence[int] | TokenIds = (),
) -> Tail:
    """The tail that each document of the layout ``solo`` has behind itself; its positions count from there.

    Args:
        last: the last id before the query; the first of the query's is foretold by its row.
        query: ids of the query.
        prefix: tokens of the prefix.
        groups: whose rows are wanted, of ``QUERY_GROUPS``. "N/A" does not stand in this tail: the last id before the
            query, which says nothing yet, is in its place.
        instruction: ids of the caller's instruction, before the query.
    """
    told = np.asarray(instruction, dtype=np.int32)
    rows = np.zeros((len(groups), 1 + len(told) + len(query)), dtype=np.float32)
    for row, group in zip(rows, groups, strict=True):
        if group == "query":
            row[1 + len(told) :] = 1 / len(query)
        else:
            row[0] = 1
    return Tail.of((last,), (np.concatenate((told, query)),), rows, 0, prefix, len(told))
