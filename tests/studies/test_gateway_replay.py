"""Searches made at random, through the gateway and to real nodes: what may differ, and that differences are seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from connector.studies.gateway_replay import filled, main, replay
from connector.studies.search_bodies import searches
from tests.nodes.fixtures import running
from tests.nodes.process import Node
from tests.nodes.release import NoJava
from tests.service.gateway.conftest import gateway_settings, shuffling
from tests.service.live import serving

COUNT = 60


@pytest.fixture(scope="module", params=["opensearch_node", "opensearch_3_node", "elasticsearch_node"])
def node(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """URL and product of a real node that has the documents."""
    found: Node = request.getfixturevalue(request.param)
    kind = str(request.param).partition("_")[0]
    with filled(found.url, kind):
        yield found.url, kind


def test_nothing_differs_that_must_not(node: tuple[str, str]) -> None:
    check(*node)


@pytest.mark.nodes
@pytest.mark.parametrize("version", ["8.17.0", "9.2.0"])
def test_nothing_differs_in_other_releases(version: str) -> None:
    try:
        with running(version) as found, filled(found.url, "elasticsearch"):
            check(found.url, "elasticsearch")
    except NoJava as error:
        pytest.skip(str(error))


def check(url: str, kind: str) -> None:
    options = {"rerank.window": 12, "engine.fields": "text"}
    with serving(shuffling(), gateway_settings(url, options, kind)) as (gateway, _):
        found = replay(url, gateway, kind, COUNT)
    assert found.faults == [] and found.status_500 == 0
    assert found.bodies == COUNT <= found.searches
    # Of both kinds: what is reranked, and what the cluster refuses.
    assert found.reranked >= COUNT // 5 and found.refused >= 1


class _Meddler(BaseHTTPRequestHandler):
    """A bad gateway: it changes each answer by ``damage``."""

    url = ""
    answers = 0

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {"Content-Type": self.headers["Content-Type"]}
        answer = httpx2.post(self.url + self.path, content=content, headers=headers, timeout=60)
        body = answer.content
        if answer.status_code == 200 and "json" in answer.headers["content-type"]:
            told = answer.json()
            for one in told.get("responses", [told]):
                self.damage(one)
            body = json.dumps(told).encode()
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["content-type"])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Reranked", "true" if self.reranked else "false")
        self.end_headers()
        self.wfile.write(body)

    reranked = False

    def damage(self, answer: dict[str, Any]) -> None:
        raise NotImplementedError

    def log_message(self, *_: Any) -> None:
        pass


class _Totals(_Meddler):
    def damage(self, answer: dict[str, Any]) -> None:
        if isinstance(answer.get("hits", {}).get("total"), dict):
            answer["hits"]["total"]["value"] += 1


class _Aggregations(_Meddler):
    def damage(self, answer: dict[str, Any]) -> None:
        answer.get("aggregations", {}).clear()


class _Order(_Meddler):
    """Says of a page that it was not reranked, and turns it around."""

    def damage(self, answer: dict[str, Any]) -> None:
        answer.get("hits", {}).get("hits", []).reverse()


class _Scores(_Meddler):
    """Says of a page that it was reranked, and changes a hit."""

    reranked = True

    def damage(self, answer: dict[str, Any]) -> None:
        for hit in answer.get("hits", {}).get("hits", [])[:1]:
            hit["_score"] = -1.0


@pytest.mark.parametrize(
    ("meddler", "what"),
    [(_Totals, "total"), (_Aggregations, "aggregations"), (_Order, "hits"), (_Scores, "hits")],
)
def test_what_a_bad_gateway_changes_is_seen(opensearch_node: Node, meddler: type[_Meddler], what: str) -> None:
    meddler.url = opensearch_node.url
    with filled(opensearch_node.url, "opensearch"), ThreadingHTTPServer(("127.0.0.1", 0), meddler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            gateway = f"http://127.0.0.1:{server.server_port}"
            found = replay(opensearch_node.url, gateway, "opensearch", 40)
        finally:
            server.shutdown()
            thread.join()
    assert found.differences(what) > 5
    assert found.summary()[f"{what}_differ"] == found.differences(what)


def test_the_command(opensearch_node: Node) -> None:
    with serving(shuffling(), gateway_settings(opensearch_node.url)) as (gateway, _):
        ran = CliRunner().invoke(
            main, ["--cluster", opensearch_node.url, "--gateway", gateway, "--count", "5", "--seed", "3"]
        )
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert (told["bodies"], told["status_500"], told["hits_differ"]) == (5, 0, 0)
    assert told["cluster"] == f"opensearch {opensearch_node.version}"


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_every_seed_is_another_row_of_requests_and_each_is_the_same_again(kind: str) -> None:
    first, again, other = (list(searches(kind, 500, seed)) for seed in (0, 0, 1))
    assert first == again != other
    text = " ".join(searched.content().decode() for searched in first)
    kinds = "aggs sort from size highlight collapse rescore knn post_filter track_total_hits _source suggest nested"
    if kind == "opensearch":
        kinds += " hybrid script_fields"
    assert [name for name in kinds.split() if f'"{name}"' not in text] == []
    assert any(searched.many for searched in first)
