"""Train windows: what is asked for is in the window, without the part that asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connector.documents import Document, Hit, document_text
from connector.errors import DataError, SettingsError
from connector.sections import Settings
from connector.settings import load_settings
from connector.statistics.head_tables import SearchedQuery
from connector.training.made_queries import is_copy
from connector.training.sources import TrainSource, read_source, source_windows
from connector.training.windows import TrainWindows, made_windows, without_one_grade

WORDS = ("cat", "dog", "horse", "whale", "owl", "frog", "bear", "mouse", "snake", "eagle", "otter", "lynx")


def documents() -> list[Document]:
    return [
        Document(
            f"d{at:02}",
            {
                "title": f"Life of the {word} in the wild",
                # Neighbours say much the same, so that no query is plain.
                "text": f"Every {word} rests for {at + 2} hours like the {WORDS[at - 1]} does in the wild. "
                f"The {WORDS[at - 1]} and the {word} hunt in the wild at night for {at + 3} hours. "
                f"A young {word} stays with its mother, and the {WORDS[at - 1]} stays {at + 1} days.",
            },
        )
        for at, word in enumerate(WORDS)
    ]


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    options = {"rerank.window": 5, "cache.path": tmp_path / "cache"}
    return load_settings("/dev/null", options, environment={})


def test_windows_of_made_queries(own: Settings) -> None:
    found = made_windows(documents(), "animals", 9, own, fields=("title", "text"))
    assert found.source == "animals:made" and found.drawn == 9 and found.fields == ("title", "text")
    assert found.windows
    for window in found.windows:
        (relevant,) = window.qrels
        ids = [hit.id for hit in window.hits]
        assert relevant in ids and len(ids) <= 5 and len(set(ids)) == len(ids)
        for hit in window.hits:
            text = document_text(hit.fields)
            assert not is_copy(window.query, text)
            if window.query_id.startswith("title:"):
                # Taken out of all of them, else the relevant one is known by what it lacks.
                assert "title" not in hit.fields
    assert made_windows(documents()[::-1], "animals", 9, own, fields=("title", "text")) == found


def test_documents_that_ask_nothing_are_an_error(own: Settings) -> None:
    with pytest.raises(DataError, match="no queries can be made of empty"):
        made_windows([Document("d", {"text": "short"})], "empty", 5, own)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("data/scifact", TrainSource("data/scifact", "train")),
        ("data/scifact:dev", TrainSource("data/scifact", "dev")),
        ("data/scifact:made:200", TrainSource("data/scifact", "made", 200)),
        ("engine:made", TrainSource("engine", "made")),
        ("docs.jsonl:made", TrainSource("docs.jsonl", "made")),
    ],
)
def test_sources_as_they_are_named(text: str, source: TrainSource) -> None:
    assert read_source(text) == source


@pytest.mark.parametrize("text", ["", ":dev", "folder:", "folder:dev:0", "engine:train"])
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="train: "):
        read_source(text)


def test_a_jsonl_file_is_a_source(own: Settings, tmp_path: Path) -> None:
    path = tmp_path / "animals.jsonl"
    path.write_text("\n".join(json.dumps({"_id": d.id, **d.fields}) for d in documents()) + "\nno JSON\n")
    found = source_windows(TrainSource(str(path), "made", 6), 50, own, 0)
    assert found.source == "animals:made" and found.drawn == 6 and found.fields == ()
    path.write_text("no JSON\n")
    with pytest.raises(DataError, match="holds no document; .*line 1"):
        source_windows(TrainSource(str(path), "made", 6), 50, own, 0)


def test_what_became_of_made_queries_is_told_by_reason(own: Settings) -> None:
    """Every query that was wanted is either there or counted under a reason."""
    found = made_windows(documents(), "animals", 40, own, fields=("title", "text"))
    assert found.drawn == 40
    assert found.drawn == len(found.windows) + sum(found.left_out.values())
    assert found.left_out["no more could be made of the 12 documents"] == 40 - 12
    told = without_one_grade(found).told()
    assert told.startswith(f"animals:made: 40 queries, {len(found.windows)} to learn from; left out are 28: no more")


def test_hits_of_one_grade_are_a_reason() -> None:
    hits = [Hit("a", 1.0, {}), Hit("b", 0.5, {})]
    alike = SearchedQuery("q", "query", hits, {"a": 1, "b": 1}, "c:train")
    differ = SearchedQuery("r", "query", hits, {"a": 1}, "c:train")
    every = TrainWindows("c:train", 4, (alike, differ), (), {"the first stage finds no relevant document": 2})
    kept = without_one_grade(every)
    assert kept.windows == (differ,)
    assert kept.told() == (
        "c:train: 4 queries, 1 to learn from; left out are 2: the first stage finds no relevant document, "
        "1: all hits have the same grade"
    )
