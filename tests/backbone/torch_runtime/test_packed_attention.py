"""Passages without padding: the same as one by one. PyTorch's kernel needs a GPU; its documented meaning does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from connector.backbone.runtime import Needs
from connector.backbone.torch_runtime import attention
from connector.backbone.torch_runtime.packed_attention import Packing, varlen_attention
from connector.backbone.torch_runtime.runtime import TorchRuntime
from tests.backbone.reading import read_one
from tests.backbone.tiny import save_tiny
from tests.backbone.torch_runtime.test_runtime import DOCUMENTS, PREFIX, tail


def as_documented(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What ``varlen_attn`` says that it does, slowly; causal attention ends at the bottom right, as Flash's."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_seq_q[-1] == len(query) and cu_seq_k[-1] == len(key)
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    out = torch.empty_like(query)
    groups = query.shape[1] // key.shape[1]
    for q_start, q_end, k_start, k_end in zip(
        cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), cu_seq_k[:-1].tolist(), cu_seq_k[1:].tolist(), strict=True
    ):
        own_q = query[q_start:q_end].transpose(0, 1)
        own_k, own_v = (each[k_start:k_end].transpose(0, 1).repeat_interleave(groups, dim=0) for each in (key, value))
        rows, keys = own_q.shape[1], own_k.shape[1]
        distance = torch.arange(rows)[:, None] + (keys - rows) - torch.arange(keys)
        seen = distance >= -window_size[1]
        if window_size[0] >= 0:
            seen &= distance <= window_size[0]
        logits = (own_q @ own_k.transpose(1, 2) * scale).masked_fill(~seen, float("-inf"))
        out[q_start:q_end] = (torch.softmax(logits, dim=-1) @ own_v).transpose(0, 1)
    return out


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("layout", ["late", "solo"])
def test_passages_in_one_operation_are_the_same_as_one_by_one(
    kind: str, layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of gemma3 have sliding windows, shorter than the longest passage."""
    save_tiny(kind, tmp_path)
    runtime = TorchRuntime.load(tmp_path, device="cpu", dtype="float32", cache_dtype="float32")
    needs = Needs(runtime.shape.all_heads())
    before = list(runtime.encode(PREFIX, DOCUMENTS, needs, layout=layout))
    calls = []

    def packed(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(options["window_size"])
        return as_documented(*arguments, **options)

    monkeypatch.setattr(attention, "varlen_attention", lambda device, dtype, head_dim: packed)
    # The prefix too: as on a GPU, nothing is encoded otherwise.
    runtime = TorchRuntime.load(tmp_path, device="cpu", dtype="float32", cache_dtype="float32")
    runtime.cpu_plan = None
    after = list(runtime.encode(PREFIX, DOCUMENTS, needs, layout=layout))
    assert calls and (kind == "llama" or any(before >= 0 for before, _ in calls))
    for one, other in zip(before, after, strict=True):
        for layer, states in one.states.items():  # type: ignore[attr-defined]
            np.testing.assert_allclose(other.states[layer].data, states.data, atol=2e-5)  # type: ignore[attr-defined]


def test_where_the_keys_of_each_sequence_lie() -> None:
    packing = Packing.of([2, 1, 3], 2, torch.device("cpu"))
    assert packing.index.tolist() == [0, 1, 2, 3, 0, 1, 4, 0, 1, 5, 6, 7]
    assert packing.queries.tolist() == [0, 2, 3, 6] and packing.keys.tolist() == [0, 4, 7, 12]
    assert (packing.most_queries, packing.most_keys) == (3, 5)


def test_keys_in_any_place_that_several_share() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 3, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    places = [np.array([5, 0, 2]), np.array([0, 4, 3, 1])]
    packing = Packing.of_places(places, [1, 2], torch.device("cpu"))
    found = packing.attend(as_documented, q, k, v, 0.5, None)
    for own, keys, rows in ((slice(0, 1), places[0], 1), (slice(1, 3), places[1], 2)):
        some = torch.from_numpy(keys)
        mask = torch.ones(rows, len(keys), dtype=torch.bool).tril(len(keys) - rows)
        expected = torch.nn.functional.scaled_dot_product_attention(
            q[None, :, own], k[None, :, some], v[None, :, some], attn_mask=mask, scale=0.5, enable_gqa=True
        )
        torch.testing.assert_close(found[:, own], expected[0])


def test_a_cpu_and_float32_have_no_such_attention() -> None:
    assert varlen_attention(torch.device("cpu"), torch.bfloat16, 64) is None
    assert varlen_attention(torch.device("cuda"), torch.float32, 64) is None


@pytest.mark.parametrize(
    ("capability", "head_dim", "fits"),
    [((8, 0), 64, True), ((9, 0), 256, True), ((7, 5), 64, False), ((9, 0), 264, False), ((9, 0), 100, False)],
)
def test_which_cards_and_heads_have_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], head_dim: int, fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = varlen_attention.__wrapped__(torch.device("cuda"), torch.bfloat16, head_dim)
    assert (found is not None) == fits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")
@pytest.mark.parametrize("sliding_window", [None, 5])
def test_the_kernel_does_what_it_says(sliding_window: int | None) -> None:
    cuda = torch.device("cuda")
    varlen = varlen_attention(cuda, torch.bfloat16, 64)
    assert varlen is not None
    torch.manual_seed(0)
    q, k, v = (torch.randn(heads, tokens, 64) for heads, tokens in ((4, 24), (2, 31), (2, 31)))
    lengths = [3, 20, 1]
    expected = Packing.of(lengths, 7, torch.device("cpu")).attend(as_documented, q, k, v, 0.125, sliding_window)
    given = (each.to(cuda, torch.bfloat16) for each in (q, k, v))
    found = Packing.of(lengths, 7, cuda).attend(varlen, *given, 0.125, sliding_window)
    torch.testing.assert_close(found.float().cpu(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")
def test_a_gpu_in_bfloat16_gives_nearly_the_cpu_s_rows(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    rows = []
    for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16")):
        runtime = TorchRuntime.load(tmp_path, device=device, dtype=dtype)
        heads = runtime.shape.all_heads()
        encoded = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late"))
        rows.append(read_one(runtime, PREFIX, tail(), encoded, heads, layout="late"))
    np.testing.assert_allclose(rows[1], rows[0], atol=2e-2)
