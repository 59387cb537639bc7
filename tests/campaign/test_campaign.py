"""The campaign itself: what it counts, what it keeps, and a round of each kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.campaign.__main__ import main
from tests.campaign.damage import damage
from tests.campaign.kills import kills
from tests.campaign.rows import Row, Tally, kept, page, read


def test_what_is_lost_is_counted_and_told() -> None:
    tally = Tally()
    for lost in (None, "a hit", None, "a hit"):
        tally.add(lost)
    row = tally.row("load", "8 clients", "p50 0.2 s")
    assert (row.tried, row.survived, row.lost) == (4, 2, ["a hit (2 times)"])


def test_the_last_row_of_a_kind_counts(tmp_path: Path) -> None:
    file = tmp_path / "results" / "campaign.jsonl"
    about = {"command": "python -m tests.campaign load", "machine": "a machine"}
    first, other, again = (
        Row("a", "one", 3, 1, ["x (2 times)"]),
        Row("a", "two", 2, 2),
        Row("a", "one", 1000, 999, ["y"]),
    )
    kept([first, other], file, about)
    kept([again], file, about)
    rows = read(file)
    assert [(row.what, row.tried, row.command) for row in rows] == [
        ("one", 1000, about["command"]),
        ("two", 2, about["command"]),
    ]
    told = page(rows)
    assert "| a | one | 1,000 | 999 | 1 |" in told and "- one: y" in told and "x (2 times)" not in told


@pytest.mark.slow
def test_a_round_of_each_kill() -> None:
    rows = list(kills(1))
    assert [row.tried for row in rows] == [1] * 4
    assert all(row.survived == 1 for row in rows), rows


@pytest.mark.slow
def test_damage_is_seen() -> None:
    rows = {row.what: row for row in damage(3)}
    kinds = ("a router bundle", "the document cache", "a table of statistics", "a model's weights and texts")
    for name in (*kinds, "a model's ONNX graphs"):
        for what in ("a bit flipped", "cut"):
            assert rows[f"{name}, {what}"].survived == 3, rows[f"{name}, {what}"]


def test_the_command_writes_the_page_of_what_was_kept(tmp_path: Path) -> None:
    kept([Row("a", "one", 2, 2)], tmp_path / "kept.jsonl", {})
    arguments = ["--keep", str(tmp_path / "kept.jsonl"), "--page", str(tmp_path / "page.md")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert (tmp_path / "page.md").read_text().startswith("# Reliability")


def test_the_committed_page_is_what_was_kept(repository: Path) -> None:
    committed = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert committed == page(read(repository / "docs" / "results" / "campaign.jsonl"))
