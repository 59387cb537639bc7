"""Who of a tail's tokens sees whom: its parts against the whole, and the whole against the rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.runtime import Tail
from connector.backbone.torch_runtime.tail import FixedStates, TailPlaces

CPU = torch.device("cpu")
LENGTHS = st.integers(0, 5)
WINDOWS = st.one_of(st.none(), st.integers(1, 12))


def places(shared: int, variants: list[int], prefix: int, gap: int) -> TailPlaces:
    ids = iter(range(1_000))
    own = tuple(tuple(next(ids) for _ in range(length)) for length in variants)
    total = shared + sum(variants)
    tail = Tail(tuple(900 + at for at in range(shared)), own, np.eye(total, dtype=np.float32), prefix + gap)
    return TailPlaces(tail, prefix, CPU)


tails = st.builds(places, LENGTHS, st.lists(st.integers(1, 5), min_size=1, max_size=3), LENGTHS, LENGTHS)


@given(tails, WINDOWS)
def test_a_token_sees_the_shared_part_its_variant_and_what_is_near(tail: TailPlaces, window: int | None) -> None:
    documents = torch.arange(3, 9)
    bias = tail.bias(window, documents)
    before = bias.shape[1] - tail.tokens
    owner = ["shared"] * tail.shared
    at = tail.shared
    for number in range(10):
        # A variant begins where positions go back.
        length = 1
        while at + length < tail.tokens and tail.positions[at + length] > tail.positions[at]:
            length += 1
        owner += [f"variant {number}"] * (min(length, tail.tokens - at))
        at += length
        if at >= tail.tokens:
            break
    for row in range(tail.tokens):
        for column in range(tail.tokens):
            distance = tail.positions[row] - tail.positions[column]
            seen = distance >= 0 and (window is None or distance < window)
            seen &= owner[column] in ("shared", owner[row])
            assert (bias[row, before + column] == 0) == seen
            assert seen or bias[row, before + column] == float("-inf")
    if window is None:
        # Nothing hides documents and prefix: their columns are left out.
        assert before == 0
    else:
        hidden = torch.tensor(tail.positions)[:, None] - documents[None, :] >= window
        assert torch.equal(bias[:, : len(documents)] != 0, hidden)


@given(tails, st.integers(1, 12))
def test_the_parts_biases_are_rows_of_the_whole(tail: TailPlaces, window: int) -> None:
    whole = tail.bias(window, torch.arange(0))
    prefix = whole.shape[1] - tail.tokens
    query = list(range(tail.shared, tail.shared + tail.query))
    fixed = [at for at in range(tail.tokens) if at not in query]
    assert torch.equal(tail.fixed_bias(window), whole[fixed][:, [*range(prefix), *(prefix + at for at in fixed)]])
    seen = [*range(prefix + tail.shared + tail.query)]
    assert torch.equal(tail.query_bias(window), whole[query][:, seen])


@given(tails)
def test_fixed_and_query_make_the_whole(tail: TailPlaces) -> None:
    assert tail.fixed + tail.query == tail.tokens
    (fixed, fixed_positions), (query, query_positions) = tail.fixed_tokens(), tail.query_tokens()
    states = torch.tensor(tail.ids, dtype=torch.float32)[None, :, None]
    of = [torch.tensor(ids, dtype=torch.float32)[None, :, None] for ids in (fixed, query)]
    assert torch.equal(tail.whole(*of), states)
    positions = [
        torch.tensor(each, dtype=torch.float32)[None, :, None] for each in (fixed_positions, query_positions)
    ]
    assert tail.whole(*positions).flatten().tolist() == tail.positions


def test_bytes_are_those_of_all_states() -> None:
    states = FixedStates({0: torch.zeros(4, 3, 8)}, {0: torch.zeros(2, 3, 8)}, {0: torch.zeros(2, 3, 8)})
    assert states.nbytes == pytest.approx(4 * 3 * 8 * (4 + 2 + 2))
