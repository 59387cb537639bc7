"""Encoded passages on disk: bounded, checked, shared by processes, and whole after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from connector.backbone.caching.sqlite_store import DamagedPassageError, PassageStore, remove_store
from connector.backbone.prompt.passages import passage_key
from connector.errors import BackboneError

MB = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "passages.sqlite3"


def key(number: int) -> bytes:
    return passage_key("f", np.array([number], dtype=np.int32))


def data(number: int, size: int = 300_000) -> bytes:
    return number.to_bytes(4, "little") * (size // 4)


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def damage(path: Path, number: int) -> None:
    """Turn one byte in the middle of a passage's states."""
    content = bytearray(path.read_bytes())
    at = content.find(data(number, 4000))
    assert at > 0
    content[at + 100] ^= 1
    path.write_bytes(content)


def test_what_was_put_is_there_after_a_restart(path: Path) -> None:
    began = time.time()
    with closing(PassageStore(path, 10 * MB)) as store:
        assert store.get(key(1)) is None and not store.has(key(1))
        store.put(key(1), data(1), 7)
        # Without a token: no passage.
        store.put(key(2), b"", 0)
        assert store.get(key(1)) == data(1) and store.has(key(1))
    with closing(PassageStore(path, 10 * MB)) as store:
        assert store.get(key(1)) == data(1) and store.get(key(2)) == b""
        status = store.status()
        assert (status.passages, status.vectors, status.tokens, status.bytes) == (1, 1, 7, 300_000)
        assert status.oldest is not None and status.newest is not None
        assert int(began) <= status.oldest <= status.newest <= time.time()
        store.drop(key(1))
        assert store.get(key(1)) is None and store.entries() == 1


def test_a_clock_that_is_set_back_does_not_make_the_newest_the_first_to_go(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(PassageStore(path, 2 * MB)) as store:
        for number in range(4):
            store.put(key(number), data(number), 1)
        now = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: now - 3_600_000_000_000)
        store.note_uses({key(0): time.time() - 3600})
        for number in range(4, 20):
            store.put(key(number), data(number), 1)
            assert store.has(key(number))
            store.note_uses({key(0): time.time() - 3600})
        assert store.has(key(0)) and store.has(key(18)) and not store.has(key(1))


def test_the_file_stays_within_its_bound_and_the_least_recently_used_go_first(path: Path) -> None:
    with closing(PassageStore(path, 3 * MB)) as store:
        evicted = 0
        for number in range(30):
            # The first is used again and again.
            evicted += store.put(key(number), data(number), 1, {key(0): time.time()})
            assert path.stat().st_size <= 3 * MB and store.used_bytes() <= 3 * MB
        held = [number for number in range(30) if store.has(key(number))]
        assert held == [0, *range(30 - len(held) + 1, 30)]
        assert evicted == 30 - len(held) and len(held) >= 7
        assert all(store.get(key(number)) == data(number) for number in held)
        # What cannot fit is not written, and nothing is evicted for it.
        assert store.put(key(99), data(99, 4 * MB), 1) == 0
        assert not store.has(key(99)) and store.entries() == len(held)


def test_a_smaller_bound_counts_from_the_next_passage_and_shrinking_gives_room_back(path: Path) -> None:
    with closing(PassageStore(path, 10 * MB)) as store:
        for number in range(20):
            store.put(key(number), data(number), 1)
    assert path.stat().st_size > 5 * MB
    with closing(PassageStore(path, 2 * MB)) as store:
        assert store.entries() == 20
        assert store.put(key(20), data(20), 1) > 10
        assert store.used_bytes() <= 2 * MB and store.has(key(20))
        assert store.shrink(MB) > 0
        assert path.stat().st_size <= MB
        assert store.shrink(0) > 0 and store.entries() == 0


def test_a_damaged_passage_is_told_and_dropped(path: Path) -> None:
    with closing(PassageStore(path, 10 * MB)) as store:
        for number in range(1, 6):
            store.put(key(number), data(number), 1)
    damage(path, 3)
    with closing(PassageStore(path, 10 * MB)) as store:
        with pytest.raises(DamagedPassageError):
            store.get(key(3))
        assert store.get(key(2)) == data(2)
        assert store.verify() == (5, 1)
        assert store.get(key(3)) is None and store.verify() == (4, 0)
        store.put(key(3), data(3), 1)
        assert store.get(key(3)) == data(3)


def test_damage_to_the_file_itself_is_an_error_that_says_what_to_do(path: Path) -> None:
    with closing(PassageStore(path, 10 * MB)) as store:
        for number in range(1, 6):
            store.put(key(number), data(number), 1)
    whole = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(len(whole) // 2)
    with pytest.raises(BackboneError, match="cache prune --all"), closing(PassageStore(path, 10 * MB)) as store:
        store.verify()
    path.write_bytes(b"nonsense" * 10_000)
    with pytest.raises(BackboneError, match="cache prune --all"):
        PassageStore(path, 10 * MB)
    remove_store(path)
    with closing(PassageStore(path, 10 * MB)) as store:
        assert store.entries() == 0


@pytest.mark.parametrize(
    ("statements", "message"),
    [(["PRAGMA user_version = 99"], "has version 99"), (["PRAGMA application_id = 1"], "is no document cache")],
)
def test_a_file_of_another_version_or_program_is_left_alone(path: Path, statements: list[str], message: str) -> None:
    PassageStore(path, MB).close()
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
    before = path.read_bytes()
    with pytest.raises(BackboneError, match=message):
        PassageStore(path, MB)
    assert path.read_bytes() == before


_WRITE = """
import sys
from pathlib import Path
from connector.backbone.caching.sqlite_store import PassageStore
from tests.backbone.caching.test_sqlite_store import data, key
store = PassageStore(Path(sys.argv[1]), 200_000_000)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    store.put(key(number), data(number), 1)
    print(number, flush=True)
"""


def test_a_killed_writer_loses_only_what_it_was_writing(path: Path, repository: Path) -> None:
    PassageStore(path, 200 * MB).close()
    told: list[int] = []
    for start in (0, 1000, 2000):
        with python(_WRITE, path, start, start + 1000) as writer:
            assert writer.stdout is not None
            for count, line in enumerate(writer.stdout):
                told.append(int(line))
                if count == 20:
                    # In the middle of the next ones.
                    os.kill(writer.pid, signal.SIGKILL)
        assert writer.returncode == -signal.SIGKILL
        with closing(PassageStore(path, 200 * MB)) as store:
            assert all(store.get(key(number)) == data(number) for number in told)
            entries, damaged = store.verify()
            assert damaged == 0 and entries <= len(told) + 3


def test_processes_write_in_turn_and_read_at_once(path: Path) -> None:
    with closing(PassageStore(path, 200 * MB)) as store:
        store.put(key(9999), data(9999), 1)
        writers = [python(_WRITE, path, start, start + 30) for start in (0, 20, 40)]
        while any(writer.poll() is None for writer in writers):
            assert store.get(key(9999)) == data(9999)
        for writer in writers:
            assert writer.communicate()[1] == "" and writer.returncode == 0
        assert store.entries() == 71
        assert all(store.get(key(number)) == data(number) for number in range(70))


_FULL = """
import resource, signal, sys
from pathlib import Path
from connector.backbone.caching.sqlite_store import PassageStore
from connector.errors import BackboneError
from tests.backbone.caching.test_sqlite_store import data, key
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
store = PassageStore(Path(sys.argv[1]), 200_000_000)
try:
    for number in range(100):
        store.put(key(number), data(number), 1)
except BackboneError as error:
    held = [n for n in range(100) if store.has(key(n))]
    assert held and all(store.get(key(n)) == data(n) for n in held)
    print(error)
"""


def test_a_disk_that_takes_no_more_is_an_error_and_what_is_there_stays(path: Path) -> None:
    with python(_FULL, path) as writer:
        out, err = writer.communicate()
    assert err == "" and "cannot be used now" in out
    with closing(PassageStore(path, 200 * MB)) as store:
        entries, damaged = store.verify()
        assert entries > 0 and damaged == 0
        store.put(key(500), data(500), 1)
        assert store.get(key(500)) == data(500)
