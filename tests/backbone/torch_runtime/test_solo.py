"""Documents read alone: states and likelihoods are those of transformers' own pass over one plain prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import current_thread
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from connector.backbone.prompt.tail import solo_tail
from connector.backbone.runtime import Observations, ReadRequest
from connector.backbone.torch_runtime import runtime as module
from connector.backbone.torch_runtime import solo_pass
from connector.backbone.torch_runtime.cpu.batch_plan import BatchPlan
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.packed_attention import varlen_attention
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.backbone.torch_runtime.solo_pass import SoloPass
from connector.heads.needs import Needs
from tests.backbone.reading import token_ids
from tests.backbone.tiny import save_tiny
from tests.backbone.torch_runtime.test_packed_attention import as_documented
from tests.backbone.torch_runtime.test_runtime import DOCUMENTS, PREFIX, folder, runtime

__all__ = ["folder", "runtime"]

LAST, QUERY = 63, token_ids([70, 71, 72, 80])[0]


def every(runtime: TorchRuntime) -> Needs:
    return Needs(runtime.shape.all_heads(), ("query",), tuple(range(runtime.shape.layers + 1)), likelihood=True)


def read(runtime: TorchRuntime, numbers: list[int], needs: Needs, pool: Needs | None = None) -> Observations:
    documents = [DOCUMENTS[number] for number in numbers]
    encoded = list(runtime.encode(PREFIX, documents, pool or needs, layout="solo"))
    tail = solo_tail(LAST, QUERY, len(PREFIX), needs.groups)
    (found,) = runtime.read(PREFIX, [ReadRequest(tail, encoded, needs)], layout="solo")
    return found


def test_numbers_are_those_of_a_plain_prompt(folder: Path, runtime: TorchRuntime) -> None:
    found = read(runtime, [0, 1, 2], every(runtime))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    tokens = 0
    for number, document in enumerate(DOCUMENTS):
        ids = torch.tensor([[*PREFIX, *document, LAST, *QUERY]])
        with torch.inference_mode():
            out = model(ids, output_hidden_states=True, output_attentions=True, use_cache=False)
        own = slice(ids.shape[1] - len(QUERY), None)
        # The last one is behind the norm, as ours.
        states = torch.stack([hidden[0, own].mean(dim=0) for hidden in out.hidden_states])
        np.testing.assert_allclose(found.states[:, number], states.numpy(), atol=3e-5)
        told = torch.log_softmax(out.logits[0, -len(QUERY) - 1 : -1].float(), dim=-1)
        expected = told[torch.arange(len(QUERY)), torch.from_numpy(QUERY.astype(np.int64))]
        np.testing.assert_allclose(found.log_probabilities[number], expected.numpy(), atol=3e-5)
        attention = torch.stack(out.attentions)[:, 0, :, own, len(PREFIX) : len(PREFIX) + len(document)].mean(dim=2)
        rows = found.rows[:, 0, tokens : tokens + len(document)]
        np.testing.assert_allclose(rows, attention.flatten(0, 1).numpy(), atol=3e-6)
        tokens += len(document)


def test_a_document_s_numbers_do_not_depend_on_the_others(runtime: TorchRuntime) -> None:
    needs = every(runtime)
    together, turned = read(runtime, [0, 1, 2], needs), read(runtime, [2, 1, 0], needs)
    for number in range(3):
        alone = read(runtime, [number], needs)
        for found, place in ((together, number), (turned, 2 - number)):
            np.testing.assert_array_equal(found.states[:, place], alone.states[:, 0])
            np.testing.assert_array_equal(found.log_probabilities[place], alone.log_probabilities[0])


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
def test_documents_are_shared_out_among_cores_and_come_back_in_order(
    runtime: TorchRuntime, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    needs = every(runtime)
    (_, *documents) = encoded = list(runtime.encode(PREFIX, DOCUMENTS, needs, layout="solo"))
    tails = [solo_tail(LAST, query, len(PREFIX), needs.groups) for query in (QUERY, QUERY[:2])]
    requests = [ReadRequest(tails[0], encoded, needs), ReadRequest(tails[1], documents[::-1], needs)]
    expected = [runtime.read(PREFIX, [request], layout="solo")[0] for request in requests]
    threads = set()

    class Seen(SoloPass):
        def __init__(self, *given: Any) -> None:
            threads.add(current_thread().name)
            super().__init__(*given)

    monkeypatch.setattr(module, "SoloPass", Seen)
    monkeypatch.setattr(runtime, "_sharing", CoreSharing(cores, crowded=0))
    for found, alone in zip(runtime.read(PREFIX, requests, layout="solo"), expected, strict=True):
        for own, other in zip(found.arrays, alone.arrays, strict=True):
            np.testing.assert_array_equal(own, other)
    assert any("one-core" in name for name in threads) == (cores > 1)


@pytest.mark.parametrize(
    ("count", "cores", "most", "shares"),
    [
        # Of five tokens each: as many parts as cores, or a multiple of that, and as even as can be.
        (20, 2, 256, [10, 10]),
        (20, 2, 40, [5, 5, 5, 5]),
        (20, 3, 40, [7, 7, 6]),
        (7, 2, 20, [4, 3]),
        (3, 8, 256, [1, 1, 1]),
        (4, 1, 256, [4]),
        # None goes together, or not even one.
        (3, 2, 0, [1, 1, 1]),
        (3, 2, 4, [1, 1, 1]),
    ],
)
def test_shares_are_even(
    runtime: TorchRuntime, monkeypatch: pytest.MonkeyPatch, count: int, cores: int, most: int, shares: list[int]
) -> None:
    needs = Needs(groups=(), layers=(1,))
    (document, *_) = runtime.encode(PREFIX, DOCUMENTS, needs, layout="solo")
    tail = solo_tail(LAST, QUERY, len(PREFIX), ())
    assert len(tail.ids) == 5
    found: list[int] = []

    class Seen(SoloPass):
        def __init__(self, prefix: Any, documents: Any, *given: Any) -> None:
            found.append(len(documents))
            super().__init__(prefix, documents, *given)

    monkeypatch.setattr(module, "SoloPass", Seen)
    monkeypatch.setattr(runtime, "_sharing", CoreSharing(cores, crowded=0))
    monkeypatch.setattr(runtime._sequences, "plan", replace(runtime._sequences.plan, most=most))
    (observed,) = runtime.read(PREFIX, [ReadRequest(tail, [document] * count, needs)], layout="solo")
    assert sorted(found, reverse=True) == shares
    assert observed.states.shape[1] == count


def gathers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Passes gather keys as where each copy costs as much as a product; the list grows with each gathering."""
    picked: list[int] = []

    class Gathering(SoloPass):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._gathers = True

        def _picked(self, *arguments: Any) -> torch.Tensor:
            picked.append(1)
            return super()._picked(*arguments)

    monkeypatch.setattr(module, "SoloPass", Gathering)
    return picked


def packs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Passes attend as where PyTorch has its packed attention; the list grows by the window of each."""
    windows: list[tuple[int, int]] = []

    def packed(*arguments: Any, **options: Any) -> torch.Tensor:
        windows.append(options["window_size"])
        return as_documented(*arguments, **options)

    monkeypatch.setattr(solo_pass, "varlen_attention", lambda device, dtype, head_dim: packed)
    return windows


@pytest.mark.parametrize("numbers", [[0, 1, 2], [2, 0], [1]])
def test_what_a_gpu_picks_at_once_is_what_is_copied_one_by_one(
    runtime: TorchRuntime, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # All in one pass.
    monkeypatch.setattr(runtime, "_sharing", CoreSharing(1))
    monkeypatch.setattr(runtime._sequences, "plan", BatchPlan(1, 1, 16_384))
    before = read(runtime, numbers, every(runtime))
    picked = gathers(monkeypatch)
    for found, expected in zip(read(runtime, numbers, every(runtime)).arrays, before.arrays, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert picked
    # Where no head is read, attention is one operation.
    found = read(runtime, numbers, replace(every(runtime), heads=((0, 1),)))
    np.testing.assert_allclose(found.rows, before.rows[1:2], atol=3e-6)
    np.testing.assert_allclose(found.states, before.states, atol=3e-5)
    np.testing.assert_allclose(found.log_probabilities, before.log_probabilities, atol=3e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("numbers", [[0, 1, 2], [2, 0], [1]])
def test_documents_in_one_operation_are_the_same_as_filled_up(
    kind: str, numbers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's kernel needs a GPU; its documented meaning does not. Layers of gemma3 have sliding windows."""
    save_tiny(kind, tmp_path)
    runtime = TorchRuntime.load(tmp_path, device="cpu", dtype="float32", cache_dtype="float32")
    # As a GPU, which reads all documents in one pass.
    monkeypatch.setattr(runtime, "_sharing", CoreSharing(1))
    monkeypatch.setattr(runtime._sequences, "plan", BatchPlan(1, 1, 16_384))
    # One layer's weights are looked at; there, attention is not one operation.
    needs = replace(every(runtime), heads=((1, 0),))
    before = read(runtime, numbers, needs)
    windows = packs(monkeypatch)
    found = read(runtime, numbers, needs)
    assert len(windows) == runtime.shape.layers - 1
    assert kind == "llama" or any(before >= 0 for before, _ in windows)
    np.testing.assert_allclose(found.rows, before.rows, atol=3e-6)
    np.testing.assert_allclose(found.states, before.states, atol=3e-5)
    np.testing.assert_allclose(found.log_probabilities, before.log_probabilities, atol=3e-5)


def test_a_soft_cap_is_no_part_of_the_one_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("gemma2", tmp_path)
    runtime = TorchRuntime.load(tmp_path, device="cpu", dtype="float32", cache_dtype="float32")
    monkeypatch.setattr(solo_pass, "varlen_attention", lambda device, dtype, head_dim: pytest.fail)
    assert np.isfinite(read(runtime, [0, 1, 2], every(runtime)).states).all()
    assert np.isfinite(read(runtime, [0, 1, 2], Needs(groups=(), layers=(1,))).states).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")
def test_a_gpu_s_numbers_are_nearly_the_cpu_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 moves a layer's states by .04 of their norm at most, another document's are .55 away."""
    save_tiny("llama", tmp_path)
    on_cpu = TorchRuntime.load(tmp_path, device="cpu", dtype="float32")
    on_gpu = TorchRuntime.load(tmp_path, device="cuda", dtype="bfloat16")
    calls = []

    def seen(device: torch.device, dtype: torch.dtype, head_dim: int) -> Any:
        calls.append(varlen_attention(device, dtype, head_dim))
        return calls[-1]

    monkeypatch.setattr(solo_pass, "varlen_attention", seen)
    for heads in ((), ((1, 0),)):
        needs = replace(every(on_cpu), heads=heads)
        found, expected = (read(runtime, [0, 1, 2], needs) for runtime in (on_gpu, on_cpu))
        for own, other in zip(found.states, expected.states, strict=True):
            assert np.linalg.norm(own - other) < 0.1 * np.linalg.norm(other)
        apart = np.linalg.norm(found.log_probabilities - expected.log_probabilities)
        assert apart < 0.05 * np.linalg.norm(expected.log_probabilities)
        np.testing.assert_allclose(found.rows, expected.rows, atol=2e-2)
    assert any(call is not None for call in calls)


def test_less_is_run_for_less(runtime: TorchRuntime) -> None:
    whole, needs = read(runtime, [0, 1, 2], every(runtime)), Needs(groups=(), layers=(2, 1))
    some = read(runtime, [0, 1, 2], needs)
    np.testing.assert_array_equal(some.states, whole.states[[2, 1]])
    assert some.rows.shape[0] == 0 and some.log_probabilities.size == 0
    deeper = read(runtime, [0, 1, 2], needs, every(runtime))
    np.testing.assert_array_equal(deeper.states, some.states)
    encoded = next(runtime.encode(PREFIX, DOCUMENTS, needs, layout="solo"))
    of_all = next(runtime.encode(PREFIX, DOCUMENTS, every(runtime), layout="solo"))
    assert encoded.nbytes * runtime.shape.layers == of_all.nbytes * 2
