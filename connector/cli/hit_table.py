"""How hits are shown on a terminal: place, how far each moved, and the passage that the heads looked at."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from connector.documents import Hit, RankedHit, RerankResult, document_text

__all__ = ["ShownHit", "hit_table", "moved", "passage_text", "printable", "shown_hits", "text_console"]

_PIPE_WIDTH = 120
# Context of a passage, in characters on each side.
_AROUND = 60
_LONGEST_ID = 40
# Two blanks between two of the table's five columns.
_GAPS = 8


@dataclass(frozen=True, slots=True)
class ShownHit:
    """A hit with what a reader wants to know of it.

    Attributes:
        ranked: score and place of the reranker; for a hit behind the window, of the first stage.
        fields: the stored fields.
        place: place now, from 1.
        before: place in the first stage, from 1.
    """

    ranked: RankedHit
    fields: Mapping[str, Any]
    place: int
    before: int

    def to_json(self) -> dict[str, Any]:
        """What ``search --json`` prints of a hit."""
        return {**self.ranked.to_json(), "place_before": self.before, "fields": dict(self.fields)}


def shown_hits(hits: Sequence[Hit], result: RerankResult) -> list[ShownHit]:
    """The reranked hits, then those behind the window in first-stage order: each first-stage hit exactly once.

    Args:
        hits: of the first stage, best first.
        result: of reranking the first of them.
    """
    ranked = list(result.hits)
    lowest = min((hit.score for hit in ranked), default=0.0)
    for behind, at in enumerate(range(len(ranked), len(hits)), 1):
        # Ever lower, so that whoever sorts by score keeps this order.
        score = lowest - behind if result.reranked else 1.0 / (at + 1)
        ranked.append(RankedHit(at, score, first_stage_score=hits[at].score, first_stage_rank=at + 1, id=hits[at].id))
    return [ShownHit(hit, hits[hit.index].fields, place, hit.index + 1) for place, hit in enumerate(ranked, 1)]


def text_console() -> Console:
    """Standard output for tables: no character is ever an error, and a pipe gets lines of useful length."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def printable(text: str) -> str:
    """The text, character by character, without what a terminal would obey or could not carry.

    Documents come from anywhere: escape sequences must not reach the terminal, a right-to-left override must not
    turn the table around. Length is kept, so that offsets stay true.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else _stand_in(char) for char in text)


def _stand_in(char: str) -> str:
    if char in "\n\r\t" or unicodedata.category(char).startswith("Z"):
        return " "
    # Joiners of emoji and of Arabic or Indic letters are harmless, and needed.
    return char if char in "\u200c\u200d" else "\ufffd"


def moved(hit: ShownHit, console: Console) -> Text:
    """How far a hit moved, as in ``↑ 3 from 5``."""
    by = hit.before - hit.place
    up, down, same = "↑↓=" if _is_unicode(console) else "+-="
    if by == 0:
        return Text(same, style="dim")
    arrow, style = (up, "green") if by > 0 else (down, "red")
    return Text(f"{arrow} {abs(by)} from {hit.before}", style=style)


def _shown_score(hit: ShownHit, *, any_read: bool) -> float:
    """The reranker's score; the engine's where nothing was reranked."""
    first_stage = hit.ranked.first_stage_score
    return hit.ranked.score if any_read or first_stage is None else first_stage


def hit_table(hits: Sequence[ShownHit], console: Console, fields: Sequence[str] = ()) -> Table:
    """Place, movement, id, first line and score of each hit, one line a hit."""
    movements = [moved(hit, console) for hit in hits]
    ids = [Text(printable(hit.ranked.id or "")) for hit in hits]
    scores = [f"{_shown_score(hit, any_read=any(h.ranked.head_score is not None for h in hits)):.3f}" for hit in hits]
    # Widths are set here: numbers stay whole in a narrow terminal, ids and texts share what is left.
    place, movement_width, score = 5, max([5, *map(len, movements)]), max([5, *map(len, scores)])
    left = max(20, console.width - place - movement_width - score - _GAPS)
    identity = min(max([2, *(text.cell_len for text in ids)]), _LONGEST_ID, left // 2)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("place", justify="right", no_wrap=True, width=place)
    table.add_column("moved", no_wrap=True, width=movement_width)
    table.add_column("id", no_wrap=True, width=identity, overflow="ellipsis")
    table.add_column("text", no_wrap=True, width=left - identity, overflow="ellipsis")
    table.add_column("score", justify="right", no_wrap=True, width=score)
    for hit, movement, shown_id, shown_score in zip(hits, movements, ids, scores, strict=True):
        table.add_row(
            str(hit.place),
            movement,
            shown_id,
            Text(_first_line(document_text(hit.fields, fields), hit.ranked.id)),
            shown_score,
        )
    return table


def _first_line(text: str, identity: str | None) -> str:
    """The first line that says more than the id beside it does, else the first that is not empty."""
    lines = [stripped for line in text[:4000].splitlines() if (stripped := printable(line).strip())]
    own = printable(identity or "").strip()
    return next((line for line in lines if not own or not line.startswith(own)), lines[0] if lines else "")


def passage_text(hit: ShownHit, console: Console, fields: Sequence[str] = ()) -> Text | None:
    """The passage that the heads looked at most, marked, in a little context; None where nothing was read.

    Args:
        hit: a reranked hit.
        console: where it will be printed: without colours, the passage stands in quotes.
        fields: the fields that were scored, as for ``document_text``.
    """
    if hit.ranked.passage is None:
        return None
    text = printable(document_text(hit.fields, fields))
    start, end = hit.ranked.passage
    before = text[max(0, start - _AROUND) : start]
    after = text[end : end + _AROUND]
    opened, closed = ("\u00ab", "\u00bb") if _is_unicode(console) else (">>", "<<")
    if console.color_system and not console.no_color:
        opened = closed = ""
    shown = Text("..." if start > _AROUND else "")
    shown.append(_one_line(before))
    shown.append(opened + _one_line(text[start:end]) + closed, style="bold black on yellow")
    shown.append(_one_line(after))
    shown.append("..." if end + _AROUND < len(text) else "")
    return shown


def _one_line(text: str) -> str:
    # Blanks at both ends stay: words before and after the passage must not run together.
    inner = " ".join(text.split())
    return f"{' ' if text[:1].isspace() else ''}{inner}{' ' if inner and text[-1:].isspace() else ''}"


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
