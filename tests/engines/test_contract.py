"""One contract for all three engines: the embedded one, and two real clusters."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from connector.documents import Document
from connector.engines.engine import Engine, IndexReport
from connector.engines.open_engine import open_engine
from connector.errors import EngineError
from connector.settings import load_settings

Opener = Callable[..., Engine]

CATS = [
    Document("1", {"title": "Cats", "text": "cat cat cat sleep"}),
    Document("2", {"title": "Dogs", "text": "a dog chases a cat"}),
    Document("3", {"title": "Bread", "text": "flour water salt yeast"}),
    Document("4", {"title": "cat food", "text": "what to buy"}),
]


@pytest.fixture(params=["embedded", "opensearch_node", "elasticsearch_node"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens engines on a new index."""
    kind = request.param.removesuffix("_node")
    options: dict[str, Any] = {"cache.path": str(tmp_path), "engine.kind": kind}
    options["engine.index"] = f"t-{uuid.uuid4().hex[:12]}"
    options["engine.retry_ms"] = 2000
    if kind != "embedded":
        options["engine.url"] = request.getfixturevalue(request.param).url
    opened: list[Engine] = []

    def open_one(**more: Any) -> Engine:
        settings = load_settings("/dev/null", {**options, **{f"engine.{k}": v for k, v in more.items()}}, {})
        opened.append(open_engine(settings))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(opener: Opener) -> Engine:
    return opener()


def ids(hits: Any) -> list[str]:
    return [hit.id for hit in hits]


def test_an_index_that_is_not_there(engine: Engine) -> None:
    assert engine.count() == 0
    assert list(engine.documents()) == []
    for call in (lambda: engine.search("cat", 3), lambda: engine.get(["1"]), lambda: engine.get([])):
        with pytest.raises(EngineError, match="there is no index.*rh-connector index"):
            call()


def test_best_first_with_scores_and_fields(engine: Engine) -> None:
    report = engine.index(CATS)
    assert (report.indexed, report.replaced, report.failures) == (4, 0, ())
    hits = engine.search("cat", 10)
    assert set(ids(hits)) == {"1", "2", "4"}
    scores = [hit.score for hit in hits]
    assert all(score is not None and score > 0 for score in scores) and scores == sorted(scores, reverse=True)
    assert hits[0].fields == CATS[int(hits[0].id) - 1].fields
    assert ids(engine.search("cat", 2)) == ids(hits)[:2]
    assert engine.count() == 4
    assert engine.search("zebra", 5) == [] and engine.search("...", 5) == [] and engine.search("cat", 0) == []


def test_weights_and_fields(opener: Opener) -> None:
    opener().index(CATS)
    # "Cats" is "cat" where the analyzer stems.
    assert "4" in ids(opener(fields="title").search("cat", 5))
    assert set(ids(opener(fields="title").search("cat", 5))) <= {"1", "4"}
    assert set(ids(opener(fields="text").search("cat", 5))) == {"1", "2"}
    assert ids(opener(fields="title^50,text").search("cat", 5))[0] in ("1", "4")
    assert set(ids(opener(fields="text,nothing").search("cat", 5))) == {"1", "2"}
    with pytest.raises(EngineError, match="engine.fields names no.*text fields are: .*text.*title"):
        opener(fields="nothing").search("cat", 5)


def test_objects_lists_and_missing_fields(opener: Opener) -> None:
    documents = [
        Document("a", {"meta": {"note": "a zebra runs"}, "tags": ["x", "y"]}),
        Document("b", {"tags": ["zebra", "lion"]}),
        Document("c", {"parts": [{"t": "one"}, {"t": "zebra"}], "n": 5, "flag": True, "none": None}),
    ]
    engine = opener()
    assert engine.index(documents).indexed == 3
    assert set(ids(engine.search("zebra", 5))) == {"a", "b", "c"}
    assert ids(opener(fields="meta.note").search("zebra", 5)) == ["a"]
    assert ids(opener(fields="meta").search("zebra", 5)) == ["a"]
    assert ids(opener(fields="parts.t").search("zebra", 5)) == ["c"]
    assert engine.get(["c"])["c"].fields == documents[2].fields


def test_equal_scores_come_by_id_also_at_the_cut(engine: Engine) -> None:
    names = [f"{place:03d}" for place in range(90)]
    engine.index([Document(name, {"text": "same words here"}) for name in reversed(names)])
    assert ids(engine.search("words", 5)) == names[:5]
    assert ids(engine.search("words", 90)) == names


def test_the_first_document_does_not_decide_what_texts_are(engine: Engine) -> None:
    documents = [Document("1", {"when": "2024-01-01", "n": "5"}), Document("2", {"when": "soon", "n": "five"})]
    assert engine.index(documents).failures == ()
    assert ids(engine.search("soon", 5)) == ["2"] and ids(engine.search("five", 5)) == ["2"]


def test_english_is_stemmed_where_the_server_can(request: pytest.FixtureRequest, engine: Engine) -> None:
    engine.index(CATS)
    # The published Elasticsearch node has no English analyzer: there "cats" is not "cat".
    stems = "elasticsearch" not in request.node.name
    assert set(ids(engine.search("cats", 5))) == ({"1", "2", "4"} if stems else {"1"})


def test_a_mapping_that_is_there_stays(opener: Opener) -> None:
    engine = opener()
    connection = getattr(engine, "connection", None)
    if connection is None:
        pytest.skip("the embedded engine has no mapping")
    index = f"/{engine._index}"  # type: ignore[attr-defined]
    mapping = {"properties": {"text": {"type": "text", "analyzer": "whitespace"}, "n": {"type": "integer"}}}
    connection.request("PUT", index, {"mappings": {"dynamic": False, **mapping}})
    report = engine.index([Document("1", {"text": "cat", "other": "x", "n": 3}), Document("2", {"n": "many"})])
    assert report.indexed == 1 and "many" in report.failures[0].reason
    now = next(iter(connection.request("GET", f"{index}/_mapping").values()))["mappings"]
    assert now["properties"] == mapping["properties"]


def test_a_known_id_replaces(engine: Engine) -> None:
    engine.index(CATS)
    report = engine.index([Document("3", {"text": "zebra"}), Document("5", {"text": "zebra"})])
    assert (report.indexed, report.replaced) == (2, 1)
    assert engine.count() == 5
    assert engine.get(["3", "nine", "3"]) == {"3": Document("3", {"text": "zebra"})}
    assert ids(engine.search("yeast", 5)) == []


def test_refused_documents_are_reported_and_the_rest_is_in(engine: Engine) -> None:
    told: list[IndexReport] = []
    bad = [Document("", {"text": "x"}), Document("long" * 200, {"text": "x"}), Document("ok", {"text": "fine"})]
    report = engine.index([*CATS, *bad], batch=3, committed=told.append)
    assert report.indexed == 5 and engine.count() == 5
    assert [failure.place for failure in report.failures] == [4, 5]
    assert "empty" in report.failures[0].reason and "longer than 512" in report.failures[1].reason
    assert [one.taken for one in told] == [3, 6, 7]


def test_every_document_once(engine: Engine) -> None:
    many = [Document(str(number), {"text": f"number {number}"}) for number in range(1203)]
    engine.index(many)
    assert sorted(document.id for document in engine.documents()) == sorted(document.id for document in many)
    assert len(engine.get([document.id for document in many])) == 1203


@pytest.mark.parametrize(
    "text", ['cat" AND (', "cat -dog", "text: cat", "cat\\", "*", "cat~ ^5", "\ud800 cat", "NOT cat"]
)
def test_no_character_is_an_operator(engine: Engine, text: str) -> None:
    engine.index(CATS)
    found = set(ids(engine.search(text, 5)))
    assert {"1", "2"} <= found or text == "*"


def test_a_page_of_text_as_query(engine: Engine) -> None:
    engine.index(CATS)
    assert "1" in ids(engine.search("cat " + " ".join(f"word{number}" for number in range(5000)), 5))


@profile(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_whatever_text_goes_in_comes_out(engine: Engine, texts: list[str]) -> None:
    documents = [Document(str(place), {"text": text, "inner": {"same": text}}) for place, text in enumerate(texts)]
    assert engine.index(documents).indexed == len(texts)
    assert engine.get([document.id for document in documents]) == {d.id: d for d in documents}
    engine.search(texts[0], 3)


def test_what_iterating_raises_comes_out_and_earlier_batches_stay(engine: Engine) -> None:
    def stumbling() -> Iterator[Document]:
        yield from CATS
        raise KeyError("gone")

    with pytest.raises(KeyError):
        engine.index(stumbling(), batch=2)
    assert engine.count() == 4
