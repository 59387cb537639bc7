"""The embedded engine, with the real tantivy."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st

from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine
from connector.engines.engine import IndexReport
from connector.errors import EngineError
from connector.sections import LANGUAGES, Language

ANIMALS = {
    "cat": {"title": "Cats", "text": "Adult cats sleep twelve hours a day."},
    "dog": {"title": "Dogs", "text": "A dog barks at cats, and sleeps less."},
    "bread": {"title": "Bread", "text": "Bread is made of flour, water and yeast."},
}


def documents(stored: dict[str, dict[str, Any]]) -> list[Document]:
    return [Document(identity, fields) for identity, fields in stored.items()]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EmbeddedEngine]:
    """Three animals, one of them bread."""
    with EmbeddedEngine(tmp_path / "animals") as made:
        made.index(documents(ANIMALS))
        yield made


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedEngine:
    """300 documents in three segments, many of equal score."""
    made = EmbeddedEngine(tmp_path_factory.mktemp("many") / "index")
    stored = (Document(f"{at:03}", {"text": "cat " * (at % 3 + 1) + "dog"}) for at in reversed(range(300)))
    made.index(stored, batch=100)
    return made


def ids(engine: EmbeddedEngine, query: str, size: int = 10) -> list[str]:
    return [hit.id for hit in engine.search(query, size)]


def test_whoever_may_read_one_file_may_read_all(tmp_path: Path) -> None:
    for name, mask in (("ours", 0o022), ("own", 0o077)):
        before = os.umask(mask)
        try:
            with EmbeddedEngine(tmp_path / name) as engine:
                engine.index(documents(ANIMALS), batch=1)
                engine.index(documents({"cow": {"text": "A cow."}}))
        finally:
            os.umask(before)
        rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / name).iterdir()}
        assert set(rights.values()) == {0o666 & ~mask}, rights


def test_words_are_found_in_any_form_and_best_first(engine: EmbeddedEngine) -> None:
    hits = engine.search("how long does a CAT sleep?", 10)
    assert [hit.id for hit in hits] == ["cat", "dog"]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert hits[0].fields == ANIMALS["cat"]
    assert set(ids(engine, "sleeping")) == {"cat", "dog"}


def test_stop_words_alone_find_nothing(engine: EmbeddedEngine) -> None:
    assert ids(engine, "is it of the") == []


def test_fields_come_back_as_they_were(tmp_path: Path) -> None:
    fields = {
        "text": "a cat\x00 \u2028 \ud83d half an emoji 🐈",
        "year": 1999,
        "big": 2**70,
        "share": 0.1,
        "tags": ["a", {"b": None}],
        "empty": "",
        "nothing": None,
        "yes": True,
    }
    engine = EmbeddedEngine(tmp_path / "index")
    engine.index([Document("1", fields)])
    (hit,) = engine.search("cat", 1)
    assert hit.fields == fields
    assert list(hit.fields) == list(fields)
    assert engine.get(["1"])["1"] == Document("1", fields)


def test_get_leaves_out_what_is_not_there(engine: EmbeddedEngine) -> None:
    found = engine.get(["dog", "mouse", "dog", "\ud800", ""])
    assert list(found) == ["dog"]
    assert found["dog"].fields == ANIMALS["dog"]


def test_a_known_id_replaces_the_older_document(engine: EmbeddedEngine) -> None:
    report = engine.index(documents({"cat": {"text": "about birds"}, "mouse": {"text": "a mouse"}}))
    assert (report.indexed, report.replaced) == (2, 1)
    assert engine.count() == 4
    assert ids(engine, "twelve hours") == []
    assert ids(engine, "birds") == ["cat"]


def test_an_id_twice_in_a_call_replaces_within_it(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "index")
    twice = [Document("1", {"text": f"word{at}"}) for at in range(5)]
    assert engine.index(twice, batch=2) == IndexReport(5, 4)
    assert engine.count() == 1
    assert ids(engine, "word4") == ["1"]
    assert ids(engine, "word3") == []


def test_ids_are_whole_and_not_words(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "index")
    names = ["json.dumps", "JSON.dumps", "json dumps", "a\x00b", "ü", " ", "x" * 512]
    engine.index([Document(name, {"text": "cat"}) for name in names])
    assert engine.count() == len(names)
    assert list(engine.get(names)) == names
    assert sorted(ids(engine, "cat", 100)) == sorted(names)


def test_refused_documents_are_told_and_the_others_indexed(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "index")
    loop: dict[str, Any] = {}
    loop["itself"] = loop
    report = engine.index(
        [
            Document("good", {"text": "cat"}),
            Document("", {"text": "cat"}),
            Document("x" * 513, {"text": "cat"}),
            Document("\ud800", {"text": "cat"}),
            Document("loop", loop),
            Document("also good", {"text": "cat"}),
        ],
        batch=2,
    )
    assert (report.indexed, report.replaced, report.taken) == (2, 0, 6)
    assert [failure.place for failure in report.failures] == [1, 2, 3, 4]
    assert all("\n" not in failure.reason for failure in report.failures)
    assert ids(engine, "cat") == ["also good", "good"]


@pytest.mark.parametrize("size", [-1, 0])
def test_no_hits_are_asked_for(engine: EmbeddedEngine, size: int) -> None:
    assert engine.search("cat", size) == []


@pytest.mark.parametrize("size", [1, 99, 100, 101, 299, 300, 1000, 10**9])
def test_equal_scores_come_by_id_and_a_shorter_list_is_the_longer_ones_beginning(
    many: EmbeddedEngine, size: int
) -> None:
    expected = sorted(f"{at:03}" for at in range(300))
    expected.sort(key=lambda name: -(int(name) % 3))
    assert ids(many, "cat", size) == expected[:size]


def test_weights_lift_fields(tmp_path: Path) -> None:
    stored = {"title": {"title": "cat", "text": "dog"}, "text": {"title": "dog", "text": "cat"}}
    EmbeddedEngine(tmp_path / "index").index(documents(stored))

    def scores(weights: dict[str, float]) -> dict[str, float]:
        hits = EmbeddedEngine(tmp_path / "index", weights).search("cat", 2)
        return {hit.id: hit.score or math.nan for hit in hits}

    even = scores({"title": 1, "text": 1})
    assert even["title"] == even["text"]
    lifted = scores({"title": 2, "text": 1})
    assert lifted["title"] == pytest.approx(2 * lifted["text"], rel=1e-4)
    assert lifted["text"] == even["text"]
    assert scores({"text": 1}).keys() == {"text"}


def test_fields_inside_objects_and_lists_have_weights(tmp_path: Path) -> None:
    fields = {"about": {"name": "cat", "tags": ["small", {"colour": "grey"}]}, "year": 1999}
    EmbeddedEngine(tmp_path / "index").index([Document("1", fields)])
    for names, query, found in [
        (["about.name"], "cat", True),
        (["about.tags"], "cat", False),
        (["about.tags"], "small", True),
        (["about"], "grey", True),
        ([], "grey", True),
        ([], "1999", False),
    ]:
        engine = EmbeddedEngine(tmp_path / "index", dict.fromkeys(names, 1.0))
        assert bool(engine.search(query, 1)) is found, (names, query)


def test_fields_that_nobody_has_are_told_with_those_that_are_there(engine: EmbeddedEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="its text fields are: text, title"):
        EmbeddedEngine(tmp_path / "animals", {"body": 1.0}).search("cat", 1)
    # One that is there is enough: in an index of many sources, not each has all.
    assert ids(EmbeddedEngine(tmp_path / "animals", {"body": 1.0, "title": 1.0}), "dogs") == ["dog"]


def test_new_fields_may_come_later_also_for_a_reader_that_is_open(engine: EmbeddedEngine, tmp_path: Path) -> None:
    reader = EmbeddedEngine(tmp_path / "animals", {"title": 1.0, "summary": 1.0})
    assert ids(reader, "hamster") == []
    engine.index(documents({"hamster": {"summary": "A hamster"}}))
    assert ids(reader, "hamster") == ["hamster"]
    assert ids(EmbeddedEngine(tmp_path / "animals"), "hamster") == ["hamster"]


def test_more_fields_than_slots_are_all_searched(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "index")
    engine.index([Document("1", {f"field{at}": f"word{at}" for at in range(60)})])
    assert all(ids(engine, f"word{at}") == ["1"] for at in range(60))
    assert ids(EmbeddedEngine(tmp_path / "index", {"field59": 1.0}), "word59") == ["1"]
    assert ids(EmbeddedEngine(tmp_path / "index", {"field3": 1.0}), "word59") == []


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("東京タワー", "京"),
        ("caf\u00e9", "cafe\u0301"),
        ("שלום עולם", "עולם"),
        ("json_dumps", "dumps"),
        ("ЁЛКИ", "ёлки"),
        ("x" * 100, "X" * 100),
    ],
)
def test_words_of_other_writings(tmp_path: Path, text: str, query: str) -> None:
    engine = EmbeddedEngine(tmp_path / "index")
    engine.index([Document("1", {"text": text})])
    assert ids(engine, query) == ["1"]


@pytest.mark.parametrize(
    "query",
    [
        'cat" OR (dog',
        "cat AND NOT cat",
        "text:cat",
        "-cat +cat",
        "/cat/",
        "cat~2^9 [a TO b] {*",
        "\\cat",
        "cat\x00",
        "\ud800 cat",
        "\u202ecat",
        "🐈 cat",
        "cat " * 5000,
        " ".join(f"w{at}" for at in range(900)) + " cat",
    ],
)
def test_no_character_is_an_operator(engine: EmbeddedEngine, query: str) -> None:
    assert "cat" in ids(engine, query)


@pytest.mark.parametrize("query", ["", " ", "\n", '"', "🐈", "?!", "\x00", "\ud800", "a" * 100_000, "*", "id:cat"])
def test_queries_that_find_nothing_or_little_are_no_errors(engine: EmbeddedEngine, query: str) -> None:
    assert len(engine.search(query, 3)) <= 2


@tried(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=40), size=st.integers(1, 400))
def test_any_query_is_answered(many: EmbeddedEngine, query: str, size: int) -> None:
    hits = many.search(query + " cat", size)
    assert len(hits) == min(size, 300)
    assert len({hit.id for hit in hits}) == len(hits)
    assert hits == sorted(hits, key=lambda hit: (-(hit.score or 0), hit.id))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@tried(max_examples=15, deadline=None)
@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=4))
def test_any_json_is_stored_and_found_by_its_id(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    engine = EmbeddedEngine(tmp_path_factory.mktemp("any") / "index")
    assert engine.index([Document("1", fields)]).failures == ()
    assert engine.get(["1"]) == {"1": Document("1", fields)}


def test_without_an_index_the_way_to_one_is_told(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "none")
    assert engine.count() == 0
    for ask in (lambda: engine.search("cat", 1), lambda: engine.get(["1"])):
        with pytest.raises(EngineError, match="rh-connector index"):
            ask()
    assert not (tmp_path / "none").exists()


def test_an_empty_index_answers(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "index")
    assert engine.index([]) == IndexReport()
    assert engine.search("cat", 10) == []
    assert engine.count() == 0


def test_two_writers_are_told(engine: EmbeddedEngine, tmp_path: Path) -> None:
    def second(_: IndexReport) -> None:
        with pytest.raises(EngineError, match="another process is writing"):
            EmbeddedEngine(tmp_path / "animals").index([])

    engine.index(documents(ANIMALS), committed=second)
    # The lock is given back.
    assert EmbeddedEngine(tmp_path / "animals").index([]).indexed == 0


def test_readers_see_each_batch_while_another_writes(engine: EmbeddedEngine, tmp_path: Path) -> None:
    reader = EmbeddedEngine(tmp_path / "animals")
    seen = []
    new = [Document(f"bird{at}", {"text": "a bird"}) for at in range(6)]
    engine.index(new, batch=2, committed=lambda report: seen.append((report.taken, len(ids(reader, "bird")))))
    assert seen == [(2, 2), (4, 4), (6, 6)]


def test_what_iterating_raises_comes_out_and_earlier_batches_stay(tmp_path: Path) -> None:
    def breaking() -> Iterator[Document]:
        yield from (Document(str(at), {"text": "cat"}) for at in range(5))
        raise KeyError("away")

    engine = EmbeddedEngine(tmp_path / "index")
    with pytest.raises(KeyError, match="away"):
        engine.index(breaking(), batch=2)
    assert engine.count() == 4
    assert engine.index([Document("new", {"text": "cat"})]).indexed == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine

def endless():
    for at in range(10**9):
        if at == 250:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Document(str(at), {"text": f"cat {at}"})

EmbeddedEngine(Path(sys.argv[1])).index(endless(), batch=100)
"""


def test_a_killed_writer_leaves_the_last_commit_and_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(folder)], check=False, timeout=60)
    assert ended.returncode < 0
    engine = EmbeddedEngine(folder)
    assert engine.count() == 200
    assert ids(engine, "199") == ["199"]
    report = engine.index(Document(str(at), {"text": f"cat {at}"}) for at in range(300))
    assert (report.indexed, report.replaced, engine.count()) == (300, 200, 300)


def test_a_crash_before_the_record_was_written_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    EmbeddedEngine(folder).index([])
    (folder / "rh-index.json").unlink()
    (folder / "rh-index.json.17.part").write_text("{")
    assert EmbeddedEngine(folder).index(documents(ANIMALS)).indexed == 3


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(EngineError, match="not an index of rh-connector"):
        EmbeddedEngine(tmp_path).index(documents(ANIMALS))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot make"):
        EmbeddedEngine(tmp_path / "file" / "index").index([])


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 999, "slots": {}}', "has format 999"),
        ('{"format": "x", "slots": {}}', "has format x"),
    ],
)
def test_an_index_of_another_version_or_damaged_is_told(
    engine: EmbeddedEngine, tmp_path: Path, record: str, told: str
) -> None:
    (tmp_path / "animals" / "rh-index.json").write_text(record)
    with pytest.raises(EngineError, match=told) as refused:
        EmbeddedEngine(tmp_path / "animals")
    assert "index again" in str(refused.value)


@pytest.mark.parametrize("name", ["meta.json", "*.store", "*.idx", "*.term"])
@pytest.mark.parametrize("harm", ["remove", "halve", "turn"])
def test_damaged_files_are_told_in_one_line(engine: EmbeddedEngine, tmp_path: Path, name: str, harm: str) -> None:
    engine.close()
    for path in (tmp_path / "animals").glob(name):
        raw = path.read_bytes()
        if harm == "remove":
            path.unlink()
        else:
            path.write_bytes(raw[: len(raw) // 2] if harm == "halve" else bytes(255 - byte for byte in raw))
    with pytest.raises(EngineError) as told:
        EmbeddedEngine(tmp_path / "animals").search("cat", 3)
    assert "\n" not in str(told.value)
    assert "index again" in str(told.value)


def test_a_panic_is_told(engine: EmbeddedEngine, tmp_path: Path) -> None:
    # Damage that comes later than the checksums were looked at; tantivy panics, which is no Exception.
    engine.close()
    opened = EmbeddedEngine(tmp_path / "animals")
    assert opened.count() == len(ANIMALS)
    for path in (tmp_path / "animals").glob("*.store"):
        with path.open("r+b") as file:
            start = file.read(20)
            file.seek(0)
            file.write(bytes(255 - byte for byte in start))
    with pytest.raises(EngineError, match="index again"):
        opened.search("cat", 3)


def test_the_record_is_plain(engine: EmbeddedEngine, tmp_path: Path) -> None:
    record = json.loads((tmp_path / "animals" / "rh-index.json").read_text())
    assert record == {"format": 2, "slots": {"title": 0, "text": 1}}


def test_fields_of_another_writer_are_kept(tmp_path: Path) -> None:
    first = EmbeddedEngine(tmp_path / "index")
    first.index([Document("1", {"text": "cat"})])
    with EmbeddedEngine(tmp_path / "index") as second:
        second.index([Document("2", {"url": "dog"})])
    # Opened before the other one gave "url" its place.
    first.index([Document("3", {"tags": "bird"})])
    for name, query, found in (("text", "cat", "1"), ("url", "dog", "2"), ("tags", "bird", "3")):
        assert ids(EmbeddedEngine(tmp_path / "index", {name: 1.0}), query) == [found]


def test_an_index_that_another_made_meanwhile_is_taken(tmp_path: Path) -> None:
    first = EmbeddedEngine(tmp_path / "index")
    EmbeddedEngine(tmp_path / "index").index([Document("1", {"text": "cat"})])
    assert first.count() == 1
    late = EmbeddedEngine(tmp_path / "index")
    late.close()
    assert late.index([Document("2", {"text": "cat"})]).replaced == 0
    assert late.count() == first.count() == 2


def test_every_document_comes_once(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "index")
    assert list(engine.documents()) == []
    given_documents = [Document(f"d{at}", {"text": f"number {at}", "tags": [at]}) for at in range(25)]
    engine.index(given_documents, batch=7)
    engine.index([Document("d3", {"text": "another"})])
    found = {document.id: document for document in engine.documents()}
    assert len(found) == 25 and found["d3"].fields == {"text": "another"} and found["d4"] == given_documents[4]


@pytest.mark.parametrize(
    ("language", "text", "query", "found"),
    [
        ("german", "Die Häuser am Fluss", "haus", True),
        ("german", "Die Häuser am Fluss", "die", False),
        ("english", "Die Häuser am Fluss", "haus", False),
        ("french", "Les chevaux couraient", "courir cheval", True),
        ("spanish", "las canciones", "canción", True),
        ("russian", "большие города", "город", True),
        ("none", "Running dogs", "run", False),
        ("none", "Running dogs of the", "THE", True),
        ("turkish", "kitaplar", "kitap", True),
    ],
)
def test_words_are_found_in_the_forms_of_the_index_language(
    tmp_path: Path, language: Language, text: str, query: str, found: bool
) -> None:
    with EmbeddedEngine(tmp_path / "index", language=language) as engine:
        engine.index([Document("1", {"text": text})])
    # Whoever opens it says nothing of its language.
    with EmbeddedEngine(tmp_path / "index") as engine:
        assert [hit.id for hit in engine.search(query, 5)] == (["1"] if found else [])
        engine.index([Document("2", {"text": text})])
        assert len(engine.search(query, 5)) == (2 if found else 0)


def test_another_language_than_the_index_has_is_told(tmp_path: Path) -> None:
    with EmbeddedEngine(tmp_path / "index", language="german") as engine:
        engine.index([Document("1", {"text": "Haus"})])
    for act in (
        lambda: EmbeddedEngine(tmp_path / "index", language="french"),
        lambda: EmbeddedEngine(tmp_path / "index", language="english"),
    ):
        with pytest.raises(EngineError, match="made with engine.language german, and it is .*leave it out, or index"):
            act()
    assert EmbeddedEngine(tmp_path / "index", language="german").count() == 1


def test_an_index_in_english_is_what_it_was_before_there_were_languages(tmp_path: Path) -> None:
    EmbeddedEngine(tmp_path / "index", language="english").index([Document("1", {"text": "cats"})])
    record = json.loads((tmp_path / "index" / "rh-index.json").read_text())
    assert record == {"format": 2, "slots": {"text": 0}}
    EmbeddedEngine(tmp_path / "other", language="german").index([Document("1", {"text": "Katzen"})])
    # An older version refuses it: it would cut queries into other terms.
    assert json.loads((tmp_path / "other" / "rh-index.json").read_text())["format"] == 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_one_that_tantivy_has(tmp_path: Path, language: Language) -> None:
    engine = EmbeddedEngine(tmp_path / "index", language=language)
    engine.index([Document("1", {"text": "word"})])
    assert engine.count() == 1


def test_one_bit_that_flipped_anywhere_is_told(engine: EmbeddedEngine, tmp_path: Path) -> None:
    engine.index([Document(str(at), {"text": f"cat {at}"}) for at in range(30)])
    engine.index([Document("3", {"text": "another cat"})])
    engine.close()
    folder, count = tmp_path / "animals", 30 + len(ANIMALS)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".store", ".idx", ".term", ".fast", ".del")]
    assert {path.suffix for path in files} == {".store", ".idx", ".term", ".fast", ".del"}
    # Of a text as it is stored, tantivy itself tells nothing: another one would be shown.
    for path in files:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[2] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(EngineError, match=rf"{path.name} is damaged: its checksum is another; index again"):
            EmbeddedEngine(folder).count()
        path.write_bytes(whole)
    assert EmbeddedEngine(folder).count() == count
