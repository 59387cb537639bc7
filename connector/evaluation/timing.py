"""Seconds a query of the systems of a report, with the real reranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from connector.backbone.reader import Reader
from connector.evaluation.cascaded import CASCADE
from connector.evaluation.collections import Collection
from connector.evaluation.report import System
from connector.evaluation.running import FUSED, POOL, Windows, seconds_per_query
from connector.heads.head_sets import HeadSet
from connector.reranking.cascade import Cascade
from connector.reranking.reranker import Reranker
from connector.routing.bundle import Bundle
from connector.routing.selection import Routes
from connector.sections import ReadOut

__all__ = ["with_seconds"]


def with_seconds(
    found: Sequence[System],
    reader: Reader,
    router: Bundle | None,
    cascade: Cascade | None,
    collection: Collection,
    windows: Windows,
    queries: int,
    fields: Sequence[str],
) -> list[System]:
    """The systems with the seconds of reranking a window.

    Controls cost what the router costs; fusing costs nothing that could be measured, so that a system and its fused
    twin share a time.

    Args:
        found: systems; those that no reranker can make again keep their empty times.
        reader: the LLM; its document cache is cleared for each system.
        router: of the systems ``routed`` and ``cascade``.
        cascade: the second LLM, whose document cache is cleared, too; None: there is none.
        collection, windows: the queries; the first of them are timed.
        queries: how many.
        fields: of the hits that are read; empty: all text fields.
    """
    timed = list(found)
    for at, system in enumerate(found):
        if system.readout is None or system.name.endswith(FUSED):
            continue
        reranker = _reranker(system, reader, router, cascade, fields)
        if reranker is None:
            continue
        reader.clear_cache()
        if reranker.cascade is not None:
            reranker.cascade.reader.clear_cache()
        seconds = seconds_per_query(reranker.rerank, collection, windows, queries)
        if seconds is not None:
            for twin in (at, at + 1):
                timed[twin] = replace(timed[twin], seconds_per_query=seconds[0], seconds_cached=seconds[1])
    return timed


def _reranker(
    system: System, reader: Reader, router: Bundle | None, cascade: Cascade | None, fields: Sequence[str]
) -> Reranker | None:
    if system.readout == POOL:
        if router is None or system.name not in ("routed", "static", CASCADE):
            return None
        if system.name != "static":
            second = cascade if system.name == CASCADE else None
            return Reranker(reader, Routes(reader, "routed", {}, router), fields=fields, cascade=second)
        return Reranker(reader, Routes(reader, "static", {"static": router.static_route()}), fields=fields)
    heads = reader.runtime.shape.all_heads() if system.head_list is None else system.head_list
    return Reranker(reader, HeadSet(heads, 1.0), readout=cast(ReadOut, system.readout), fields=fields)
