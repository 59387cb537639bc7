"""An embedding model beside the first stage, as search teams already run it: over the same hits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from connector.documents import Hit, document_text
from connector.embedding.embedder import Embedder
from connector.heads.fusion import fuse, rank_scores

__all__ = ["PEER_WEIGHT", "hybrid", "known_scores", "similarities"]

PEER_WEIGHT = 0.5
"""Of the standardized first-stage scores beside the standardized cosines."""
Windows = Mapping[str, Sequence[Hit]]
Floats = npt.NDArray[np.float64]


def similarities(
    embedder: Embedder, queries: Mapping[str, str], windows: Windows, fields: Sequence[str] = ()
) -> Iterator[tuple[str, Floats]]:
    """Every query with the cosines of its hits: float64 [hits], in their order. A document is embedded once.

    Args:
        embedder: the model.
        queries: id -> text.
        windows: first-stage hits of every query.
        fields: fields of the hits that are read; empty: all text fields.
    """
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for query, hits in windows.items():
        texts = [document_text(hit.fields, fields) for hit in hits]
        new = [text for text in dict.fromkeys(texts) if text not in vectors]
        if new:
            vectors.update(zip(new, embedder.documents(new), strict=True))
        own = embedder.query(queries[query])
        yield query, np.array([float(vectors[text] @ own) for text in texts])


def known_scores(hits: Sequence[Hit]) -> Floats:
    """First-stage scores, or what their places stand for where one is unknown: float64 [hits]."""
    scores = [hit.score for hit in hits if hit.score is not None]
    return np.array(scores) if len(scores) == len(hits) else rank_scores(range(1, len(hits) + 1))


def hybrid(windows: Windows, cosines: Mapping[str, Floats]) -> tuple[dict[str, Sequence[Hit]], dict[str, Floats]]:
    """The same hits as first stage and embedding model rank them together: order and scores. Ties keep their order.

    Args:
        windows: first-stage hits of every query.
        cosines: see ``similarities``.

    Returns:
        The hits, and their cosines in the new order.
    """
    found: dict[str, Sequence[Hit]] = {}
    moved: dict[str, Floats] = {}
    for query, hits in windows.items():
        if hits:
            both = fuse(cosines[query], known_scores(hits), PEER_WEIGHT)
            order = np.argsort(-both, kind="stable")
            found[query] = [replace(hits[at], score=float(both[at])) for at in order]
            moved[query] = cosines[query][order]
        else:
            found[query], moved[query] = hits, cosines[query]
    return found, moved
