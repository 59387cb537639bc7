"""A collection in which the right head depends on the query, and a real bundle that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from connector.documents import Hit
from connector.evaluation.collections import Collection
from connector.evaluation.routed_systems import RoutedBy, routed_by
from connector.heads.head_sets import HeadSet, StaticHeads
from connector.routing.bundle import Bundle
from connector.routing.metadata import EmbeddingRecipe, StaticSet
from connector.routing.query_embedding import FEATURES, QueryEmbedding
from connector.statistics.head_tables import HeadTable
from connector.training.router import Router
from router_export import export
from tests.training.worlds import HIDDEN, LAYERS, metadata, world

QUERIES = 24
STATIC = StaticHeads("a-model", "a" * 64, "late", {"query": HeadSet(((2, 0), (2, 1)), 0.5)}, {"icr": 2.0})


def tables() -> dict[str, HeadTable]:
    """Head statistics of a world in which heads (2, 0) and (2, 1) are each right for one half of the queries."""
    return {query.table.query_id: query.table for query in world(QUERIES, depends=True, seed=3)}


def windows(own: dict[str, HeadTable]) -> dict[str, Sequence[Hit]]:
    """Their first-stage hits, and one query whose window is empty."""
    found: dict[str, Sequence[Hit]] = {
        query: [Hit(identity, score, {}) for identity, score in zip(table.ids, table.first_stage, strict=True)]
        for query, table in own.items()
    }
    return {**found, "none": []}


def collection(own: dict[str, HeadTable]) -> Collection:
    """Their judgments."""
    qrels = {query: table.qrels for query, table in own.items()} | {"none": {"elsewhere": 1}}
    return Collection("a-world", Path(), "test", dict.fromkeys(qrels, "cats"), qrels, frozenset(), "qrels.tsv")


def bundle(path: Path) -> Bundle:
    """A router that looks at the one number which tells the two kinds of queries apart."""
    dimension = HIDDEN + len(FEATURES)
    told = metadata(
        pool=((2, 0, "query"), (2, 1, "query"), (0, 0, "query"), (5, 1, "share")),
        scales=(1.0, 1.0, 1.0, 2.0),
        embedding=EmbeddingRecipe(form="query", layers=(3,), pooling="mean", features=True, dimension=dimension),
        static=StaticSet(members=[0, 1], gates=[1.0, 1.0], first_stage=0.25),
        deepest_layer=5,
    )
    router = Router(dimension, 1, 4, 2)
    with torch.no_grad():
        router.projection[0, 0] = 1.0
        router.head_embeddings[:, 0] = torch.tensor([-1.0, 1.0, 0.0, 0.0, 0.1])
        router.prior.copy_(torch.tensor([0.2, 0.2, -1.0, -1.0, 0.25]))
        router.kappa.fill_(1.0)
    return export(router, told, path).bundle


def ways(own: Bundle, statistics: dict[str, HeadTable], seed: int = 0) -> list[RoutedBy]:
    """The router and its controls on these queries."""
    told = own.metadata
    made = told.embedding
    embedding = QueryEmbedding(made.form, made.layers, made.pooling, made.features)
    return routed_by(own, told.pool, told.scales, embedding, statistics, LAYERS, seed)
