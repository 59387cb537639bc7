"""The tail of a prompt: the query, and the content-free "N/A" that what it gets is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from connector.backbone.runtime import Tail

__all__ = ["GROUPS", "SHARED", "laid_out", "make_tail"]

GROUPS = ("tail", "tail N/A", "query", "query N/A")
"""Row groups of a reading: attention averaged over all tail rows or the query's own, for the query and for N/A."""
SHARED = -1
"""Variant of the tokens that all variants of a tail share."""


def make_tail(
    shared: tuple[int, ...],
    asked: Sequence[Sequence[int]],
    after: tuple[int, ...],
    position: int,
    *,
    whole: bool = True,
) -> Tail:
    """The tail for one or several queries that stand side by side and do not see each other.

    Args:
        shared: ids before the query.
        asked: ids of each query.
        after: ids behind the query.
        position: position of the first shared id.
        whole: with the row groups of the whole tail. Without, the ids behind the query are left out: no id of the
            query sees them.

    Returns:
        A tail with a row group for each query, the mean over its own ids; with ``whole`` before these one for each,
        the mean over all rows of its tail.
    """
    behind = after if whole else ()
    variants = tuple((*ids, *behind) for ids in asked)
    tails = np.zeros((len(asked), len(shared) + sum(map(len, variants))), dtype=np.float32)
    queries = np.zeros_like(tails)
    start = len(shared)
    for number, (own, ids) in enumerate(zip(asked, variants, strict=True)):
        tails[number, : len(shared)] = tails[number, start : start + len(ids)] = 1 / (len(shared) + len(ids))
        queries[number, start : start + len(own)] = 1 / len(own)
        start += len(ids)
    return Tail(shared, variants, np.concatenate((tails, queries)) if whole else queries, position)


def laid_out(tail: Tail) -> tuple[list[int], list[int], list[int]]:
    """Ids, positions and variants (from 0, or ``SHARED``) of a tail's tokens: shared ones, then each variant's."""
    ids, variants = list(tail.shared), [SHARED] * len(tail.shared)
    positions = [tail.position + at for at in range(len(tail.shared))]
    for number, own in enumerate(tail.variants):
        ids.extend(own)
        variants.extend([number] * len(own))
        positions.extend(tail.position + len(tail.shared) + at for at in range(len(own)))
    return ids, positions, variants
