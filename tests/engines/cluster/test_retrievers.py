"""How many hits a search with retrievers gives, and a search that keeps to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connector.engines.cluster.cluster_engine import ClusterEngine
from connector.engines.cluster.connect import connect
from connector.engines.cluster.retrievers import rank_window
from connector.settings import load_settings
from tests.engines.cluster.cluster_double import counted, doubling

STANDARD = {"standard": {"query": {"match": {"text": "{query}"}}}}


def deep(levels: int) -> dict[str, Any]:
    retriever: dict[str, Any] = STANDARD
    for level in range(levels):
        retriever = {"pinned": {"ids": [], "retriever": retriever, "rank_window_size": 10 + level}}
    return {"retriever": retriever}


@pytest.mark.parametrize(
    ("body", "window"),
    [
        ({"query": {"match_all": {}}}, None),
        ({"retriever": STANDARD}, None),
        ({"retriever": {"knn": {"field": "v", "k": 3}}}, None),
        ({"retriever": {"rrf": {"retrievers": [STANDARD, STANDARD]}}}, 10),
        ({"retriever": {"rrf": {"retrievers": [STANDARD], "rank_window_size": 50}}}, 50),
        ({"retriever": {"linear": {"query": "cats", "rank_window_size": "7"}}}, 7),
        ({"retriever": {"linear": {"query": "cats", "rank_window_size": True}}}, 10),
        ({"retriever": {"rescorer": {"retriever": STANDARD, "rescore": [{"window_size": 9}, {}]}}}, 9),
        (deep(3), 10),
        # Nothing recurses for ever.
        (deep(300), 10 + 299 - 40),
        ({"rank": {"rrf": {"rank_window_size": 30}}}, 30),
        ({"rank": {"rrf": {}}}, 10),
        ({"retriever": "rrf"}, None),
    ],
)
def test_the_smallest_window_of_a_search_counts(body: dict[str, Any], window: int | None) -> None:
    assert rank_window(body) == window


def test_a_query_of_the_users_own_is_not_asked_for_more_than_its_window() -> None:
    query = {"retriever": {"rrf": {"retrievers": [STANDARD, STANDARD], "rank_window_size": 15}}}
    with doubling("elasticsearch", "9.1.0") as double:
        double.answers = [counted(0)]
        settings = load_settings(options={"engine.kind": "elasticsearch", "engine.url": double.url}, environment={})
        with ClusterEngine(connect(settings.engine), "books", query_json=json.dumps(query)) as engine:
            assert engine.search("cats", 20) == []
        asked = json.loads(double.asked[-1][3])
    assert asked["size"] == 15
    assert asked["retriever"]["rrf"]["retrievers"][0]["standard"]["query"]["match"]["text"] == "cats"
