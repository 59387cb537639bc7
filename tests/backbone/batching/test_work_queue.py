"""First come, first served; what fits joins; only so many at a time; who gives up is in nobody's way."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.backbone.batching.work_queue import Limits, Work, WorkQueue
from connector.cancelling import Cancelled, CancelScope
from tests.backbone.batching.waiting import LONG, WatchedScope

MANY = 99


class Job(Work):
    """So many tokens for a pool, in so many parts."""

    def __init__(self, number: int, tokens: int = 1, pool: str = "a", parts: int = 1) -> None:
        self.own_scope = WatchedScope()
        super().__init__(self.own_scope)
        self.number, self.pool, self.parts = number, pool, parts
        self._tokens = tokens
        self._part_done = False

    def __repr__(self) -> str:
        return f"{self.number}: {self._tokens} for {self.pool}"

    @property
    def done(self) -> bool:
        return self.parts == 0 or self.error is not None

    @property
    def ready(self) -> bool:
        return not self.done and not self.running

    @property
    def tokens(self) -> int:
        return self._tokens

    def joins(self, first: Work) -> bool:
        return isinstance(first, Job) and first.pool == self.pool

    def begin(self) -> int:
        self._part_done = False
        return self._tokens

    def end(self) -> bool:
        return self._part_done and not self.done

    def do(self) -> None:
        self.parts -= 1
        self._part_done = True


class Crowd:
    """Jobs that wait, each in a thread, while the first ones, as many as may run at once, are held."""

    def __init__(self, at_once: int = 1, tokens: int = MANY, works: int = MANY) -> None:
        self.queue = WorkQueue({Job: Limits(at_once, tokens, works)})
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self._pool = ThreadPoolExecutor(40)
        self._begun = threading.Barrier(at_once + 1)
        self._held = [self._pool.submit(self._hold, number) for number in range(-at_once, 0)]
        self._begun.wait(LONG)

    def _hold(self, number: int) -> None:
        def run(batch: Sequence[Job]) -> None:
            self._begun.wait(LONG)
            assert self.free.wait(LONG)
            self._do(batch)

        self.queue.serve(Job(number), run)

    def _do(self, batch: Sequence[Job]) -> None:
        with self.queue.lock:
            for job in batch:
                job.do()

    def come(self, job: Job) -> Future[None]:
        """Returns when it waits."""

        def run(batch: Sequence[Job]) -> None:
            self.batches.append([each.number for each in batch])
            self._do(batch)

        coming = self._pool.submit(self.queue.serve, job, run)
        job.own_scope.until_it_waits()
        return coming

    def leave(self, job: Job, coming: Future[None]) -> None:
        job.scope.cancel()
        with pytest.raises(Cancelled):
            coming.result(LONG)

    def go(self, *coming: Future[None]) -> list[list[int]]:
        self.free.set()
        for one in (*self._held, *coming):
            one.result(LONG)
        self._pool.shutdown()
        return self.batches


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_at_once_and_no_more(at_once: int) -> None:
    queue = WorkQueue({Job: Limits(at_once, MANY, 1)})
    lock, inside, most = threading.Lock(), 0, 0
    together = threading.Barrier(at_once)

    def run(batch: Sequence[Job]) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        # Goes on only when as many are here as may be.
        together.wait(LONG)
        with lock:
            inside -= 1
        with queue.lock:
            for job in batch:
                job.do()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda number: queue.serve(Job(number), run), range(12)))
    assert most == at_once
    assert queue.statistics().batches == 12


@pytest.mark.parametrize(
    ("works", "tokens", "sizes", "batches"),
    [
        (9, 99, [1, 2, 3, 4, 5, 6], [[0, 1, 2, 3, 4, 5]]),
        (4, 99, [1, 2, 3, 4, 5, 6], [[0, 1, 2, 3], [4, 5]]),
        (9, 6, [1, 2, 3, 4, 5, 6], [[0, 1, 2], [3], [4], [5]]),
        # What does not fit waits for the next batch; what comes behind it may still go along.
        (9, 7, [5, 4, 1, 3, 2], [[0, 2], [1, 3], [4]]),
        (9, 7, [1, 100, 1, 100, 1], [[0, 2, 4], [1], [3]]),
    ],
)
def test_a_batch_takes_the_first_and_what_fits(
    works: int, tokens: int, sizes: list[int], batches: list[list[int]]
) -> None:
    crowd = Crowd(tokens=tokens, works=works)
    assert crowd.go(*[crowd.come(Job(number, size)) for number, size in enumerate(sizes)]) == batches


sizes_pools_and_who_leaves = st.lists(st.tuples(st.integers(1, 12), st.sampled_from("ab"), st.booleans()), max_size=9)


@settings(deadline=None, max_examples=60)
@given(sizes_pools_and_who_leaves, st.integers(1, 14), st.integers(1, 5))
def test_the_order_is_kept_whoever_comes_and_leaves(
    given_jobs: list[tuple[int, str, bool]], budget: int, works: int
) -> None:
    crowd = Crowd(tokens=budget, works=works)
    came = [Job(number, size, pool) for number, (size, pool, _) in enumerate(given_jobs)]
    coming = [crowd.come(job) for job in came]
    stays = [number for number, (_, _, leaves) in enumerate(given_jobs) if not leaves]
    for job, future in zip(came, coming, strict=True):
        if job.number not in stays:
            crowd.leave(job, future)
    batches = crowd.go(*[coming[number] for number in stays])
    assert sorted(number for batch in batches for number in batch) == stays
    left = list(stays)
    for batch in batches:
        # Nobody is passed over: the one that waited longest is in the next batch, and names what may join it.
        assert batch[0] == left[0] and batch == sorted(batch)
        assert len({came[number].pool for number in batch}) == 1
        total = sum(came[number].tokens for number in batch)
        assert len(batch) == 1 or (total <= budget and len(batch) <= works)
        for number in set(left) - set(batch):
            before = [other for other in batch if other < number]
            taken = sum(came[other].tokens for other in before)
            other_pool = came[number].pool != came[batch[0]].pool
            assert other_pool or taken + came[number].tokens > budget or len(before) == works
        left = [number for number in left if number not in batch]
    statistics = crowd.queue.statistics()
    assert (statistics.waiting, statistics.waiting_tokens) == (0, 0)
    assert statistics.abandoned == len(came) - len(stays)
    assert (statistics.batches, statistics.works) == (len(batches) + 1, len(stays) + 1)


def test_a_large_one_does_not_hold_up_small_ones_nor_they_it() -> None:
    crowd = Crowd(works=1)
    coming = [
        crowd.come(Job(0, 50, parts=3)),
        crowd.come(Job(1)),
        crowd.come(Job(2, 50, parts=2)),
        crowd.come(Job(3)),
    ]
    assert crowd.go(*coming) == [[0], [1], [2], [3], [0], [2], [0]]


def test_a_batch_leaves_as_much_for_the_others() -> None:
    crowd = Crowd(at_once=2)
    batches = crowd.go(*[crowd.come(Job(number)) for number in range(6)])
    assert [0, 1, 2] in batches
    assert sorted(number for batch in batches for number in batch) == list(range(6))


def test_kinds_of_work_do_not_wait_for_each_other() -> None:
    class Other(Job):
        pass

    queue = WorkQueue({Job: Limits(1, MANY, MANY), Other: Limits(1, MANY, MANY)})
    begun, free = threading.Event(), threading.Event()

    def held(batch: Sequence[Job]) -> None:
        begun.set()
        assert free.wait(LONG)
        batch[0].do()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(queue.serve, Job(0), held)
        assert begun.wait(LONG)
        queue.serve(Other(1), lambda batch: batch[0].do())
        assert not first.done()
        free.set()
        first.result(LONG)


def test_who_has_ended_is_not_begun_even_before_its_thread_knows() -> None:
    crowd = Crowd()
    late, patient = Job(0), Job(1)
    coming = [crowd.come(late), crowd.come(patient)]
    late.own_scope.end()
    crowd.free.set()
    coming[1].result(LONG)
    assert crowd.batches == [[1]]
    # A deadline ends the wait; this one was moved, so that it has to be told.
    late.woken.set()
    with pytest.raises(Cancelled, match="deadline"):
        coming[0].result(LONG)


def test_a_deadline_ends_the_wait() -> None:
    crowd = Crowd()
    job = Job(0)
    job.scope = CancelScope.after(1)
    with pytest.raises(Cancelled, match="deadline"):
        crowd.queue.serve(job, lambda batch: None)
    assert crowd.go() == []


def test_who_gives_up_when_it_is_being_done_does_not_stop_it() -> None:
    crowd = Crowd()
    begun, free = threading.Event(), threading.Event()
    done: list[int] = []

    def run(batch: Sequence[Job]) -> None:
        begun.set()
        assert free.wait(LONG)
        done.extend(job.number for job in batch)
        with crowd.queue.lock:
            for job in batch:
                job.do()

    first, hurried = Job(0), Job(1)
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(crowd.queue.serve, first, run)
        first.own_scope.until_it_waits()
        joining = crowd.come(hurried)
        crowd.free.set()
        assert begun.wait(LONG)
        crowd.leave(hurried, joining)
        assert not leading.done()
        free.set()
        leading.result(LONG)
    assert done == [0, 1]
    assert crowd.queue.statistics().waiting == 0
    assert crowd.go() == []


def test_what_a_batch_raises_gives_its_place_back() -> None:
    queue = WorkQueue({Job: Limits(1, MANY, MANY)})

    def broken(batch: Sequence[Job]) -> None:
        raise KeyboardInterrupt

    for number in range(2):
        with pytest.raises(KeyboardInterrupt):
            queue.serve(Job(number), broken)
    queue.serve(Job(2), lambda batch: batch[0].do())
    assert queue.statistics().works_per_batch == 1
