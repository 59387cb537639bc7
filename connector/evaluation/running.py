"""One pass of the LLM over a collection's windows, and every way of ranking made from it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from connector.documents import Hit
from connector.errors import DataError
from connector.evaluation.collections import Collection
from connector.evaluation.measures import MEASURES, PerQuery, per_query
from connector.evaluation.report import FIRST_STAGE, Row, make_row
from connector.heads.fusion import fuse
from connector.heads.head_sets import HeadSet, StaticHeads
from connector.heads.readouts import READOUTS, ReadOut
from connector.routing.statistics import HeadTable, first_stage_scores

__all__ = ["FUSED", "all_heads", "drawn_queries", "rows", "seconds_per_query"]

FUSED = f"+{FIRST_STAGE}"
Windows = Mapping[str, Sequence[Hit]]


def drawn_queries(collection: Collection, limit: int | None, seed: int) -> Collection:
    """The collection with at most ``limit`` of its queries, drawn with the seed, in the order of their ids."""
    ids = sorted(collection.queries)
    if limit is not None and limit < len(ids):
        ids = sorted(random.Random(seed).sample(ids, limit))
    return replace(
        collection,
        queries={query: collection.queries[query] for query in ids},
        qrels={query: collection.qrels[query] for query in ids},
    )


def rows(
    collection: Collection, windows: Windows, tables: Iterable[HeadTable], static: StaticHeads | None, seed: int = 0
) -> list[Row]:
    """First stage, all heads as in ICR, and the static heads of each read-out, each alone and fused.

    Args:
        collection: queries and judgments.
        windows: first-stage hits of every query.
        tables: head statistics of the queries whose window has any text.
        static: static head sets; None: only first stage and all heads.
        seed: of the paired tests.

    Raises:
        DataError: a table is not of the window it should be of.
    """
    by_query = {table.query_id: table for table in tables}
    for query, table in by_query.items():
        if table.ids != tuple(hit.id for hit in windows[query]):
            raise DataError(f"the head statistics of query {query} are of another window; remove them and run again")
    plain = _measured(collection, {query: [hit.id for hit in hits] for query, hits in windows.items()})
    found = [make_row(FIRST_STAGE, plain)]

    def add(name: str, readout: ReadOut, heads: HeadSet, read: Sequence[tuple[int, int]] | None) -> None:
        for suffix, method in (("", "none"), (FUSED, heads.weight)):
            rankings = {
                query: _ranking(hits, by_query.get(query), readout, heads, read, method)
                for query, hits in windows.items()
            }
            values = _measured(collection, rankings)
            found.append(
                make_row(
                    f"{name}{suffix}",
                    values,
                    plain,
                    readout=readout,
                    heads=None if read is None else len(read),
                    head_list=read,
                    weight=heads.weight if suffix else None,
                    seed=seed,
                )
            )

    add("all", "icr", all_heads(static, "icr"), None)
    # The published read-out first.
    for readout in sorted(READOUTS, key=lambda name: name != "icr"):
        if static is not None and readout in static.sets:
            add("static", readout, static.sets[readout], static.sets[readout].heads)
    return found


def all_heads(static: StaticHeads | None, readout: ReadOut) -> HeadSet:
    """How all heads together are fused with the first stage (their list is the backbone's)."""
    return HeadSet((), static.all_weights.get(readout, 1.0) if static else 1.0)


def _measured(collection: Collection, rankings: Mapping[str, Sequence[str]]) -> dict[str, PerQuery]:
    return per_query(MEASURES, collection.qrels, rankings, collection.relevant_from)


def _ranking(
    hits: Sequence[Hit],
    table: HeadTable | None,
    readout: ReadOut,
    heads: HeadSet,
    read: Sequence[tuple[int, int]] | None,
    method: str | float,
) -> list[str]:
    ids = [hit.id for hit in hits]
    if table is None:
        return ids
    scores = fuse(table.head_scores(readout, read, heads.scales), first_stage_scores(table), method)
    return [ids[at] for at in np.argsort(-scores, kind="stable")]


def seconds_per_query(
    rerank: Callable[[str, Sequence[Hit]], object], collection: Collection, windows: Windows, queries: int
) -> tuple[float, float] | None:
    """Seconds of reranking a window, median over some queries: documents new, and documents cached.

    Args:
        rerank: the reranker; its document cache must not know these documents yet.
        collection, windows: see ``rows``.
        queries: how many are timed; 0: none.
    """
    chosen = [query for query, hits in windows.items() if hits][:queries]
    if not chosen:
        return None
    new: list[float] = []
    cached: list[float] = []
    for query in chosen:
        for times in (new, cached):
            started = time.perf_counter()
            rerank(collection.queries[query], windows[query])
            times.append(time.perf_counter() - started)
    return float(np.median(new)), float(np.median(cached))
