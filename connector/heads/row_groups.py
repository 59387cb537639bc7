"""Row groups: which attention rows of a prompt's tail are averaged, each group under its name.

The tail stands behind the documents in two variants, with the query and with the content-free "N/A" in its place
(ICR, arXiv 2410.02642). Of each, either all rows are averaged or the query's own.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["QUERY_GROUPS", "ROW_GROUPS", "RowGroup"]

RowGroup = Literal["tail", "tail N/A", "query", "query N/A"]
ROW_GROUPS: tuple[RowGroup, ...] = get_args(RowGroup)
QUERY_GROUPS: tuple[RowGroup, ...] = ("query", "query N/A")
"""Groups that need no id behind the query, which is less work."""
