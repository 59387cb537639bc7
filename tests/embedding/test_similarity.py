"""How near queries lie to texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from connector.embedding.embedder import Embedder
from connector.embedding.similarity import Similarity
from tests.embedding.tiny_model import save_embedder


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    return Embedder.load(str(save_embedder(tmp_path / "tiny")))


def test_they_are_the_embedder_s_cosines(embedder: Embedder) -> None:
    texts = ["cats sleep hours", "bake bread", "cats", "bake bread", ""]
    expected = embedder.documents(texts) @ embedder.query("cats sleep")
    np.testing.assert_allclose(Similarity(embedder).cosines("cats sleep", texts), expected, atol=1e-6)


def test_a_text_s_number_is_its_own(embedder: Embedder) -> None:
    texts = ["cats sleep hours", "bake bread flour", "cats river shares trading", "day"]
    whole = Similarity(embedder).cosines("cats sleep", texts)
    warm = Similarity(embedder)
    warm.cosines("bread", texts[::-1])
    assert warm.cosines("cats sleep", texts).tobytes() == whole.tobytes()
    alone = [Similarity(embedder).cosines("cats sleep", [text])[0] for text in texts]
    assert np.array(alone).tobytes() == whole.tobytes()


def test_texts_in_parts(embedder: Embedder) -> None:
    similarity = Similarity(embedder)
    parts = [["cats", "sleep"], [], ["bread"]]
    found = similarity.of_parts("cats", parts)
    assert [len(own) for own in found] == [2, 0, 1]
    np.testing.assert_array_equal(np.concatenate(found), similarity.cosines("cats", ["cats", "sleep", "bread"]))
    assert [len(own) for own in similarity.of_parts("cats", [[], []])] == [0, 0]
    assert similarity.of_parts("cats", []) == []


def test_vectors_are_made_once(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, made = Similarity(embedder), []
    real = embedder.documents
    monkeypatch.setattr(embedder, "documents", lambda texts: made.extend(texts) or real(texts))
    similarity.cosines("cats", ["a day", "bread", "a day"])
    similarity.cosines("bread", ["bread", "cats"])
    assert made == ["a day", "bread", "cats"]
