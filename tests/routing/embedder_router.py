"""A router that weighs the cosines of a small embedding model beside the LLM: the shipped one, made for it."""

from __future__ import annotations

from pathlib import Path

from connector.embedding.embedder import Embedder
from connector.routing.bundle import Bundle, shipped_bundle
from tests.routing.test_bundle import changed

__all__ = ["KNOWN", "embedder_router"]

KNOWN = "bge-small-en-v1.5"


def embedder_router(folder: Path, embedder: Path) -> Path:
    """The file.

    Args:
        folder: where it is written.
        embedder: folder of the embedding model, which keeps the name of the one that the router was trained with.
    """
    shipped = shipped_bundle("smollm2-135m", "solo", KNOWN)
    assert shipped is not None
    pool = [member.model_dump() for member in Bundle.load(shipped).metadata.pool]
    (own,) = (member for member in pool if "similarity" in member)
    own["digest"] = Embedder.load(str(embedder)).digest
    folder.mkdir(parents=True, exist_ok=True)
    return changed(shipped.read_bytes(), folder, pool=pool, reference=None)
