"""Rows of the campaign, kept in a file as they come, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from connector.studies.markdown import markdown_table

__all__ = ["Row", "Tally", "kept", "page", "read"]

_HEAD = """# Reliability

What was tried on purpose to break rh-connector, and what became of it. "Lost" is a hit lost or in a wrong order, a
search that failed, data that was acknowledged and is gone, damage that nobody saw, or a secret told.

Each part is a command in a checkout: `python -m tests.campaign PART`. It keeps what it finds in
`docs/results/campaign.jsonl`; `python -m tests.campaign --page docs/reliability.md` writes this page of it.

Load was tried for ten minutes a step. Clients and service shared two cores. The steps of 1, 8 and 32 clients were one
process, one after the other; that of 128 was a fresh one.

![Seconds of a request and answers a second, for 1, 8, 32 and 128 clients; memory over time](images/load.svg)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of trial.

    Attributes:
        part: of the campaign.
        what: was done.
        tried, survived: how often, and how often all was well.
        lost: what was lost, each once; a few at most.
        note: figures, and how it was done.
        command: makes the row again.
        machine: where, and on which day.
    """

    part: str
    what: str
    tried: int
    survived: int
    lost: Sequence[str] = ()
    note: str = ""
    command: str = ""
    machine: str = ""


@dataclass
class Tally:
    """Counts trials of one kind."""

    tried: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def add(self, lost: str | None) -> None:
        """One trial, and what it lost; None: nothing."""
        self.tried += 1
        if lost is not None:
            self.lost[lost] = self.lost.get(lost, 0) + 1

    def row(self, part: str, what: str, note: str = "") -> Row:
        """All of them."""
        lost = [f"{told} ({count} times)" for told, count in list(self.lost.items())[:5]]
        return Row(part, what, self.tried, self.tried - sum(self.lost.values()), lost, note)


def kept(rows: Iterable[Row], path: Path, about: Mapping[str, str]) -> list[Row]:
    """Append rows to a file as they come; the last one of its kind counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for row in rows:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row) | dict(about)) + "\n")
        found.append(row)
    return found


def read(path: Path) -> list[Row]:
    """The last row of each kind, in the order of their first."""
    found: dict[tuple[str, str], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = Row(**json.loads(line))
        found[row.part, row.what] = row
    return list(found.values())


def page(rows: Sequence[Row]) -> str:
    """In Markdown: one table, then what was lost, then the commands."""
    lines: list[list[Any]] = [
        [row.part, row.what, f"{row.tried:,}", f"{row.survived:,}", f"{row.tried - row.survived:,}", row.note]
        for row in rows
    ]
    parts = [_HEAD, markdown_table(["part", "what was done", "tried", "survived", "lost", "figures"], lines)]
    lost = [f"- {row.what}: {told}" for row in rows for told in row.lost]
    if lost:
        parts += ["## What was lost", "\n".join(lost)]
    made = {(row.part, row.command, row.machine): None for row in rows}
    parts += ["## Commands", markdown_table(["part", "command", "machine"], [
        [part, f"`{command}`", machine] for part, command, machine in made
    ])]  # fmt: skip
    return "\n\n".join(parts).rstrip() + "\n"
