"""Tables of the pages that are made from reports."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_table"]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, ended by a line break: the first column to the left, numbers to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, rule, *rows))
    return "\n".join(lines) + "\n"
