"""Captured attention against transformers' own eager attention, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForCausalLM

from connector.backbone.prompt.tail import Tail
from connector.backbone.runtime import ReadRequest
from connector.backbone.torch_runtime import read_passes
from connector.backbone.torch_runtime.attention import LayerOptions
from connector.backbone.torch_runtime.encoded import TorchEncodedDocument
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.errors import BackboneError
from connector.heads.needs import Needs
from connector.sections import Layout
from tests.backbone.reading import read_one, token_ids
from tests.backbone.tiny import FAMILIES, VOCABULARY, WINDOW, config_of, save_tiny

PREFIX = [1, 5, 9, 13, 17]
DOCUMENTS = token_ids([20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30], [40, 41, 42], [50])
SHARED = (60, 61, 62, 63)
VARIANTS = ((70, 71, 72, 80, 81), (75, 80, 81))
WHOLE = [np.concatenate(DOCUMENTS)]
POSITION = len(PREFIX) + 12
LAYOUTS: tuple[Layout, Layout] = ("joint", "late")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, path)
    return path


@pytest.fixture(scope="module")
def runtime(folder: Path) -> TorchRuntime:
    return TorchRuntime.load(folder, device="cpu", dtype="float32", cache_dtype="float32")


def tail(position: int = POSITION) -> Tail:
    """Row groups: every row of a variant by itself, to compare each one."""
    total = len(SHARED) + sum(map(len, VARIANTS))
    return Tail.of(SHARED, VARIANTS, np.eye(total, dtype=np.float32), position, len(PREFIX))


def eager(folder: Path, ids: list[int], positions: list[int], seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Attention weights [layers, heads, tokens, tokens] of transformers' eager code with an explicit mask."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    places = np.array(positions)
    window = seen & (np.abs(places[:, None] - places[None, :]) < WINDOW)

    def bias(allowed: npt.NDArray[np.bool_]) -> torch.Tensor:
        return torch.zeros(1, 1, *allowed.shape).masked_fill_(~torch.from_numpy(allowed), float("-inf"))

    types = getattr(model.config, "layer_types", None)
    mask: Any
    if types and "sliding_attention" in types:
        mask = {"full_attention": bias(seen), "sliding_attention": bias(window)}
    else:
        mask = bias(window if getattr(model.config, "sliding_window", None) else seen)
    with torch.inference_mode():
        out = model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            attention_mask=mask,
            output_attentions=True,
            use_cache=False,
        )
    return np.asarray(torch.stack(out.attentions)[:, 0].numpy())


def packed() -> tuple[list[int], list[int], npt.NDArray[np.bool_]]:
    """The layout joint as one sequence: prefix, all documents, tail; who sees whom."""
    before = [*PREFIX, *WHOLE[0], *SHARED]
    ids, positions, owner = list(map(int, before)), list(range(len(before))), [-1] * len(before)
    for number, variant in enumerate(VARIANTS):
        ids += variant
        positions += range(len(before), len(before) + len(variant))
        owner += [number] * len(variant)
    seen = np.tril(np.ones((len(ids), len(ids)), dtype=bool))
    owners = np.array(owner)
    # Neither variant sees the other.
    return ids, positions, seen & ((owners[:, None] == owners) | (owners == -1))


def test_joint_rows_equal_eager_attention(folder: Path, runtime: TorchRuntime) -> None:
    ids, positions, seen = packed()
    reference = eager(folder, ids, positions, seen)
    start, end = len(PREFIX), len(PREFIX) + len(WHOLE[0])
    heads = runtime.shape.all_heads()
    encoded = list(runtime.encode(PREFIX, WHOLE, Needs(heads), layout="joint"))
    rows = read_one(runtime, PREFIX, tail(end), encoded, heads, layout="joint")
    expected = reference[:, :, end:, start:end].reshape(len(heads), -1, end - start)
    np.testing.assert_allclose(rows, expected, atol=3e-6)
    # The comparison must be about something: attention that differs between heads and tokens.
    assert expected.std(axis=0).max() > 0.01


def test_late_rows_equal_q_times_k_of_separate_passes(folder: Path, runtime: TorchRuntime) -> None:
    """The tail's queries come from a pass without documents; at the first layer both layouts are the same."""
    heads = runtime.shape.all_heads()
    first = [head for head in heads if head[0] == 0]
    joint, alone = (list(runtime.encode(PREFIX, WHOLE, Needs(first), layout=layout)) for layout in LAYOUTS)
    np.testing.assert_allclose(
        read_one(runtime, PREFIX, tail(), alone, first, layout="late"),
        read_one(runtime, PREFIX, tail(), joint, first, layout="joint"),
        atol=1e-6,
    )
    late = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late"))
    # Deeper, the documents must not have touched the tail: one document's rows hold the same ratios with others.
    every = read_one(runtime, PREFIX, tail(), late, heads, layout="late")
    one = read_one(runtime, PREFIX, tail(), late[:1], heads, layout="late")
    tokens = len(DOCUMENTS[0])
    with np.errstate(invalid="ignore"):
        together = every[:, :, :tokens] / every[:, :, :tokens].sum(-1, keepdims=True)
        single = one / one.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.nan_to_num(together), np.nan_to_num(single), atol=1e-5)


def test_late_reads_a_tail_that_is_nothing_but_a_query(runtime: TorchRuntime) -> None:
    heads = runtime.shape.all_heads()
    own = VARIANTS[0]
    late = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late"))
    alone = Tail.of((), (own,), np.eye(len(own), dtype=np.float32), POSITION, len(PREFIX))
    # The same query beside another, which it does not see.
    beside = Tail.of(
        (), (own, VARIANTS[1]), np.eye(len(own), len(own) + len(VARIANTS[1]), dtype=np.float32), POSITION, len(PREFIX)
    )
    rows = read_one(runtime, PREFIX, alone, late, heads, layout="late")
    np.testing.assert_allclose(rows, read_one(runtime, PREFIX, beside, late, heads, layout="late"), atol=3e-6)
    assert (rows.sum(axis=2) > 0).all()


def test_only_some_heads_give_the_rows_that_they_give_among_all(runtime: TorchRuntime) -> None:
    heads = runtime.shape.all_heads()
    encoded = list(runtime.encode(PREFIX, WHOLE, Needs(heads), layout="joint"))
    every = read_one(runtime, PREFIX, tail(), encoded, heads, layout="joint")
    some = [(2, 3), (0, 1), (2, 0)]
    few = list(runtime.encode(PREFIX, WHOLE, Needs(some), layout="joint"))
    rows = read_one(runtime, PREFIX, tail(), few, some, layout="joint")
    for at, head in enumerate(some):
        np.testing.assert_allclose(rows[at], every[heads.index(head)], atol=3e-6)
    assert few[0].nbytes < encoded[0].nbytes
    for less, more in zip(few, encoded, strict=True):
        assert isinstance(less, TorchEncodedDocument) and isinstance(more, TorchEncodedDocument)
        assert list(less.states) == [0, 1, 2]
        for layer, stored in less.states.items():
            # Bit for bit, however deep the LLM is run; the deepest layer's values are left out.
            assert torch.equal(stored.data, more.states[layer].data[: len(stored.data)])


@pytest.mark.parametrize("layout", ["solo", "late"])
def test_batch_equals_single_bit_for_bit(runtime: TorchRuntime, layout: Layout) -> None:
    heads = runtime.shape.all_heads()
    batch = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout=layout))
    single = [next(runtime.encode(PREFIX, [document], Needs(heads), layout=layout)) for document in DOCUMENTS]
    assert [state.to_bytes() for state in batch] == [state.to_bytes() for state in single]


def test_packed_passages_see_only_themselves(runtime: TorchRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU passages are packed into one sequence; the same code gives the same states on a CPU."""
    heads = runtime.shape.all_heads()
    single = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late"))
    monkeypatch.setattr(runtime._sequences, "batches", lambda documents, cores: iter([list(documents)]))
    packed_together = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout="late"))
    assert [state.tokens for state in packed_together] == [len(document) for document in DOCUMENTS]
    np.testing.assert_allclose(
        read_one(runtime, PREFIX, tail(), packed_together, heads, layout="late"),
        read_one(runtime, PREFIX, tail(), single, heads, layout="late"),
        atol=3e-6,
    )


def test_requests_read_together_see_only_their_own(runtime: TorchRuntime) -> None:
    every = runtime.shape.all_heads()
    first, second, third = runtime.encode(PREFIX, DOCUMENTS, Needs(every), layout="late")
    shorter = Tail.of(SHARED[:2], VARIANTS[::-1], np.eye(10, dtype=np.float32), POSITION + 9, len(PREFIX))
    requests = [
        # One is done in the first layer, one has no use for the last.
        ReadRequest(tail(), [third], Needs(((0, 1),))),
        ReadRequest(shorter, [second, first], Needs(every)),
        ReadRequest(tail(), [first, second, third], Needs(((2, 3), (0, 0)))),
    ]
    for request, found in zip(requests, runtime.read(PREFIX, requests, layout="late"), strict=True):
        (alone,) = runtime.read(PREFIX, [request], layout="late")
        np.testing.assert_allclose(found.rows, alone.rows, atol=3e-6)


def test_attention_in_one_operation_gives_the_same_rows(
    runtime: TorchRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, and on CPUs with AMX."""
    heads = [(1, 0), (3, 2), (3, 3)]
    encoded = list(runtime.encode(PREFIX, WHOLE, Needs(heads), layout="joint"))
    before = read_one(runtime, PREFIX, tail(), encoded, heads, layout="joint")
    asked = []

    def fuses(q: torch.Tensor, options: LayerOptions) -> bool:
        asked.append(options)
        return options.softcap is None

    monkeypatch.setattr(read_passes, "_fuses", fuses)
    after = read_one(runtime, PREFIX, tail(), encoded, heads, layout="joint")
    np.testing.assert_allclose(after, before, atol=3e-6)
    assert asked


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")
def test_a_gpu_gives_the_cpu_s_rows(folder: Path, runtime: TorchRuntime) -> None:
    other = TorchRuntime.load(folder, device="cuda", dtype="float32", cache_dtype="float32")
    heads = runtime.shape.all_heads()
    for layout, documents in zip(LAYOUTS, (WHOLE, DOCUMENTS), strict=True):
        rows = []
        for each in (runtime, other):
            encoded = list(each.encode(PREFIX, documents, Needs(heads), layout=layout))
            rows.append(read_one(each, PREFIX, tail(), encoded, heads, layout=layout))
        np.testing.assert_allclose(rows[1], rows[0], atol=1e-3)
    # What comes from disk is kept on the device too, through pinned memory.
    loaded = [other.load_document(state.to_bytes()) for state in encoded]
    assert all(stored.data.device.type == "cuda" for state in loaded for stored in state.states.values())
    np.testing.assert_array_equal(read_one(other, PREFIX, tail(), loaded, heads, layout="late"), rows[1])


@pytest.mark.parametrize("layout", ["solo", "late"])
def test_encoded_documents_survive_bytes(runtime: TorchRuntime, layout: Layout) -> None:
    heads = [(1, 0), (3, 2)]
    encoded = list(runtime.encode(PREFIX, DOCUMENTS, Needs(heads), layout=layout))
    loaded = [runtime.load_document(state.to_bytes()) for state in encoded]
    assert [state.nbytes for state in loaded] == [state.nbytes for state in encoded]
    assert [state.to_bytes() for state in loaded] == [state.to_bytes() for state in encoded]
    damaged = encoded[0].to_bytes()[:-5]
    with pytest.raises(BackboneError, match="damaged"):
        runtime.load_document(damaged)


def test_embedding_is_the_mean_and_the_last_of_hidden_states(folder: Path, runtime: TorchRuntime) -> None:
    ids = [1, 30, 31, 32]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.inference_mode():
        states = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    for start in (0, 2):
        own = [states[layer][0, start:].numpy() for layer in (1, 3)]
        expected = np.stack([np.stack((state.mean(0), state[-1])) for state in own])
        np.testing.assert_allclose(runtime.embed(token_ids(ids)[0], (1, 3), start), expected, atol=2e-5, rtol=1e-4)


def test_layers_above_the_deepest_head_are_not_run(folder: Path) -> None:
    runtime = TorchRuntime.load(folder, device="cpu", dtype="float32", cache_dtype="float32")
    run: list[int] = []
    for index, layer in enumerate(runtime._sequences._model.layers):
        down = next(module for name, module in layer.named_modules() if name.endswith("down_proj"))
        down.register_forward_pre_hook(lambda *args, index=index: run.append(index))
    runtime._prefix_states(PREFIX)
    run.clear()
    heads = [(0, 1), (2, 3)]
    encoded = list(runtime.encode(PREFIX, WHOLE, Needs(heads), layout="joint"))
    read_one(runtime, PREFIX, tail(), encoded, heads, layout="joint")
    # At the deepest layer only keys (and the tail's queries) are computed: not even its MLP is run.
    assert run == [0, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most"), [("float16", 2e-3), ("int8", 5e-2)])
def test_stored_formats_cost_little(folder: Path, runtime: TorchRuntime, dtype: Any, most: float) -> None:
    small = TorchRuntime.load(folder, device="cpu", dtype="float32", cache_dtype=dtype)
    heads = runtime.shape.all_heads()
    exact = list(runtime.encode(PREFIX, WHOLE, Needs(heads), layout="joint"))
    stored = list(small.encode(PREFIX, WHOLE, Needs(heads), layout="joint"))
    assert stored[0].nbytes < 0.6 * exact[0].nbytes
    before = read_one(runtime, PREFIX, tail(), exact, heads, layout="joint")
    after = read_one(small, PREFIX, tail(), stored, heads, layout="joint")
    assert 0 < np.abs(before - after).mean() < most


@pytest.mark.slow
def test_sixteen_bits_of_the_weights_are_stored_without_loss(folder: Path, runtime: TorchRuntime) -> None:
    exact, stored = (
        TorchRuntime.load(folder, device="cpu", dtype="bfloat16", cache_dtype=dtype) for dtype in ("float32", "auto")
    )
    assert (exact.precision, stored.precision) == ("bfloat16-float32", "bfloat16-bfloat16")
    assert TorchRuntime.load(folder, device="cpu", dtype="float32").precision == "float32-float16"
    heads = runtime.shape.all_heads()
    for layout, documents in zip(LAYOUTS, (WHOLE, DOCUMENTS), strict=True):
        rows = [
            read_one(
                one,
                PREFIX,
                tail(),
                list(one.encode(PREFIX, documents, Needs(heads), layout=layout)),
                heads,
                layout=layout,
            )
            for one in (exact, stored)
        ]
        assert np.array_equal(*rows)
        full = read_one(
            runtime,
            PREFIX,
            tail(),
            list(runtime.encode(PREFIX, documents, Needs(heads), layout=layout)),
            heads,
            layout=layout,
        )
        assert np.corrcoef(rows[0].ravel(), full.ravel())[0, 1] > 0.99
    copy = stored.load_document(
        next(iter(stored.encode(PREFIX, DOCUMENTS[:1], Needs(heads), layout="solo"))).to_bytes()
    )
    assert copy.nbytes == next(iter(stored.encode(PREFIX, DOCUMENTS[:1], Needs(heads), layout="solo"))).nbytes


def test_unknown_layer_kinds_are_refused(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    config = config_of("qwen2")
    config.layer_types = ["chunked_attention"] * 4
    config.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="chunked_attention"):
        TorchRuntime.load(tmp_path)


def test_a_missing_gpu_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError, match=r"backbone\.device = cuda"):
        TorchRuntime.load(tmp_path, device="cuda")


def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackboneError) as caught:
        TorchRuntime.load(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
    assert max(max(document) for document in DOCUMENTS) < VOCABULARY
