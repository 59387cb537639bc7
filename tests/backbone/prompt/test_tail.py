"""Who of a tail's tokens sees whom: the whole against the rule, its parts against the whole, rows by their names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.prompt.tail import Tail, make_tail, solo_tail
from connector.heads.row_groups import QUERY_GROUPS, ROW_GROUPS

LENGTHS = st.integers(0, 5)
SLIDING_WINDOWS = st.one_of(st.none(), st.integers(1, 12))
DOCUMENTS = np.arange(3, 9)


@st.composite
def tails(draw: st.DrawFn) -> tuple[Tail, list[str]]:
    """A tail, and for each token whose it is."""
    shared, prefix, gap = draw(LENGTHS), draw(LENGTHS), draw(LENGTHS)
    variants = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    ids = iter(range(1_000))
    own = [[next(ids) for _ in range(length)] for length in variants]
    total = shared + sum(variants)
    rows = np.array(draw(st.lists(st.booleans(), min_size=total, max_size=total)), dtype=np.float32)[None]
    owners = ["shared"] * shared + [f"variant {at}" for at, length in enumerate(variants) for _ in range(length)]
    return Tail.of([900 + at for at in range(shared)], own, rows, prefix + gap, prefix), owners


@given(tails(), SLIDING_WINDOWS)
def test_a_token_sees_the_shared_part_its_variant_and_what_is_near(
    drawn: tuple[Tail, list[str]], sliding_window: int | None
) -> None:
    tail, owners = drawn
    every = np.arange(len(tail.ids))
    bias = tail.bias(every, DOCUMENTS, sliding_window)
    before = np.concatenate((DOCUMENTS, np.arange(tail.prefix)))
    assert bias.shape == (len(every), len(before) + len(every)) and bias.dtype == np.float32
    for row, position in enumerate(tail.positions):
        for column, other in enumerate(tail.positions):
            near = sliding_window is None or position - other < sliding_window
            seen = other <= position and near and owners[column] in ("shared", owners[row])
            assert bias[row, len(before) + column] == (0 if seen else -np.inf)
        for column, other in enumerate(before):
            hidden = sliding_window is not None and position - other >= sliding_window
            assert bias[row, column] == (-np.inf if hidden else 0)
    np.testing.assert_array_equal(tail.bias(tail.counted, DOCUMENTS, sliding_window), bias[tail.counted])
    np.testing.assert_array_equal(tail.own_bias(every, sliding_window), bias[:, len(before) :])


@given(tails(), SLIDING_WINDOWS)
def test_the_parts_biases_are_rows_of_the_whole(drawn: tuple[Tail, list[str]], sliding_window: int | None) -> None:
    tail, _ = drawn
    every = np.arange(len(tail.ids))
    whole = tail.bias(every, np.arange(0), sliding_window)
    behind = np.arange(tail.prefix)
    fixed = np.concatenate((behind, tail.prefix + tail.fixed))
    np.testing.assert_array_equal(tail.fixed_bias(sliding_window), whole[tail.fixed][:, fixed])
    np.testing.assert_array_equal(tail.query_bias(sliding_window), whole[tail.query, : tail.prefix + tail.query.stop])


@given(tails())
def test_fixed_tokens_and_the_query_are_all_tokens(drawn: tuple[Tail, list[str]]) -> None:
    tail, owners = drawn
    query = np.arange(len(tail.ids))[tail.query]
    assert sorted([*tail.fixed, *query]) == list(range(len(owners)))
    assert {owners[at] for at in query} == {"variant 0"}
    assert tail.counted.tolist() == [at for at in range(len(owners)) if tail.rows[0, at]]


def test_what_is_fixed_depends_on_no_query() -> None:
    none, behind = np.array([7, 8], dtype=np.int32), (4, 5)

    def key(query: list[int], position: int = 20) -> bytes:
        asked = (np.array(query, dtype=np.int32), none)
        return make_tail((1, 2), asked, behind, position, 3, QUERY_GROUPS).fixed_key

    assert key([10]) == key([11, 12, 13]) != key([10], 21)


def test_rows_are_what_their_names_say() -> None:
    asked = (np.array([10, 11, 12], dtype=np.int32), np.array([20], dtype=np.int32))
    whole = make_tail((1, 2), asked, (5,), 30, 4, ROW_GROUPS)
    assert whole.ids.tolist() == [1, 2, 10, 11, 12, 5, 20, 5]
    assert whole.positions.tolist() == [30, 31, 32, 33, 34, 35, 32, 33]
    by_name = dict(zip(ROW_GROUPS, whole.rows, strict=True))
    np.testing.assert_allclose(by_name["tail"], [1 / 6] * 6 + [0] * 2)
    np.testing.assert_allclose(by_name["tail N/A"], [1 / 4, 1 / 4, 0, 0, 0, 0, 1 / 4, 1 / 4])
    np.testing.assert_allclose(by_name["query"], [0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0])
    np.testing.assert_allclose(by_name["query N/A"], [0] * 6 + [1, 0])
    # What stands behind the query is left out where nobody reads its rows.
    less = make_tail((1, 2), asked, (5,), 30, 4, QUERY_GROUPS)
    assert less.ids.tolist() == [1, 2, 10, 11, 12, 20]
    turned = make_tail((1, 2), asked, (5,), 30, 4, QUERY_GROUPS[::-1])
    np.testing.assert_array_equal(turned.rows, less.rows[::-1])


@pytest.mark.parametrize("group", ROW_GROUPS)
def test_a_group_s_weights_sum_up_to_one(group: str) -> None:
    asked = (np.arange(5, dtype=np.int32), np.arange(2, dtype=np.int32))
    rows = make_tail((1,), asked, (9, 9), 0, 0, [group]).rows  # type: ignore[list-item]
    assert rows.sum() == pytest.approx(1)


@given(st.integers(0, 3), st.integers(1, 4), st.integers(0, 3))
def test_an_instruction_stands_before_the_query_alone_and_no_row_counts_it(told: int, asked: int, after: int) -> None:
    ids = iter(range(100, 200))
    shared, instruction, query, behind = ([next(ids) for _ in range(n)] for n in (2, told, asked, after))
    pair = (np.array(query, dtype=np.int32), np.array([7, 8], dtype=np.int32))
    plain = make_tail(shared, pair, behind, 5, 3, ROW_GROUPS)
    tail = make_tail(shared, pair, behind, 5, 3, ROW_GROUPS, instruction)
    assert tail.ids.tolist() == [*shared, *instruction, *query, *behind, 7, 8, *behind]
    assert tail.instruction == told
    of_instruction = np.zeros(len(tail.ids), dtype=bool)
    of_instruction[2 : 2 + told] = True
    assert not tail.rows[:, of_instruction].any()
    np.testing.assert_array_equal(tail.rows[:, ~of_instruction], plain.rows)
    # "N/A" stands, and is read, as if there were none.
    np.testing.assert_array_equal(tail.positions[tail.variants == 1], plain.positions[plain.variants == 1])
    np.testing.assert_array_equal(tail.fixed_bias(None), plain.fixed_bias(None))


def test_an_instruction_in_the_layout_solo() -> None:
    query, instruction = np.array([5, 6], dtype=np.int32), np.array([1, 2, 3], dtype=np.int32)
    tail = solo_tail(9, query, 4, QUERY_GROUPS, instruction)
    assert tail.ids.tolist() == [9, 1, 2, 3, 5, 6]
    assert tail.rows.tolist() == [[0, 0, 0, 0, 0.5, 0.5], [1, 0, 0, 0, 0, 0]]
    assert solo_tail(9, query, 4, QUERY_GROUPS).instruction == 0
