"""The document cache's level on disk: passages come back bit by bit, and nothing that fails reaches a request."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from connector.backbone.caching.disk_cache import DiskCache
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.backbone.prompt.passages import passage_key
from connector.backbone.reader import Reader
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.sections import Layout, Settings
from tests.backbone.batching.waiting import needs_of
from tests.backbone.caching.test_document_cache import Sized
from tests.service.waiting import wait_until

MB = 1_000_000


def load(data: bytes) -> Sized:
    if not data.startswith(b"states"):
        raise BackboneError("of another kind")
    return Sized(len(data))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store_path(tmp_path)


@pytest.fixture
def disk(path: Path) -> Iterator[DiskCache]:
    with closing(DiskCache(path, 100 * MB, load)) as cache:
        yield cache


def key(number: int) -> bytes:
    return passage_key("f", np.array([number], dtype=np.int32))


def test_what_is_put_is_found_at_once_and_by_the_next_process(path: Path, disk: DiskCache) -> None:
    assert disk.get(key(1)) is None and not disk.has(key(1))
    disk.put(key(1), Sized(1000))
    assert disk.get(key(1)) == Sized(1000) and disk.has(key(1))
    disk.flush()
    assert disk.get(key(1)) == Sized(1000)
    disk.put(key(2), Sized(10))
    # Closing writes what waits.
    disk.close()
    with closing(DiskCache(path, 100 * MB, load)) as other:
        assert other.get(key(1)) == Sized(1000) and other.get(key(2)) == Sized(10)
        found = other.statistics()
        assert (found.hits, found.entries, found.damaged, found.unwritten) == (2, 2, 0, 0)
        assert 0 < found.bytes <= found.limit == 100 * MB


def test_the_disk_is_looked_up_for_what_memory_lacks(disk: DiskCache) -> None:
    first = DocumentCache(100, disk)
    assert first.get_many([key(1), key(2)]) == [None, None]
    first.put(key(1), Sized(60))
    assert first.get(key(1)) == Sized(60)
    assert first.lookups() == {"memory": (1, 2), "disk": (0, 2)}
    first.clear()
    disk.flush()
    # Comes back from disk once, and is in memory then.
    assert first.get_many([key(1), key(1)]) == [Sized(60), Sized(60)]
    assert first.get_many([key(1), key(2)]) == [Sized(60), None]
    assert first.lookups() == {"memory": (2, 5), "disk": (2, 3)}
    assert DocumentCache(100).lookups() == {"memory": (0, 0)}


def test_a_closed_cache_keeps_nothing_and_does_not_fail(disk: DiskCache) -> None:
    disk.put(key(1), Sized(10))
    disk.close()
    disk.close()
    disk.put(key(2), Sized(10))
    disk.flush()
    assert disk.get(key(1)) is None and not disk.has(key(2)) and disk.statistics().entries == 0


def test_two_levels(disk: DiskCache) -> None:
    cache = DocumentCache(100, disk)
    for number in range(10):
        cache.put(key(number), Sized(20))
    cache.flush()
    found = cache.statistics()
    assert (found.entries, found.disk_entries, found.evictions) == (5, 10, 5)
    # The first left memory, and comes back from disk into memory.
    assert cache.get(key(0)) == Sized(20) and cache.get(key(0)) == Sized(20)
    assert cache.get(key(99)) is None
    found = cache.statistics()
    assert (found.hits, found.misses, found.disk_hits) == (2, 1, 1)
    cache.clear()
    assert cache.statistics().entries == 0 and cache.get(key(9)) == Sized(20)
    cache.close()
    assert cache.get(key(9)) == Sized(20) and cache.get(key(8)) is None


@pytest.mark.parametrize("ending", ["waiting", "closing"])
def test_uses_from_memory_keep_a_passage_from_being_the_next_to_go(path: Path, ending: str) -> None:
    with closing(PassageStore(path, 2 * MB)) as store:
        for number in range(5):
            store.put(key(number), b"states" * 50_000, 1)
        with closing(DiskCache(path, 2 * MB, load, uses_every_s=0.01 if ending == "waiting" else 1000)) as disk:
            cache = DocumentCache(MB, disk)
            before = store.status().newest
            assert cache.get(key(0)) is not None and cache.get(key(0)) is not None
            if ending == "closing":
                disk.close()
            wait_until(lambda: store.status().newest != before)
        while store.put(key(100 + store.entries()), b"states" * 50_000, 1) == 0:
            pass
        assert store.has(key(0)) and not store.has(key(1))


def test_damaged_and_foreign_passages_are_dropped_counted_and_taken_again(path: Path) -> None:
    with closing(PassageStore(path, 100 * MB)) as store:
        store.put(key(1), b"states" * 1000, 1)
        store.put(key(2), b"of another kind", 1)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE states SET data = zeroblob(6000) WHERE length(data) = 6000")
        db.commit()
    with closing(DiskCache(path, 100 * MB, load)) as disk:
        assert disk.get(key(1)) is None and disk.get(key(2)) is None
        found = disk.statistics()
        assert (found.damaged, found.entries, found.hits) == (2, 0, 0)
        disk.put(key(1), Sized(10))
        disk.flush()
        assert disk.get(key(1)) == Sized(10)


@pytest.mark.parametrize("content", [b"nonsense" * 10_000, "another version"])
def test_a_store_that_cannot_be_read_is_told_once_and_memory_goes_on(
    path: Path, content: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        PassageStore(path, MB).close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 99")
    with closing(DiskCache(path, 100 * MB, load)) as disk, caplog.at_level(logging.WARNING):
        cache = DocumentCache(MB, disk)
        for number in range(5):
            assert cache.get(key(number)) is None
            cache.put(key(number), Sized(10))
            cache.flush()
            assert cache.get(key(number)) == Sized(10)
        found = cache.statistics()
        assert (found.entries, found.disk_entries, found.disk_unwritten) == (5, 0, 5)
    (told,) = caplog.messages
    assert "kept in memory only" in told and "cache prune --all" in told


def test_a_store_that_was_mended_is_used_again(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nonsense" * 10_000)
    with closing(DiskCache(path, 100 * MB, load, pause_s=0)) as disk:
        assert disk.get(key(1)) is None
        path.unlink()
        disk.put(key(1), Sized(10))
        disk.flush()
        assert disk.statistics().entries == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "documents").write_text("a file where the folder should be")
    with closing(DiskCache(store_path(tmp_path), MB, load)) as disk:
        disk.put(key(1), Sized(10))
        disk.flush()
        assert disk.get(key(1)) is None and disk.statistics().unwritten == 1
    assert len(caplog.messages) == 1


def test_a_document_that_cannot_be_written_does_not_stop_the_others(disk: DiskCache) -> None:
    class Broken(Sized):
        def to_bytes(self) -> bytes:
            raise RuntimeError("no bytes")

    patient = DiskCache(disk._path, 100 * MB, load, pause_s=0)
    with closing(patient):
        patient.put(key(1), Broken(10))
        patient.put(key(2), Sized(10))
        patient.flush()
        found = patient.statistics()
        assert (found.entries, found.unwritten) == (1, 1)


def test_what_the_disk_is_too_slow_for_is_left_unwritten(path: Path) -> None:
    go = threading.Event()

    class Slow(Sized):
        def to_bytes(self) -> bytes:
            go.wait()
            return b"states"

    with closing(DiskCache(path, 100 * MB, load)) as disk:
        for number in range(4):
            disk.put(key(number), Slow(100 * MB))
        # Two of them are 200 MB; the next would be more than waits for the disk.
        assert disk.statistics().unwritten == 2
        assert disk.get(key(0)) is not None and disk.get(key(3)) is None
        go.set()
        disk.flush()
        assert disk.statistics().entries == 2


def test_many_threads(path: Path) -> None:
    with closing(DiskCache(path, 100 * MB, load)) as disk:
        cache = DocumentCache(200, disk)
        wrong: list[int] = []

        def work(seed: int) -> None:
            generator = np.random.default_rng(seed)
            for number in map(int, generator.integers(0, 50, 200)):
                found = cache.get(key(number))
                if found is None:
                    cache.put(key(number), Sized(20 + number))
                elif found != Sized(20 + number):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cache.flush()
        assert not wrong and cache.statistics().disk_entries == 50


# --- with the real LLM ---


def reader_of(settings: Settings, folder: Path, checkpoint: Checkpoint, layout: str, dtype: str) -> Reader:
    from connector.backbone.prompt.template import PromptTemplate
    from connector.backbone.prompt.tokenizer import Tokenizer
    from connector.backbone.torch_runtime.runtime import TorchRuntime

    runtime = TorchRuntime.load(checkpoint.path, device="cpu", cache_dtype=dtype)  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_folder(checkpoint.path)
    disk = DiskCache(store_path(folder), 200 * MB, runtime.load_document)
    template = PromptTemplate.from_folder(checkpoint.path, tokenizer)
    digest = checkpoint.digest()
    return Reader(runtime, tokenizer, template, layout, digest, DocumentCache(100 * MB, disk))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "dtype"), [("solo", "float16"), ("solo", "int8"), ("late", "float32")])
def test_states_from_disk_give_the_same_bits(
    settings: Settings, smollm2: Checkpoint, tmp_path: Path, cats: list[str], layout: Layout, dtype: str
) -> None:
    needs = needs_of(layout, ((3, 1), (12, 4)))
    first = reader_of(settings, tmp_path, smollm2, layout, dtype)
    expected = first.read("How long do cats sleep?", cats, needs)
    first.close()
    second = reader_of(settings, tmp_path, smollm2, layout, dtype)
    found = second.read("How long do cats sleep?", cats, needs)
    assert (found.cached, found.encoded) == (len(cats), 0)
    assert np.array_equal(found.rows, expected.rows)
    assert second.statistics().disk_hits == len(cats)
    # Another pool needs other states.
    assert second.read("cats", cats[:1], needs_of(layout, ((12, 8), (14, 0)))).encoded == 1
    second.close()


@pytest.mark.slow
def test_precomputed_documents_are_not_encoded_again(
    settings: Settings, smollm2: Checkpoint, tmp_path: Path, cats: list[str]
) -> None:
    pool = needs_of("solo", ((3, 1), (12, 4)))
    reader = reader_of(settings, tmp_path, smollm2, "solo", "float16")
    assert reader.precompute([*cats[:3], "", cats[0]], pool) == (0, 3)
    assert reader.precompute(cats, pool) == (3, 2)
    assert reader.precompute([""], pool) == (0, 0)
    assert reader.read("cats", cats, needs_of("solo", pool.heads[:1]), pool=pool).encoded == 0
    reader.close()


@pytest.mark.slow
def test_joint_prompts_cannot_be_precomputed(settings: Settings, smollm2: Checkpoint, tmp_path: Path) -> None:
    reader = reader_of(settings, tmp_path, smollm2, "joint", "float16")
    with pytest.raises(BackboneError, match="joint"):
        reader.precompute(["cats"], Needs(((3, 1),)))
    reader.close()


_RERANK = """
import sys
from connector.reranking.reranker import Reranker
from connector.settings import load_settings
folder, *documents = sys.argv[1:]
options = {"cache.path": folder, "cache.disk_mb": 500, "router.mode": "static"}
reranker = Reranker.from_settings(load_settings("/dev/null", options, {}))
result = reranker.rerank("How long do cats sleep?", documents)
print(result.reranked, result.encoded, result.cached, [(hit.index, hit.score.hex()) for hit in result.hits])
"""


@pytest.mark.slow
def test_a_new_process_gives_the_same_scores_and_encodes_nothing(
    settings: Settings, smollm2: Checkpoint, tmp_path: Path, cats: list[str]
) -> None:
    # The weights of the usual folder; the documents in one of their own.
    for name in settings.cache.path.iterdir():
        if name.name != "documents":
            (tmp_path / name.name).symlink_to(name)
    lines = []
    for _ in range(2):
        command = [sys.executable, "-c", _RERANK, str(tmp_path), *cats]
        lines.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ", 3))
    (done, encoded, cached, first), (done_again, encoded_again, cached_again, second) = lines
    assert (done, encoded, cached) == ("True", "5", "0")
    assert (done_again, encoded_again, cached_again) == ("True", "0", "5")
    assert first == second


def test_the_setting_turns_it_on(tmp_path: Path, settings: Settings) -> None:
    assert DiskCache.from_settings(settings.cache, load) is None
    on = settings.cache.model_copy(update={"disk_mb": 7, "path": tmp_path})
    disk = DiskCache.from_settings(on, load)
    assert disk is not None and disk.statistics().limit == 7 * MB
    disk.close()
