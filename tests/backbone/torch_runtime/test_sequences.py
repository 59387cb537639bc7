"""Token sequences that share a run have the bits that they have alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.prompt.tail import TokenIds
from connector.backbone.torch_runtime.attention import EncodePass
from connector.backbone.torch_runtime.cpu.cores import CoreSharing
from connector.backbone.torch_runtime.cpu.operations import multiplies_bfloat16
from connector.backbone.torch_runtime.cpu.plan import prepare
from connector.backbone.torch_runtime.decoder import load_decoder
from connector.backbone.torch_runtime.sequences import Sequences
from connector.checkpoints.checkpoint import Checkpoint
from tests.backbone.torch_runtime.packing import has_wide_products

CPU = torch.device("cpu")
DEPTH = 4
LENGTHS = (33, 5, 64, 1, 120, 17)


@pytest.fixture(scope="module")
def sequences(smollm2: Checkpoint) -> Sequences:
    dtype = torch.bfloat16 if multiplies_bfloat16() else torch.float32
    model = load_decoder(smollm2.path, "cpu", dtype).layers
    return Sequences(model, prepare(model, model.config.head_dim, CoreSharing.of_process()).batches)


def keys(sequences: Sequences, batch: Sequence[TokenIds]) -> torch.Tensor:
    def run() -> torch.Tensor:
        encode = EncodePass(batch, 0, {}, None, DEPTH, CPU)
        sequences.run(encode)
        return encode.keys[DEPTH]

    return CoreSharing.of_process().run(run)


def made(lengths: Sequence[int]) -> list[TokenIds]:
    return [np.array([7 * (at + length) % 900 for at in range(length)], dtype=np.int32) for length in lengths]


def test_sequences_together_have_the_bits_that_they_have_alone(sequences: Sequences) -> None:
    batch = made(LENGTHS)
    if has_wide_products():
        assert sequences.plan.most
    elif not sequences.plan.most:
        # Such a CPU runs each by itself, and is told why.
        assert sequences.plan.why_alone
        assert [len(each) for each in sequences.batches(batch, 1)] == [1] * len(batch)
        return
    together = keys(sequences, batch)
    alone = [keys(sequences, [each]) for each in batch]
    assert torch.equal(together, torch.cat(alone, dim=1))
    turned = keys(sequences, batch[::-1])
    assert torch.equal(turned, torch.cat(alone[::-1], dim=1))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 4))
def test_batches_hold_every_document_once_in_order(sequences: Sequences, lengths: list[int], cores: int) -> None:
    documents = [[length] * length for length in lengths]
    batches = list(sequences.batches(documents, cores))
    assert [document for batch in batches for document in batch] == documents
    for batch in batches:
        assert len(batch) == 1 or sequences.plan.together([len(document) for document in batch])
