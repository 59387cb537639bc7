"""First stages: from a run, and from the embedded engine with its cached index."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.errors import DataError, EngineError
from connector.evaluation.collections import Collection, load_collection
from connector.evaluation.first_stage import first_stage, open_collection_engine
from connector.evaluation.runs import RunEntry
from connector.sections import Settings
from connector.settings import load_settings
from tests.embedding.tiny_model import save_embedder
from tests.evaluation.folders import DOCUMENTS, write_collection, write_jsonl

RUN = {"q1": [RunEntry(name, 9.0 - at) for at, name in enumerate(("rust", "cats", "bread", "whiskers"))]}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """The small collection; the rust document is excluded for q1."""
    folder = write_collection(tmp_path / "small")
    (folder / "exclude.tsv").write_text("query-id\tcorpus-id\nq1\trust\n")
    return load_collection(folder)


@pytest.fixture
def cached(tmp_path: Path) -> Settings:
    """Settings with a cache of their own."""
    return load_settings("/dev/null", {"cache.path": str(tmp_path / "cache")}, {})


def test_a_run_becomes_windows_with_excluded_pairs_dropped_before_the_cut(collection: Collection) -> None:
    windows = first_stage(collection, 2, run=RUN)
    assert [(hit.id, hit.score) for hit in windows["q1"]] == [("cats", 8.0), ("bread", 7.0)]
    assert windows["q1"][0].fields == {"title": "Cats", "text": DOCUMENTS[0]["text"]}
    assert windows["q2"] == [], "the run does not have it"


def test_a_document_that_the_corpus_lacks_is_named(collection: Collection) -> None:
    with pytest.raises(DataError, match=r"document gone \(query q1\) is not in .*corpus\.jsonl"):
        first_stage(collection, 2, run={"q1": [RunEntry("gone", 1.0)]})
    with pytest.raises(DataError, match="no first stage"):
        first_stage(collection, 2)


def test_the_embedded_engine_searches_the_collection(collection: Collection, cached: Settings) -> None:
    windows = first_stage(collection, 1, engine=open_collection_engine(collection, cached))
    assert {query: [hit.id for hit in hits] for query, hits in windows.items()} == {"q1": ["cats"], "q2": ["bread"]}
    assert dict(windows["q2"][0].fields) == {"title": "Bread", "text": DOCUMENTS[3]["text"]}


def test_an_excluded_hit_makes_room_for_the_next(collection: Collection, cached: Settings) -> None:
    (collection.path / "exclude.tsv").write_text("query-id\tcorpus-id\nq1\tcats\n")
    again = load_collection(collection.path)
    windows = first_stage(again, 1, engine=open_collection_engine(again, cached))
    assert len(windows["q1"]) == 1
    assert windows["q1"][0].id != "cats"


def test_the_index_is_made_once_for_a_corpus(collection: Collection, cached: Settings) -> None:
    root = cached.cache.path / "collections"
    open_collection_engine(collection, cached)
    (made,) = root.iterdir()
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.store")}
    open_collection_engine(collection, cached)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*.store")}
    write_jsonl(collection.path / "corpus.jsonl", DOCUMENTS[2:])
    windows = first_stage(collection, 5, engine=open_collection_engine(collection, cached))
    assert "cats" not in {hit.id for hit in windows["q1"]}
    assert len(list(root.iterdir())) == 2


def test_a_damaged_index_is_made_again(collection: Collection, cached: Settings) -> None:
    open_collection_engine(collection, cached)
    (record,) = cached.cache.path.glob("collections/*/*/rh-index.json")
    record.write_text("{")
    engine = open_collection_engine(collection, cached)
    assert [hit.id for hit in engine.search("bread", 1)] == ["bread"]


def test_an_interrupted_index_leaves_nothing(collection: Collection, cached: Settings) -> None:
    write_jsonl(collection.path / "corpus.jsonl", [*DOCUMENTS, {"_id": "bad", "text": 3}])
    with pytest.raises(DataError, match="line 5: text is a number"):
        open_collection_engine(collection, cached)
    assert list((cached.cache.path / "collections").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(collection: Collection, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EngineError, match="set cache.path"):
        open_collection_engine(collection, load_settings("/dev/null", {"cache.path": str(blocked)}, {}))


def test_words_and_vectors_have_an_index_of_their_own(
    collection: Collection, cached: Settings, tmp_path: Path
) -> None:
    def searched(model: Path | None) -> list[str]:
        engine = cached.engine.model_copy(update={"embedder": None if model is None else str(model)})
        settings = cached.model_copy(update={"engine": engine})
        with open_collection_engine(collection, settings) as opened:
            return [hit.id for hit in opened.search("bread", 10)]

    model = save_embedder(tmp_path / "tiny")
    assert searched(None) == ["bread"]
    assert sorted(searched(model)) == sorted(document["_id"] for document in DOCUMENTS)
    root = cached.cache.path / "collections"
    assert len(list(root.iterdir())) == 2
    # Another model of that name: it is only a cache.
    (tmp_path / "tiny" / "model.onnx").unlink()
    graph = save_embedder(tmp_path / "tiny") / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x32\x01x")
    assert len(searched(model)) == len(DOCUMENTS)
    assert len(list(root.iterdir())) == 2
