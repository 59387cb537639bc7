"""From a source into the embedded engine, with interruptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from connector.engines.embedded import EmbeddedEngine
from connector.engines.indexing import IndexOutcome, index_source
from connector.engines.progress import ProgressFile, Reached
from connector.engines.sources import BadLine, Source
from connector.errors import DataError


@dataclass
class Desk:
    """An index, a file of twelve lines (the fourth and the last are bad), and what was told."""

    file: Path
    engine: EmbeddedEngine
    folder: Path
    bad: list[BadLine]
    commits: list[Reached]

    def index(self, *, strict: bool = False, restart: bool = False, stop_at: int | None = None) -> IndexOutcome:
        def committed(reached: Reached) -> None:
            self.commits.append(reached)
            if stop_at is not None and reached.line >= stop_at:
                raise KeyboardInterrupt

        source = Source(str(self.file))
        return index_source(
            self.engine,
            source,
            ProgressFile(self.folder, source.identity()),
            strict=strict,
            restart=restart,
            batch=3,
            bad=self.bad.append,
            committed=committed,
        )

    def interrupt(self, stop_at: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.index(stop_at=stop_at)
        self.bad.clear()
        self.commits.clear()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """See ``Desk``."""
    lines = [json.dumps({"_id": str(at), "text": f"cat {at}"}) for at in range(1, 13)]
    lines[3] = lines[11] = "nonsense"
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(lines))
    with EmbeddedEngine(tmp_path / "index") as engine:
        yield Desk(file, engine, tmp_path / "index", [], [])


def test_totals_commits_and_bad_lines(desk: Desk) -> None:
    outcome = desk.index()
    assert outcome == IndexOutcome(Reached(11, 10, 0, 2), 0)
    assert [reached.line for reached in desk.commits] == [3, 7, 10, 11]
    assert [reached.skipped for reached in desk.commits] == [0, 1, 1, 1]
    assert [told.line for told in desk.bad] == [4, 12]
    assert desk.engine.count() == 10


def test_a_finished_source_is_indexed_again_and_replaces(desk: Desk) -> None:
    desk.index()
    assert desk.index() == IndexOutcome(Reached(11, 10, 10, 2), 0)
    assert desk.engine.count() == 10


@pytest.mark.parametrize("stop_at", [3, 7, 10, 11])
def test_an_interrupted_run_is_continued_and_its_totals_count(desk: Desk, stop_at: int) -> None:
    desk.interrupt(stop_at)
    outcome = desk.index()
    assert outcome == IndexOutcome(Reached(11, 10, 0, 2), stop_at)
    assert [told.line for told in desk.bad] == [line for line in (4, 12) if line > stop_at]
    assert desk.engine.count() == 10
    assert len(desk.engine.search("cat", 20)) == 10
    # Nothing is left to be continued.
    assert desk.index().resumed_after == 0


def test_a_second_interruption(desk: Desk) -> None:
    desk.interrupt(3)
    desk.interrupt(7)
    assert desk.index() == IndexOutcome(Reached(11, 10, 0, 2), 7)


def test_restart_begins_anew(desk: Desk) -> None:
    desk.interrupt(7)
    assert desk.index(restart=True) == IndexOutcome(Reached(11, 10, 6, 2), 0)


def test_a_changed_source_begins_anew(desk: Desk) -> None:
    desk.interrupt(7)
    with desk.file.open("a") as file:
        file.write('\n{"_id": "new", "text": "cat"}')
    outcome = desk.index()
    assert (outcome.resumed_after, outcome.reached.indexed) == (0, 11)


def test_another_source_in_between_ends_what_can_be_continued(desk: Desk, tmp_path: Path) -> None:
    desk.interrupt(7)
    first, desk.file = desk.file, tmp_path / "other.jsonl"
    desk.file.write_text('{"_id": "1", "text": "replaced"}')
    desk.index()
    desk.file = first
    assert desk.index().resumed_after == 0
    assert desk.engine.search("replaced", 1) == []


def test_an_index_that_was_emptied_begins_anew(desk: Desk, tmp_path: Path) -> None:
    desk.interrupt(7)
    desk.engine = EmbeddedEngine(tmp_path / "another")
    assert desk.index().resumed_after == 0


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"source": null, "reached": {}}', "cut"])
def test_damaged_progress_begins_anew(desk: Desk, damage: str) -> None:
    desk.interrupt(7)
    path = desk.folder / "rh-progress.json"
    path.write_text(damage if damage != "cut" else path.read_text()[:-5])
    assert desk.index().resumed_after == 0


@pytest.mark.parametrize("reached", [{"line": -1}, {"line": "x"}, {"place": 3}, []])
def test_progress_with_wrong_numbers_begins_anew(desk: Desk, reached: object) -> None:
    desk.interrupt(7)
    path = desk.folder / "rh-progress.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "reached": reached}))
    assert desk.index().resumed_after == 0


def test_strict_stops_at_the_first_bad_line_and_keeps_what_was_committed(desk: Desk) -> None:
    with pytest.raises(DataError, match="line 4: not JSON"):
        desk.index(strict=True)
    assert desk.engine.count() == 3
    assert desk.index() == IndexOutcome(Reached(11, 10, 0, 2), 3)


def test_what_the_engine_refuses_is_told_by_its_line(desk: Desk) -> None:
    lines = desk.file.read_text().splitlines()
    lines[8] = json.dumps({"_id": "x" * 600, "text": "cat"})
    desk.file.write_text("\n".join(lines))
    outcome = desk.index()
    assert outcome.reached == Reached(11, 9, 0, 3)
    assert [told.line for told in desk.bad] == [4, 9, 12]
    assert "refused: the id is longer than 512 bytes" in desk.bad[1].reason
    with pytest.raises(DataError, match="line 4"):
        desk.index(strict=True)
    lines[3] = lines[11] = ""
    desk.file.write_text("\n".join(lines))
    with pytest.raises(DataError, match="line 9: refused"):
        desk.index(strict=True)
    # Again the same: what was committed behind the line is no way past it.
    with pytest.raises(DataError, match="line 9: refused"):
        desk.index(strict=True)


def test_strict_does_not_continue_behind_a_line_that_was_left_out(desk: Desk) -> None:
    desk.interrupt(7)
    with pytest.raises(DataError, match="line 4: not JSON"):
        desk.index(strict=True)
