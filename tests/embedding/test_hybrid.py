"""An embedding model beside the first stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from connector.documents import Hit
from connector.embedding.embedder import Embedder
from connector.embedding.hybrid import hybrid, known_scores, similarities
from tests.embedding.tiny_model import save_embedder

HITS = [
    Hit("a", 3.0, {"text": "bread flour"}),
    Hit("b", 2.0, {"text": "cats sleep"}),
    Hit("c", 1.0, {"text": "river"}),
]


def test_cosines_and_the_order_that_they_make_with_the_first_stage(tmp_path: Path) -> None:
    embedder = Embedder.load(str(save_embedder(tmp_path)))
    windows = {"q": HITS, "none": []}
    cosines = dict(similarities(embedder, {"q": "cats sleep", "none": "x"}, windows))
    assert cosines["q"].argmax() == 1 and abs(cosines["q"][1] - 1) < 1e-6 and len(cosines["none"]) == 0
    found, moved = hybrid(windows, cosines)
    assert found["q"][0].id == "b" and sorted(hit.id for hit in found["q"]) == ["a", "b", "c"]
    scores = [hit.score for hit in found["q"]]
    assert scores == sorted(scores, reverse=True) and found["none"] == []
    by_id = dict(zip((hit.id for hit in HITS), cosines["q"], strict=True))
    assert moved["q"].tolist() == [by_id[hit.id] for hit in found["q"]]


def test_places_stand_for_scores_that_are_not_known() -> None:
    assert known_scores(HITS).tolist() == [3.0, 2.0, 1.0]
    places = known_scores([HITS[0], Hit("x", None, {})])
    np.testing.assert_allclose(places, [0, -np.log(2)])
