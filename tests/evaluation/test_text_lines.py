"""What is written takes the place of what was there, at once or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from connector.errors import DataError
from connector.evaluation.text_lines import write_text
from tests.disks import mounted


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk:
        report = disk / "report.html"
        write_text(report, ["the old one"])
        with pytest.raises(DataError, match="report.html: No space left on device; make room, or name another file"):
            write_text(report, ["new " * 30_000])
        assert [path.name for path in disk.iterdir()] == ["report.html"] and report.read_text() == "the old one"
        write_text(report, ["new " * 10_000])
        assert report.read_text() == "new " * 10_000


def test_a_file_behind_a_link_keeps_its_rights(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, ["new"])
    assert link.is_symlink() and file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_file_that_is_mounted_alone_is_written(tmp_path: Path) -> None:
    own, seen = tmp_path / "own", tmp_path / "seen"
    own.write_text("old")
    seen.write_text("")
    with mounted(seen, "--bind", str(own)):
        write_text(seen, ["new"])
        assert own.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "seen"]


def test_a_pipe_is_no_file_to_replace() -> None:
    reading, writing = os.pipe()
    try:
        write_text(Path(f"/dev/fd/{writing}"), ["a", "b"])
        assert os.read(reading, 9) == b"ab"
    finally:
        os.close(reading)
        os.close(writing)
