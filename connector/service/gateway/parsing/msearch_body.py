"""The lines of an ``_msearch``: which search is where, and the same with some of them changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from connector.service.gateway.parsing.raw_json import NotPlainJson, edited, scan_object
from connector.service.gateway.parsing.search_body import member_edits, scan_body

__all__ = ["Item", "join_items", "split_items"]


@dataclass(frozen=True, slots=True)
class Item:
    """One search: its header line and its body, as they were written, without the line break."""

    header: str
    body: str

    def header_values(self) -> dict[str, Any]:
        """What the header says.

        Raises:
            NotPlainJson: it is no JSON object.
        """
        return {name: span.value for name, span in scan_body(self.header).items()}

    def with_header(self, name: str, value: str) -> Item:
        """The item with one more entry in its header, a JSON text."""
        text = self.header.strip() or "{}"
        return replace(self, header=edited(text, member_edits(text, scan_body(text), {name: value})))

    def with_page(self, size: int) -> Item:
        """The item asking for so many hits, from the first on."""
        text = self.body.strip() or "{}"
        members, _ = scan_object(text)
        return replace(self, body=edited(text, member_edits(text, members, {"from": "0", "size": str(size)})))


def split_items(text: str, *, skips_first_blank: bool) -> list[Item]:
    """The searches of a body.

    Args:
        text: the body.
        skips_first_blank: as OpenSearch does with a blank first line; to Elasticsearch it is a header.

    Raises:
        NotPlainJson: the lines are not headers and bodies in turn.
    """
    lines = text.split("\n")
    if lines.pop():
        raise NotPlainJson("the last line has no line break")
    if skips_first_blank and lines and not lines[0]:
        del lines[0]
    if not lines or len(lines) % 2:
        raise NotPlainJson("the lines are not a header and a body in turn")
    return [Item(header, body) for header, body in zip(lines[::2], lines[1::2], strict=True)]


def join_items(items: Sequence[Item], *, skips_first_blank: bool) -> str:
    """The body with these searches; see ``split_items``."""
    text = "".join(f"{item.header}\n{item.body}\n" for item in items)
    # Otherwise a blank header would be lost.
    return "\n" + text if skips_first_blank and text.startswith("\n") else text
