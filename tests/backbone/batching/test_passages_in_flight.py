"""Identical passages are encoded once, and those of requests that wait at the same time in one call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.backbone.batching import passages_in_flight, scheduler
from connector.backbone.batching.scheduler import Scheduler
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.tail import TokenIds
from connector.backbone.runtime import EncodedDocument, Head, Observations, ReadRequest
from connector.cancelling import Cancelled, CancelScope
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.sections import Layout
from tests.backbone.batching.waiting import LONG, Watched, WatchedScope, needs_of, open_reader, open_watched

HEADS = ((2, 4), (7, 7))
QUERY = "how long do cats sleep"


@pytest.fixture(scope="module")
def loaded(smollm2: Checkpoint) -> Watched:
    return open_watched(smollm2)


@pytest.fixture
def runtime(loaded: Watched) -> Watched:
    loaded.watch()
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["solo", "late"])
def test_eight_requests_encode_each_passage_once(
    smollm2: Checkpoint, runtime: Watched, layout: Layout, cats: list[str]
) -> None:
    own = open_reader(smollm2, runtime, layout)
    windows = [[*cats[at % 5 :], *cats[: at % 3]] for at in range(8)]
    with ThreadPoolExecutor(8) as pool:
        readings = list(pool.map(lambda window: own.read(QUERY, window, needs_of(layout, HEADS)), windows))
    assert len(runtime.encoded) == len(set(runtime.encoded)) == len(cats)
    assert sum(reading.encoded for reading in readings) == len(cats)
    for reading, window in zip(readings, windows, strict=True):
        assert np.array_equal(reading.rows, own.read(QUERY, window, needs_of(layout, HEADS)).rows)


def test_a_state_is_handed_on_where_the_cache_keeps_none(
    smollm2: Checkpoint, runtime: Watched, cats: list[str]
) -> None:
    own = open_reader(smollm2, runtime, megabytes=0)
    scope = WatchedScope()
    runtime.hold()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(own.read, QUERY, cats[:2], Needs(HEADS))
        assert runtime.begun.wait(LONG)
        second = pool.submit(own.read, QUERY, cats[:2], Needs(HEADS), scope=scope)
        scope.until_it_waits()
        runtime.free.set()
        assert np.array_equal(first.result().rows, second.result().rows)
    assert (first.result().encoded, second.result().encoded, second.result().cached) == (2, 0, 2)


@pytest.mark.parametrize("reason", ["failed", "late"])
def test_whoever_waits_encodes_what_the_first_gave_up(
    smollm2: Checkpoint, runtime: Watched, cats: list[str], reason: str
) -> None:
    own = open_reader(smollm2, runtime)
    hurried, patient = WatchedScope(), WatchedScope()
    runtime.hold()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(own.read, QUERY, cats, Needs(HEADS), scope=hurried)
        assert runtime.begun.wait(LONG)
        second = pool.submit(own.read, QUERY, cats, Needs(HEADS), scope=patient)
        patient.until_it_waits()
        if reason == "late":
            hurried.end()
        else:
            runtime.fail_once = True
        runtime.free.set()
        with pytest.raises(Cancelled if reason == "late" else RuntimeError):
            first.result()
        # What was done before the deadline is not done again.
        done = 1 if reason == "late" else 0
        assert (second.result().encoded, second.result().cached) == (5 - done, done)
    assert len(runtime.encoded) == len(cats)


def test_its_own_deadline_ends_the_wait(smollm2: Checkpoint, runtime: Watched, cats: list[str]) -> None:
    own = open_reader(smollm2, runtime)
    runtime.hold()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(own.read, QUERY, cats, Needs(HEADS))
        assert runtime.begun.wait(LONG)
        with pytest.raises(Cancelled, match="deadline"):
            own.read(QUERY, cats, Needs(HEADS), scope=CancelScope.after(50))
        assert not first.done()
        runtime.free.set()
        assert first.result().encoded == len(cats)


def test_requests_that_need_each_others_passages_do_not_wait_for_ever(smollm2: Checkpoint, runtime: Watched) -> None:
    own = open_reader(smollm2, runtime, "late")
    texts = [f"text number {number}" for number in range(12)]
    generator = np.random.default_rng(0)
    windows = [[texts[at] for at in generator.permutation(12)[:6]] for _ in range(24)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda window: own.read(QUERY, window, Needs(HEADS)), windows, timeout=120))
    assert len(runtime.encoded) == len(set(runtime.encoded))


def no_windows(windows: Sequence[ReadRequest]) -> Sequence[Observations]:
    raise AssertionError("nothing is read here")


class Crowd:
    """Requests that wait while the first one, of the passage 0, is held; passages are numbered."""

    def __init__(self, runtime: Watched, pool: ThreadPoolExecutor) -> None:
        def encode(passages: Sequence[TokenIds], needs: Needs) -> Iterator[EncodedDocument]:
            return runtime.encode(range(100, 110), passages, needs, layout="late")

        self.cache = DocumentCache(100_000_000)
        self.scheduler = Scheduler(self.cache, encode, no_windows)
        self._runtime, self._pool = runtime, pool
        runtime.hold()
        self.first = self.ask([0], WatchedScope(), wait=False)
        assert runtime.begun.wait(LONG)

    def ask(
        self,
        numbers: Sequence[int],
        scope: WatchedScope | None = None,
        heads: tuple[Head, ...] = HEADS,
        wait: bool = True,
    ) -> Future[tuple[list[EncodedDocument], int]]:
        """Returns when it waits."""
        scope = scope or WatchedScope()
        keys = [f"{number} {heads}".encode() for number in numbers]
        asked = self._pool.submit(self.scheduler.encode, keys, lambda at: ids(numbers[at]), Needs(heads), scope)
        if wait:
            scope.until_it_waits()
        return asked

    def go_until(self, passages: int) -> None:
        """Let so many passages through; the next one is held."""
        self._runtime.begun.clear()
        self._runtime.hold_at = passages
        self._runtime.free.set()
        # The first one is handed on before the next one is held.
        self.first.result(LONG)
        assert self._runtime.begun.wait(LONG)


def ids(number: int) -> TokenIds:
    return np.arange(1000 + 50 * number, 1008 + 50 * number + number % 3, dtype=np.int32)


def test_what_came_meanwhile_is_one_call_with_the_same_bits(runtime: Watched) -> None:
    alone = [next(runtime.encode(range(100, 110), [ids(number)], Needs(HEADS), layout="late")) for number in range(6)]
    runtime.calls.clear()
    with ThreadPoolExecutor(4) as pool:
        crowd = Crowd(runtime, pool)
        asked = [crowd.ask(numbers) for numbers in ([1, 2], [3], [4, 5, 1])]
        runtime.free.set()
        states, encoded = zip(*(one.result(LONG) for one in asked), strict=True)
    assert runtime.calls == [1, 5]
    assert encoded == (2, 1, 2)
    for found, numbers in zip(states, ([1, 2], [3], [4, 5, 1]), strict=True):
        assert [state.to_bytes() for state in found] == [alone[number].to_bytes() for number in numbers]


def test_much_and_what_is_for_other_heads_is_a_call_of_its_own(
    runtime: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_ENCODED_TOGETHER", 30)
    with ThreadPoolExecutor(6) as pool:
        crowd = Crowd(runtime, pool)
        asked = [
            crowd.ask([1, 2]),
            crowd.ask([3, 4]),
            crowd.ask([5], heads=HEADS[:1]),
            crowd.ask([6]),
            crowd.ask([7]),
        ]
        runtime.free.set()
        for one in asked:
            one.result(LONG)
    # The fourth goes along with the first, past those that do not fit.
    assert runtime.calls == [1, 3, 3, 1]


def test_many_passages_are_encoded_in_parts_with_the_others_in_between(
    runtime: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages_in_flight, "_PART_TOKENS", 20)
    monkeypatch.setattr(scheduler, "_ENCODED_TOGETHER", 20)
    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        large, small = crowd.ask([1, 2, 3, 4, 5, 6]), crowd.ask([7, 8])
        runtime.free.set()
        assert (large.result(LONG)[1], small.result(LONG)[1]) == (6, 2)
    assert [(passage[0] - 1000) // 50 for passage in runtime.encoded] == [0, 1, 2, 7, 8, 3, 4, 5, 6]


def test_no_passage_fails_because_of_another(runtime: Watched) -> None:
    runtime.encode_fails = lambda documents: any(np.array_equal(ids(2), each) for each in documents)
    with ThreadPoolExecutor(4) as pool:
        crowd = Crowd(runtime, pool)
        fine, wrong, behind = crowd.ask([1]), crowd.ask([2]), crowd.ask([3])
        runtime.free.set()
        assert (fine.result(LONG)[1], behind.result(LONG)[1]) == (1, 1)
        with pytest.raises(RuntimeError, match="out of memory"):
            wrong.result(LONG)
    assert runtime.calls == [1, 3, 1, 1, 1]


def test_those_who_go_along_do_not_share_a_deadline(runtime: Watched) -> None:
    scope = WatchedScope()
    runtime.when_encoded = lambda: scope.end() if len(runtime.encoded) > 1 else None
    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        hurried, patient = crowd.ask([1, 2], scope), crowd.ask([3, 4])
        runtime.free.set()
        with pytest.raises(Cancelled, match="deadline"):
            hurried.result(LONG)
        assert patient.result(LONG)[1] == 2
    assert runtime.calls == [1, 4, 2]
    # What was done is kept, and what nobody wants was not done.
    assert crowd.scheduler.encode([f"1 {HEADS}".encode()], lambda at: ids(1), Needs(HEADS), CancelScope())[1] == 0
    assert crowd.cache.peek(f"2 {HEADS}".encode()) is None


@pytest.mark.parametrize("wanted", [False, True])
def test_what_nobody_wants_any_more_is_not_encoded(runtime: Watched, wanted: bool) -> None:
    scope = WatchedScope()
    with ThreadPoolExecutor(4) as pool:
        crowd = Crowd(runtime, pool)
        patient, hurried = crowd.ask([1]), crowd.ask([2], scope)
        other = crowd.ask([2]) if wanted else None
        crowd.go_until(1)
        scope.cancel()
        with pytest.raises(Cancelled, match="cancelled"):
            hurried.result(LONG)
        # It did not wait for the one who encodes.
        assert not patient.done()
        runtime.free.set()
        patient.result(LONG)
        if other is not None:
            assert other.result(LONG)[1] == 1
    assert runtime.calls == [1, 2]
    assert (crowd.cache.peek(f"2 {HEADS}".encode()) is not None) == wanted


def test_nothing_stays_behind(runtime: Watched) -> None:
    def broken(passages: Sequence[TokenIds], needs: Needs) -> Iterator[EncodedDocument]:
        raise RuntimeError("broken")

    def short(passages: Sequence[TokenIds], needs: Needs) -> Iterator[EncodedDocument]:
        return runtime.encode((5,), passages[:1], needs, layout="late")

    for encode, message in ((broken, "broken"), (short, "fewer documents")):
        own = Scheduler(DocumentCache(1000), encode, no_windows)
        for _ in range(2):
            with pytest.raises((RuntimeError, BackboneError), match=message):
                own.encode([b"a", b"b"], ids, Needs(HEADS), CancelScope())
        assert (own.statistics().waiting, own.statistics().waiting_tokens) == (0, 0)


@dataclass(frozen=True)
class Encoded:
    number: int
    tokens: int = 1
    nbytes: int = 1

    def to_bytes(self) -> bytes:
        return bytes([self.number])


asked_for = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), st.booleans()), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=60)
@given(asked_for, st.sets(st.integers(0, 9), max_size=2), st.integers(1, 3))
def test_every_request_gets_its_passages_or_its_own_error(
    requests: list[tuple[list[int], bool]], broken: set[int], threads: int
) -> None:
    encoded: list[int] = []
    free = threading.Event()

    def encode(passages: Sequence[TokenIds], needs: Needs) -> Iterator[EncodedDocument]:
        assert free.wait(LONG)
        for (number,) in passages:
            if number in broken:
                raise RuntimeError(f"{number} is broken")
            encoded.append(number)
            yield Encoded(number)

    def ask(numbers: list[int], scope: CancelScope) -> list[EncodedDocument]:
        return own.encode([bytes([number]) for number in numbers], lambda at: [numbers[at]], Needs(HEADS), scope)[0]

    own = Scheduler(DocumentCache(1000), encode, no_windows, threads=threads)
    scopes = [CancelScope() for _ in requests]
    outcomes: list[Callable[[], list[EncodedDocument]]] = []
    with ThreadPoolExecutor(len(requests)) as pool:
        for (numbers, _), scope in zip(requests, scopes, strict=True):
            outcomes.append(pool.submit(ask, numbers, scope).result)
        for (_, leaves), scope in zip(requests, scopes, strict=True):
            if leaves:
                scope.cancel()
        free.set()
        for (numbers, leaves), outcome in zip(requests, outcomes, strict=True):
            wrong = broken & set(numbers)
            try:
                assert outcome() == [Encoded(number) for number in numbers] and not wrong
            except Cancelled:
                assert leaves
            except RuntimeError as error:
                assert int(str(error).split()[0]) in wrong
    assert len(encoded) == len(set(encoded))
    statistics = own.statistics()
    assert (statistics.waiting, statistics.waiting_tokens) == (0, 0)
