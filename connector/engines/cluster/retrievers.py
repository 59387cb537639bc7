"""Elasticsearch's retrievers in a search body: which there are, and how many hits they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Named", "each", "rank_window", "retrievers", "walk"]

Named = tuple[str, Mapping[str, Any]]

_DEEPEST = 40
# Those that combine or order what others find, and where these stand.
_COMPOUND: Mapping[str, tuple[str, ...]] = {
    "rrf": ("retrievers",),
    "linear": ("retrievers",),
    "text_similarity_reranker": ("retriever",),
    "rescorer": ("retriever",),
    "rule": ("retriever",),
    "pinned": ("retriever",),
    "diversify": ("retriever",),
}
# RankBuilder.DEFAULT_RANK_WINDOW_SIZE, and RescorerBuilder.DEFAULT_WINDOW_SIZE.
_DEFAULT_WINDOW = 10


def retrievers(retriever: Any) -> Iterator[Named]:
    """A retriever and those inside it, by name, each before those inside it."""
    return walk(retriever, _COMPOUND)


def rank_window(body: Mapping[str, Any]) -> int | None:
    """How many hits a search can give at most; None: nothing of it says so.

    Elasticsearch refuses a ``size`` over the ``rank_window_size`` of any retriever that has one
    (``CompoundRetrieverBuilder.validate``), and of the older key ``rank``.
    """
    windows = []
    for kind, inner in retrievers(body.get("retriever")):
        if kind == "rescorer":
            windows += [_number(rescorer.get("window_size")) for rescorer in each(inner.get("rescore"))]
        elif kind in _COMPOUND:
            windows.append(_number(inner.get("rank_window_size")))
    rank = body.get("rank")
    for inner in each(list(rank.values())) if isinstance(rank, Mapping) else ():
        windows.append(_number(inner.get("rank_window_size", inner.get("window_size"))))
    return min(windows, default=None)


def walk(named: Any, inside: Mapping[str, tuple[str, ...]], depth: int = 0) -> Iterator[Named]:
    """Clauses or retrievers by name, each before those inside it.

    Args:
        named: an object of them; anything else holds none.
        inside: for each name, the keys under which further ones stand.
        depth: how deep this one is; below a depth that no search has, nothing is looked at.
    """
    if not isinstance(named, Mapping) or depth > _DEEPEST:
        return
    for kind, inner in named.items():
        if not isinstance(inner, Mapping):
            continue
        yield kind, inner
        for name in inside.get(kind, ()):
            for further in each(inner.get(name)):
                # linear and rrf may wrap each of theirs in an object with a weight.
                yield from walk(further.get("retriever", further), inside, depth + 1)


def each(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list, or the one that stands for a list."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, Mapping)]


def _number(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:20])
    return value if isinstance(value, int) and not isinstance(value, bool) else _DEFAULT_WINDOW
