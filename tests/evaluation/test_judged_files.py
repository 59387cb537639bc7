"""Judgments as people have them: pairs in CSV and click logs, whose documents stand in an index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from connector.documents import Document
from connector.engines.open_engine import open_engine
from connector.errors import DataError, EngineError
from connector.evaluation.first_stage import indexed_first_stage
from connector.evaluation.judged_files import load_judged_file
from connector.evaluation.runs import RunEntry
from connector.sections import Settings
from connector.settings import load_settings
from tests.evaluation.folders import DOCUMENTS


@pytest.fixture
def index(tmp_path: Path) -> Settings:
    """An index of a user's own, with a field that no collection has."""
    settings = load_settings("/dev/null", {"engine.url": str(tmp_path / "index"), "rerank.window": 2})
    with open_engine(settings) as engine:
        engine.index(Document(own["_id"], {"body": own["text"]}) for own in DOCUMENTS)
    return settings


def pairs(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def clicks(folder: Path, *lines: Mapping[str, object]) -> Path:
    return pairs(folder, "".join(json.dumps(line) + "\n" for line in lines), "clicks.jsonl")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("query,document\nhow long do cats sleep,cats\n\n baking  bread ,bread\nbaking bread,rust\n", "pairs.csv"),
        ("how long do cats sleep;cats\r\nbaking bread;bread\r\nbaking bread;rust\r\n", "pairs.csv"),
        (
            "\ufeffQuery\tid\tnote\nhow long do cats sleep\tcats\tx\nbaking bread\tbread\t\nbaking bread\trust\t",
            "a.tsv",
        ),
        ('"how long do cats sleep",cats\n"baking\nbread",bread\nbaking bread,rust', "pairs.csv"),
    ],
)
def test_pairs(tmp_path: Path, text: str, name: str) -> None:
    found = load_judged_file(pairs(tmp_path, text, name))
    assert found.queries == {"q1": "how long do cats sleep", "q2": "baking bread"}
    assert found.qrels == {"q1": {"cats": 1}, "q2": {"bread": 1, "rust": 1}}
    assert (found.name, found.qrels_file, found.is_indexed, found.shown) == (Path(name).stem, name, True, {})


def test_clicks(tmp_path: Path) -> None:
    found = load_judged_file(
        clicks(
            tmp_path,
            {"query": "cats", "shown": ["rust", "cats"], "clicked": "cats"},
            {"query": "cats", "shown": ["bread", "whiskers", "bread"], "clicked": ["whiskers"]},
            {"query": "cats", "shown": ["rust"], "clicked": None},
            {"query": "nobody clicked", "shown": ["rust"]},
            {"query": "numbers", "shown": [1, 2], "clicked": 2, "more": True},
        )
    )
    assert found.queries == {"q1": "cats", "q2": "numbers"}
    assert found.qrels == {"q1": {"cats": 1, "whiskers": 1}, "q2": {"2": 1}}
    assert found.shown == {"q1": ("bread", "whiskers"), "q2": ("1", "2")}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "cats\n", r"a.csv, line 1: one column; give the query and the right document's id"),
        ("a.csv", "query,id\n ,cats\n", r"a.csv, line 2: the query is ' '"),
        ("a.csv", "query,id\ncats,\n", r"a.csv, line 2: the document's id is ''"),
        ("a.csv", 'cats,"a"b\n', r"a.csv, line 1: no CSV"),
        ("a.csv", "query,id\n", r"a.csv judges no query"),
        ("a.jsonl", '{"query": "cats", "shown": "a", "clicked": "a"}', r"a.jsonl, line 1: shown is 'a'"),
        ("a.jsonl", '{"query": 3, "shown": ["a"], "clicked": "a"}', r"a.jsonl, line 1: the query is 3"),
        ("a.jsonl", '{"query": "x", "shown": ["a"], "clicked": true}', r"a.jsonl, line 1: clicked is True"),
        ("a.jsonl", '{"query": "x", "shown": ["a"], "clicked": null}', r"a.jsonl judges no query"),
        ("a.txt", "cats,cats\n", r"a.txt is neither a folder, nor pairs \(.csv, .tsv\), nor a click log \(.jsonl\)"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_judged_file(pairs(tmp_path, text, name))


def test_what_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"query,id\nna\xefve,cats\n")
    with pytest.raises(DataError, match=r"a.csv, line 2: not UTF-8"):
        load_judged_file(tmp_path / "a.csv")


def test_the_first_stage_of_pairs_is_a_search_of_the_own_index(tmp_path: Path, index: Settings) -> None:
    said: list[str] = []
    found = load_judged_file(pairs(tmp_path, "how long do cats sleep,cats\nbread,bread\nbread,gone\n"))
    hits = indexed_first_stage(found, index, said.append)
    with open_engine(index) as engine:
        assert hits == {query: engine.search(text, 2) for query, text in found.queries.items()}
    assert said == ["1 of 3 documents are not in the index default, the first is gone"]
    run: Mapping[str, Sequence[RunEntry]] = {"q1": [RunEntry("rust", 2.0), RunEntry("gone", 1.5)]}
    given = indexed_first_stage(found, index, said.append, run=run)
    assert [(hit.id, hit.score) for hit in given["q1"]] == [("rust", 2.0)] and not given["q2"]


def test_the_first_stage_of_clicks_is_what_was_shown(tmp_path: Path, index: Settings) -> None:
    shown = ["bread", "cats", "rust"]
    found = load_judged_file(clicks(tmp_path, {"query": "cats", "shown": shown, "clicked": "cats"}))
    hits = indexed_first_stage(found, index, pytest.fail)
    # Places are all that is known of it.
    assert [(hit.id, hit.score) for hit in hits["q1"]] == [("bread", None), ("cats", None)]
    assert set(hits["q1"][0].fields) == {"body"}


def test_another_index_is_no_silent_zero(tmp_path: Path, index: Settings) -> None:
    found = load_judged_file(pairs(tmp_path, "cats,7\ncats,8\n"))
    with pytest.raises(DataError, match=r"none of its right documents is in the index default \(the first is '7'\)"):
        indexed_first_stage(found, index, pytest.fail)
    empty = load_settings("/dev/null", {"engine.url": str(tmp_path / "nothing")})
    with pytest.raises(EngineError, match="there is no index in .*; make it with: rh-connector index"):
        indexed_first_stage(found, empty, pytest.fail)
