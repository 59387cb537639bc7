"""An embedding model beside the first stage, as search teams already run it: over the same hits, or its own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from connector.documents import Hit, document_text
from connector.embedding.embedder import Embedder
from connector.heads.fusion import fuse, rank_scores

__all__ = ["PEER_WEIGHT", "depth_for", "fused", "hybrid", "known_scores", "similarities"]

PEER_WEIGHT = 0.5
"""Of the standardized first-stage scores beside the standardized cosines."""
_DEPTH = 100
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


def depth_for(size: int) -> int:
    """How many hits of each ranking ``fused`` needs, for so many hits."""
    depth = _DEPTH
    while depth < size:
        depth *= 2
    return depth


def fused(words: Mapping[str, float], cosines: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents that words or vectors found, as both rank them together: ids and scores, best first; equal by id.

    Scores are standardized over what is ranked together, so one more hit would move the others. What stands among
    the first hundred of either ranking is therefore ranked apart, then what stands among the first two hundred, and
    so on: a longer list begins with the shorter one.

    Args:
        words: id -> first-stage score; 0 where no word was found.
        cosines: id -> cosine, of the same documents.
    """
    by_words, by_cosines = _places({each: score for each, score in words.items() if score > 0}), _places(cosines)
    levels: dict[int, list[str]] = {}
    for each in sorted(words):
        levels.setdefault(depth_for(min(by_cosines[each], by_words.get(each, len(words)))), []).append(each)
    ranked: list[tuple[str, float]] = []
    for _, own in sorted(levels.items()):
        both = fuse(np.array([cosines[each] for each in own]), np.array([words[each] for each in own]), PEER_WEIGHT)
        # Below all of the level before.
        lower = max(0.0, float(both.max()) - ranked[-1][1] + 0.001) if ranked else 0.0
        scores = [round(float(score) - lower, 6) for score in both]
        ranked += sorted(zip(own, scores, strict=True), key=lambda one: (-one[1], one[0]))
    return ranked


def _places(scores: Mapping[str, float]) -> dict[str, int]:
    """Place from 1 of each, best first; equal scores share the better one."""
    ordered = sorted(-score for score in scores.values())
    return {each: bisect_left(ordered, -score) + 1 for each, score in scores.items()}
