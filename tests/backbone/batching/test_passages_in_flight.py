"""Identical passages are encoded once, and those of requests that wait at the same time in one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from connector.backbone.batching.shared_encoding import SharedEncoding

from connector.backbone.batching import shared_encoding as in_flight
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.backbone.runtime import EncodedDocument, Head
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError
from connector.settings import Layout

HEADS = ((2, 4), (7, 7))
QUERY = "how long do cats sleep"


class Watched(TorchRuntime):
    """The real runtime; counts what it encodes, and may be held or made to fail."""

    def watch(self) -> None:
        self.encoded: list[tuple[int, ...]] = []
        self.calls: list[int] = []
        self.fails: Callable[[Sequence[Sequence[int]]], bool] = lambda documents: False
        self.begun = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.fail_once = False
        self.hold_from: int | None = None

    def encode(
        self, prefix: Sequence[int], documents: Sequence[Sequence[int]], heads: Sequence[Head], *, late: bool
    ) -> Iterator[EncodedDocument]:
        self.begun.set()
        self.calls.append(len(documents))
        if self.fails(documents):
            raise RuntimeError("out of memory")
        for document, state in zip(documents, super().encode(prefix, documents, heads, late=late), strict=True):
            assert self.free.wait(60)
            if len(self.encoded) == self.hold_from:
                self.free.clear()
                self.begun.set()
                assert self.free.wait(60)
            if self.fail_once:
                self.fail_once = False
                raise RuntimeError("out of memory")
            self.encoded.append(tuple(document))
            yield state


@pytest.fixture(scope="module")
def loaded(smollm2: Checkpoint) -> Watched:
    runtime = Watched.load(smollm2.path, device="cpu", dtype="float32")
    assert isinstance(runtime, Watched)
    return runtime


@pytest.fixture
def runtime(loaded: Watched) -> Watched:
    loaded.watch()
    return loaded


def reader(smollm2: Checkpoint, runtime: Watched, layout: Layout = "block", megabytes: int = 200) -> Reader:
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)
    return Reader(runtime, tokenizer, template, layout, smollm2.digest(), DocumentCache(megabytes * 1_000_000))


def wait_for(waiting: list[object], number: int) -> None:
    until = time.monotonic() + 60
    while len(waiting) < number and time.monotonic() < until:
        time.sleep(0.005)
    assert len(waiting) >= number


@pytest.mark.parametrize("layout", ["block", "late"])
def test_eight_requests_encode_each_passage_once(
    smollm2: Checkpoint, runtime: Watched, layout: Layout, cats: list[str]
) -> None:
    own = reader(smollm2, runtime, layout)
    windows = [[*cats[at % 5 :], *cats[: at % 3]] for at in range(8)]
    with ThreadPoolExecutor(8) as pool:
        readings = list(pool.map(lambda window: own.read(QUERY, window, HEADS), windows))
    assert len(runtime.encoded) == len(set(runtime.encoded)) == len(cats)
    assert sum(reading.encoded for reading in readings) == len(cats)
    for reading, window in zip(readings, windows, strict=True):
        assert np.array_equal(reading.rows, own.read(QUERY, window, HEADS).rows)


def test_a_state_is_handed_on_where_the_cache_keeps_none(
    smollm2: Checkpoint, runtime: Watched, cats: list[str]
) -> None:
    own = reader(smollm2, runtime, megabytes=0)
    looks: list[object] = []
    runtime.free.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(own.read, QUERY, cats[:2], HEADS)
        assert runtime.begun.wait(60)
        second = pool.submit(own.read, QUERY, cats[:2], HEADS, check=lambda: looks.append(1))
        wait_for(looks, 3)
        runtime.free.set()
        assert np.array_equal(first.result().rows, second.result().rows)
    assert (first.result().encoded, second.result().encoded, second.result().cached) == (2, 0, 2)


@pytest.mark.parametrize("reason", ["failed", "late"])
def test_whoever_waits_encodes_what_the_first_gave_up(
    smollm2: Checkpoint, runtime: Watched, cats: list[str], reason: str
) -> None:
    own = reader(smollm2, runtime)
    looks: list[object] = []
    runtime.free.clear()
    late = threading.Event()

    def deadline() -> None:
        if late.is_set():
            raise TimeoutError

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(own.read, QUERY, cats, HEADS, check=deadline)
        assert runtime.begun.wait(60)
        second = pool.submit(own.read, QUERY, cats, HEADS, check=lambda: looks.append(1))
        wait_for(looks, 3)
        late.set() if reason == "late" else setattr(runtime, "fail_once", True)
        runtime.free.set()
        with pytest.raises(TimeoutError if reason == "late" else RuntimeError):
            first.result()
        # What was done before the deadline is not done again.
        done = 1 if reason == "late" else 0
        assert (second.result().encoded, second.result().cached) == (5 - done, done)
    assert len(runtime.encoded) == len(cats)


def test_its_own_deadline_is_looked_at_while_it_waits(smollm2: Checkpoint, runtime: Watched, cats: list[str]) -> None:
    own = reader(smollm2, runtime)
    runtime.free.clear()
    looks: list[object] = []

    def deadline() -> None:
        looks.append(1)
        if len(looks) > 3:
            raise TimeoutError

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(own.read, QUERY, cats, HEADS)
        assert runtime.begun.wait(60)
        with pytest.raises(TimeoutError):
            own.read(QUERY, cats, HEADS, check=deadline)
        assert not first.done()
        runtime.free.set()
        assert first.result().encoded == len(cats)


def test_requests_that_need_each_others_passages_do_not_wait_for_ever(smollm2: Checkpoint, runtime: Watched) -> None:
    own = reader(smollm2, runtime, "late")
    texts = [f"text number {number}" for number in range(12)]
    generator = np.random.default_rng(0)
    windows = [[texts[at] for at in generator.permutation(12)[:6]] for _ in range(24)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda window: own.read(QUERY, window, HEADS), windows, timeout=120))
    assert len(runtime.encoded) == len(set(runtime.encoded))


class Crowd:
    """Requests that wait while the first one, of the passage 0, is held; passages are numbered."""

    def __init__(self, runtime: Watched, pool: ThreadPoolExecutor) -> None:
        def encode(passages: Sequence[Sequence[int]], heads: Sequence[Head]) -> Iterator[EncodedDocument]:
            return runtime.encode(range(100, 110), passages, heads, late=False)

        self.cache = DocumentCache(100_000_000)
        self.shared = SharedEncoding(self.cache, encode)
        self._pool = pool
        runtime.free.clear()
        self.first = self.ask([0], wait=False)
        assert runtime.begun.wait(60)

    def ask(
        self,
        numbers: Sequence[int],
        heads: tuple[Head, ...] = HEADS,
        look: Callable[[], None] = lambda: None,
        wait: bool = True,
    ) -> Future[tuple[list[EncodedDocument], int]]:
        """Returns when it waits."""
        looks: list[object] = []

        def check() -> None:
            looks.append(1)
            look()

        keys = [f"{number} {heads}".encode() for number in numbers]
        asked = self._pool.submit(self.shared.states, keys, lambda at: ids(numbers[at]), heads, check)
        if wait:
            wait_for(looks, 3)
        return asked


def ids(number: int) -> list[int]:
    return list(range(1000 + 50 * number, 1008 + 50 * number + number % 3))


def test_what_came_meanwhile_is_one_call_with_the_same_bits(runtime: Watched) -> None:
    alone = [next(runtime.encode(range(100, 110), [ids(number)], HEADS, late=False)) for number in range(6)]
    runtime.calls.clear()
    with ThreadPoolExecutor(4) as pool:
        crowd = Crowd(runtime, pool)
        asked = [crowd.ask(numbers) for numbers in ([1, 2], [3], [4, 5, 1])]
        runtime.free.set()
        states, encoded = zip(*(one.result(60) for one in asked), strict=True)
    assert runtime.calls == [1, 5]
    assert encoded == (2, 1, 2)
    for found, numbers in zip(states, ([1, 2], [3], [4, 5, 1]), strict=True):
        assert [state.to_bytes() for state in found] == [alone[number].to_bytes() for number in numbers]


def test_much_and_what_is_for_other_heads_is_a_call_of_its_own(
    runtime: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight, "_TOGETHER_TOKENS", 30)
    with ThreadPoolExecutor(6) as pool:
        crowd = Crowd(runtime, pool)
        asked = [crowd.ask([1, 2]), crowd.ask([3, 4]), crowd.ask([5], HEADS[:1]), crowd.ask([6]), crowd.ask([7])]
        runtime.free.set()
        for one in asked:
            one.result(60)
    assert runtime.calls == [1, 2, 2, 1, 2]


def test_no_passage_fails_because_of_another(runtime: Watched) -> None:
    runtime.fails = lambda documents: ids(2) in documents
    with ThreadPoolExecutor(4) as pool:
        crowd = Crowd(runtime, pool)
        fine, wrong, behind = crowd.ask([1]), crowd.ask([2]), crowd.ask([3])
        runtime.free.set()
        assert (fine.result(60)[1], behind.result(60)[1]) == (1, 1)
        with pytest.raises(RuntimeError, match="out of memory"):
            wrong.result(60)
    assert runtime.calls == [1, 3, 1, 1, 1]


def test_those_who_go_along_do_not_share_a_deadline(runtime: Watched) -> None:
    def deadline() -> None:
        if len(runtime.encoded) > 1:
            raise TimeoutError

    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        hurried, patient = crowd.ask([1, 2], look=deadline), crowd.ask([3, 4])
        runtime.free.set()
        with pytest.raises(TimeoutError):
            hurried.result(60)
        assert patient.result(60)[1] == 2
    assert runtime.calls == [1, 4, 2]
    # Nothing is in flight any more, and what was done is kept.
    assert crowd.shared.states([f"1 {HEADS}".encode()], lambda at: ids(1), HEADS, lambda: None)[1] == 0


def test_who_gives_up_while_another_encodes_for_it_does_not_stop_that(runtime: Watched) -> None:
    late = threading.Event()

    def deadline() -> None:
        if late.is_set():
            raise TimeoutError

    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        patient, hurried = crowd.ask([1]), crowd.ask([2], look=deadline)
        runtime.begun.clear()
        # Lets the first one's passage through, and holds the next ones.
        runtime.hold_from = 1
        runtime.free.set()
        assert runtime.begun.wait(60)
        late.set()
        with pytest.raises(TimeoutError):
            hurried.result(60)
        runtime.hold_from = None
        runtime.free.set()
        patient.result(60)
    assert runtime.calls == [1, 2]
    assert crowd.cache.peek(f"2 {HEADS}".encode()) is not None


def test_nothing_stays_behind(runtime: Watched) -> None:
    def broken(passages: Sequence[Sequence[int]], heads: Sequence[Head]) -> Iterator[EncodedDocument]:
        raise RuntimeError("broken")

    def short(passages: Sequence[Sequence[int]], heads: Sequence[Head]) -> Iterator[EncodedDocument]:
        return runtime.encode((5,), passages[:1], heads, late=False)

    for encode, message in ((broken, "broken"), (short, "fewer documents")):
        shared = SharedEncoding(DocumentCache(1000), encode)
        for _ in range(2):
            with pytest.raises((RuntimeError, BackboneError), match=message):
                shared.states([b"a", b"b"], ids, HEADS, lambda: None)
