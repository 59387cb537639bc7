"""Windows that wait at the same time are read in one pass, nobody can tell, and nobody works for who has gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from connector.backbone.batching import scheduler
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader, Reading
from connector.backbone.runtime import Head
from connector.backbone.torch_runtime.cpu.operations import multiplies_bfloat16
from connector.cancelling import Cancelled, CancelScope
from connector.checkpoints.checkpoint import Checkpoint
from connector.heads.head_sets import HeadSet
from connector.heads.needs import Needs
from connector.reranking.reranker import Reranker
from connector.sections import Layout
from tests.backbone.batching.waiting import LONG, Watched, WatchedScope, needs_of, open_reader, open_watched
from tests.backbone.torch_runtime.packing import has_wide_products

HEADS = ((2, 4), (7, 7))
DEEPER = ((1, 0), (9, 3), (9, 8))
QUERIES = ["how long do cats sleep", "purring", "what do kittens eat in the first weeks of their lives?", "whiskers"]
LAYOUT = pytest.mark.parametrize("layout", ["solo", "late"])


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest, smollm2: Checkpoint) -> Watched:
    runtime = open_watched(smollm2, request.param)
    if runtime.requests_together == 1:
        # Such a machine is told so, and reads what these tests put together one by one.
        assert not has_wide_products() or (request.param == "bfloat16" and not multiplies_bfloat16())
        assert runtime.plan["batches"].startswith("each sequence by itself"), runtime.plan
        pytest.skip("this machine reads each request by itself")
    return runtime


@pytest.fixture
def runtime(loaded: Watched) -> Watched:
    loaded.watch()
    return loaded


class Crowd:
    """Readings that are asked for while a first one is held."""

    def __init__(self, runtime: Watched, pool: ThreadPoolExecutor) -> None:
        self._runtime, self._pool = runtime, pool
        self._came = 0
        runtime.hold()

    def ask(
        self,
        own: Reader,
        query: str,
        texts: Sequence[str],
        heads: Sequence[Head] = HEADS,
        scope: WatchedScope | None = None,
        pool: Sequence[Head] | None = None,
    ) -> Future[Reading]:
        """Returns when this reading is held or waits."""
        scope = scope or WatchedScope()
        of_pool = None if pool is None else needs_of(own.layout, pool)
        asked = self._pool.submit(own.read, query, texts, needs_of(own.layout, heads), pool=of_pool, scope=scope)
        if self._came:
            scope.until_it_waits()
        else:
            assert self._runtime.begun.wait(LONG)
        self._came += 1
        return asked


@pytest.mark.slow
@LAYOUT
def test_what_came_meanwhile_is_one_pass_with_the_same_bits(
    smollm2: Checkpoint, runtime: Watched, layout: Layout, cats: list[str]
) -> None:
    own = open_reader(smollm2, runtime, layout)
    everything = (*HEADS, *DEEPER)
    pooled = needs_of(layout, everything)
    asked = [(query, [*cats[at:], *cats[: at // 2]], DEEPER if at % 2 else HEADS) for at, query in enumerate(QUERIES)]
    own.read("cat", cats, needs_of(layout, HEADS), pool=pooled)
    runtime.passes.clear()
    alone = [own.read(query, texts, needs_of(layout, heads), pool=pooled) for query, texts, heads in asked]
    assert runtime.passes == [1] * 4
    runtime.passes.clear()
    before = own.scheduler_statistics()
    with ThreadPoolExecutor(5) as pool:
        crowd = Crowd(runtime, pool)
        first = crowd.ask(own, "cat", cats, pool=everything)
        others = [crowd.ask(own, query, texts, heads, pool=everything) for query, texts, heads in asked]
        waiting = own.scheduler_statistics()
        runtime.free.set()
        together = [other.result(LONG) for other in others]
        first.result(LONG)
    assert runtime.passes == [1, 4]
    for one, other in zip(alone, together, strict=True):
        assert one.rows.tobytes() == other.rows.tobytes()
    assert waiting.waiting == 4
    template = PromptTemplate.from_folder(smollm2.path, Tokenizer.from_folder(smollm2.path))
    # In solo the instruction but for its last token, which is read.
    behind = len(template.before_query) - 1 if layout == "solo" else 0
    assert (behind > 0) == (layout == "solo")
    assert waiting.waiting_tokens == sum(int((reading.lengths + behind).sum()) for reading in alone)
    after = own.scheduler_statistics()
    assert (after.batches - before.batches, after.works - before.works, after.abandoned) == (2, 5, 0)
    assert (after.waiting, after.waiting_tokens) == (0, 0)


@pytest.mark.slow
def test_a_large_window_is_a_pass_of_its_own(
    smollm2: Checkpoint, runtime: Watched, cats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = int(open_reader(smollm2, runtime).read("cat", cats, Needs(HEADS)).lengths.sum())
    monkeypatch.setattr(scheduler, "_READ_TOGETHER", 2 * tokens - 1)
    own = open_reader(smollm2, runtime)
    own.read("cat", cats, Needs(HEADS))
    runtime.passes.clear()
    with ThreadPoolExecutor(5) as pool:
        crowd = Crowd(runtime, pool)
        asked = [crowd.ask(own, "cat", cats[:1])]
        asked += [crowd.ask(own, query, cats) for query in QUERIES[:2]]
        asked += [crowd.ask(own, query, cats[:1]) for query in QUERIES[2:]]
        runtime.free.set()
        for one in asked:
            one.result(LONG)
    # The small ones go along with the first large one, and do not wait for the second.
    assert runtime.passes == [1, 3, 1]


def test_no_window_fails_because_of_another(smollm2: Checkpoint, runtime: Watched, cats: list[str]) -> None:
    own = open_reader(smollm2, runtime)
    alone = own.read(QUERIES[0], cats, Needs(HEADS))
    few = len(own.read("cat", cats[:1], Needs(HEADS)).documents)
    runtime.read_fails = lambda windows: any(len(window.documents) == few for window in windows)
    runtime.passes.clear()
    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        first = crowd.ask(own, "cat", cats)
        fine, wrong = crowd.ask(own, QUERIES[0], cats), crowd.ask(own, QUERIES[1], cats[:1])
        runtime.free.set()
        assert fine.result(LONG).rows.tobytes() == alone.rows.tobytes()
        with pytest.raises(RuntimeError, match="out of memory"):
            wrong.result(LONG)
        first.result(LONG)
    assert runtime.passes == [1, 2, 1, 1]
    # And the next one is read as ever.
    assert own.read(QUERIES[0], cats, Needs(HEADS)).rows.tobytes() == alone.rows.tobytes()


def test_who_gives_up_waiting_does_so_at_once(smollm2: Checkpoint, runtime: Watched, cats: list[str]) -> None:
    own = open_reader(smollm2, runtime)
    own.read("cat", cats, Needs(HEADS))
    runtime.passes.clear()
    scope = WatchedScope()
    with ThreadPoolExecutor(3) as pool:
        crowd = Crowd(runtime, pool)
        first = crowd.ask(own, "cat", cats)
        hurried, patient = crowd.ask(own, QUERIES[0], cats, scope=scope), crowd.ask(own, QUERIES[1], cats)
        scope.cancel()
        with pytest.raises(Cancelled, match="cancelled"):
            hurried.result(LONG)
        assert not first.done()
        runtime.free.set()
        patient.result(LONG)
        first.result(LONG)
    assert runtime.passes == [1, 1]
    assert own.scheduler_statistics().abandoned == 1


def until(true: Callable[[], bool]) -> None:
    """Looks again and again, where nothing tells."""
    for _ in range(LONG * 200):
        if true():
            return
        Event().wait(0.005)
    raise AssertionError("it did not come about")


def test_eight_abandoned_requests_free_every_place_at_the_next_passage(
    smollm2: Checkpoint, runtime: Watched, cats: list[str]
) -> None:
    own = open_reader(smollm2, runtime)
    reranker = Reranker(own, HeadSet(HEADS, 1.0))
    scopes = [CancelScope() for _ in range(8)]
    windows = [[f"item {at} of window {number} on cats" for at in range(30)] for number in range(8)]
    runtime.hold()
    with ThreadPoolExecutor(9) as pool:
        asked = [
            pool.submit(reranker.rerank, QUERIES[0], window, scope=scope)
            for window, scope in zip(windows, scopes, strict=True)
        ]

        def all_came() -> bool:
            found = own.scheduler_statistics()
            return found.works + found.waiting == 8

        until(all_came)
        running = own.scheduler_statistics().batches
        for scope in scopes:
            scope.cancel()
        # Those who wait leave while the LLM is still held by the others.
        until(lambda: sum(one.done() for one in asked) == 8 - running)
        next_one = pool.submit(reranker.rerank, QUERIES[1], cats, deadline_ms=None)
        runtime.free.set()
        results = [one.result(LONG) for one in asked]
        assert next_one.result(LONG).reranked
    assert [(result.reranked, result.reason) for result in results] == [(False, "cancelled")] * 8
    assert all([hit.index for hit in result.hits] == list(range(30)) for result in results)
    # Each that was running has handed on one passage of its 30.
    assert len(runtime.encoded) <= running + len(cats)
    found = own.scheduler_statistics()
    assert (found.abandoned, found.waiting, found.waiting_tokens) == (8, 0, 0)
