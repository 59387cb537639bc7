"""The inference endpoint, against a stand-in of Elasticsearch's own, with the real service and LLM behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from connector.engines.connection import Connection, connect
from connector.errors import EngineError, SettingsError
from connector.reranker import Reranker
from connector.settings import Settings, load_settings
from connector.writeback.calls import curl
from connector.writeback.elasticsearch import ElasticsearchEndpoint, InferencePlan
from tests.nodes.process import Node
from tests.service.live import serving
from tests.writeback.inference_double import InferenceDouble, inferring

KEY = 'k"ey'
QUERY = "how long do cats sleep"


@pytest.fixture
def cluster(cats: list[str]) -> Iterator[InferenceDouble]:
    texts = [*cats, "how long how long do do sleep sleep", "cats cats cats and cats and dogs"]
    with inferring({str(place): text for place, text in enumerate(texts)}) as double:
        yield double


@pytest.fixture
def connection(cluster: InferenceDouble) -> Iterator[Connection]:
    with closing(connect(options(cluster.url).engine)) as opened:
        yield opened


def options(url: str, service: str = "http://127.0.0.1:9", **more: Any) -> Settings:
    given = {
        "engine.kind": "elasticsearch",
        "engine.url": url,
        "engine.fields": "text",
        "serve.api_keys": KEY,
        "writeback.service_url": service,
        **more,
    }
    return load_settings("/dev/null", given, {})


def ids(answer: Any) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


def test_from_install_to_uninstall(cluster: InferenceDouble, connection: Connection, reranker: Reranker) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        plan = InferencePlan.of(options(cluster.url, service))
        endpoint = ElasticsearchEndpoint(connection, plan, KEY)
        assert len(endpoint.install()) == 1 and endpoint.install() == []
        scores = endpoint.prove()
        assert scores[1] > scores[0]
        answer = connection.request("POST", "/i/_search", plan.retriever(QUERY))
        found = [key for key, text in cluster.texts.items() if set(text.lower().split()) & set(QUERY.split())]
        wanted = reranker.rerank(QUERY, [cluster.texts[key] for key in found])
        assert ids(answer) == [found[hit.index] for hit in wanted.hits]
        moved = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url, f"{service}/")), KEY)
        assert moved.install() == []
    calls = cluster.calls
    answer = connection.request("POST", "/i/_search", plan.retriever(QUERY))
    assert ids(answer)[0] == "5" and cluster.calls == calls + 1, "first stage, asked once"
    with pytest.raises(EngineError, match="onnection refused"):
        endpoint.prove()
    assert len(endpoint.uninstall()) == 1 and endpoint.uninstall() == []
    assert cluster.endpoints == {}


def test_a_service_elsewhere_makes_the_endpoint_anew(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker
) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        cluster.endpoints["rh"] = {"service": "hugging_face", "service_settings": {"url": "http://old/rerank"}}
        endpoint = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url, service)), KEY)
        assert [call.method for call in endpoint.install()] == ["DELETE", "PUT"]
        assert cluster.endpoints["rh"]["service_settings"]["url"] == f"{service}/rerank"


def test_a_wrong_key_and_a_dead_service_leave_nothing(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker
) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        endpoint = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url, service)), "other")
        with pytest.raises(EngineError, match="wrong key") as caught:
            endpoint.install()
        assert "other" not in str(caught.value).replace("another", "")
    with pytest.raises(EngineError, match="must reach writeback.service_url"):
        ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url)), KEY).install()
    assert cluster.endpoints == {}


def test_an_endpoint_of_somebody_else_is_left_alone(cluster: InferenceDouble, connection: Connection) -> None:
    theirs = {"service": "cohere", "service_settings": {"model_id": "x"}}
    cluster.endpoints["rh"] = dict(theirs)
    endpoint = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url)), KEY)
    with pytest.raises(EngineError, match="did not make; choose another writeback.name"):
        endpoint.install()
    assert endpoint.uninstall() == [] and cluster.endpoints["rh"] == theirs


def test_what_is_shown_holds_no_key(cluster: InferenceDouble, connection: Connection) -> None:
    endpoint = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url)), KEY)
    (line,) = [curl(call, cluster.url) for call in endpoint.calls(endpoint.find())]
    assert KEY not in line and json.dumps(KEY)[1:-1] not in line and '"$RH_KEY"' in line


@pytest.mark.parametrize("version", ["8.18.2", "9.0.4"])
def test_releases_that_cannot(version: str) -> None:
    with inferring({}, version) as double, closing(connect(options(double.url).engine)) as opened:
        endpoint = ElasticsearchEndpoint(opened, InferencePlan.of(options(double.url)), KEY)
        with pytest.raises(EngineError, match=f"Elasticsearch {version} cannot.*gateway"):
            endpoint.find()


def test_a_real_node_without_the_inference_api(elasticsearch_node: Node) -> None:
    with closing(connect(options(elasticsearch_node.url).engine)) as opened:
        endpoint = ElasticsearchEndpoint(opened, InferencePlan.of(options(elasticsearch_node.url)), KEY)
        with pytest.raises(EngineError, match="gateway"):
            endpoint.install()


def test_bad_plans_are_told() -> None:
    with pytest.raises(SettingsError, match="writeback.service_url"):
        InferencePlan.of(options("http://h", "h:1"))
    for fields in ("", "a,b"):
        with pytest.raises(SettingsError, match="reads one field"):
            InferencePlan.of(options("http://h", **{"engine.fields": fields}))
