"""Seconds a query of the rows of a report, with the real reranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from connector.backbone.reader import Reader
from connector.evaluation.collections import Collection
from connector.evaluation.report import System
from connector.evaluation.running import FUSED, POOL, Windows, seconds_per_query
from connector.heads.head_sets import HeadSet
from connector.heads.readouts import ReadOut
from connector.reranker import Reranker
from connector.routing.bundle import Bundle
from connector.routing.selection import Routes

__all__ = ["with_seconds"]


def with_seconds(
    found: Sequence[System],
    reader: Reader,
    router: Bundle | None,
    collection: Collection,
    windows: Windows,
    queries: int,
) -> list[System]:
    """The rows with the seconds of reranking a window.

    Controls cost what the router costs; fusing costs nothing that could be measured, so that a row and its fused twin
    share a time.

    Args:
        found: rows; those that no reranker can make again keep their empty times.
        reader: the LLM; its document cache is cleared for each row.
        router: of the row ``routed``.
        collection, windows: the queries; the first of them are timed.
        queries: how many.
    """
    timed = list(found)
    for at, row in enumerate(found):
        if row.readout is None or row.name.endswith(FUSED):
            continue
        reranker = _reranker(row, reader, router)
        if reranker is None:
            continue
        reader.clear_cache()
        seconds = seconds_per_query(reranker.rerank, collection, windows, queries)
        if seconds is not None:
            for twin in (at, at + 1):
                timed[twin] = replace(timed[twin], seconds_per_query=seconds[0], seconds_cached=seconds[1])
    return timed


def _reranker(row: System, reader: Reader, router: Bundle | None) -> Reranker | None:
    fields = ("title", "text")
    if row.readout == POOL:
        if router is None or row.name not in ("routed", "static"):
            return None
        if row.name == "routed":
            return Reranker(reader, Routes(reader, "routed", {}, router), fields=fields)
        return Reranker(reader, Routes(reader, "static", {"static": router.static_route()}), fields=fields)
    heads = reader.runtime.shape.all_heads() if row.head_list is None else row.head_list
    return Reranker(reader, HeadSet(heads, 1.0), readout=cast(ReadOut, row.readout), fields=fields)
