"""The prompt of the layout ``joint``: all documents, numbered, in one text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from connector.backbone.prompt.passages import Passage
from connector.backbone.prompt.tail import TokenIds

__all__ = ["joint_prompt"]


def joint_prompt(
    passages: Sequence[Passage], names: Sequence[TokenIds], separator: Sequence[int]
) -> tuple[TokenIds, npt.NDArray[np.int64]]:
    """Token ids of all passages with their names, and at which of them the passages themselves stand.

    Args:
        passages: in their order; at least one.
        names: what stands before each.
        separator: what stands between two.
    """
    parts: list[TokenIds] = []
    columns: list[npt.NDArray[np.int64]] = []
    tokens = 0
    for passage, name in zip(passages, names, strict=True):
        between = np.array(separator if parts else (), dtype=np.int32)
        tokens += len(between) + len(name)
        columns.append(np.arange(tokens, tokens + passage.tokens))
        tokens += passage.tokens
        parts += [between, name, passage.ids]
    return np.concatenate(parts), np.concatenate(columns)
