"""A service takes more memory than its cgroup has: the kernel kills it, and it is started again with enough.

The kernel chooses the moment. In some rounds the limit is there from the start, so that it dies while it starts; in
the others it comes while requests run and the document cache is written.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from connector.backbone.caching.sqlite_store import PassageStore, store_path
from tests.campaign.rows import Row, Tally
from tests.campaign.services.memory_groups import MemoryGroup, memory_group
from tests.campaign.services.serving import (
    NotServing,
    answers_alike,
    damaged,
    files_of_its_own,
    kept_busy,
    serving_process,
)

__all__ = ["overruns"]

_PART = "out of memory"
_MB = 1_000_000
_ENOUGH = 3_000 * _MB
# A service without its model takes less, one with it more.
_START_MB = (60, 250)
_MORE_MB = (1, 40)
_FROM_THE_START = 0.25
_PATIENCE_S = 300.0
_DOCUMENTS, _WORDS = 4, 100


def overruns(rounds: int, seed: int = 0) -> Iterator[Row]:
    """One row.

    Args:
        rounds: kills.
        seed: of the limits and the documents.

    Raises:
        NoMemoryGroup: no memory cgroup can be made here.
    """
    drawn = random.Random(seed)
    tally, while_starting, kept = Tally(), 0, 0
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder, memory_group() as group:
        cache, environment = files_of_its_own(Path(folder))
        store, known = store_path(cache), dict[str, float]()
        for number in range(rounds):
            before, started = group.kills(), drawn.random() >= _FROM_THE_START
            try:
                if started:
                    lost, seen = _while_serving(group, environment, known, drawn, number, store)
                else:
                    lost, seen = _while_starting(group, environment, drawn), _passages(store)
                if group.kills() != before + 1:
                    lost = lost or "the kernel did not kill it"
                lost = lost or damaged(store) or _gone(store, seen) or _again(group, environment, known)
            except NotServing as error:
                lost = str(error)
            while_starting, kept = while_starting + (not started), max(kept, len(_passages(store)))
            tally.add(lost)
    note = (
        f"{while_starting} died while they started; {kept:,} passages were seen on disk, and none was gone; "
        f"{len(known):,} documents had been scored"
    )
    yield tally.row(_PART, "a service overruns its cgroup's memory and is started again with enough", note)


def _while_starting(group: MemoryGroup, environment: Mapping[str, str], drawn: random.Random) -> str | None:
    group.limit(drawn.randint(*_START_MB) * _MB)
    try:
        with serving_process(environment, group.within) as (process, _):
            return f"it serves with less memory than its model takes, as process {process.pid}"
    except NotServing:
        return None


def _while_serving(
    group: MemoryGroup,
    environment: Mapping[str, str],
    known: dict[str, float],
    drawn: random.Random,
    number: int,
    store: Path,
) -> tuple[str | None, set[bytes]]:
    """What was lost, and the passages that others saw on disk before the kill."""
    group.limit(_ENOUGH)
    before, wanted = len(known), drawn.randint(0, 3) * _DOCUMENTS
    with (
        serving_process(environment, group.within) as (process, client),
        kept_busy(client, known, str(number), _DOCUMENTS, _WORDS),
    ):
        until = time.monotonic() + _PATIENCE_S
        while len(known) - before < wanted and time.monotonic() < until:
            time.sleep(0.01)
        group.limit(group.taken() + drawn.randint(*_MORE_MB) * _MB)
        seen: set[bytes] = set()
        while process.poll() is None and time.monotonic() < until:
            seen |= _passages(store)
            time.sleep(0.02)
        return _killed(process), seen


def _killed(process: subprocess.Popen[str]) -> str | None:
    code = process.poll()
    return None if code == -signal.SIGKILL else f"it ended with {code}"


def _again(group: MemoryGroup, environment: Mapping[str, str], known: Mapping[str, float]) -> str | None:
    group.limit(_ENOUGH)
    with serving_process(environment, group.within) as (_, client):
        return answers_alike(client, known)


def _passages(store: Path) -> set[bytes]:
    """Keys of the passages on disk, as another process sees them: those are written for good."""
    # There is no file before the first of them.
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        return {key for (key,) in db.execute("SELECT key FROM passages")}
    return set()


def _gone(path: Path, seen: set[bytes]) -> str | None:
    if not seen:
        return None
    with closing(PassageStore(path, 500 * _MB)) as store:
        gone = [key for key in seen if not store.has(key)]
    return f"{len(gone)} passages that were on disk are gone" if gone else None
