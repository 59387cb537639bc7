"""The score cache: the same query over the same documents is read once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.caching.reading_cache import ReadingCache
from connector.backbone.prompt.template import PromptTemplate
from connector.backbone.prompt.tokenizer import Tokenizer
from connector.backbone.reader import Reader
from connector.backbone.reading import Reading
from connector.backbone.runtime import Observations
from connector.backbone.torch_runtime.runtime import TorchRuntime
from connector.checkpoints.checkpoint import Checkpoint
from connector.heads.needs import Needs
from connector.sections import Layout
from tests.backbone.batching.waiting import needs_of

HEADS = ((2, 4), (7, 7))
QUERY = "how long do cats sleep"
Open = Callable[..., Reader]


@pytest.fixture(scope="module")
def open_reader(smollm2: Checkpoint) -> Open:
    runtime = TorchRuntime.load(smollm2.path, device="cpu", dtype="float32")
    tokenizer = Tokenizer.from_folder(smollm2.path)
    template = PromptTemplate.from_folder(smollm2.path, tokenizer)

    def opened(layout: Layout, limit: int) -> Reader:
        return Reader(
            runtime,
            tokenizer,
            template,
            layout,
            smollm2.digest(),
            DocumentCache(200_000_000),
            readings=ReadingCache(limit),
        )

    return opened


def rows(size: int) -> Observations:
    return Observations(np.zeros(size // 4, dtype=np.float32))


def test_bounded_counted_and_least_recently_used_out_first() -> None:
    cache = ReadingCache(100)
    cache.put(b"a", rows(60))
    cache.put(b"b", rows(40))
    assert cache.get(b"a") is not None
    cache.put(b"c", rows(40))
    cache.put(b"d", rows(104))
    assert cache.get(b"b") is None and cache.get(b"d") is None and cache.get(b"c") is not None
    found = cache.statistics()
    assert (found.hits, found.misses, found.entries, found.bytes, found.limit) == (2, 2, 2, 100, 100)
    cache.clear()
    assert cache.statistics().entries == 0


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["solo", "late"])
def test_the_same_query_over_the_same_documents_is_read_once(
    open_reader: Open, layout: Layout, cats: list[str]
) -> None:
    reader = open_reader(layout, 10_000_000)
    first = reader.read(QUERY, cats, needs_of(layout, HEADS))
    again = reader.read(QUERY, [*cats[::-1], cats[0]], needs_of(layout, HEADS))
    assert np.array_equal(first.rows, again.rows) and (again.encoded, again.cached) == (0, len(cats))
    assert again.documents == (*first.documents[::-1], first.documents[0])
    assert reader.reading_statistics().hits == 1
    # Anything else is another reading, and right.
    plain = open_reader(layout, 0)
    others: list[Callable[[Reader], Reading]] = [
        lambda r: r.read("cats", cats, needs_of(layout, HEADS)),
        lambda r: r.read(QUERY, cats[:4], needs_of(layout, HEADS)),
        lambda r: r.read(QUERY, cats, needs_of(layout, HEADS[::-1])),
        lambda r: r.read(QUERY, cats, needs_of(layout, HEADS), pool=needs_of(layout, (*HEADS, (9, 0)))),
        lambda r: r.read(QUERY, cats, needs_of(layout, HEADS), other_wording=True),
    ]
    for other in others:
        assert np.array_equal(other(reader).rows, other(plain).rows)
    assert reader.reading_statistics().hits == 1 and plain.reading_statistics().misses == 0
    reader.clear_cache()
    assert reader.read(QUERY, cats, needs_of(layout, HEADS)).encoded == len(cats)


def test_in_a_joint_prompt_the_order_matters(open_reader: Open, cats: list[str]) -> None:
    reader = open_reader("joint", 10_000_000)
    first = reader.read(QUERY, cats[:2], Needs(HEADS))
    assert not np.array_equal(reader.read(QUERY, cats[1::-1], Needs(HEADS)).rows, first.rows)
    assert np.array_equal(reader.read(QUERY, cats[:2], Needs(HEADS)).rows, first.rows)
    assert reader.reading_statistics().hits == 1


def test_every_cache_in_use_tells_its_look_ups(open_reader: Open) -> None:
    needs = Needs(HEADS)
    for limit in (0, 10_000_000):
        reader = open_reader("late", limit)
        # The runtime is shared by the tests of this file.
        before = reader.lookups()
        for query in (QUERY, QUERY, "why do cats purr"):
            reader.read(query, ["Cats sleep all day.", "Bread needs yeast."], needs)
        found = reader.lookups()
        assert found["texts"] == (4, 2)
        # What the score cache knows is looked up nowhere else.
        assert found["memory"] == ((2, 2) if limit else (4, 2))
        assert ("scores" in found) == bool(limit) and found.get("scores", (1, 2)) == (1, 2)
        assert "disk" not in found
        asked = [sum(found["tails"]) - sum(before["tails"]), sum(found["prefixes"]) - sum(before["prefixes"])]
        assert asked[0] == (2 if limit else 3) and asked[1] >= asked[0]
