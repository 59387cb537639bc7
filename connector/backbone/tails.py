"""The tail of a prompt: the query, and the content-free "N/A" that what it gets is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from connector.backbone.runtime import Tail

__all__ = ["GROUPS", "make_tail"]

GROUPS = ("tail", "tail N/A", "query", "query N/A")
"""Row groups of a reading: attention averaged over all tail rows or the query's own, for the query and for N/A."""


def make_tail(shared: tuple[int, ...], asked: Sequence[Sequence[int]], after: tuple[int, ...], position: int) -> Tail:
    """The tail for one or several queries that stand side by side and do not see each other.

    Args:
        shared: ids before the query.
        asked: ids of each query.
        after: ids behind the query.
        position: position of the first shared id.

    Returns:
        A tail with twice as many row groups as queries: the mean over all rows of each, then over its own ids.
    """
    variants = tuple((*ids, *after) for ids in asked)
    rows = np.zeros((2 * len(asked), len(shared) + sum(map(len, variants))), dtype=np.float32)
    start = len(shared)
    for number, (own, ids) in enumerate(zip(asked, variants, strict=True)):
        rows[number, : len(shared)] = rows[number, start : start + len(ids)] = 1 / (len(shared) + len(ids))
        rows[number + len(asked), start : start + len(own)] = 1 / len(own)
        start += len(ids)
    return Tail(shared, variants, rows, position)
