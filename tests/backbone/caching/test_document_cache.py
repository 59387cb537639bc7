"""The document cache: bounded, counted, least recently used out first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from connector.backbone.caching.document_cache import DocumentCache
from connector.backbone.prompt.passages import passage_key


@dataclass(frozen=True)
class Sized:
    """States of a known size."""

    nbytes: int
    tokens: int = 1

    def to_bytes(self) -> bytes:
        return (b"states" * self.nbytes)[: self.nbytes]


def test_hits_misses_and_evictions_are_counted() -> None:
    cache = DocumentCache(100)
    first, second, third = (passage_key("f", np.array([number], dtype=np.int32)) for number in range(3))
    assert cache.get(first) is None
    cache.put(first, Sized(60))
    cache.put(second, Sized(40))
    assert cache.get(first) == Sized(60)
    cache.put(third, Sized(40))
    # The second was used longest ago.
    assert cache.get(second) is None and cache.get(first) is not None and cache.get(third) is not None
    found = cache.statistics()
    assert (found.hits, found.misses, found.evictions, found.entries, found.bytes) == (3, 2, 1, 2, 100)
    cache.clear()
    assert cache.statistics().entries == 0 and cache.statistics().hits == 3


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 70)), max_size=60), st.integers(0, 100))
def test_the_bound_always_holds(puts: list[tuple[int, int]], limit: int) -> None:
    cache = DocumentCache(limit)
    for number, size in puts:
        cache.put(passage_key("f", np.array([number], dtype=np.int32)), Sized(size))
        assert cache.statistics().bytes <= limit


def test_keys_tell_namespaces_and_texts_apart() -> None:
    keys = {
        passage_key(name, np.array(ids, dtype=np.int32))
        for name in ("a", "b")
        for ids in ([], [1], [1, 2], [2, 1], [12])
    }
    assert len(keys) == 10
