"""Versions of the documents of real indexes, and what a cluster that is only half there must not look like."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connector.documents import Document
from connector.engines.cluster.cluster_engine import ClusterEngine
from connector.engines.cluster.versions import IndexVersions
from connector.engines.open_engine import open_engine
from connector.errors import EngineError, MissingIndexError, SettingsError
from connector.settings import load_settings
from tests.engines.cluster.cluster_double import doubling

Opener = Callable[..., ClusterEngine]

MAPPING = {
    "settings": {"number_of_shards": 3, "number_of_replicas": 0},
    "mappings": {"properties": {"written": {"type": "date"}, "size": {"type": "long"}, "text": {"type": "text"}}},
}


@pytest.fixture
def opener() -> Iterator[Opener]:
    opened: list[ClusterEngine] = []

    def open_one(url: str, kind: str, index: str) -> ClusterEngine:
        options = {"engine.kind": kind, "engine.url": url, "engine.index": index, "engine.retry_ms": 0}
        engine = open_engine(load_settings("/dev/null", options, {}))
        assert isinstance(engine, ClusterEngine)
        opened.append(engine)
        return engine

    yield open_one
    for engine in opened:
        engine.close()


@pytest.fixture(params=["opensearch_node", "elasticsearch_node"])
def at(request: pytest.FixtureRequest, opener: Opener) -> Callable[[str], ClusterEngine]:
    """An index of three shards on a real node, by name."""
    url, kind = request.getfixturevalue(request.param).url, request.param.removesuffix("_node")
    return lambda name: opener(url, kind, name)


def make(engine: ClusterEngine) -> ClusterEngine:
    engine.request("PUT", "", MAPPING)
    return engine


def name() -> str:
    return f"v-{uuid.uuid4().hex[:10]}"


def delete(engine: ClusterEngine, identity: str) -> None:
    engine.request("DELETE", f"/_doc/{identity}", None, {"refresh": "true"})


def now(engine: ClusterEngine, *since: Any) -> dict[str, str]:
    return dict(pair for page in IndexVersions(engine).walk(*since) for pair in page)


def test_a_version_changes_with_its_document_alone(at: Callable[[str], ClusterEngine]) -> None:
    index = name()
    engine = make(at(index))
    assert now(engine) == {}
    # More than a page, in three shards: each counts from 0.
    engine.index(Document(str(number), {"text": f"number {number}"}) for number in range(2_100))
    before = now(engine)
    assert set(before) == {f"{index}/{number}" for number in range(2_100)}
    assert len(set(before.values())) < len(before)
    engine.index([Document("7", {"text": "another"}), Document("x/y", {"text": "new"})])
    delete(engine, "8")
    after = now(engine)
    assert set(after) - set(before) == {f"{index}/x/y"} and set(before) - set(after) == {f"{index}/8"}
    assert {key for key in after if after[key] != before.get(key)} == {f"{index}/7", f"{index}/x/y"}
    # Written again as it was.
    engine.index([Document("9", {"text": "number 9"})])
    assert now(engine)[f"{index}/9"] != after[f"{index}/9"]
    asked = [f"{index}/{one}" for one in ("7", "8", "x/y", "none")]
    found = {document.name: document for document in IndexVersions(engine).fetch(asked)}
    assert set(found) == {f"{index}/7", f"{index}/x/y"}
    assert found[f"{index}/7"].fields == {"text": "another"} and found[f"{index}/7"].version == after[f"{index}/7"]


def test_an_index_that_was_made_anew_has_other_versions(at: Callable[[str], ClusterEngine]) -> None:
    engine = make(at(name()))
    engine.index([Document("1", {"text": "one"})])
    before, identity = now(engine), IndexVersions(engine).identity
    engine.request("DELETE", "")
    with pytest.raises(MissingIndexError, match="there is no index"):
        IndexVersions(engine)
    make(engine).index([Document("1", {"text": "two"})])
    assert set(now(engine)) == set(before) and now(engine) != before
    assert IndexVersions(engine).identity != identity


def test_the_same_id_in_two_indexes(at: Callable[[str], ClusterEngine]) -> None:
    both = name()
    for end in ("a", "b"):
        make(at(f"{both}-{end}")).index([Document("1", {"text": end}), Document(end, {"text": end})])
    pattern = at(f"{both}-*")
    assert set(now(pattern)) == {f"{both}-{one}" for one in ("a/1", "a/a", "b/1", "b/b")}
    found = IndexVersions(pattern).fetch([f"{both}-b/1", f"{both}-a/1", f"{both}-a/b"])
    assert {document.name: document.fields["text"] for document in found} == {f"{both}-a/1": "a", f"{both}-b/1": "b"}
    with pytest.raises(MissingIndexError, match="pattern"):
        IndexVersions(at(f"{both}-none-*"))


def test_new_dates_only(at: Callable[[str], ClusterEngine]) -> None:
    index = name()
    engine = make(at(index))
    assert IndexVersions(engine).newest("written") is None
    dates = {"old": "2024-01-01T00:00:00Z", "new": "2024-06-01T00:00:00.250Z"}
    engine.index([Document(one, {"written": date}) for one, date in dates.items()])
    engine.index([Document("none", {"text": "no date"})])
    newest = IndexVersions(engine).newest("written")
    assert newest == 1_717_200_000_250
    assert set(now(engine, "written", newest)) == {f"{index}/new"}
    assert set(now(engine, "written", newest + 1)) == set()
    for field, message in (("size", "its type is long"), ("nothing", "no such field")):
        with pytest.raises(SettingsError, match=rf"--by {field}: .*{message}.*type date"):
            IndexVersions(engine).newest(field)


def page(hits: int, total: int, successful: int = 2) -> tuple[int, Any]:
    found = [{"_index": "a", "_id": str(at), "_seq_no": at, "_primary_term": 1} for at in range(hits)]
    answer: dict[str, Any] = {"_shards": {"total": 2, "successful": successful, "failed": 2 - successful}}
    return 200, {**answer, "_scroll_id": "s", "hits": {"total": {"value": total, "relation": "eq"}, "hits": found}}


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([page(2, 2, successful=1), page(0, 2)], "1 of 2 shards"),
        # A page that was lost on its way is not given again.
        ([page(2, 4), page(0, 4)], "2 of 4 documents"),
    ],
)
def test_half_an_index_is_none(opener: Opener, answers: list[tuple[int, Any]], message: str) -> None:
    with doubling("opensearch", "2.19.1") as double:
        double.settings = (200, {"a": {"settings": {"index.uuid": "u"}}})
        double.answers = answers
        with pytest.raises(EngineError, match=message):
            now(opener(double.url, "opensearch", "a"))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([page(2, 2, successful=1), page(0, 2)], "1 of 2 shards"),
        # A second scroll brings nothing new either. Between them the first one is deleted.
        ([page(2, 4), page(0, 4), (200, {}), page(2, 4), page(0, 4)], "2 of 4 documents"),
    ],
)
def test_half_an_index_is_not_taken_for_all_documents(
    opener: Opener, answers: list[tuple[int, Any]], message: str
) -> None:
    with doubling("opensearch", "2.19.1") as double:
        double.answers = answers
        with pytest.raises(EngineError, match=message):
            list(opener(double.url, "opensearch", "a").documents())


def test_whoever_may_not_see_settings_is_told(opener: Opener) -> None:
    with doubling("elasticsearch", "8.17.0") as double:
        double.settings = (403, {"error": {"reason": "action [indices:monitor/settings/get] is unauthorized"}})
        with pytest.raises(EngineError, match="unauthorized; .*view_index_metadata"):
            IndexVersions(opener(double.url, "elasticsearch", "a"))
