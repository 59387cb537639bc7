"""The page in front of a cluster: browsers get it, the cluster's clients get the cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from connector.documents import Document
from connector.engines.open_engine import open_engine
from connector.reranking.reranker import Reranker
from connector.settings import load_settings
from tests.nodes.process import Node
from tests.service.gateway.conftest import GatewayFactory, gateway_settings
from tests.service.gateway.fake_cluster import FakeCluster
from tests.service.live import serving
from tests.service.page.conftest import QUERY, TEXTS

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
INFO = b'{"name":"node","tagline":"You Know, for Search"}'
# As the clients send it: curl, opensearch-py, elasticsearch-py 8, nothing.
CLIENTS = ["*/*", "application/json", "application/vnd.elasticsearch+json; compatible-with=8", ""]
INDEX = "page-pets"


@pytest.fixture
def cluster_info(cluster: FakeCluster) -> FakeCluster:
    cluster.answers["/"] = (200, {"Content-Type": "application/json", "X-Elastic-Product": "Elasticsearch"}, INFO)
    return cluster


@pytest.mark.parametrize("accept", CLIENTS)
def test_clients_of_the_cluster_get_the_cluster(
    make_gateway: GatewayFactory, cluster_info: FakeCluster, accept: str
) -> None:
    client = make_gateway()
    answer = client.get("/", headers={"Accept": accept})
    assert answer.content == INFO and answer.headers["X-Elastic-Product"] == "Elasticsearch"
    assert client.head("/", headers={"Accept": accept}).status_code == 200
    assert "<!doctype html>" in client.get("/", headers={"Accept": BROWSER}).text
    assert "<!doctype html>" in client.get("/ui", headers={"Accept": accept}).text
    assert [asked.method for asked in cluster_info.asked] == ["GET", "HEAD"]


def test_a_closed_page_leaves_the_root_to_the_cluster(
    make_gateway: GatewayFactory, cluster_info: FakeCluster
) -> None:
    client = make_gateway({"serve.page": "false"})
    assert client.get("/", headers={"Accept": BROWSER}).content == INFO
    assert client.get("/ui").status_code == 403


def test_a_password_opens_the_page_and_not_the_cluster(
    make_gateway: GatewayFactory, cluster_info: FakeCluster
) -> None:
    client = make_gateway({"serve.api_keys": "sesame"})
    password = ("any", "sesame")
    assert "<!doctype html>" in client.get("/", headers={"Accept": BROWSER}, auth=password).text
    refused = client.get("/", headers={"Accept": "*/*"}, auth=password)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["error"]["type"] == "security_exception" and cluster_info.asked == []
    counted = client.get("/metrics", headers={"X-Api-Key": "sesame"}).text
    assert 'rh_requests_total{route="/ui",status="200"} 1.0' in counted


def test_the_cluster_is_asked_once_and_its_failure_is_told(
    make_gateway: GatewayFactory, cluster_info: FakeCluster
) -> None:
    options = {"engine.url": "http://127.0.0.1:1", "engine.retry_ms": 0}
    html = make_gateway(options).get("/ui", params={"q": QUERY}).text
    assert "The search failed" in html and "127.0.0.1:1" in html


@pytest.fixture(scope="module", params=["opensearch_node", "elasticsearch_node"])
def page(request: pytest.FixtureRequest, reranker: Reranker) -> Iterator[tuple[str, dict[str, Any]]]:
    """URL of a service with the small LLM in front of a node, and the engine's settings."""
    node: Node = request.getfixturevalue(request.param)
    options = {"engine.index": INDEX, "engine.fields": "title,text", "serve.host": "127.0.0.1"}
    settings = gateway_settings(node.url, options, request.param.removesuffix("_node"))
    with open_engine(settings) as engine:
        texts = {identity: text for identity, text in TEXTS.items() if identity != "odd"}
        engine.index(Document(key, {"title": f"About {key}", "text": text}) for key, text in texts.items())
    with serving(reranker, settings) as (url, _):
        yield url, {"engine.kind": settings.engine.kind, "engine.url": node.url, **options}
    httpx2.delete(f"{node.url}/{INDEX}", timeout=30)


def test_on_a_real_cluster(page: tuple[str, dict[str, Any]], reranker: Reranker) -> None:
    url, options = page
    with open_engine(load_settings(options=options, environment={})) as engine:
        hits = engine.search(QUERY, 20)
    expected = [
        hit.index
        for hit in reranker.rerank(
            QUERY, [_scored(hit.fields) for hit in hits], first_stage=[hit.score or 0.0 for hit in hits]
        ).hits
    ]
    html = httpx2.get(f"{url}/", params={"q": QUERY}, headers={"Accept": BROWSER}, timeout=60).text
    assert re.findall(r'<li id="b(\d+)"', html) == [str(at) for at in range(len(hits))]
    assert re.findall(r'<li id="a(\d+)"', html) == [str(at) for at in expected] and len(expected) > 2
    assert options["engine.kind"] in html and "<mark>" in html and "chance of being relevant" in html
    # What is no browser sees the cluster.
    assert httpx2.get(f"{url}/", timeout=60).json() == httpx2.get(f"{options['engine.url']}/", timeout=60).json()


def _scored(fields: Any) -> str:
    return f"{fields['title']}\n{fields['text']}"
