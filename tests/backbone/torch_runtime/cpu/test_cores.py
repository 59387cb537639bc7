"""Cores are divided among the calls that run together, and given back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier, Event, Lock
from typing import cast

import pytest
import torch

from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.checkpoints.checkpoint import Checkpoint


def test_a_call_alone_has_all_and_several_have_one_each() -> None:
    sharing, together = CoreSharing(2, crowded=0), Barrier(5)
    before = torch.get_num_threads()

    def call() -> int:
        together.wait(20)
        found = torch.get_num_threads()
        together.wait(20)
        return found

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda _: sharing.run(call), range(5)))
    assert sorted(found) == [1, 1, 1, 1, 2]
    assert sharing.run(torch.get_num_threads) == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("crowded", "cores"), [(0.0, 2), (1000.0, 1)])
def test_after_several_at_once_calls_keep_to_one_core_for_a_while(crowded: float, cores: int) -> None:
    sharing, together = CoreSharing(2, crowded=crowded), Barrier(2)
    assert sharing.run(torch.get_num_threads) == sharing.run(torch.get_num_threads) == 2
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: sharing.run(lambda: together.wait(20)), range(2)))
    assert sharing.run(torch.get_num_threads) == cores


@pytest.mark.parametrize("cores", [1, 3])
def test_an_error_is_raised_and_gives_the_cores_back(cores: int) -> None:
    sharing = CoreSharing(cores, crowded=0)

    def wrong() -> None:
        raise ValueError("wrong")

    for _ in range(3):
        with pytest.raises(ValueError, match="wrong"):
            sharing.run(wrong)
        with pytest.raises(ValueError, match="wrong"):
            list(sharing.map(lambda _: wrong(), range(5)))
    assert sharing.run(torch.get_num_threads) == cores


@pytest.mark.parametrize(("cores", "items"), [(1, 5), (2, 0), (2, 1), (2, 9), (4, 3)])
def test_a_call_for_each_item_in_order(cores: int, items: int) -> None:
    assert list(CoreSharing(cores).map(lambda item: item * 2, range(items))) == list(range(0, 2 * items, 2))


def test_so_many_calls_at_once_each_on_one_core() -> None:
    sharing, together = CoreSharing(3), Barrier(3)

    def call(_: int) -> int:
        # Goes on only when three are here.
        together.wait(20)
        return torch.get_num_threads()

    assert list(sharing.map(call, range(6))) == [1] * 6


def test_beside_another_call_there_are_fewer() -> None:
    sharing, inside, go = CoreSharing(2), Event(), Event()
    running, most, lock = 0, 0, Lock()

    def other() -> None:
        inside.set()
        assert go.wait(20)

    def call(_: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threads = torch.get_num_threads()
        with lock:
            running -= 1
        return threads

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sharing.run, other)
        assert inside.wait(20)
        assert list(sharing.map(call, range(4))) == [1] * 4
        go.set()
        waiting.result()
    assert most == 1


def test_what_is_not_wanted_any_more_is_not_begun() -> None:
    sharing, begun, left = CoreSharing(2, crowded=0), [], Event()

    def call(item: int) -> int:
        begun.append(item)
        # What two cores begin after their first calls lasts until nobody wants it any more.
        if item > 1:
            left.wait(20)
        return item

    with closing(cast("Iterator[int]", sharing.map(call, range(1000)))) as results:  # type: ignore[type-var]
        assert next(results) == 0
    left.set()
    # And the cores are free again.
    assert sharing.run(torch.get_num_threads) == 2
    assert len(begun) <= 4


_A_MODEL_AT_WORK = """
import os, sys, threading
import numpy as np
import torch
torch.set_num_threads(2)
from connector.backbone.prompt.tail import Tail
from connector.backbone.runtime import ReadRequest
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.heads.needs import Needs

def threads():
    return len(os.listdir("/proc/self/task")) - threading.active_count()

before = threads()
CoreSharing.of_process().run(lambda: torch.ones(1 << 20) * 2)
team = threads() - before
runtime = TorchRuntime.load(sys.argv[1], device="cpu")
prefix = list(range(1, 20))
texts = [np.arange(20, 20 + length, dtype=np.int32) for length in range(60, 260, 10)]
tail = Tail.of([70, 71], [[80, 81, 82]], np.eye(5, dtype=np.float32), 400, len(prefix))
for layout in ("solo", "joint", "late"):
    needs = Needs(((2, 1), (3, 0)))
    for some in (texts, texts[:1]):
        read = list(runtime.encode(prefix, some, needs, layout=layout))
        runtime.read(prefix, [ReadRequest(tail, read, needs)] * 2, layout=layout)
print(team, threads() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in Linux's /proc")
def test_a_model_makes_no_second_team_of_threads(smollm2: Checkpoint) -> None:
    # Two of them would be slow for good. OpenBLAS and its like have threads of their own, which nothing here needs.
    others = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    given = [sys.executable, "-c", _A_MODEL_AT_WORK, str(smollm2.path)]
    done = subprocess.run(given, env={**os.environ, **others}, capture_output=True, text=True, check=True)
    team, found = map(int, done.stdout.split()[-2:])
    assert found == team == 1
