"""The clock on the wall jumps by hours, forward and back: deadlines, queues, the cache and a sync keep their way.

``time.time`` and ``time.time_ns`` are replaced: every module of the product, and uvicorn, asks them by these names.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2

from connector.backbone.caching.followed_index import FollowedIndex
from connector.backbone.caching.sqlite_store import PassageStore
from connector.cancelling import CancelScope
from connector.cli.sync import _Following
from connector.documents import FirstStage, RerankResult
from connector.engines.cluster.versions import VersionedDocument
from connector.sections import Settings
from tests.campaign.kills import passage
from tests.campaign.rows import Row, Tally
from tests.service.conftest import service_settings
from tests.service.live import serving
from tests.service.standin import StandIn, not_reranked, overlap

__all__ = ["Clock", "clocks", "jumping_clock"]

_PART = "clock"
_FARTHEST = 24 * 3600.0
_LATE_S = 2.0


class Clock:
    """The clock on the wall, which can be set."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._true, self._true_ns = time.time, time.time_ns

    def time(self) -> float:
        return self._true() + self.ahead

    def time_ns(self) -> int:
        return self._true_ns() + int(self.ahead * 1e9)


@contextmanager
def jumping_clock() -> Iterator[Clock]:
    """Put a clock that can be set in the place of the real one."""
    clock = Clock()
    real = time.time, time.time_ns
    time.time, time.time_ns = clock.time, clock.time_ns  # type: ignore[assignment]
    try:
        yield clock
    finally:
        time.time, time.time_ns = real


def clocks(rounds: int, seed: int = 0) -> Iterator[Row]:
    """Three rows: requests in the queue and under way, the cache's order, a sync by dates.

    Args:
        rounds: of each.
        seed: of the jumps and their moments.
    """
    drawn = random.Random(seed)
    with jumping_clock() as clock:
        yield _serving(clock, drawn, rounds)
        yield _evicting(clock, drawn, rounds)
        yield _syncing(clock, drawn, rounds)


def _jump(clock: Clock, drawn: random.Random) -> None:
    clock.ahead = drawn.uniform(-_FARTHEST, _FARTHEST)


def _working(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
    """Takes as long as the query says, in milliseconds, and looks at its scope as a model does."""
    until = time.monotonic() + float(query.split()[0]) / 1000
    while time.monotonic() < until:
        if scope.reason is not None:
            return not_reranked(scope.reason)(query, documents, first_stage, scope)
        time.sleep(0.002)
    return overlap(query, documents, first_stage)


def _serving(clock: Clock, drawn: random.Random, rounds: int) -> Row:
    tally, slowest = Tally(), 0.0
    with (
        serving(StandIn(_working), service_settings(max_queue=8)) as (url, _),
        httpx2.Client(base_url=url, timeout=20) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        for _ in range(rounds):
            jump = threading.Timer(drawn.uniform(0, 0.15), _jump, (clock, drawn))
            jump.start()
            asked = [pool.submit(_asked, client, *kind) for kind in ((30, 5000), (5000, 150), (30, 5000), (5000, 80))]
            jump.join()
            told = [one.result() for one in asked]
            slowest = max(slowest, *(late for _, late in told))
            tally.add(next((lost for lost, _ in told if lost is not None), None))
    note = f"four requests at once, two of them beyond their deadline: answered {slowest:.2f} s after it at most"
    return tally.row(_PART, "set by up to a day while requests wait and run", note)


def _asked(client: httpx2.Client, work_ms: int, deadline_ms: int) -> tuple[str | None, float]:
    """What was lost, and seconds that the answer came after its deadline."""
    body = {"query": f"{work_ms} cats", "documents": ["dogs", "cats"], "first_stage": "order"}
    began = time.monotonic()
    answer = client.post("/v1/rerank", json=body, headers={"X-Rerank-Deadline-Ms": str(deadline_ms)})
    late = max(0.0, time.monotonic() - began - deadline_ms / 1000)
    if answer.status_code != 200:
        return f"status {answer.status_code}", late
    told = answer.json()
    order = [result["index"] for result in told["results"]]
    if work_ms < deadline_ms:
        wanted = (True, [1, 0])
    else:
        wanted = (False, [0, 1])
        if late > _LATE_S:
            return "answered long after its deadline", late
    return None if (told["reranked"], order) == wanted else f"{told.get('reason')}, order {order}", late


def _evicting(clock: Clock, drawn: random.Random, rounds: int) -> Row:
    tally, evicted = Tally(), 0
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder:
        for round_number in range(rounds):
            with closing(PassageStore(Path(folder) / f"{round_number}.sqlite", 3_000_000)) as store:
                lost, out = _ordered(store, clock, drawn)
            evicted += out
            tally.add(lost)
    note = f"{evicted:,} passages made room, each the one that had not been used for longest"
    return tally.row(_PART, "set by up to a day while a full document cache makes room", note)


def _ordered(store: PassageStore, clock: Clock, drawn: random.Random) -> tuple[str | None, int]:
    expected: OrderedDict[bytes, None] = OrderedDict()
    evicted = 0
    for number in range(40):
        if drawn.random() < 0.3:
            _jump(clock, drawn)
        if expected and drawn.random() < 0.4:
            used = drawn.choice(list(expected))
            store.note_uses({used: time.time()})
            expected.move_to_end(used)
            continue
        key, data = passage(number)
        out = store.put(key, data, 1)
        evicted += out
        expected[key] = None
        for _ in range(out):
            expected.popitem(last=False)
        if not all(map(store.has, expected)) or store.entries() != len(expected):
            return "another passage went than the one that had not been used for longest", evicted
    return None, evicted


class _Documents:
    """An index in memory, as ``IndexVersions`` shows one: name -> version, date in milliseconds, text."""

    identity = "one"

    def __init__(self) -> None:
        self.there: dict[str, tuple[str, int, str]] = {}

    def put(self, name: str, text: str) -> None:
        """As the application writes that keeps the date of each document."""
        self.there[name] = (f"version of {text}", int(time.time() * 1000), text)

    def count(self) -> int:
        return len(self.there)

    def newest(self, field: str) -> int | None:
        return max((date for _, date, _ in self.there.values()), default=None)

    def walk(self, field: str | None = None, since: int = 0) -> Iterator[list[tuple[str, str]]]:
        yield [(name, version) for name, (version, date, _) in self.there.items() if field is None or date >= since]

    def fetch(self, names: Sequence[str]) -> list[VersionedDocument]:
        return [VersionedDocument(name, self.there[name][0], {"text": self.there[name][2]}) for name in names]


class _Passages:
    """A reader that keeps what it is given, without an LLM."""

    def __init__(self, store: PassageStore) -> None:
        self._store = store

    def keys(self, texts: Sequence[str], pool: Any = None) -> list[tuple[bytes, ...]]:
        return [(blake2b(text.encode(), digest_size=32).digest(),) for text in texts]

    def precompute(self, texts: Sequence[str], pool: Any = None) -> tuple[int, int]:
        for (key,) in self.keys(texts):
            self._store.put(key, b"states", 1)
        return len(texts), len(texts)

    def statistics(self) -> SimpleNamespace:
        return SimpleNamespace(disk_entries=self._store.entries(), disk_unwritten=0, disk_evictions=0)


def _syncing(clock: Clock, drawn: random.Random, rounds: int) -> Row:
    tally, synced = Tally(), 0
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder:
        for round_number in range(rounds):
            path = Path(folder) / f"{round_number}.sqlite"
            with closing(PassageStore(path, 20_000_000)) as store:
                documents, reader = _Documents(), _Passages(store)
                reranker = SimpleNamespace(reader=reader, routes=SimpleNamespace(pool=lambda: None))
                lost = None
                for step in range(10):
                    if drawn.random() < 0.5:
                        _jump(clock, drawn)
                    name, text = str(drawn.randrange(4)), f"text of step {step}"
                    documents.put(name, text)
                    with closing(FollowedIndex(path, 20_000_000, "here", "so")) as known:
                        following = _Following(cast(Any, reranker), Settings(), cast(Any, documents), known, iter)
                        following.follow_dates(cast(Any, documents), "written")
                    synced += 1
                    if not store.has(reader.keys([text])[0][0]):
                        lost = "a document that was written again was not seen"
                        break
            tally.add(lost)
    note = f"{synced:,} syncs, each after one document was written"
    return tally.row(_PART, "set by up to a day between two of `cache sync --by`", note)
