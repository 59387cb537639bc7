"""A router of heads of the real LLM, in a layout that reads heads; its weights are drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from connector.backbone.reader import Reader
from connector.routing.bundle import Bundle
from connector.routing.metadata import EmbeddingRecipe, StaticSet
from connector.routing.query_embedding import FEATURES
from connector.sections import ReadOut
from connector.training.router import Router
from router_export import export
from tests.training.worlds import metadata

__all__ = ["POOL", "STATES", "heads_router", "router_for"]

POOL: tuple[tuple[int, int, ReadOut], ...] = ((15, 6, "query"), (18, 6, "share"), (2, 4, "icr"), (18, 7, "query"))
STATES = 576


def heads_router(path: Path, fingerprint: str, template: str, layout: str = "late", **training: Any) -> Bundle:
    """Its pool is ``POOL``; the query decides how much its members count."""
    dimension = STATES + len(FEATURES)
    told = metadata(
        model="smollm2-135m",
        fingerprint=fingerprint,
        template=template,
        layout=layout,
        pool=POOL,
        scales=(1.0, 2.0, 1.0, 0.5),
        most_heads=3,
        embedding=EmbeddingRecipe(form="query", layers=(9,), pooling="mean", features=True, dimension=dimension),
        static=StaticSet(members=[0, 3], gates=[1.0, 0.5], first_stage=0.5),
        deepest_layer=18,
        training=training,
    )
    router = Router(dimension, 2, len(POOL), 3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in router.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
        router.prior.fill_(0.7)
        router.kappa.fill_(1.0)
    return export(router, told, path).bundle


def router_for(reader: Reader, path: Path) -> Bundle:
    """Of the reader's LLM and layout."""
    return heads_router(path, reader.fingerprint, reader.template_hash, reader.layout)
