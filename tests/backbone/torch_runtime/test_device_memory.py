"""A GPU's memory that does not suffice: less at once, then less that stays there, then an error.

There is no GPU: the CPU is the device, and what exceeds a limit raises PyTorch's own ``torch.OutOfMemoryError`` from
the first layer, as its allocator does (https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from connector.backbone.prompt.tail import solo_tail
from connector.backbone.runtime import ReadRequest
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.decoder import load_decoder
from connector.backbone.torch_runtime.device_memory import DeviceMemory
from connector.backbone.torch_runtime.encoded import TorchEncodedDocument
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.errors import BackboneError
from connector.heads.needs import Needs
from tests.backbone.reading import read_one
from tests.backbone.tiny import save_tiny
from tests.backbone.torch_runtime.test_runtime import DOCUMENTS, PREFIX, tail
from tests.backbone.torch_runtime.test_solo import LAST, QUERY, gathers, packs

NEEDS = Needs(((1, 0),), ("query",), (0, 2), likelihood=True)
PLENTY = 1 << 30


class Shortage:
    """Lets a pass through layer 0 fail that has too many tokens, or whatever else is asked for."""

    def __init__(self) -> None:
        self.fails: Callable[[int], bool] = lambda tokens: False
        self.tokens: list[int] = []

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]
        self.tokens.append(tokens)
        if self.fails(tokens):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore of it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    save_tiny("llama", path)
    return path


@pytest.fixture
def memory() -> DeviceMemory:
    return DeviceMemory(torch.device("cpu"), PLENTY)


@pytest.fixture
def shortage() -> Shortage:
    return Shortage()


@pytest.fixture
def runtime(folder: Path, memory: DeviceMemory, shortage: Shortage) -> TorchRuntime:
    made = TorchRuntime(load_decoder(folder, "cpu", torch.float32), cache_dtype="float32", memory=memory)
    # As on a GPU: whatever comes is run together, nothing is filled up, and no cores have a share.
    made._sharing = CoreSharing(1)
    made._sequences.plan = BatchPlan(1, 1, 16_384)
    made._sequences._model.layers[0].register_forward_pre_hook(shortage, with_kwargs=True)
    return made


def encoded(runtime: TorchRuntime) -> list[TorchEncodedDocument]:
    found = list(runtime.encode(PREFIX, DOCUMENTS, NEEDS, layout="solo"))
    return [one for one in found if isinstance(one, TorchEncodedDocument)]


def read(runtime: TorchRuntime, documents: list[TorchEncodedDocument]) -> list[Any]:
    ending = solo_tail(LAST, QUERY, len(PREFIX), NEEDS.groups)
    (found,) = runtime.read(PREFIX, [ReadRequest(ending, documents, NEEDS)], layout="solo")
    return list(found.arrays)


def test_less_is_read_at_once(runtime: TorchRuntime, shortage: Shortage, memory: DeviceMemory) -> None:
    documents = encoded(runtime)
    expected = read(runtime, documents)
    assert memory.bytes == sum(document.nbytes for document in documents)
    each = len(QUERY) + 1
    shortage.tokens.clear()
    shortage.fails = lambda tokens: tokens > 2 * each
    for found, before in zip(read(runtime, documents), expected, strict=True):
        np.testing.assert_allclose(found, before, atol=3e-6)
    # All three, the first, and the other two.
    assert [tokens // each for tokens in shortage.tokens] == [3, 1, 2]
    # Nothing had to leave the device for it.
    assert memory.bytes


def several(documents: list[TorchEncodedDocument]) -> list[ReadRequest]:
    """Requests of other queries, other documents and other needs."""
    deep = Needs(groups=(), layers=(1, 4), likelihood=True)
    asked = [(QUERY, documents, NEEDS), (QUERY[:2], documents[1:], Needs(groups=(), layers=(2,)))]
    asked += [(QUERY[1:], documents[:1], deep), (QUERY, documents[::-1], Needs(((0, 1), (1, 3)), ("query",)))]
    return [ReadRequest(solo_tail(LAST, query, len(PREFIX), needs.groups), own, needs) for query, own, needs in asked]


@pytest.mark.parametrize("attention", ["copied", "gathered", "packed"])
@pytest.mark.parametrize("room", [16_384, 30, 12, 1])
def test_requests_are_read_in_one_pass(
    runtime: TorchRuntime, shortage: Shortage, room: int, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = several(encoded(runtime))
    expected = [runtime.read(PREFIX, [request], layout="solo")[0] for request in requests]
    used: list[Any] = [True]
    if attention != "copied":
        used = gathers(monkeypatch) if attention == "gathered" else packs(monkeypatch)
    runtime._sequences.plan = BatchPlan(1, 1, room)
    shortage.tokens.clear()
    found = runtime.read(PREFIX, requests, layout="solo")
    for own, alone in zip(found, expected, strict=True):
        for array, before in zip(own.arrays, alone.arrays, strict=True):
            np.testing.assert_allclose(array, before, atol=3e-5)
    rows = [len(request.tail.ids) * len(request.documents) for request in requests]
    assert rows == [15, 6, 4, 15] and sum(shortage.tokens) == sum(rows)
    # Of five, three, four and five rows each. With room for none, each is read by itself.
    together = {16_384: [40], 30: [25, 15], 12: [10, 11, 4, 10, 5], 1: [5, 5, 5, 3, 3, 4, 5, 5, 5]}
    assert shortage.tokens == together[room] and used


def test_no_layer_is_run_that_nobody_needs(runtime: TorchRuntime) -> None:
    documents = encoded(runtime)
    ran: list[int] = []
    for number, layer in enumerate(runtime._sequences._model.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    requests = [
        ReadRequest(solo_tail(LAST, query, len(PREFIX), ()), some, Needs(groups=(), layers=(layer,)))
        for query, some, layer in ((QUERY, documents, 1), (QUERY[:2], documents[1:], 2))
    ]
    runtime.read(PREFIX, requests, layout="solo")
    assert ran == [0, 1]


def test_less_of_several_requests_is_read_at_once(runtime: TorchRuntime, shortage: Shortage) -> None:
    requests = several(encoded(runtime))
    expected = runtime.read(PREFIX, requests, layout="solo")
    shortage.tokens.clear()
    shortage.fails = lambda tokens: tokens > 30
    found = runtime.read(PREFIX, requests, layout="solo")
    # Four of the nine documents, three of five rows and one of three; then the others.
    assert shortage.tokens == [40, 18, 22]
    for own, before in zip(found, expected, strict=True):
        for array, other in zip(own.arrays, before.arrays, strict=True):
            np.testing.assert_allclose(array, other, atol=3e-5)


def test_less_is_encoded_at_once(runtime: TorchRuntime, shortage: Shortage) -> None:
    expected = read(runtime, encoded(runtime))
    shortage.tokens.clear()
    every = sum(map(len, DOCUMENTS))
    shortage.fails = lambda tokens: tokens == every
    documents = encoded(runtime)
    shortage.fails = lambda tokens: False
    sizes = list(shortage.tokens)
    for found, before in zip(read(runtime, documents), expected, strict=True):
        np.testing.assert_allclose(found, before, atol=3e-6)
    # All three, the first, and the other two; in front of them the prefix.
    assert sizes[-3:] == [every, len(DOCUMENTS[0]), every - len(DOCUMENTS[0])]


def test_then_less_stays_there(runtime: TorchRuntime, shortage: Shortage, memory: DeviceMemory) -> None:
    documents = encoded(runtime)
    expected = read(runtime, documents)
    shortage.fails = lambda tokens: memory.bytes > documents[0].nbytes + documents[1].nbytes
    for found, before in zip(read(runtime, documents), expected, strict=True):
        np.testing.assert_allclose(found, before, atol=3e-6)


def test_then_it_is_an_error(runtime: TorchRuntime, shortage: Shortage) -> None:
    documents = encoded(runtime)
    shortage.fails = lambda tokens: True
    for fails in (lambda: encoded(runtime), lambda: read(runtime, documents)):
        with pytest.raises(BackboneError, match=r"too little memory .*Tried to allocate 2\.00 GiB\.\); lower rerank"):
            fails()
    shortage.fails = lambda tokens: False
    assert len(read(runtime, documents)) == 3


def test_the_layout_late(runtime: TorchRuntime, shortage: Shortage, memory: DeviceMemory) -> None:
    heads = ((1, 0), (2, 1))
    documents = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late"))
    expected = read_one(runtime, PREFIX, tail(), documents, heads, layout="late")
    assert memory.bytes
    shortage.fails = lambda tokens: memory.bytes > documents[0].nbytes * 3
    np.testing.assert_array_equal(read_one(runtime, PREFIX, tail(), documents, heads, layout="late"), expected)
    # What is read comes from the host again.
    assert memory.bytes == 0 or not shortage.fails(0)


def test_passages_on_the_device_are_those_used_last(runtime: TorchRuntime) -> None:
    first, second, third = encoded(runtime)
    memory = DeviceMemory(torch.device("cpu"), first.nbytes + second.nbytes)
    (there,) = memory.there([first])
    assert there is not first and there.to_bytes() == first.to_bytes()
    again = memory.there([first, second])
    assert again[0] is there
    memory.there([third])
    # The first was used longest ago. Nothing is more than the limit.
    assert memory.there([second])[0] is again[1] and memory.bytes <= memory.limit
    assert memory.there([first])[0] is not there
    assert DeviceMemory(torch.device("cpu"), 1).there([first])[0].to_bytes() == first.to_bytes()


def test_a_passage_at_the_address_of_another_is_not_taken_for_it(runtime: TorchRuntime) -> None:
    first, second, _ = encoded(runtime)
    memory = DeviceMemory(torch.device("cpu"), PLENTY)
    addresses = set()
    for document in (first, second) * 50:
        copy = document.on(torch.device("cpu"))
        addresses.add(id(copy))
        assert memory.there([copy])[0].tokens == document.tokens
        del copy
        gc.collect()
    # Or the test shows nothing.
    assert len(addresses) < 100


def test_what_is_kept_and_what_ran_short_is_told(
    runtime: TorchRuntime, memory: DeviceMemory, shortage: Shortage
) -> None:
    found = runtime.device_statistics()
    assert found is not None and (found.kept, found.limit, found.shortages) == (0, PLENTY, 0)
    every = sum(map(len, DOCUMENTS))
    shortage.fails = lambda tokens: tokens == every
    documents = encoded(runtime)
    found = runtime.device_statistics()
    assert found is not None and found.shortages == 1
    assert found.kept == memory.bytes == sum(document.nbytes for document in documents)


def test_a_cpu_has_no_memory_of_its_own_to_tell_of(folder: Path) -> None:
    assert TorchRuntime(load_decoder(folder, "cpu", torch.float32)).device_statistics() is None
