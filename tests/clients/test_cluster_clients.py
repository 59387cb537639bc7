"""The clusters' own clients: through the search pipeline, the inference endpoint and the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from connector.documents import Document
from connector.engines.cluster.connect import connect
from connector.engines.open_engine import open_engine
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from connector.writeback.elasticsearch import ElasticsearchEndpoint
from connector.writeback.inference_endpoint import InferencePlan
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.search_pipeline import PipelinePlan
from tests.clients.conftest import Service
from tests.nodes.process import Node
from tests.service.live import serving
from tests.writeback.inference_double import inferring

pytestmark = pytest.mark.filterwarnings("ignore")

QUERY = "how long do cats sleep"
MATCH: dict[str, Any] = {"match": {"text": QUERY}}
# BM25's best hit, and no answer.
LURE = "how long how long do do sleep sleep"


def options(url: str, kind: str, **more: Any) -> Settings:
    given = {"engine.kind": kind, "engine.url": url, "engine.index": "clients", "engine.fields": "text", **more}
    return load_settings("/dev/null", given, {})


@pytest.fixture(scope="module", params=["opensearch_node", "opensearch_3_node"])
def opensearch(request: pytest.FixtureRequest) -> Iterator[Settings]:
    node: Node = request.getfixturevalue(request.param)
    yield from _filled(node.url, "opensearch")


def _filled(url: str, kind: str) -> Iterator[Settings]:
    settings = options(url, kind)
    texts = [
        "Rust is a systems programming language that guarantees memory safety.",
        "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
        "A cat's whiskers are about as wide as its body and help it to judge gaps.",
        LURE,
    ]
    with open_engine(settings) as engine:
        engine.index([Document(str(place), {"text": text}) for place, text in enumerate(texts)])
    yield settings
    with closing(connect(settings.engine)) as opened:
        opened.request("DELETE", "/clients")


def ids(answer: Any) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


@pytest.mark.client("opensearch-py", "search, search_pipeline", "/v1/rerank")
def test_opensearch_through_the_pipeline(opensearch: Settings, reranker: Reranker) -> None:
    opensearchpy = pytest.importorskip("opensearchpy")
    url = opensearch.engine.url
    with (
        serving(reranker, opensearch) as (service, _),
        closing(connect(opensearch.engine)) as connection,
        closing(opensearchpy.OpenSearch(url)) as client,
    ):
        plan = PipelinePlan.of(options(str(url), "opensearch", **{"writeback.service_url": service}), "rerank")
        pipeline = OpenSearchPipeline(connection, plan)
        pipeline.install()
        try:
            body = {"query": MATCH, "ext": {"rerank": {"query_context": {"query_text": QUERY}}}}
            plain = client.search(index="clients", body=body)
            answer = client.search(index="clients", body=body, params={"search_pipeline": plan.name})
        finally:
            pipeline.uninstall()
    assert ids(plain)[0] == "3" and ids(answer)[0] == "1"
    assert sorted(ids(answer)) == sorted(ids(plain))


@pytest.mark.client("opensearch-py", "search, msearch at the gateway", "/{index}/_search")
def test_opensearch_at_the_gateway(opensearch: Settings, reranker: Reranker) -> None:
    opensearchpy = pytest.importorskip("opensearchpy")
    with serving(reranker, opensearch) as (gateway, _), closing(opensearchpy.OpenSearch(gateway)) as client:
        answer = client.search(index="clients", body={"query": MATCH})
        lines: list[dict[str, Any]] = [{"index": "clients"}, {"query": MATCH}]
        many = client.msearch(body=lines)
        assert client.count(index="clients")["count"] == 4
    assert ids(answer)[0] == "1" == ids(many["responses"][0])[0]
    assert answer["rerank"]["reranked"]


@pytest.fixture(scope="module")
def elasticsearch(elasticsearch_node: Node) -> Iterator[Settings]:
    yield from _filled(elasticsearch_node.url, "elasticsearch")


@pytest.mark.client("elasticsearch", "search, msearch at the gateway", "/{index}/_search")
def test_elasticsearch_at_the_gateway(elasticsearch: Settings, reranker: Reranker) -> None:
    module = pytest.importorskip("elasticsearch")
    with serving(reranker, elasticsearch) as (gateway, _), closing(module.Elasticsearch(gateway)) as client:
        answer = client.search(index="clients", query=MATCH)
        many = client.msearch(searches=[{"index": "clients"}, {"query": MATCH}])
        retrieved = client.search(index="clients", retriever={"standard": {"query": MATCH}})
        assert client.count(index="clients")["count"] == 4
    assert ids(answer)[0] == ids(many["responses"][0])[0] == ids(retrieved)[0] == "1"
    assert answer["rerank"]["reranked"]


@pytest.mark.client("elasticsearch", "inference.rerank; search, text_similarity_reranker", "/rerank")
def test_elasticsearch_through_the_inference_endpoint(service: Service) -> None:
    """The server is a stand-in: none with an inference API is published."""
    module = pytest.importorskip("elasticsearch")
    texts = {str(place): text for place, text in enumerate([*service.texts, LURE])}
    with inferring(texts) as double:
        given = {"serve.api_keys": service.key, "writeback.service_url": service.url}
        settings = options(double.url, "elasticsearch", **given)
        plan = InferencePlan.of(settings)
        with closing(connect(settings.engine)) as connection:
            ElasticsearchEndpoint(connection, plan, service.key).install()
        with closing(module.Elasticsearch(double.url)) as client:
            scored = client.inference.rerank(inference_id=plan.name, query=service.query, input=service.texts)
            body = plan.retriever(QUERY)
            answer = client.search(index="i", retriever=body["retriever"], size=body["size"])
    service.check([(each["index"], each["relevance_score"]) for each in scored["rerank"]])
    assert ids(answer)[0] == "2"
