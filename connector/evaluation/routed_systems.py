"""Rankings by a router, and the controls without which its numbers say nothing.

* ``random``: as many random members of the pool as the router uses.
* ``static``: the set that the router was made around, of the router's size.
* ``routed``: the router.
* ``permuted``: the router with the embedding of another query of the same collection: what stays is no routing.
* ``left-out``: a router trained without this collection.

Random and permuted systems are means over several draws, query by query.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from connector.documents import Hit
from connector.heads.fusion import fuse
from connector.heads.readouts import HeadSignal
from connector.heads.routes import Route, route_scores
from connector.heads.scoring import below
from connector.heads.signals import Signal
from connector.routing.metadata import RouterMetadata
from connector.routing.query_embedding import QueryEmbedding
from connector.statistics.head_tables import HeadTable, embedding_of, first_stage_scores

__all__ = [
    "DRAWS",
    "RoutedBy",
    "SupportsRoute",
    "Table",
    "derangement",
    "fused_values",
    "head_values",
    "route_ranking",
    "route_summary",
    "route_values",
    "routed_by",
    "trained_on",
]

DRAWS = 5
Routes = Mapping[str, Route]
Floats = npt.NDArray[np.float64]


class Table(Protocol):
    """What rankings are made of: a window's signals, in any order of its documents."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Document ids."""
        ...

    @property
    def first_stage(self) -> npt.NDArray[np.float64]:
        """float64 [documents]: first-stage scores; NaN where unknown."""
        ...

    @property
    def documents(self) -> tuple[tuple[int, ...], ...]:
        """For each document, its passages."""
        ...

    def signal_scores(self, signals: Sequence[Signal]) -> npt.NDArray[np.float64]:
        """float64 [signals, passages]."""
        ...


class SupportsRoute(Protocol):
    """What is asked of a loaded bundle: see ``Bundle``."""

    def route(self, embedding: npt.NDArray[np.float32]) -> Route:
        """The heads of one query."""
        ...

    def static_route(self) -> Route:
        """The heads of every query without routing."""
        ...


@dataclass(frozen=True)
class RoutedBy:
    """The routes of every query with a table, for each way of choosing; several where draws are averaged.

    Attributes:
        name: of the system.
        draws: query -> route, one for each draw.
    """

    name: str
    draws: tuple[Routes, ...]


def routed_by(
    router: SupportsRoute,
    pool: Sequence[HeadSignal],
    scales: Sequence[float],
    embedding: QueryEmbedding,
    tables: Mapping[str, HeadTable],
    layers: int,
    seed: int,
    *,
    controls: bool = True,
    name: str = "routed",
) -> list[RoutedBy]:
    """Routes of a router and of its controls, in the order of the report.

    Args:
        router: a loaded bundle.
        pool, scales, embedding: of its metadata.
        tables: query -> its head statistics, with embeddings.
        layers: decoder layers of the LLM.
        seed: of what is drawn.
        controls: also random, static and permuted.
        name: of the router's own way.
    """
    vectors = {query: embedding_of(table, embedding, layers) for query, table in tables.items()}
    own = {query: router.route(vector) for query, vector in vectors.items()}
    if not controls:
        return [RoutedBy(name, (own,))]
    fixed = router.static_route()
    scale = dict(zip(pool, scales, strict=True))

    def drawn(query: str, draw: int) -> Route:
        signals = random.Random(f"{seed}:{query}:{draw}").sample(list(pool), len(own[query].signals))
        own_scales = tuple(scale[signal] for signal in signals)
        return Route(tuple(signals), (1.0,) * len(signals), fixed.first_stage_gate, own_scales)

    others = []
    for draw in range(DRAWS if len(vectors) > 1 else 0):
        exchanged = derangement(sorted(vectors), seed + draw)
        others.append({query: own[exchanged[query]] for query in own})
    found = [
        RoutedBy("random", tuple({query: drawn(query, draw) for query in own} for draw in range(DRAWS))),
        RoutedBy("static", (dict.fromkeys(own, fixed),)),
        RoutedBy(name, (own,)),
    ]
    return [*found, RoutedBy("permuted", tuple(others))] if others else found


def derangement(queries: Sequence[str], seed: int) -> dict[str, str]:
    """Another query for each: one random cycle, so that none keeps its own. At least two queries."""
    order = list(queries)
    random.Random(seed).shuffle(order)
    return dict(zip(order, [*order[1:], order[0]], strict=True))


def route_ranking(hits: Sequence[Hit], table: Table, route: Route, *, fused: bool) -> list[str]:
    """Document ids as this route ranks them; ties keep first-stage order.

    Args:
        hits: the window in first-stage order.
        table: its head statistics, in any order of the documents.
        route: the heads.
        fused: with the first stage.
    """
    return [hits[at].id for at in np.argsort(-route_values(hits, table, route, fused=fused), kind="stable")]


def route_values(hits: Sequence[Hit], table: Table, route: Route, *, fused: bool) -> Floats:
    """The scores that a route ranks by: float64 [hits], in their order. See ``route_ranking``."""
    return fused_values(hits, table, route, head_values(hits, table, route)[0], fused=fused)


def head_values(hits: Sequence[Hit], table: Table, route: Route) -> tuple[Floats, list[bool]]:
    """Head scores: float64 [hits], in their order; and of each hit whether it has text. See ``route_ranking``."""
    documents = [table.documents[at] for at in _places(hits, table)]
    scores, _ = route_scores(route, table.signal_scores(route.signals), documents)
    return scores, [bool(passages) for passages in documents]


def fused_values(hits: Sequence[Hit], table: Table, route: Route, heads: Floats, *, fused: bool) -> Floats:
    """Head scores as hits are ranked by them: float64 [hits]. See ``route_ranking``.

    Args:
        hits, table, route, fused: see there.
        heads: float64 [hits]: see ``head_values``.
    """
    # Ranks stand for first-stage scores that are not known, and ties keep the order: both must be the first stage's,
    # whatever order the LLM saw the documents in.
    order = _places(hits, table)
    final = fuse(
        heads,
        first_stage_scores(table.first_stage[order]) if fused else None,
        route.first_stage_gate if fused else "none",
        None if route.absolute is None else route.absolute.spread,
    )
    # As the reranker does: whatever the first stage says, a document without text goes below those with some.
    empty = [at for at, place in enumerate(order) if not table.documents[place]]
    if empty:
        lowest = below(np.delete(final, empty))
        # Of absolute scores ``final`` is the caller's own array.
        final = final.copy()
        final[empty] = np.minimum(final[empty], lowest)
    return final


def _places(hits: Sequence[Hit], table: Table) -> list[int]:
    """Where each hit stands in the table."""
    place = {identity: at for at, identity in enumerate(table.ids)}
    return [place[hit.id] for hit in hits]


def trained_on(metadata: RouterMetadata, collection: str) -> bool:
    """Whether a router says that queries of this collection were among those it was trained on."""
    sources, left_out = metadata.training.get("sources"), metadata.training.get("left out")
    names = {
        str(each.get("source")).partition(":")[0]
        for each in (sources if isinstance(sources, list) else [])
        if isinstance(each, dict)
    }
    return collection in names and not (isinstance(left_out, list) and collection in left_out)


def route_summary(draws: Sequence[Routes]) -> dict[str, float]:
    """Mean number of heads read and deepest layer, mean and range of the first stage's gate; over all draws."""
    routes = [route for draw in draws for route in draw.values()]
    if not routes:
        return {}
    gates = [route.first_stage_gate for route in routes]
    return {
        "heads": float(np.mean([len(route.heads) for route in routes])),
        "deepest_layer": float(np.mean([route.needs.deepest_head for route in routes])),
        "first_stage_gate": float(np.mean(gates)),
        "lowest_gate": min(gates),
        "highest_gate": max(gates),
    }
