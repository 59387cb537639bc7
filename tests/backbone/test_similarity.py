"""How near queries lie to texts, and that vectors are made once: in memory, on disk, in a shared file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tokenizers import Tokenizer, normalizers

from connector.backbone.caching.disk_cache import DiskCache
from connector.backbone.caching.shared_cache import SharedCache, export_store
from connector.backbone.caching.sqlite_store import PassageStore
from connector.backbone.similarity import KeptVector, Similarity, also_vectors
from connector.embedding.embedder import Embedder
from connector.errors import BackboneError
from tests.backbone.caching.test_disk_cache import MB, load
from tests.backbone.caching.test_document_cache import Sized
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


QUERY, TEXTS = "cats sleep", ["a day", "bread bake", "cats sleep hours", ""]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "documents" / "passages.sqlite3"


@contextmanager
def disk_at(file: Path) -> Iterator[DiskCache]:
    with closing(DiskCache(file, 100 * MB, also_vectors(load))) as disk:
        yield disk


class Spied:
    """What an embedding model is asked for."""

    def __init__(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        real = embedder.documents
        monkeypatch.setattr(embedder, "documents", lambda texts: self.texts.extend(texts) or real(texts))


def test_vectors_on_disk_are_not_made_again(embedder: Embedder, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Spied(embedder, monkeypatch)
    with disk_at(file) as disk:
        expected = Similarity(embedder, disk).cosines(QUERY, TEXTS)
    with disk_at(file) as disk:
        found = Similarity(embedder, disk).cosines(QUERY, [*TEXTS, "flour"])
        disk.flush()
        assert disk.statistics().entries == len(TEXTS) + 1
    assert found[:-1].tobytes() == expected.tobytes() and made.texts == [*TEXTS, "flour"]


def test_vectors_are_made_before_anyone_asks(embedder: Embedder, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Spied(embedder, monkeypatch)
    with disk_at(file) as disk:
        similarity = Similarity(embedder, disk)
        assert similarity.keep(TEXTS[:2]) == (0, 2) and similarity.keep([*TEXTS, TEXTS[0]]) == (2, 2)
        assert all(map(disk.has, similarity.keys(TEXTS)))
        similarity.clear()
        similarity.cosines(QUERY, TEXTS)
        assert made.texts == TEXTS and similarity.lookups() == (0, len(TEXTS))
        similarity.cosines(QUERY, TEXTS)
        assert similarity.lookups() == (len(TEXTS), len(TEXTS))
        keyed = dict(similarity.encoded([*TEXTS, TEXTS[1]]))
        assert list(keyed) == similarity.keys(TEXTS)


def test_vectors_of_another_machine(
    embedder: Embedder, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk_at(file) as disk:
        expected = Similarity(embedder, disk).cosines(QUERY, TEXTS)
    export_store(file, tmp_path / "copy.sqlite3")
    made = Spied(embedder, monkeypatch)
    with closing(SharedCache(tmp_path / "copy.sqlite3", also_vectors(load))) as shared:
        found = Similarity(embedder, shared=shared).cosines(QUERY, TEXTS)
    assert found.tobytes() == expected.tobytes() and not made.texts


def test_one_file_holds_states_and_vectors(embedder: Embedder, file: Path) -> None:
    with disk_at(file) as disk:
        similarity = Similarity(embedder, disk)
        similarity.keep(TEXTS)
        disk.put(b"states of the LLM", Sized(40))
        disk.flush()
    with disk_at(file) as disk:
        assert disk.get(b"states of the LLM") == Sized(40)
        assert all(isinstance(disk.get(key), KeptVector) for key in similarity.keys(TEXTS))


@pytest.mark.parametrize("data", [b"RHV1", b"RHV1abc", b"states of another kind"])
def test_a_damaged_vector_is_made_again(embedder: Embedder, file: Path, data: bytes) -> None:
    expected = Similarity(embedder).cosines(QUERY, TEXTS)
    (key,) = Similarity(embedder).keys(TEXTS[2:3])
    with closing(PassageStore(file, 100 * MB)) as store:
        store.put(key, data, 0)
    with disk_at(file) as disk:
        assert Similarity(embedder, disk).cosines(QUERY, TEXTS).tobytes() == expected.tobytes()
        disk.flush()
        # Those of another kind are no vector's, and stay as they are: no such key is ever written.
        assert disk.statistics().damaged == data.startswith(b"RHV1")


def test_what_a_vector_depends_on_is_in_its_key(embedder: Embedder, tmp_path: Path) -> None:
    def key(folder: Path) -> bytes:
        (own,) = Similarity(Embedder.load(str(folder))).keys(["cats"])
        return own

    same, pooled, other = (save_embedder(tmp_path / name) for name in ("same", "pooled", "other"))
    (pooled / "1_Pooling").mkdir()
    (pooled / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    words = Tokenizer.from_file(str(other / "tokenizer.json"))
    words.normalizer = normalizers.Lowercase()
    words.save(str(other / "tokenizer.json"))
    shorter = save_embedder(tmp_path / "shorter")
    (shorter / "sentence_bert_config.json").write_text('{"max_seq_length": 3}')
    expected = Similarity(embedder).keys(["cats"])[0]
    assert key(same) == expected
    assert len({expected, key(pooled), key(other), key(shorter), Similarity(embedder).keys(["cat"])[0]}) == 5


@given(arrays.arrays(np.float32, st.integers(1, 40)))
def test_a_vector_comes_back_as_it_was(values: np.ndarray) -> None:
    kept = KeptVector(values)
    assert KeptVector.from_bytes(kept.to_bytes()).values.tobytes() == values.tobytes()
    assert kept.nbytes == values.nbytes and kept.tokens == 0


def test_other_bytes_are_no_vector() -> None:
    for data in (b"", b"RHV1", b"RHV1abc", b"RHV2abcd"):
        with pytest.raises(BackboneError, match="no vector"):
            KeptVector.from_bytes(data)
