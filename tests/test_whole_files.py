"""Files that are written whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from connector.whole_files import replacing
from tests.disks import mounted


def test_it_takes_the_place_in_one_step_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "made" / "a.json"
    for text in ("one", "two"):
        with replacing(path) as part:
            before = path.read_text() if path.exists() else None
            part.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_where_the_block_fails_what_was_there_stays(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("old")
    with pytest.raises(error), replacing(path, ".onnx") as part:
        assert part.suffix == ".onnx"
        part.write_text("half")
        raise error
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_a_full_disk_keeps_the_old_file_and_gives_the_room_back(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=100k", "tmpfs") as disk:
        path = disk / "a"
        path.write_bytes(b"old")
        with pytest.raises(OSError, match="No space left"), replacing(path) as part:
            part.write_bytes(b"x" * 200_000)
        assert path.read_bytes() == b"old" and list(disk.iterdir()) == [path]


def test_of_many_writers_one_is_there_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def write(number: int) -> None:
        with replacing(path) as part:
            part.write_text(str(number) * 10_000)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = path.read_text()
    assert len(text) == 10_000 and len(set(text)) == 1 and list(tmp_path.iterdir()) == [path]
