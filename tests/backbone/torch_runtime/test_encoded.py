"""Passages whose keys are kept as codes: the reader's view of ``cache.dtype`` int4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from connector.backbone.caching.disk_cache import DiskCache
from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.backbone.torch_runtime.encoded import (
    CacheDtype,
    PackedDocuments,
    StoredTensor,
    TorchEncodedDocument,
    store_parts,
)
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.errors import BackboneError
from connector.heads.needs import Needs
from tests.backbone.reading import token_ids

QUERY = "How long do cats sleep?"
# Two heads of one kv head, and one of another layer.
HEADS = ((3, 1), (3, 2), (12, 4))
LAYERS, SIZE = 2, 64


def runtime_of(checkpoint: Checkpoint, dtype: CacheDtype) -> TorchRuntime:
    return TorchRuntime.load(checkpoint.path, device="cpu", dtype="float32", cache_dtype=dtype)


def reader_of(checkpoint: Checkpoint, dtype: CacheDtype, disk: Path | None = None) -> Reader:
    runtime = runtime_of(checkpoint, dtype)
    tokenizer = Tokenizer.from_folder(checkpoint.path)
    kept = None if disk is None else DiskCache(disk / "passages.sqlite3", 50_000_000, runtime.load_document)
    template = PromptTemplate.from_folder(checkpoint.path, tokenizer)
    return Reader(runtime, tokenizer, template, "late", checkpoint.digest(), DocumentCache(50_000_000, kept))


def test_a_document_takes_the_bytes_of_its_codes_and_channels(smollm2: Checkpoint) -> None:
    ids = np.arange(100, 280, dtype=np.int32)
    (document,) = runtime_of(smollm2, "int4").encode((1, 2, 3), [ids], Needs(HEADS), layout="late")
    assert isinstance(document, TorchEncodedDocument)
    codes = LAYERS * len(ids) * SIZE // 2
    assert document.nbytes == codes + LAYERS * 2 * (SIZE + len(ids))
    assert document.nbytes < len(document.to_bytes()) < document.nbytes + 900


def test_bytes_round_trip(smollm2: Checkpoint) -> None:
    runtime = runtime_of(smollm2, "int4")
    documents = token_ids([20, 21, 22, 23], [30])
    for document in runtime.encode((1, 2, 3), documents, Needs(HEADS), layout="late"):
        again = runtime.load_document(document.to_bytes())
        assert isinstance(document, TorchEncodedDocument) and isinstance(again, TorchEncodedDocument)
        assert (again.nbytes, again.kept) == (document.nbytes, document.kept)
        for layer in (3, 12):
            assert torch.equal(again.states[layer].widen(torch.float32), document.states[layer].widen(torch.float32))
    with pytest.raises(BackboneError, match="damaged"):
        runtime.load_document(document.to_bytes()[:-1])


@pytest.mark.slow
def test_new_cached_and_from_disk_give_the_same_bits(smollm2: Checkpoint, tmp_path: Path, cats: list[str]) -> None:
    first = reader_of(smollm2, "int4", tmp_path)
    new = first.read(QUERY, cats, Needs(HEADS))
    cached = first.read(QUERY, cats[::-1], Needs(HEADS))
    first.close()
    second = reader_of(smollm2, "int4", tmp_path)
    stored = second.read(QUERY, cats, Needs(HEADS))
    second.close()
    assert (new.encoded, cached.cached, stored.cached) == (len(cats),) * 3
    assert np.array_equal(new.rows, stored.rows)
    assert np.array_equal(new.rows, cached.rows)
    assert len(new.documents) == len(cats)


@pytest.mark.slow
def test_fewer_bits_are_smaller_and_further_off(smollm2: Checkpoint, cats: list[str]) -> None:
    exact = reader_of(smollm2, "float32").read(QUERY, cats, Needs(HEADS)).rows
    dtypes: tuple[CacheDtype, ...] = ("float16", "int8", "int4")
    lost = [
        float(np.abs(reader_of(smollm2, dtype).read(QUERY, cats, Needs(HEADS)).rows - exact).mean())
        for dtype in dtypes
    ]
    assert 0 < lost[0] < lost[1] < lost[2]


@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
def test_passages_widened_together_are_as_alone(number_format: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [1 + 37 * at % 90 for at in range(70)]
    keys = [StoredTensor.store(torch.randn(2, n, SIZE, generator=generator), "int4") for n in lengths]
    documents = [TorchEncodedDocument(n, {3: k}, "", {3: [0, 1]}) for n, k in zip(lengths, keys, strict=True)]
    own = torch.randn(2, 4, SIZE).to(number_format)
    packed = PackedDocuments.pack(documents, 5, number_format, torch.device("cpu"))
    found = torch.cat(list(packed.key_blocks(3, own)), dim=1)
    wanted = torch.cat([*(key.widen(number_format) for key in keys), own], dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-2 if number_format == torch.bfloat16 else 1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8", "int4"])
def test_a_document_stored_again_is_as_if_encoded_so(smollm2: Checkpoint, dtype: CacheDtype) -> None:
    documents = token_ids(range(100, 140), range(300, 420))
    exact = runtime_of(smollm2, "float32").encode((1, 2, 3), documents, Needs(HEADS), layout="late")
    coded = runtime_of(smollm2, dtype).encode((1, 2, 3), documents, Needs(HEADS), layout="late")
    for found, wanted in zip(exact, coded, strict=True):
        assert isinstance(found, TorchEncodedDocument)
        assert found.stored_as(dtype).to_bytes() == wanted.to_bytes()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e6])
def test_numbers_that_codes_cannot_hold_are_refused(number: float) -> None:
    keys = torch.zeros(1, 5, 8)
    keys[0, :, 3] = number
    alone = torch.zeros(1, 500, 8)
    alone[0, 17] = number
    for wrong in (keys, alone):
        with pytest.raises(BackboneError, match="int4 cannot hold; set cache.dtype to float32"):
            StoredTensor.store(wrong, "int4")


@pytest.mark.slow
def test_values_are_coded_as_keys_are(smollm2: Checkpoint) -> None:
    documents = token_ids(range(100, 140), range(300, 420))
    coded, exact = (
        list(runtime_of(smollm2, dtype).encode((1, 2, 3), documents, Needs(HEADS), layout="solo"))
        for dtype in ("int4", "float32")
    )
    for small, whole in zip(coded, exact, strict=True):
        assert isinstance(small, TorchEncodedDocument) and isinstance(whole, TorchEncodedDocument)
        assert small.nbytes < whole.nbytes / 6
        for layer, state in whole.states.items():
            found, wanted = small.states[layer].widen(torch.float32), state.widen(torch.float32)
            assert found.shape == wanted.shape
            # A normal distribution in 16 best levels loses a hundredth of its variance.
            spread = (wanted - wanted.mean(1, keepdim=True)).square().sum((1, 2))
            assert ((found - wanted).square().sum((1, 2)) < 0.02 * spread).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int4"])
def test_parts_stored_together_are_as_alone(dtype: CacheDtype) -> None:
    torch.manual_seed(0)
    states = {layer: torch.randn(2, 9, 64) for layer in (0, 3)}
    lengths, start = [4, 1, 4], 0
    for length, found in zip(lengths, store_parts(states, lengths, dtype), strict=True):
        assert list(found) == [0, 3]
        for layer, state in states.items():
            alone = StoredTensor.store(state[:, start : start + length], dtype)
            for one, other in zip((found[layer].data, found[layer].scale), (alone.data, alone.scale), strict=True):
                assert (one is None) == (other is None)
                if one is not None and other is not None:
                    assert torch.equal(one, other) and one.dtype == other.dtype
                    # A view would keep the whole batch.
                    assert one.is_contiguous() and one.untyped_storage().nbytes() == one.nbytes
        start += length


def test_parts_with_what_the_format_cannot_hold_are_refused() -> None:
    states = {0: torch.ones(1, 5, 8), 1: torch.ones(1, 5, 8)}
    states[1][0, 3, 2] = 1e6
    store_parts(states, [2, 3], "bfloat16")
    with pytest.raises(BackboneError, match="float16 cannot hold"):
        store_parts(states, [2, 3], "float16")
