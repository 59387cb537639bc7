"""Worlds of made-up head statistics in which it is known which head is right for which query."""

from __future__ import annotations

import numpy as np

from connector.routing.metadata import EmbeddingRecipe, RouterMetadata, StaticSet
from connector.routing.query_embedding import FEATURES
from connector.sections import READOUTS
from connector.statistics.head_tables import FORMS, HeadTable, embedded_layers
from connector.training.static_heads import TrainQuery

LAYERS, SCORED, HEADS, HIDDEN, DOCUMENTS = 12, 8, 2, 6, 12


def world(
    queries: int, *, depends: bool, seed: int = 0, sources: tuple[str, ...] = ("one", "two")
) -> list[TrainQuery]:
    """Queries of two kinds, which their hidden states tell apart.

    Heads (2, 0) and (2, 1) see which document is relevant: each for one of the kinds only and misled for the other
    where the right head ``depends`` on the query, both equally well where it does not. The others see nothing.
    """
    drawn = np.random.default_rng(seed)
    found = []
    for number in range(queries):
        kind = number % 2
        relevant = int(drawn.integers(DOCUMENTS))
        scores = {name: drawn.standard_normal((SCORED * HEADS, DOCUMENTS)).astype(np.float32) for name in READOUTS}
        other = {name: drawn.standard_normal((SCORED * HEADS, DOCUMENTS)).astype(np.float32) for name in READOUTS}
        for view in (scores, other):
            for head in (0, 1):
                strength = (3.0 if head == kind else -1.0) if depends else 1.2
                view["query"][2 * HEADS + head, relevant] += strength
        states = drawn.standard_normal((len(FORMS), len(embedded_layers(LAYERS)), 2, HIDDEN)) * 0.3
        states[..., 0] += 1 if kind else -1
        table = HeadTable(
            f"q{number}",
            tuple(f"d{at}" for at in range(DOCUMENTS)),
            np.sort(drawn.random(DOCUMENTS) + 1)[::-1].astype(np.float64),
            scores,
            tuple((at,) for at in range(DOCUMENTS)),
            (SCORED, HEADS),
            query="cats sleep",
            qrels={f"d{relevant}": 1},
            source=sources[number // 2 % len(sources)],
            other_scores=other,
            embeddings=states.astype(np.float32),
        )
        query = TrainQuery.of(table.source, table, table.qrels)
        assert query is not None
        found.append(query)
    return found


def metadata(**changes: object) -> RouterMetadata:
    """Metadata of a small router: four members, embeddings of 3 + 11 numbers."""
    known: dict[str, object] = {
        "model": "a-model",
        "fingerprint": "a" * 64,
        "layout": "late",
        "template": "b" * 64,
        "pool": ((2, 1, "query"), (2, 1, "share"), (0, 0, "icr"), (5, 3, "query")),
        "scales": (0.5, 1.0, 2.0, 0.25),
        "most_heads": 2,
        "activation": "relu",
        "embedding": EmbeddingRecipe(
            form="query", layers=(3,), pooling="mean", features=True, dimension=3 + len(FEATURES)
        ),
        "kappa": 1.0,
        "deepest_layer": 5,
        "static": StaticSet(members=[3, 0], gates=[0.75, 0.25], first_stage=1.5),
        "training": {"command": "rh-connector train DATA"},
        "gains": {},
        "created_at": "2026-01-31T12:00:00+00:00",
    }
    return RouterMetadata(**(known | changes))  # type: ignore[arg-type]
