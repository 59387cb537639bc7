"""A bounded cache that counts what it knew."""

from __future__ import annotations

from connector.backbone.caching.counted_cache import CountedCache


def test_bounded_counted_and_least_recently_used_out_first() -> None:
    cache: CountedCache[str, bytes] = CountedCache(10, len)
    cache.put("a", b"123456")
    cache.put("b", b"1234")
    assert cache.get("a") == b"123456"
    cache.put("c", b"1234")
    cache.put("larger than all", b"x" * 11)
    assert [cache.get(key) for key in ("b", "c", "larger than all")] == [None, b"1234", None]
    assert cache.lookups() == (2, 2)
    found = cache.statistics()
    assert (found.hits, found.misses, found.entries, found.bytes, found.limit) == (2, 2, 2, 10, 10)


def test_what_is_forgotten_is_a_miss_and_the_counts_stay() -> None:
    cache: CountedCache[str, bytes] = CountedCache(10, len)
    cache.put("a", b"1")
    assert cache.get("a") == b"1"
    cache.clear()
    assert cache.get("a") is None and len(cache) == 0
    assert cache.lookups() == (1, 1)


def test_what_is_empty_is_kept_like_anything_else() -> None:
    cache: CountedCache[str, bytes] = CountedCache(10, len)
    cache.put("a", b"")
    assert cache.get("a") == b""
    assert cache.lookups() == (1, 0)
