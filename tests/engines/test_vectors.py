"""The embedded engine with an embedding model: the real tantivy, the real FAISS, a real graph in ONNX Runtime."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from shutil import disk_usage
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from connector.documents import Document, document_text
from connector.embedding.embedder import Embedder
from connector.embedding.hybrid import PEER_WEIGHT, fused
from connector.engines.embedded import EmbeddedEngine
from connector.engines.engine import Engine
from connector.engines.open_engine import open_engine
from connector.engines.vectors import VECTORS_FILE, Vectors
from connector.errors import DataError, EngineError, MissingExtraError, SettingsError
from connector.heads.fusion import standardize
from connector.settings import load_settings
from tests.disks import mounted
from tests.embedding.tiny_model import WORDS, save_embedder

# Words that the model knows; "nap" and "loaf" are unknown to it, and all one to it.
TEXTS = {
    "sleep": "cats sleep hours",
    "cats": "cats cats cats day",
    "bake": "bread bake flour",
    "trade": "trading shares day",
    "river": "river day",
    "nap": "nap nap loaf",
}


def documents(texts: dict[str, str]) -> list[Document]:
    return [Document(identity, {"text": text}) for identity, text in texts.items()]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_embedder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one of the same name."""
    folder = save_embedder(tmp_path_factory.mktemp("others") / "tiny")
    graph = onnx.load(folder / "model.onnx")
    vectors = graph.graph.initializer[0]
    vectors.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(vectors) + 1, "vectors"))
    onnx.save(graph, folder / "model.onnx")
    return folder


def opened(folder: Path, model: Path | None, **engine: Any) -> Engine:
    options = {f"engine.{name}": value for name, value in engine.items()}
    embedder = None if model is None else str(model)
    return open_engine(
        load_settings("/dev/null", {"engine.url": str(folder), "engine.embedder": embedder, **options}, {})
    )


def kept(folder: Path, model: Path) -> set[int]:
    """Keys of all vectors on disk."""
    vectors = Vectors(folder / "default", Embedder.load(str(model)))
    vectors.refresh()
    return vectors.keys()


def wanted(stored: dict[str, str], model: Path) -> set[int]:
    vectors = Vectors(Path(), Embedder.load(str(model)))
    return {vectors.key(document) for document in documents(stored)}


def ids(engine: Engine, query: str, size: int = 10) -> list[str]:
    return [hit.id for hit in engine.search(query, size)]


def test_a_full_disk_leaves_the_vectors_that_were_there(tmp_path: Path, model: Path) -> None:
    """Also where the last few bytes alone find no room: those that a file is closed with."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        vectors = Vectors(disk, Embedder.load(str(model)))
        vectors.add(dict(enumerate(documents(TEXTS))))
        before, more = vectors.keys(), {at: documents(TEXTS)[0] for at in range(100, 400)}
        for room in range(0, 20_000, 2048):
            filler = disk / "filler"
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                file.write(b"x" * (disk_usage(disk).free - room))
            try:
                vectors.add(more)
            except EngineError as error:
                assert "No space left on device; make room" in str(error)
            vectors.refresh()
            # As another process finds them.
            read = Vectors(disk, Embedder.load(str(model)))
            read.refresh()
            assert read.keys() == vectors.keys() and read.keys() in (before, before | more.keys())
            filler.unlink()
        vectors.add(more)
        assert vectors.keys() == before | more.keys()


@pytest.fixture
def engine(tmp_path: Path, model: Path) -> Engine:
    made = opened(tmp_path, model)
    assert made.index(documents(TEXTS), batch=4).indexed == len(TEXTS)
    return made


def test_hits_are_fused_of_words_and_vectors_and_each_has_both_scores(
    engine: Engine, tmp_path: Path, model: Path
) -> None:
    embedder = Embedder.load(str(model))
    plain = opened(tmp_path / "plain", None)
    plain.index(documents(TEXTS))
    query = "cats nap hours"
    words = {hit.id: hit.score or 0.0 for hit in plain.search(query, 10)}
    assert set(words) == {"sleep", "cats", "nap"}
    cosines = embedder.documents(list(TEXTS.values())) @ embedder.query(query)
    both = standardize(np.round(cosines.astype(float), 5)) + PEER_WEIGHT * standardize(
        [words.get(identity, 0.0) for identity in TEXTS]
    )
    hits = engine.search(query, 10)
    assert {hit.id for hit in hits} == set(TEXTS), "vectors find those without any of the words"
    expected = dict(zip(TEXTS, both, strict=True))
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=1e-4)
        assert hit.fields == {"text": TEXTS[hit.id]}
    assert [hit.id for hit in hits] == sorted(TEXTS, key=lambda identity: -expected[identity])


def test_vectors_find_what_no_word_of_the_query_names(engine: Engine) -> None:
    # The unknown word is the model's [UNK], as "nap" and "loaf" are.
    assert ids(engine, "doze", 1) == ["nap"]
    assert ids(engine, "...") == [] and ids(engine, "") == [] and ids(engine, "cats", 0) == []


def test_equal_texts_have_equal_scores_and_come_by_id_also_at_the_cut(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, draw = Embedder.documents, np.random.default_rng(0)

    def rounded_otherwise(self: Embedder, texts: list[str]) -> Any:
        made = real(self, texts)
        # As a real model's are, in a batch of other lengths.
        return made * (1 + draw.uniform(-2e-7, 2e-7, made.shape)).astype(np.float32)

    monkeypatch.setattr(Embedder, "documents", rounded_otherwise)
    engine = opened(tmp_path, model)
    names = [f"{place:03}" for place in range(250)]
    # Batches of other neighbours, other padding, other segments.
    stored = [Document(name, {"text": "cats sleep"}) for name in reversed(names)]
    between = [Document(f"x{place}", {"text": "bread flour river " * (place + 1)}) for place in range(5)]
    engine.index([*stored[:70], between[0], *stored[70:71], *between[1:], *stored[71:]], batch=71)
    hits = engine.search("cats sleep", 250)
    assert [hit.id for hit in hits] == names and len({hit.score for hit in hits}) == 1
    assert ids(engine, "cats sleep", 7) == names[:7]


def test_a_longer_list_begins_with_the_shorter_one(tmp_path: Path, model: Path) -> None:
    draw = Random(0)
    engine = opened(tmp_path, model)
    known = WORDS[2:]
    texts = {f"{at:03}": " ".join(draw.choices([*known, "nap", "loaf"], k=draw.randint(2, 9))) for at in range(450)}
    engine.index(documents(texts))
    for query in ("cats nap", "bread river", "loaf", "doze"):
        whole = engine.search(query, 450)
        assert len(whole) == 450
        scores = [hit.score or 0.0 for hit in whole]
        assert scores == sorted(scores, reverse=True)
        for size in (1, 20, 99, 100, 101, 150, 200, 201, 399, 401):
            assert engine.search(query, size) == whole[:size]


def test_levels_are_ranked_apart_and_each_lies_below_the_one_before() -> None:
    draw = Random(1)
    words = {f"{at:03}": max(0.0, draw.gauss(0, 1)) for at in range(700)}
    cosines = {each: draw.random() for each in words}
    ranked = fused(words, cosines)
    assert [each for each, _ in ranked] != sorted(words) and {each for each, _ in ranked} == set(words)
    best = {each for scores in (words, cosines) for each in sorted(words, key=lambda one: -scores[one])[:100]}
    assert {each for each, _ in ranked[: len(best)]} == best
    scores = [score for _, score in ranked]
    assert scores == sorted(scores, reverse=True) and scores[len(best) - 1] > scores[len(best)]
    assert fused({}, {}) == []


def test_a_replaced_document_is_replaced_in_both(engine: Engine, tmp_path: Path, model: Path) -> None:
    assert kept(tmp_path, model) == wanted(TEXTS, model)
    report = engine.index([Document("nap", {"text": "bread flour"}), Document("new", {"text": "nap"})])
    assert (report.indexed, report.replaced) == (2, 1)
    now = {**TEXTS, "nap": "bread flour", "new": "nap"}
    assert kept(tmp_path, model) == wanted(now, model)
    assert ids(engine, "doze", 1) == ["new"]
    assert "nap" in ids(engine, "bread", 2)
    # The same as an index that was made of these at once; BM25 counts replaced documents until segments merge.
    fresh = opened(tmp_path / "fresh", model)
    fresh.index(documents(now))
    for query in ("cats day", "flour nap", "doze"):
        assert ids(fresh, query) == ids(engine, query)


def test_an_id_twice_in_a_batch_leaves_one_vector(tmp_path: Path, model: Path) -> None:
    engine = opened(tmp_path, model)
    engine.index([Document("1", {"text": text}) for text in ("cats", "bread", "river")], batch=2)
    assert kept(tmp_path, model) == wanted({"1": "river"}, model)


def test_refused_documents_have_no_vector(tmp_path: Path, model: Path) -> None:
    engine = opened(tmp_path, model)
    report = engine.index([Document("", {"text": "cats"}), Document("1", {"text": "bread"})])
    assert report.indexed == 1 and len(report.failures) == 1
    assert kept(tmp_path, model) == wanted({"1": "bread"}, model)


def test_what_is_there_is_not_embedded_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    real = Embedder.documents

    def noted(self: Embedder, texts: list[str]) -> Any:
        embedded.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(Embedder, "documents", noted)
    engine.index([Document("cats", {"text": TEXTS["cats"], "year": 1999}), Document("new", {"text": "bread"})])
    assert embedded == ["bread"]
    assert engine.get(["cats"])["cats"].fields["year"] == 1999


def test_another_process_sees_what_was_written(engine: Engine, tmp_path: Path, model: Path) -> None:
    reader = opened(tmp_path, model)
    assert ids(reader, "doze", 1) == ["nap"]
    engine.index([Document("nap", {"text": "bread"}), Document("new", {"text": "nap"})])
    assert ids(reader, "doze", 1) == ["new"]


_KILLED = """
import os, sys
from pathlib import Path
from connector.documents import Document
from connector.embedding.embedder import Embedder
from connector.engines import vectors
from connector.engines.embedded import EmbeddedEngine
real = getattr(vectors.Vectors, sys.argv[3])
def killed(self, *given):
    if sys.argv[4] == "after":
        real(self, *given)
    os._exit(9)
setattr(vectors.Vectors, sys.argv[3], killed)
folder = Path(sys.argv[1])
engine = EmbeddedEngine(folder, vectors=vectors.Vectors(folder, Embedder.load(sys.argv[2])))
engine.index([Document("nap", {"text": "bread flour"}), Document("new", {"text": "river bread"})])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "when"), [("add", "before"), ("add", "after"), ("drop", "before"), ("drop", "after")]
)
def test_a_killed_writer_leaves_both_the_same(
    engine: Engine, tmp_path: Path, model: Path, step: str, when: str
) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "default"), str(model), step, when]
    assert subprocess.run(command, check=False).returncode == 9
    after = {**TEXTS, "nap": "bread flour", "new": "river bread"} if step == "drop" else TEXTS
    again = opened(tmp_path, model)
    assert {d.id: d.fields["text"] for d in again.documents()} == after
    fresh = opened(tmp_path / "fresh", model)
    fresh.index(documents(after))
    for query in ("bread", "doze", "cats day"):
        assert ids(again, query) == ids(fresh, query)
    # The next run cleans up.
    again.index([])
    assert kept(tmp_path, model) == wanted(after, model)


def test_an_index_without_vectors_names_the_setting(tmp_path: Path, model: Path) -> None:
    opened(tmp_path, None).index(documents(TEXTS))
    with pytest.raises(
        EngineError, match=r"made without vectors, and engine\.embedder is tiny; leave it out, or index"
    ):
        opened(tmp_path, model)
    # Nothing has changed for it.
    record = json.loads((tmp_path / "default" / "rh-index.json").read_text())
    assert record["format"] == 2 and "vectors" not in record


def test_one_of_another_model_names_both(engine: Engine, tmp_path: Path, model: Path, other_model: Path) -> None:
    digests = [Embedder.load(str(each)).digest[:12] for each in (model, other_model)]
    with pytest.raises(EngineError) as told:
        opened(tmp_path, other_model)
    assert f"of the embedding model tiny ({digests[0]})" in str(told.value)
    assert f"engine.embedder is tiny ({digests[1]}); set it to the former, or index" in str(told.value)


def test_one_with_vectors_is_searched_by_words_without_the_model_and_not_written(
    engine: Engine, tmp_path: Path, model: Path
) -> None:
    plain = opened(tmp_path, None)
    assert set(ids(plain, "cats")) == {"sleep", "cats"} and plain.count() == len(TEXTS)
    assert set(plain.get(["nap"])) == {"nap"}
    with pytest.raises(EngineError, match=r"has vectors of tiny; set engine\.embedder to it"):
        plain.index(documents({"more": "cats"}))
    with pytest.raises(EngineError, match=r"has vectors of tiny; set engine\.embedder to it"):
        # It was opened before there was an index.
        late = EmbeddedEngine(tmp_path / "late" / "default")
        opened(tmp_path / "late", model).index([])
        late.index(documents({"more": "cats"}))
    assert kept(tmp_path, model) == wanted(TEXTS, model)


def test_fields_are_those_that_are_embedded(tmp_path: Path, model: Path) -> None:
    stored = [
        Document("1", {"title": "bread", "text": "cats"}),
        Document("2", {"title": "cats", "text": "bread"}),
    ]
    opened(tmp_path, model, fields="title").index(stored)
    # Weights are the search's own.
    assert ids(opened(tmp_path, model, fields="title^3"), "bread") == ["1", "2"]
    with pytest.raises(
        EngineError, match=r"are of the fields: title; engine\.fields says: text, title; name the former"
    ):
        opened(tmp_path, model, fields="title,text^2")
    with pytest.raises(EngineError, match=r"engine\.fields says: all text"):
        opened(tmp_path, model)
    assert document_text(stored[0].fields, ["title"]) == "bread"


def test_a_damaged_file_is_told_and_the_mend(engine: Engine, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "default" / VECTORS_FILE
    whole = path.read_bytes()
    for damage in (whole[:-20], b"", b"nonsense" * 100):
        path.write_bytes(damage)
        for broken in (lambda: opened(tmp_path, model).search("cats", 3), lambda: opened(tmp_path, model).index([])):
            with pytest.raises(EngineError, match=f"cannot read .*{VECTORS_FILE}.* index again under another name"):
                broken()
    path.unlink()
    with pytest.raises(EngineError, match="has 0 vectors for 6 documents.* index again under another name"):
        opened(tmp_path, model).search("cats", 3)
    path.write_bytes(whole)
    assert len(ids(opened(tmp_path, model), "cats", 3)) == 3


def test_a_damaged_record_is_told(engine: Engine, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "default" / "rh-index.json"
    record = json.loads(path.read_text())
    for damage in ({"vectors": 5}, {"vectors": {}}, {"vectors": {**record["vectors"], "fields": None}}):
        path.write_text(json.dumps({**record, **damage}))
        with pytest.raises(EngineError, match=r"rh-index\.json is damaged"):
            opened(tmp_path, model)


def test_an_index_that_is_not_there_or_empty(tmp_path: Path, model: Path) -> None:
    engine = opened(tmp_path, model)
    assert engine.count() == 0 and not (tmp_path / "default").exists()
    with pytest.raises(EngineError, match="there is no index"):
        engine.search("cats", 3)
    engine.index([])
    assert engine.search("cats", 3) == [] and engine.count() == 0


def test_what_is_missing_is_named(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no embedding model mini; give a folder"):
        opened(tmp_path, Path("mini"))
    for kind in ("opensearch", "elasticsearch"):
        with pytest.raises(
            SettingsError, match=rf"engine\.embedder = .*tiny: it is for the embedded .*kind is {kind}"
        ):
            opened(tmp_path, model, kind=kind, url="http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss is not installed.*\[vectors\]"):
        opened(tmp_path, model)


def test_keys_are_of_id_and_text_and_fit(model: Path) -> None:
    vectors = Vectors(Path(), Embedder.load(str(model)))
    keys = [
        vectors.key(Document(id, {"text": text}))
        for id in ("a", "ab", "a\0b")
        for text in ("b", "", "\ud800", "b\0b")
    ]
    assert len(set(keys)) == len(keys) and all(0 <= key < 2**63 for key in keys)
    assert vectors.key(Document("a", {"text": "b", "n": 1})) == keys[0]
    assert math.log2(max(keys)) > 55
