"""Identical passages are encoded once, however many requests miss them at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from connector.backbone.cache import DocumentCache
from connector.backbone.checkpoint import Checkpoint
from connector.backbone.in_flight import SharedEncoding
from connector.backbone.prompts import PromptTemplate
from connector.backbone.reader import Layout, Reader
from connector.backbone.runtime import EncodedDocument, Head
from connector.backbone.tokenizer import Tokenizer
from connector.backbone.torch_runtime import TorchRuntime

HEADS = ((2, 4), (7, 7))
QUERY = "how long do cats sleep"


class Watched(TorchRuntime):
    """The real runtime; counts what it encodes, and may be held or made to fail."""

    def watch(self) -> None:
        self.encoded: list[tuple[int, ...]] = []
        self.begun = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.fail_once = False

    def encode(
        self, prefix: Sequence[int], documents: Sequence[Sequence[int]], heads: Sequence[Head], *, late: bool
    ) -> Iterator[EncodedDocument]:
        self.begun.set()
        for document, state in zip(documents, super().encode(prefix, documents, heads, late=late), strict=True):
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


def test_nothing_stays_behind(runtime: Watched) -> None:
    shared = SharedEncoding(DocumentCache(1000))

    def broken(places: Sequence[int]) -> Iterator[EncodedDocument]:
        raise RuntimeError("broken")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            shared.states([b"a", b"b"], broken, lambda: None)
