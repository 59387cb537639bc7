"""Windows of requests that wait at the same time are read in one pass, and nobody can tell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from connector.backbone.batching import waiting_windows as joint_reading
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader, Reading
from connector.backbone.runtime import AskedWindow, EncodedDocument, Head, Tail
from connector.backbone.torch_runtime.cpu.operations import multiplies_bfloat16
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.settings import Layout
from tests.backbone.torch_runtime.packing import has_wide_products

HEADS = ((2, 4), (7, 7))
DEEPER = ((1, 0), (9, 3), (9, 8))
QUERIES = ["how long do cats sleep", "purring", "what do kittens eat in the first weeks of their lives?", "whiskers"]
LATE = pytest.mark.parametrize("layout", ["block", "late"])


class Watched(TorchRuntime):
    """The real runtime; counts the windows of each pass, and may be held or made to fail."""

    def watch(self) -> None:
        self.passes: list[int] = []
        self.begun, self.free = threading.Event(), threading.Event()
        self.free.set()
        self.fails: Callable[[Sequence[AskedWindow]], bool] = lambda windows: False

    def read(
        self,
        prefix: Sequence[int],
        tail: Tail,
        documents: Sequence[EncodedDocument],
        heads: Sequence[Head],
        *,
        late: bool,
    ) -> npt.NDArray[np.float32]:
        return self.read_together(prefix, [AskedWindow(tail, documents, heads)], late=late)[0]

    def read_together(
        self, prefix: Sequence[int], windows: Sequence[AskedWindow], *, late: bool
    ) -> list[npt.NDArray[np.float32]]:
        self.begun.set()
        assert self.free.wait(60)
        self.passes.append(len(windows))
        if self.fails(windows):
            raise RuntimeError("out of memory")
        return super().read_together(prefix, windows, late=late)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest, smollm2: Checkpoint) -> Watched:
    if request.param == "bfloat16" and not multiplies_bfloat16():
        pytest.skip("this CPU does not multiply bfloat16")
    runtime = Watched.load(smollm2.path, device="cpu", dtype=request.param)
    assert isinstance(runtime, Watched)
    if runtime.windows_together == 1 and not has_wide_products():
        pytest.skip("on this machine rows of a product depend on the number of rows")
    assert runtime.windows_together > 1
    return runtime


@pytest.fixture
def runtime(loaded: Watched) -> Watched:
    loaded.watch()
    return loaded


def reader(smollm2: Checkpoint, runtime: Watched, layout: Layout = "block") -> Reader:
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)
    return Reader(runtime, tokenizer, template, layout, smollm2.digest(), DocumentCache(200_000_000))


class Crowd:
    """Readings that are asked for while a first one is held."""

    def __init__(self, runtime: Watched, pool: ThreadPoolExecutor) -> None:
        self._runtime, self._pool = runtime, pool
        self._came = 0
        runtime.free.clear()
        runtime.begun.clear()

    def ask(
        self,
        own: Reader,
        query: str,
        texts: Sequence[str],
        heads: Sequence[Head] = HEADS,
        look: Callable[[], None] = lambda: None,
        pool: Sequence[Head] | None = None,
    ) -> Future[Reading]:
        """Returns when this reading is held or waits."""
        looks: list[object] = []

        def check() -> None:
            looks.append(1)
            look()

        asked = self._pool.submit(own.read, query, texts, heads, pool=pool, check=check)
        if not self._came:
            assert self._runtime.begun.wait(60)
        else:
            # Before it waits it looks a few times, about once a step.
            end = time.monotonic() + 60
            while len(looks) < 20 and not asked.done():
                assert time.monotonic() < end
                time.sleep(0.005)
        self._came += 1
        return asked


@LATE
def test_what_came_meanwhile_is_one_pass_with_the_same_bits(
    smollm2: Checkpoint, runtime: Watched, layout: Layout, cats: list[str]
) -> None:
    own = reader(smollm2, runtime, layout)
    everything = (*HEADS, *DEEPER)
    asked = [(query, [*cats[at:], *cats[: at // 2]], DEEPER if at % 2 else HEADS) for at, query in enumerate(QUERIES)]
    alone = [own.read(query, texts, heads, pool=everything) for query, texts, heads in asked]
    assert runtime.passes == [1] * 4
    runtime.passes.clear()
    with ThreadPoolExecutor(5) as pool:
        crowd = Crowd(runtime, pool)
        first = crowd.ask(own, "cat", cats, pool=everything)
        others = [crowd.ask(own, query, texts, heads, pool=everything) for query, texts, heads in asked]
        runtime.free.set()
        together = [other.result(60) for other in others]
        first.result(60)
    assert runtime.passes == [1, 4]
    for one, other in zip(alone, together, strict=True):
        assert one.rows.tobytes() == other.rows.tobytes()


def test_a_large_window_is_a_pass_of_its_own(
    smollm2: Checkpoint, runtime: Watched, cats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = reader(smollm2, runtime)
    tokens = int(own.read("cat", cats, HEADS).lengths.sum())
    monkeypatch.setattr(joint_reading, "_TOGETHER_TOKENS", 2 * tokens - 1)
    runtime.passes.clear()
    with ThreadPoolExecutor(5) as pool:
        crowd = Crowd(runtime, pool)
        asked = [crowd.ask(own, "cat", cats[:1])]
        asked += [crowd.ask(own, query, cats) for query in QUERIES[:2]]
        asked += [crowd.ask(own, query, cats[:1]) for query in QUERIES[2:]]
        runtime.free.set()
        for one in asked:
            one.result(60)
    assert runtime.passes == [1, 1, 3]


def test_no_window_fails_because_of_another(smollm2: Checkpoint, runtime: Watched, cats: list[str]) -> None:
    own = reader(smollm2, runtime)
    alone = own.read(QUERIES[0], cats, HEADS)
    few = len(own.read("cat", cats[:1], HEADS).documents)
    runtime.fails = lambda windows: any(len(window.documents) == few for window in windows)
    runtime.passes.clear()
    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        first = crowd.ask(own, "cat", cats)
        fine, wrong = crowd.ask(own, QUERIES[0], cats), crowd.ask(own, QUERIES[1], cats[:1])
        runtime.free.set()
        assert fine.result(60).rows.tobytes() == alone.rows.tobytes()
        with pytest.raises(RuntimeError, match="out of memory"):
            wrong.result(60)
        first.result(60)
    assert runtime.passes == [1, 2, 1, 1]
    # And the next one is read as ever.
    assert own.read(QUERIES[0], cats, HEADS).rows.tobytes() == alone.rows.tobytes()


def test_who_gives_up_waiting_does_so_at_once(smollm2: Checkpoint, runtime: Watched, cats: list[str]) -> None:
    own = reader(smollm2, runtime)
    own.read("cat", cats, HEADS)
    runtime.passes.clear()
    late = threading.Event()

    def look() -> None:
        if late.is_set():
            raise TimeoutError

    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        first = crowd.ask(own, "cat", cats)
        hurried, patient = crowd.ask(own, QUERIES[0], cats, look=look), crowd.ask(own, QUERIES[1], cats)
        late.set()
        with pytest.raises(TimeoutError):
            hurried.result(60)
        assert not first.done()
        runtime.free.set()
        patient.result(60)
        first.result(60)
    assert runtime.passes == [1, 1]
