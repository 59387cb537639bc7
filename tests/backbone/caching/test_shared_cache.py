"""Passages that another machine made: read from a finished file, never written, and never the reason of a failure."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from connector.backbone.caching.disk_cache import DiskCache
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.caching.shared_cache import SharedCache, export_store
from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.errors import BackboneError
from connector.sections import CacheSettings
from tests.backbone.caching.test_disk_cache import MB, key, load
from tests.backbone.caching.test_document_cache import Sized
from tests.disks import read_only


def states(number: int) -> bytes:
    return b"states" + bytes([number]) * 20_000


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A finished file of passages 1 and 2."""
    with closing(PassageStore(store_path(tmp_path / "there"), 100 * MB)) as store:
        for number in (1, 2):
            store.put(key(number), states(number), 1)
        # Others may have the store open, and its log unread.
        export_store(store.path, tmp_path / "volume" / "passages.sqlite3")
    return tmp_path / "volume" / "passages.sqlite3"


def test_a_finished_file_is_one_file_and_is_only_read(made: Path) -> None:
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    before = made.read_bytes()
    with read_only(made.parent), closing(SharedCache(made, load)) as shared:
        assert shared.get(key(1)) == Sized(len(states(1))) and shared.has(key(2))
        assert shared.get(key(3)) is None and not shared.has(key(3))
        assert [path.name for path in made.parent.iterdir()] == [made.name]
    assert made.read_bytes() == before


def test_memory_then_disk_then_the_shared_file(tmp_path: Path, made: Path) -> None:
    disk = DiskCache(store_path(tmp_path / "here"), 100 * MB, load)
    with closing(DocumentCache(MB, disk, SharedCache(made, load))) as cache:
        assert cache.get_many([key(1), key(3)]) == [Sized(len(states(1))), None]
        cache.put(key(3), Sized(40_000))
        assert cache.has(key(1)) and cache.has(key(3)) and not cache.has(key(4))
        assert cache.get_many([key(1), key(3)]) == [Sized(len(states(1))), Sized(40_000)]
        assert cache.lookups() == {"memory": (2, 2), "disk": (0, 2), "shared": (1, 1)}
        cache.flush()
        # What the shared file has does not go to this machine's disk, too.
        assert disk.statistics().entries == 1


def test_a_newer_file_is_seen(tmp_path: Path, made: Path) -> None:
    with closing(SharedCache(made, load, look_s=0)) as shared:
        assert not shared.has(key(3))
        with closing(PassageStore(store_path(tmp_path / "there"), 100 * MB)) as store:
            store.put(key(3), states(3), 1)
        assert not shared.has(key(3))
        export_store(store.path, made)
        assert shared.has(key(3)) and shared.has(key(1))


@pytest.mark.parametrize("fault", ["missing", "no cache", "cut", "another version", "a bit", "empty"])
def test_a_file_that_fails_is_told_once_and_fails_nothing(
    made: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(made.read_bytes())
    if fault == "missing":
        made.unlink()
    elif fault == "no cache":
        made.write_bytes(b"no database" * 1000)
    elif fault == "empty":
        made.write_bytes(b"")
    elif fault == "cut":
        made.write_bytes(data[: len(data) // 2])
    elif fault == "another version":
        with closing(sqlite3.connect(made)) as db:
            db.execute("PRAGMA user_version = 99")
    else:
        data[data.index(states(1)[6:5000]) + 100] ^= 1
        made.write_bytes(data)
    with caplog.at_level(logging.WARNING), closing(SharedCache(made, load, look_s=0)) as shared:
        assert [shared.get(key(1)) for _ in range(3)] == [None] * 3
        if fault == "a bit":
            assert shared.get(key(2)) is not None
    (told,) = caplog.messages
    assert str(made) in told and "rh-connector cache export" in told and "prune" not in told


def test_a_cache_that_is_not_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="index --precompute"):
        export_store(store_path(tmp_path), tmp_path / "file")
    assert not list(tmp_path.iterdir())
    other = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE a (b)")
    with pytest.raises(BackboneError, match="is no document cache"):
        export_store(other, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == [other.name]


def test_of_settings(made: Path) -> None:
    assert SharedCache.from_settings(CacheSettings(), load) is None
    shared = SharedCache.from_settings(CacheSettings(shared=made), load)
    assert shared is not None and shared.has(key(1))
    shared.close()
