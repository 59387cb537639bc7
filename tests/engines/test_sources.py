"""JSONL files and BEIR folders."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from connector.documents import Document
from connector.engines import sources
from connector.engines.sources import BadLine, Source
from connector.errors import DataError


def read(source: Source, after: int = 0) -> tuple[list[tuple[int, Document]], list[BadLine]]:
    bad: list[BadLine] = []
    return list(source.documents(bad.append, after)), bad


def lines(*values: Any) -> bytes:
    return b"".join(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n" for value in values)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a test puts its lines."""
    return tmp_path / "documents.jsonl"


def test_ids_and_fields(file: Path) -> None:
    file.write_bytes(
        lines(
            {"_id": "a", "title": "A", "year": 1999, "tags": ["x"]},
            {"id": "b", "text": "B"},
            {"_id": "c", "id": "other", "text": "C"},
            {"_id": 7, "text": "seven"},
        )
    )
    found, bad = read(Source(str(file)))
    assert bad == []
    assert found == [
        (1, Document("a", {"title": "A", "year": 1999, "tags": ["x"]})),
        (2, Document("b", {"text": "B"})),
        (3, Document("c", {"id": "other", "text": "C"})),
        (4, Document("7", {"text": "seven"})),
    ]


def test_line_ends_blank_lines_and_a_byte_order_mark(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"_id": "1", "t": "a\xe2\x80\xa8b"}\r\n\n  \n{"_id": "2", "t": "c"}')
    found, bad = read(Source(str(file)))
    assert [(line, document.id) for line, document in found] == [(1, "1"), (4, "2")]
    assert found[0][1].fields == {"t": "a\u2028b"}
    assert bad == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not JSON"),
        (b'{"_id": "1", "t": "cut', "not JSON"),
        (b"[1]", "a list; give one"),
        (b"null", "null; give one"),
        (b'{"t": "x"}', "no _id"),
        (b'{"_id": null, "t": "x"}', "no _id"),
        (b'{"_id": "", "t": "x"}', "_id is empty"),
        (b'{"id": " ", "t": "x"}', "id is empty"),
        (b'{"_id": 1.5, "t": "x"}', "_id is a number; give"),
        (b'{"_id": true, "t": "x"}', "_id is true or false"),
        (b'{"_id": ["1"], "t": "x"}', "_id is a list"),
        (b'{"_id": "a\\u0000", "t": "x"}', "characters that no id can have"),
        (b'{"_id": "\\ud800", "t": "x"}', "characters that no id can have"),
        (b'{"_id": "\\u009b2J", "t": "x"}', "characters that no id can have"),
        (b'{"_id": "1", "t": "\x00"}', "not JSON"),
        (b'{"_id": "1", "t": NaN}', "NaN is no JSON number"),
        (b'{"_id": "1", "t": "\xff"}', "not UTF-8"),
        (b'{"_id": "1"}', "nothing but its id"),
        (b"[" * 100_000, "not JSON"),
        (b'{"_id": ' + b"9" * 5000 + b', "t": "x"}', "not JSON"),
    ],
)
def test_bad_lines_are_named_and_the_others_read(file: Path, line: bytes, reason: str) -> None:
    file.write_bytes(lines({"_id": "1", "t": "x"}, line + b"\n", {"_id": "3", "t": "x"}))
    found, bad = read(Source(str(file)))
    assert [number for number, _ in found] == [1, 3]
    (told,) = bad
    assert (told.file, told.line) == (str(file), 2)
    assert reason in told.reason
    assert str(told).startswith(f"{file}, line 2: ")
    assert "\n" not in str(told)


def test_a_line_without_end_is_not_kept_in_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_LONGEST_LINE", 100)
    long = json.dumps({"_id": "2", "t": "x" * 350}).encode() + b"\n"
    exact = json.dumps({"_id": "3", "t": ""}).encode()
    exact = exact.replace(b'""', b'"' + b"x" * (99 - len(exact)) + b'"') + b"\n"
    assert len(exact) == 100
    file.write_bytes(lines({"_id": "1", "t": "x"}, long, exact, long, {"_id": "5", "t": "x"}, long.strip()))
    found, bad = read(Source(str(file)))
    assert [number for number, _ in found] == [1, 3, 5]
    assert [told.line for told in bad] == [2, 4, 6]


def test_only_the_named_fields(file: Path) -> None:
    file.write_bytes(lines({"_id": "1", "a": "x", "b": "y", "c": "z"}, {"_id": "2", "c": "z"}))
    found, bad = read(Source(str(file), ["b", "a"]))
    assert found == [(1, Document("1", {"b": "y", "a": "x"}))]
    assert "none of the fields b, a" in bad[0].reason


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_holds_a_corpus(tmp_path: Path, packed: bool) -> None:
    raw = lines({"_id": "1", "title": "", "text": "x", "metadata": {}})
    (tmp_path / "queries.jsonl").write_bytes(lines({"_id": "q", "text": "x"}))
    if packed:
        (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(raw))
    else:
        (tmp_path / "corpus.jsonl").write_bytes(raw)
    found, _ = read(Source(str(tmp_path)))
    assert found == [(1, Document("1", {"title": "", "text": "x", "metadata": {}}))]


def test_a_folder_without_one_and_a_missing_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no corpus\.jsonl"):
        Source(str(tmp_path))
    with pytest.raises(DataError, match="there is no"):
        Source(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    raw = lines({"_id": "1", "t": "x"}, b"bad\n")
    stream = io.BytesIO(gzip.compress(raw) if packed else raw)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    source = Source("-")
    found, bad = read(source)
    assert [document.id for _, document in found] == ["1"]
    assert [str(told) for told in bad][0].startswith("standard input, line 2: ")
    assert (source.size, source.identity(), source.position()) == (None, None, 0)
    assert not stream.closed


def test_gzip_is_known_by_its_bytes(file: Path) -> None:
    file.write_bytes(gzip.compress(lines({"_id": "1", "t": "x"})))
    assert len(read(Source(str(file)))[0]) == 1


@pytest.mark.parametrize("harm", ["cut", "turned"])
def test_damaged_gzip_is_told(file: Path, harm: str) -> None:
    raw = gzip.compress(lines(*({"_id": str(at), "t": "x" * at} for at in range(2000))))
    middle = len(raw) // 2
    file.write_bytes(raw[:middle] if harm == "cut" else raw[:middle] + b"\xff" * 50 + raw[middle + 50 :])
    with pytest.raises(DataError, match="damaged gzip"):
        read(Source(str(file)))


def test_position_reaches_the_size(file: Path) -> None:
    file.write_bytes(lines(*({"_id": str(at), "t": "x" * 1000} for at in range(100))))
    source = Source(str(file))
    assert source.position() == 0
    positions = [source.position() for _ in source.documents(lambda _: None)]
    assert positions == sorted(positions)
    assert positions[-1] == source.size == file.stat().st_size


def test_identity_changes_with_the_file(file: Path, tmp_path: Path) -> None:
    file.write_bytes(lines({"_id": "1", "t": "x"}))
    first = Source(str(file)).identity()
    assert first == Source(str(file)).identity()
    assert json.loads(json.dumps(first)) == first
    assert Source(str(file), ["t"]).identity() != first
    with file.open("ab") as more:
        more.write(lines({"_id": "2", "t": "x"}))
    assert Source(str(file)).identity() != first


def test_an_empty_file_has_no_documents(file: Path) -> None:
    file.write_bytes(b"")
    assert read(Source(str(file))) == ([], [])


@tried(max_examples=80, deadline=None)
@given(raw=st.binary(max_size=200), after=st.integers(0, 3))
def test_any_bytes_are_read_to_their_end(tmp_path_factory: pytest.TempPathFactory, raw: bytes, after: int) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(b"\n\n\n" + raw + b'\n{"_id": "last", "t": "x"}')
    found, bad = read(Source(str(path)), after)
    assert found[-1][1].id == "last"
    assert all(number > after for number, _ in found)
    assert all(told.line > after for told in bad)
