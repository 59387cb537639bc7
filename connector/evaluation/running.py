"""One pass of the LLM over a collection's windows, and every way of ranking made from it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from connector.documents import Hit
from connector.embedding.hybrid import PEER_WEIGHT, known_scores
from connector.errors import DataError
from connector.evaluation.collections import Collection
from connector.evaluation.measures import MEASURES, Bin, PerQuery, mean, per_query, reliability
from connector.evaluation.report import FIRST_STAGE, System, make_system
from connector.evaluation.routed_systems import RoutedBy, Table, route_ranking, route_summary, route_values
from connector.heads.fusion import fuse
from connector.heads.head_sets import HeadSet, StaticHeads
from connector.routing.selection import fixed_route
from connector.sections import READOUTS, ReadOut
from connector.statistics.head_tables import HeadTable
from connector.statistics.signal_tables import SignalTable

__all__ = [
    "FUSED",
    "AnyTable",
    "POOL",
    "Ranked",
    "all_heads",
    "drawn_queries",
    "measures_of",
    "peer_systems",
    "reliability_of",
    "seconds_per_query",
    "shuffled",
    "signal_systems",
    "systems",
    "window_recall",
]

FUSED = f"+{FIRST_STAGE}"
POOL = "pool"
"""Stands for the read-out in systems of a router, whose pool says how each head is read."""
_SIZES = (5, 10, 20, 50, 100)
Windows = Mapping[str, Sequence[Hit]]
AnyTable = TypeVar("AnyTable", HeadTable, SignalTable)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A system, and what it was made of.

    Attributes:
        system: for the report.
        values: measure -> query -> value; the mean over draws, where there are several.
        rankings: query -> document ids, best first; of the first draw.
        by_window: number of hits that are reranked, the others behind them as they were -> mean nDCG@10. Only where
            a document's score is the same in every window; else empty.
    """

    system: System
    values: Mapping[str, PerQuery]
    rankings: Mapping[str, Sequence[str]]
    by_window: Mapping[int, float] = field(default_factory=dict)


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


def shuffled(windows: Windows, seed: int) -> dict[str, Sequence[Hit]]:
    """The windows in random order, as the LLM is to see them where their order must not leak."""
    found: dict[str, Sequence[Hit]] = {}
    for query, hits in windows.items():
        order = list(hits)
        random.Random(f"{seed}:{query}").shuffle(order)
        found[query] = order
    return found


def systems(
    collection: Collection,
    windows: Windows,
    tables: Iterable[HeadTable],
    static: StaticHeads | None,
    seed: int = 0,
    *,
    ways: Sequence[RoutedBy] = (),
    every_head: bool = True,
    static_systems: bool = True,
) -> list[Ranked]:
    """First stage, all heads as in ICR, the static heads of each read-out, and a router's ways, alone and fused.

    Args:
        collection: queries and judgments.
        windows: first-stage hits of every query.
        tables: head statistics of the queries whose window has any text; their documents may stand in another order.
        static: static head sets; None: none.
        seed: of the paired tests.
        ways: see ``routed_by``.
        every_head: whether the tables hold all heads.
        static_systems: whether the static sets are systems (else they only say how all heads are fused).

    Raises:
        DataError: a table is not of the window it should be of, or a ranking is not of the window's documents.
    """
    by_query = _by_query(windows, tables)
    found = [_first_stage(collection, windows)]
    plain = found[0].values

    def add(name: str, readout: ReadOut, heads: HeadSet, read: Sequence[tuple[int, int]] | None) -> None:
        for suffix, fused in (("", False), (FUSED, True)):
            rankings = {}
            for query, hits in windows.items():
                table = by_query.get(query)
                ids = [hit.id for hit in hits]
                if table is not None:
                    pairs = table.shape[0] * table.shape[1] if read is None else None
                    members = read if pairs is None else [divmod(at, table.shape[1]) for at in range(pairs)]
                    own = HeadSet(tuple((a, b) for a, b in members or ()), heads.weight, heads.scales)
                    ids = route_ranking(hits, table, fixed_route(own, readout), fused=fused)
                rankings[query] = ids
            values = measures_of(collection, windows, rankings)
            system = make_system(
                f"{name}{suffix}",
                values,
                plain,
                readout=readout,
                heads=None if read is None else len(read),
                head_list=read,
                weight=heads.weight if suffix else None,
                seed=seed,
            )
            found.append(Ranked(system, values, rankings))

    if every_head:
        add("all", "icr", all_heads(static, "icr"), None)
    # The published read-out first.
    for readout in sorted(READOUTS, key=lambda name: name != "icr"):
        if static is not None and static_systems and readout in static.sets:
            add("static", readout, static.sets[readout], static.sets[readout].heads)
    found.extend(_routed_systems(collection, windows, by_query, ways, plain, seed))
    return found


def signal_systems(
    collection: Collection, windows: Windows, tables: Iterable[SignalTable], ways: Sequence[RoutedBy], seed: int = 0
) -> list[Ranked]:
    """First stage, and the ways of ranking by signals of documents that were read alone; each alone and fused.

    Args:
        collection, windows, seed: see ``systems``.
        tables: signal statistics of the queries whose window has any text.
        ways: of all queries with a table.

    Raises:
        DataError: see ``systems``.
    """
    first = _first_stage(collection, windows)
    by_query = _by_query(windows, tables)
    found = _routed_systems(collection, windows, by_query, ways, first.values, seed)
    routes = {f"{way.name}{suffix}": (way, bool(suffix)) for way in ways for suffix in ("", FUSED)}
    return [
        first,
        *(
            replace(each, by_window=_by_window(collection, windows, by_query, *routes[each.system.name]))
            for each in found
        ),
    ]


def peer_systems(
    collection: Collection, windows: Windows, name: str, scores: Mapping[str, npt.NDArray[np.float64]], seed: int = 0
) -> list[Ranked]:
    """Another way of scoring the same hits, without the LLM; alone and fused.

    Args:
        collection, windows, seed: see ``systems``.
        name: of the rows.
        scores: of every query: float64 [hits], in their order.
    """
    plain = _first_stage(collection, windows).values
    found = []
    for weight in (None, PEER_WEIGHT):
        rankings = {}
        for query, hits in windows.items():
            first = None if weight is None else known_scores(hits)
            final = fuse(scores[query], first, weight or "none") if hits else scores[query]
            rankings[query] = [hits[at].id for at in np.argsort(-final, kind="stable")]
        values = measures_of(collection, windows, rankings)
        label = name if weight is None else f"{name}{FUSED}"
        found.append(Ranked(make_system(label, values, plain, weight=weight, seed=seed), values, rankings))
    return found


def _by_query(windows: Windows, tables: Iterable[AnyTable]) -> dict[str, AnyTable]:
    found = {table.query_id: table for table in tables}
    for query, table in found.items():
        if sorted(table.ids) != sorted(hit.id for hit in windows[query]):
            raise DataError(f"the statistics of query {query} are of another window; remove them and run again")
    return found


def _first_stage(collection: Collection, windows: Windows) -> Ranked:
    as_found = {query: [hit.id for hit in hits] for query, hits in windows.items()}
    plain = measures_of(collection, windows, as_found)
    return Ranked(make_system(FIRST_STAGE, plain), plain, as_found)


def _routed_systems(
    collection: Collection,
    windows: Windows,
    tables: Mapping[str, Table],
    ways: Sequence[RoutedBy],
    plain: Mapping[str, PerQuery],
    seed: int,
) -> list[Ranked]:
    first_draws: dict[tuple[str, bool], Mapping[str, Sequence[str]]] = {}
    measured: dict[tuple[str, bool], dict[str, PerQuery]] = {}
    for way in ways:
        for fused in (False, True):
            draws = []
            for routes in way.draws:
                rankings = {
                    query: route_ranking(hits, tables[query], routes[query], fused=fused)
                    if query in tables
                    else [hit.id for hit in hits]
                    for query, hits in windows.items()
                }
                first_draws.setdefault((way.name, fused), rankings)
                draws.append(measures_of(collection, windows, rankings))
            measured[way.name, fused] = {
                measure: {query: sum(draw[measure][query] for draw in draws) / len(draws) for query in plain[measure]}
                for measure in MEASURES
            }
    found = []
    for way in ways:
        static = way.name == "static"
        lists = {route.heads for routes in way.draws for route in routes.values()}
        for fused in (False, True):
            others = {"routed": ("static", "permuted")}.get(way.name, () if static else ("static",))
            system = make_system(
                f"{way.name}{FUSED if fused else ''}",
                measured[way.name, fused],
                plain,
                readout=POOL,
                heads=len(next(iter(lists))) if len(lists) == 1 else None,
                head_list=next(iter(lists)) if len(lists) == 1 else None,
                weight=None,
                seed=seed,
                against={
                    other: measured[other, fused][MEASURES[0]] for other in others if (other, fused) in measured
                },
                route=route_summary(way.draws),
                reliability=_reliability(collection, windows, tables, way, fused=fused),
            )
            found.append(Ranked(system, measured[way.name, fused], first_draws[way.name, fused]))
    return found


def _by_window(
    collection: Collection, windows: Windows, tables: Mapping[str, Table], way: RoutedBy, fused: bool
) -> dict[int, float]:
    largest = max(map(len, windows.values()), default=0)
    found = {}
    for size in sorted({*(own for own in _SIZES if own < largest), largest} - {0}):
        rankings = {}
        for query, hits in windows.items():
            ids, table = [hit.id for hit in hits], tables.get(query)
            texts = (
                set()
                if table is None
                else {own for own, read in zip(table.ids, table.documents, strict=True) if read}
            )
            # Where none of them has a text, nothing is reranked.
            if table is not None and texts & set(ids[:size]):
                ids[:size] = route_ranking(hits[:size], table, way.draws[0][query], fused=fused)
            rankings[query] = ids
        found[size] = mean(measures_of(collection, windows, rankings)[MEASURES[0]])
    return found


def _reliability(
    collection: Collection, windows: Windows, tables: Mapping[str, Table], way: RoutedBy, *, fused: bool
) -> tuple[Bin, ...]:
    """Of scores that stand for odds of relevance; none of others."""
    values = {}
    for query, route in way.draws[0].items():
        if route.absolute is None:
            return ()
        values[query] = route_values(windows[query], tables[query], route, fused=fused)
    return reliability_of(collection, windows, values)


def reliability_of(
    collection: Collection, windows: Windows, values: Mapping[str, npt.NDArray[np.float64]]
) -> tuple[Bin, ...]:
    """Told probabilities beside what came true; what nobody judged counts as not relevant.

    Args:
        collection, windows: see ``systems``.
        values: query -> float64 [hits]: log-odds, in the order of its window.
    """
    told = [value for by_hit in values.values() for value in by_hit.tolist()]
    true = [
        collection.qrels[query].get(hit.id, 0) >= collection.relevant_from
        for query in values
        for hit in windows[query]
    ]
    return reliability(told, true) if told else ()


def all_heads(static: StaticHeads | None, readout: ReadOut) -> HeadSet:
    """How all heads together are fused with the first stage (their list is the backbone's)."""
    return HeadSet((), static.all_weights.get(readout, 1.0) if static else 1.0)


def window_recall(collection: Collection, windows: Windows) -> float:
    """Share of the relevant documents that the windows hold, mean over queries; no ranking changes it."""
    shares = []
    for query, grades in collection.qrels.items():
        relevant = {identity for identity, grade in grades.items() if grade >= collection.relevant_from}
        if relevant:
            shares.append(len(relevant & {hit.id for hit in windows.get(query, ())}) / len(relevant))
    return sum(shares) / len(shares) if shares else 0.0


def measures_of(
    collection: Collection, windows: Windows, rankings: Mapping[str, Sequence[str]]
) -> dict[str, PerQuery]:
    """The measures of every query, by a ranking of its window.

    Raises:
        DataError: a ranking is not of the window's documents.
    """
    for query, ids in rankings.items():
        # What is not in the window cannot come in, and nothing may get lost: else recall would change.
        if sorted(ids) != sorted(hit.id for hit in windows[query]):
            raise DataError(f"a ranking of query {query} is not of its window's documents; this is a defect")
    return per_query(MEASURES, collection.qrels, rankings, collection.relevant_from)


def seconds_per_query(
    rerank: Callable[[str, Sequence[Hit]], object], collection: Collection, windows: Windows, queries: int
) -> tuple[float, float] | None:
    """Seconds of reranking a window, median over some queries: documents new, and documents cached.

    Args:
        rerank: the reranker; its document cache must not know these documents yet.
        collection, windows: see ``systems``.
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
