"""Passages: cut evenly, remembered within a bound that counts what they take, told apart by their ids."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.prompt.passages import Passages, passage_key, split_text
from connector.backbone.prompt.tokenizer import EncodedText, Tokenizer
from connector.checkpoints.checkpoint import Checkpoint

ids = st.lists(st.integers(0, 300_000), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def tokenizer(smollm2: Checkpoint) -> Tokenizer:
    return Tokenizer.from_folder(smollm2.path)


class Counting(Tokenizer):
    """The real tokenizer, and how many texts it was given."""

    texts = 0

    def encode_user(self, texts: list[str]) -> list[EncodedText]:  # type: ignore[override]
        self.texts += len(texts)
        return super().encode_user(texts)


def encoded(tokens: list[int]) -> EncodedText:
    return EncodedText(np.array(tokens, dtype=np.int32), tuple((3 * at, 3 * at + 2) for at in range(len(tokens))))


@given(ids, st.integers(1, 6), st.integers(1, 4))
def test_nothing_is_lost_and_parts_are_even(tokens: list[int], budget: int, most: int) -> None:
    text = encoded(tokens)
    split = split_text(text, budget, most)
    kept = min(len(tokens), budget * most)
    assert np.concatenate([passage.ids for passage in split.passages]).tolist() == text.ids[:kept].tolist()
    assert sum((passage.offsets for passage in split.passages), ()) == text.offsets[:kept]
    assert split.truncated == (kept < len(tokens))
    sizes = [passage.tokens for passage in split.passages]
    assert len(sizes) <= most and max(sizes) <= budget and max(sizes) - min(sizes) <= 1
    last = split.passages[-1]
    assert last.key("a") == passage_key("a", last.ids) and last.key("b") == passage_key("b", last.ids)


@given(st.lists(ids, min_size=2, max_size=2))
def test_passages_are_equal_where_their_ids_are(pair: list[list[int]]) -> None:
    first, second = (split_text(encoded(each), 32, 1).passages[0] for each in pair)
    assert (first.content == second.content) == (pair[0] == pair[1])
    assert np.frombuffer(first.content, dtype=np.int32).tolist() == pair[0]


def test_a_text_is_tokenized_once(smollm2: Checkpoint, cats: list[str]) -> None:
    counting = Counting.from_folder(smollm2.path)
    assert isinstance(counting, Counting)
    passages = Passages(counting, 512, 8, 1_000_000)
    first = passages.of([*cats, cats[0], ""])
    assert counting.texts == len(cats) + 1
    again = passages.of([cats[0], "new", *cats[::-1]])
    assert counting.texts == len(cats) + 2
    assert again[0].passages[0] is first[0].passages[0] and not first[-1].passages
    passages.clear()
    assert passages.nbytes == 0
    passages.of(cats)
    assert counting.texts == 2 * len(cats) + 2


def test_texts_that_differ_behind_what_is_read_are_the_same_passages(tokenizer: Tokenizer) -> None:
    passages = Passages(tokenizer, 8, 1, 1_000_000)
    whole, longer = passages.of(["x" * 512, "x" * 512 + " and more"])
    assert whole.passages[0] is longer.passages[0] and longer.truncated


@pytest.mark.parametrize("limit", [0, 20_000])
def test_the_bound_holds_and_what_is_left_out_is_right(tokenizer: Tokenizer, limit: int) -> None:
    passages, free = Passages(tokenizer, 16, 4, limit), Passages(tokenizer, 16, 4, 10_000_000)
    texts = [f"document {number} has {number * number} words of its own " * (number % 9) for number in range(100)]
    for start in range(0, 100, 30):
        for got, wanted in zip(passages.of(texts[start:]), free.of(texts[start:]), strict=True):
            assert [part.content for part in got.passages] == [part.content for part in wanted.passages]
        assert passages.nbytes <= limit


@pytest.mark.slow
@pytest.mark.parametrize("words", [3, 150, 2000])
def test_what_is_counted_is_what_is_taken(tokenizer: Tokenizer, words: int) -> None:
    passages = Passages(tokenizer, 512, 8, 100_000_000)
    passages.of(["warm up"])
    generator = np.random.default_rng(0)
    gc.collect()
    tracemalloc.start()
    before = passages.nbytes
    passages.of([" ".join(map(str, generator.integers(0, 99_999, words))) for _ in range(max(20, 6000 // words))])
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.75 * taken <= passages.nbytes - before <= 1.5 * taken
