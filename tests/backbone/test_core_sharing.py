"""Cores are divided among the calls that run together, and given back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

from connector.backbone.core_sharing import CoreSharing


def test_a_call_alone_has_all_and_several_divide_them() -> None:
    sharing = CoreSharing(4)
    before = torch.get_num_threads()
    with sharing.share() as alone:
        assert alone == 4 == torch.get_num_threads()
        with sharing.share() as second:
            assert second == 2 == torch.get_num_threads()
        assert torch.get_num_threads() == 4
    assert torch.get_num_threads() == before


def test_never_less_than_one_in_any_thread() -> None:
    sharing, together = CoreSharing(2), Barrier(5)

    def call(_: int) -> tuple[int, int]:
        with sharing.share() as share:
            together.wait(20)
            found = share, torch.get_num_threads()
            together.wait(20)
            return found

    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(call, range(5)))
    assert all(share == threads for share, threads in found)
    assert sorted(share for share, _ in found) == [1, 1, 1, 1, 2]
    with sharing.share() as alone:
        assert alone == 2


def test_an_error_gives_them_back() -> None:
    sharing = CoreSharing(3)
    for _ in range(3):
        try:
            with sharing.share():
                raise ValueError
        except ValueError:
            pass
    with sharing.share() as alone:
        assert alone == 3
