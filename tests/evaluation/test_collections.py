"""Collections: layouts, splits, excluded pairs, and errors that name file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connector.errors import DataError
from connector.evaluation.collections import load_collection, read_documents, read_queries
from tests.evaluation.folders import QRELS, QUERIES, write_collection, write_jsonl


@pytest.mark.parametrize("layout", ["qrels.tsv", "qrels/test.tsv"])
def test_both_layouts_give_the_same_collection(tmp_path: Path, layout: str) -> None:
    collection = load_collection(write_collection(tmp_path / "small", layout))
    assert collection.name == "small"
    assert collection.queries == {"q1": "how long do cats sleep", "q2": "baking bread"}, "q3 has no positive judgment"
    assert collection.qrels == {"q1": {"cats": 2, "whiskers": 1, "rust": 0}, "q2": {"bread": 1}}
    assert collection.qrels_file == layout
    assert [document.id for document in collection.documents()] == ["cats", "whiskers", "rust", "bread"]
    assert collection.documents_by_id(["rust", "gone"])["rust"].fields["title"] == "Rust"


def test_another_split_has_its_own_queries(tmp_path: Path) -> None:
    folder = write_collection(tmp_path)
    write_jsonl(folder / "queries_train.jsonl", [{"_id": "t1", "text": "whiskers"}])
    (folder / "qrels_train.tsv").write_text("query-id\tcorpus-id\tscore\nt1\twhiskers\t1\n")
    assert load_collection(folder, "train").queries == {"t1": "whiskers"}


def test_beir_keeps_all_splits_in_one_queries_file(tmp_path: Path) -> None:
    folder = write_collection(tmp_path, "qrels/test.tsv")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq3\trust\t1\n")
    assert list(load_collection(folder, "dev").queries) == ["q3"]


def test_another_file_of_judgments(tmp_path: Path) -> None:
    folder = write_collection(tmp_path)
    (folder / "qrels_full.tsv").write_text("query-id\tcorpus-id\tscore\nq2\tnot in the corpus\t3\n")
    collection = load_collection(folder, qrels="qrels_full.tsv", relevant_from=2)
    assert collection.qrels == {"q2": {"not in the corpus": 3}}
    assert (collection.qrels_file, collection.relevant_from) == ("qrels_full.tsv", 2)


def test_excluded_pairs_leave_the_judgments(tmp_path: Path) -> None:
    folder = write_collection(tmp_path)
    (folder / "exclude.tsv").write_text("query-id\tcorpus-id\nq1\tcats\nq2\tbread\nq9\tcats\n")
    collection = load_collection(folder)
    assert collection.qrels == {"q1": {"whiskers": 1, "rust": 0}}, "q2 has nothing left to find"
    assert collection.excluded == {("q1", "cats")}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\tcats\tgood\n", r"qrels\.tsv, line 2: score 'good'"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\tcats\n", r"qrels\.tsv, line 2: 2 columns"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\tcats\t1\nq1\tcats\t2\n", r"line 3: .* two grades"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\n", "holds no judgments"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\tcats\t0\n", "grade above 0"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq7\tcats\t1\n", r"query q7 is not in queries\.jsonl"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n[1]\n', r"queries\.jsonl, line 2: a list"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n{"_id"\n', r"queries\.jsonl, line 2: not JSON"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', "query q1 has no text"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n\n{"_id": "q1", "text": "b"}\n', "line 3: query q1 is there"),
        ("queries.jsonl", '{"text": "a"}\n', "line 1: _id is None"),
        ("exclude.tsv", "query-id\tcorpus-id\nq1\n", r"exclude\.tsv, line 2: one column"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = write_collection(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_collection(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"_id": "a", "text": 3}\n', "line 1: text is a number"),
        (b'{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n', "line 2: document a is there already"),
        (b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "\xff"}\n', "line 2: not UTF-8"),
        (b"[" * 100_000 + b"\n", "line 1: not JSON"),
    ],
)
def test_wrong_documents_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}, {message}"):
        list(read_documents(path))


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes("\ufeff".encode() + '{"_id": 7, "text": "one\u2028line\x85"}\r\n'.encode())
    assert read_queries(path) == {"7": "one\u2028line\x85"}


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_collection(tmp_path / "none")
    with pytest.raises(DataError, match=r"no corpus\.jsonl"):
        load_collection(tmp_path)
    folder = write_collection(tmp_path)
    (folder / "qrels_dev.tsv").write_text(QRELS)
    with pytest.raises(DataError, match="no judgments for the split train .* dev"):
        load_collection(folder, "train")
    with pytest.raises(DataError, match=r"no file of judgments other\.tsv"):
        load_collection(folder, qrels="other.tsv")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"cannot read .*queries\.jsonl"):
        load_collection(folder)


def test_a_changed_corpus_has_another_hash(tmp_path: Path) -> None:
    collection = load_collection(write_collection(tmp_path))
    before = collection.corpus_hash()
    write_jsonl(tmp_path / "corpus.jsonl", QUERIES)
    assert collection.corpus_hash() != before
