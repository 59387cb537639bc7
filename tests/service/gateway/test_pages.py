"""What holds for every page of every search, with hits and rests of answers as odd as JSON allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from connector.service.app import create_app
from connector.service.gateway.parsing.raw_json import read_value, scan_list, scan_object
from tests.service.gateway.conftest import gateway_settings, shuffling
from tests.service.gateway.fake_cluster import FakeCluster, hit, running_cluster
from tests.service.waiting import wait_until

_QUERY = {"query": {"match": {"text": "cats"}}}
_ODD_VALUES = [
    "1.0E10",
    "-0.0",
    "0.10",
    "1e400",
    "123456789012345678901234567890",
    '"\\u00e9\\ud83d\\ude00"',
    '"\\ud800"',
    '"a\\/b \\" ]}"',
    "[ 1 ,  2,\t[ ] ]",
    '{ "hits" : { "hits" : [ ] } , "error":null}',
    "null",
    '"é東京"',
]
_PROPERTY = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

odd = st.sampled_from(_ODD_VALUES)
hits = st.integers(0, 30).flatmap(
    lambda count: st.tuples(
        *(
            st.builds(
                lambda text, value, at=at: hit(at, f"{30 - at}.50", text, f',"highlight" : {{"x": {value}}}'),
                st.text("abc \ud800é", max_size=6),
                odd,
            )
            for at in range(count)
        )
    )
)
rests = st.lists(
    st.tuples(st.sampled_from(["aggregations", "suggest", "profile", "_shards", "pit_id"]), odd), max_size=3
)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["first_stage", "rerank"])
def front(request: pytest.FixtureRequest, fake: FakeCluster) -> Iterator[TestClient]:
    chosen = gateway_settings(fake.url, {"serve.gateway_scores": request.param})
    app = create_app(shuffling(), chosen)
    with TestClient(app) as client:
        client.headers["X-Scores"] = request.param
        wait_until(lambda: app.state.loading.status == "ready")
        yield client


def search(front: TestClient, start: int, size: int, window: int) -> Any:
    answer = front.post(
        f"/books/_search?from={start}&size={size}", json=_QUERY, headers={"X-Rerank-Window": str(window)}
    )
    assert answer.status_code == 200
    return answer


def raw_hits(body: bytes) -> list[str]:
    text = body.decode("utf-8", "surrogateescape")
    members, _ = scan_object(text, 0, {"hits": lambda t, at: scan_object(t, at, {"hits": scan_list})})
    return [text[span.start : span.end] for span in members["hits"].value["hits"].value]


def ids(raw: list[str]) -> list[str]:
    return [read_value(one)[0]["_id"] for one in raw]


@pytest.mark.slow
@given(hits=hits, window=st.integers(1, 35), size=st.integers(1, 12))
@_PROPERTY
def test_pages_put_together_are_one_long_page(
    front: TestClient, fake: FakeCluster, hits: tuple[str, ...], window: int, size: int
) -> None:
    fake.hits = list(hits)
    long_page = raw_hits(search(front, 0, 40, window).content)
    pages = [raw_hits(search(front, start, size, window).content) for start in range(0, 40, size)]
    together = [one for page in pages for one in page]
    assert ids(together) == ids(long_page)
    # Nothing twice, nothing lost, and behind the window the cluster's order.
    assert sorted(ids(long_page)) == sorted(ids(list(hits)))
    assert ids(long_page)[window:] == ids(list(hits))[window:]
    assert all(len(page) <= size for page in pages)
    if front.headers["X-Scores"] == "first_stage":
        assert together == long_page
        assert sorted(long_page) == sorted(hits)


@given(hits=hits, rest=rests, window=st.integers(1, 35), start=st.integers(0, 40), size=st.integers(1, 40))
@_PROPERTY
def test_all_but_the_order_of_hits_is_as_the_cluster_wrote_it(
    front: TestClient, fake: FakeCluster, hits: tuple[str, ...], rest: list[Any], window: int, start: int, size: int
) -> None:
    fake.hits = list(hits)
    members = dict(rest)
    fake.rest = "".join(f' , "{name}" :  {value}' for name, value in members.items())
    try:
        answer = search(front, start, size, window)
    finally:
        fake.rest = ""
    text = answer.content.decode("utf-8", "surrogateescape")
    read, _ = scan_object(text)
    for name, value in members.items():
        assert text[read[name].start : read[name].end] == value
    assert f'"total":{{"value":{len(hits)},"relation":"eq"}}' in text
    assert len(raw_hits(answer.content)) == len(hits[start : start + size])
    if start < window:
        assert list(read)[-1] == "rerank"
        assert read["rerank"].value["reranked"] is (len(hits) > 0)
        assert answer.headers["X-Reranked"] == json.dumps(len(hits) > 0)
    else:
        assert answer.headers["X-Reranked"] == "false"
        assert "rerank" not in read


@given(
    hits=hits.filter(lambda found: len(found) > 0),
    window=st.integers(1, 35),
    scale=st.sampled_from(["e-30", "e30", ""]),
)
@_PROPERTY
def test_new_scores_never_contradict_the_order(
    front: TestClient, fake: FakeCluster, hits: tuple[str, ...], window: int, scale: str
) -> None:
    fake.hits = [one.replace('.50,"_source', f'.50{scale},"_source') for one in hits]
    answer = search(front, 0, 40, window).content.decode("utf-8", "surrogateescape")
    value, _ = read_value(answer)
    scores = [one["_score"] for one in value["hits"]["hits"]]
    if front.headers["X-Scores"] == "first_stage":
        assert value["hits"]["max_score"] == 9.5
        return
    assert scores == sorted(scores, reverse=True)
    assert all(1 < score < 2 for score in scores[:window])
    assert all(0 < score < 1 for score in scores[window:])
    assert value["hits"]["max_score"] == scores[0]
