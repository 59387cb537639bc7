"""Token sequences that share a run have the bits that they have alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.torch_runtime.attention import EncodePass
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.row_plan import RowPlan
from connector.backbone.torch_runtime.decoder import load_decoder, multiplies_bfloat16
from connector.backbone.torch_runtime.sequences import Sequences, TokenSequence
from connector.checkpoints.checkpoint import Checkpoint
from tests.backbone.torch_runtime.packing import has_amx, has_wide_products

CPU = torch.device("cpu")
DEPTH = 4
LENGTHS = (33, 5, 64, 1, 120, 17)


@pytest.fixture(scope="module")
def sequences(smollm2: Checkpoint) -> Sequences:
    dtype = torch.bfloat16 if multiplies_bfloat16() else torch.float32
    model = load_decoder(smollm2.path, "cpu", dtype)
    return Sequences(model, model.config.head_dim, CoreSharing.of_process())


def keys(sequences: Sequences, batch: Sequence[TokenSequence]) -> torch.Tensor:
    def run() -> torch.Tensor:
        encode = EncodePass([len(each.tokens) for each in batch], {}, None, DEPTH, CPU)
        sequences.run(encode, batch)
        return encode.keys[DEPTH]

    return CoreSharing.of_process().run(run)


def made(lengths: Sequence[int]) -> list[TokenSequence]:
    return [
        TokenSequence(np.array([7 * (at + length) % 900 for at in range(length)], dtype=np.int32), np.arange(length))
        for length in lengths
    ]


@pytest.mark.parametrize("joined", [True, False])
def test_sequences_together_have_the_bits_that_they_have_alone(
    sequences: Sequences, joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not sequences.plan.most and not has_wide_products():
        pytest.skip("sequences are run one by one on this CPU")
    assert sequences.plan.most
    if joined and not sequences.plan.joined and has_amx():
        pytest.skip("AMX's products depend on the number of rows")
    assert sequences.plan.joined or not joined
    if not joined:
        monkeypatch.setattr(sequences, "plan", RowPlan(most=sequences.plan.most, joined=False))
    batch = made(LENGTHS)
    together = keys(sequences, batch)
    alone = [keys(sequences, [each]) for each in batch]
    assert torch.equal(together, torch.cat(alone, dim=1))
    turned = keys(sequences, batch[::-1])
    assert torch.equal(turned, torch.cat(alone[::-1], dim=1))


def test_layers_of_this_model_are_fused(sequences: Sequences) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    assert sequences.fused_layers == len(sequences._model.layers)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 4))
def test_batches_hold_every_document_once_in_order(sequences: Sequences, lengths: list[int], cores: int) -> None:
    documents = [[length] * length for length in lengths]
    batches = list(sequences.batches(documents, cores))
    assert [document for batch in batches for document in batch] == documents
    for batch in batches:
        assert len(batch) == 1 or sequences.plan.together([len(document) for document in batch])
