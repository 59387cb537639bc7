"""kill -9 at any moment while something is written: what was acknowledged is there, the rest whole or not there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from connector.backbone.caching.sqlite_store import PassageStore
from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine
from connector.routing.bundle import Bundle
from connector.statistics.table_files import Arrays, load_table
from tests.campaign.rows import Row, Tally

__all__ = ["kills"]

_PART = "kill -9"
_MB = 1_000_000
_CACHE = """
import sys
from pathlib import Path
from connector.backbone.caching.sqlite_store import PassageStore
from tests.campaign.kills import passage
store = PassageStore(Path(sys.argv[1]), 400_000_000)
print("begun", flush=True)
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 100_000):
    store.put(*passage(number), 1)
    print(number, flush=True)
"""
_INDEX = """
import sys
from pathlib import Path
from tests.campaign.kills import fill_index
print("begun", flush=True)
fill_index(Path(sys.argv[1]), int(sys.argv[2]), 1_000_000, lambda number: print(number, flush=True))
"""
_TABLES = """
import sys
from pathlib import Path
from connector.statistics.table_files import save_table
from tests.campaign.kills import table
print("begun", flush=True)
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 100_000):
    save_table(Path(sys.argv[1]) / f"{number % 20}.npz", {"number": number}, table(number))
    print(number, flush=True)
"""
_BUNDLE = """
import sys
from pathlib import Path
from router_export import export
from tests.router_export.router.test_exporting import make_router
from tests.training.worlds import metadata
router, told = make_router(), metadata()
print("begun", flush=True)
for number in range(100_000):
    export(router, told, Path(sys.argv[1]))
    print(number, flush=True)
"""
# A process dies at some moment within so many seconds after its first word.
_LONGEST = 0.6


def passage(number: int) -> tuple[bytes, bytes]:
    """Key and states of a made-up passage."""
    return number.to_bytes(32, "little"), number.to_bytes(4, "little") * 75_000


def fill_index(folder: Path, start: int, count: int, told: Callable[[int], None] = lambda number: None) -> None:
    """Put made-up documents into an index, fifty at a time; each commit's last number is told."""
    documents = (Document(str(at), {"text": f"cat number {at}"}) for at in range(start, start + count))
    EmbeddedEngine(folder).index(documents, batch=50, committed=lambda report: told(start + report.taken - 1))


def table(number: int) -> Arrays:
    """Arrays of a made-up table."""
    return {"states": np.full((2, 20, 576), number, dtype=np.float32), "lengths": np.arange(20)}


def kills(rounds: int, seed: int = 0) -> Iterator[Row]:
    """One row for each kind of file.

    Args:
        rounds: kills of each.
        seed: of the moments.
    """
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder:
        for name, code, check in (
            ("the document cache is", _CACHE, _check_cache),
            ("an index is", _INDEX, _check_index),
            ("statistics are", _TABLES, _check_tables),
            ("a router bundle is", _BUNDLE, _check_bundle),
        ):
            tally, told = Tally(), [-1]
            place = Path(folder) / str(len(list(Path(folder).iterdir())))
            place.mkdir()
            # An index and statistics are folders, the others files.
            path = place if code in (_INDEX, _TABLES) else place / "router.onnx"
            for _ in range(rounds):
                told += _until_killed(code, path, max(told) + 1, drawn.uniform(0, _LONGEST))
                tally.add(check(path, told))
            yield tally.row(_PART, f"while {name} written", f"{len(told) - 1:,} writes acknowledged in all")


def _until_killed(code: str, path: Path, start: int, seconds: float) -> list[int]:
    """Numbers that a writing process told before it was killed."""
    command = [sys.executable, "-c", code, str(path), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == "begun\n", "the writing process did not begin"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        # A line without its end was cut off by the kill: nobody was told.
        return [int(line) for line in process.stdout if line.endswith("\n")]


def _check_cache(path: Path, told: list[int]) -> str | None:
    with closing(PassageStore(path, 400 * _MB)) as store:
        lately = told[-200:]
        if any(store.get(passage(number)[0]) != passage(number)[1] for number in lately if number >= 0):
            return "a passage that was acknowledged is gone or changed"
        _, damaged = store.verify()
    return f"{damaged} damaged passages" if damaged else None


def _check_index(path: Path, told: list[int]) -> str | None:
    engine = EmbeddedEngine(path)
    if max(told) < 0:
        return None
    if engine.count() <= max(told):
        return f"{max(told) + 1} documents were acknowledged, and fewer are there"
    found = [hit.id for hit in engine.search(f"number {max(told)}", 1)]
    return None if found == [str(max(told))] else "a document that was acknowledged is not found"


def _check_tables(path: Path, told: list[int]) -> str | None:
    newest = {number % 20: number for number in sorted(told) if number >= 0}
    for place, number in newest.items():
        kept = load_table(path / f"{place}.npz", lambda record, arrays: (record["number"], arrays["states"].copy()))
        if kept is None or kept[0] < number or not (kept[1] == np.float32(kept[0])).all():
            return "a table that was acknowledged is gone, older or damaged"
    return None


def _check_bundle(path: Path, told: list[int]) -> str | None:
    if max(told) < 0 and not path.exists():
        return None
    Bundle.load(path)
    return None
