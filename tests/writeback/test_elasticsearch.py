"""The inference endpoint, against a stand-in of Elasticsearch's own, with the real service and LLM behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import Connection
from connector.errors import EngineError, SettingsError
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from connector.writeback.calls import curl
from connector.writeback.elasticsearch import ElasticsearchEndpoint
from connector.writeback.inference_endpoint import InferencePlan, Service
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


@pytest.mark.slow
@pytest.mark.parametrize("service_kind", ["hugging_face", "custom"])
def test_from_install_to_uninstall(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker, service_kind: Service
) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        plan = InferencePlan.of(options(cluster.url, service), service_kind)
        endpoint = ElasticsearchEndpoint(connection, plan, KEY)
        assert len(endpoint.install()) == 1 and endpoint.install() == []
        assert cluster.endpoints["rh"]["service"] == service_kind
        scores = endpoint.prove()
        assert scores[1] > scores[0]
        answer = connection.request("POST", "/i/_search", plan.retriever(QUERY))
        found = [key for key, text in cluster.texts.items() if set(text.lower().split()) & set(QUERY.split())]
        wanted = reranker.rerank(QUERY, [cluster.texts[key] for key in found])
        assert ids(answer) == [found[hit.index] for hit in wanted.hits]
        fused = connection.request("POST", "/i/_search", plan.weighted(QUERY))
        assert sorted(ids(fused)) == sorted(found)
        moved = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url, f"{service}/")), KEY)
        assert moved.install() == [], "what is installed is kept where no service is named"
    calls = cluster.calls
    first = sorted(found, key=lambda key: -sum(word in QUERY.split() for word in cluster.texts[key].lower().split()))
    for body in (plan.retriever(QUERY), plan.weighted(QUERY)):
        assert ids(connection.request("POST", "/i/_search", body)) == first
    assert cluster.calls == calls + 2, "asked once each"
    with pytest.raises(EngineError, match="onnection refused"):
        endpoint.prove()
    assert len(endpoint.uninstall()) == 1 and endpoint.uninstall() == []
    assert cluster.endpoints == {}


def test_the_weighted_search_is_the_sum_of_both(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker
) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        plan = InferencePlan.of(options(cluster.url, service))
        ElasticsearchEndpoint(connection, plan, KEY).install()
        shown = {}
        for name, body in (("fused", plan.weighted(QUERY)), ("llm", plan.retriever(QUERY))):
            answer = connection.request("POST", "/i/_search", body)
            shown[name] = {hit["_id"]: hit["_score"] for hit in answer["hits"]["hits"]}
    counts = {
        key: float(sum(word in QUERY.split() for word in cluster.texts[key].lower().split())) for key in shown["llm"]
    }

    def minmax(scores: dict[str, float]) -> dict[str, float]:
        low, high = min(scores.values()), max(scores.values())
        return {key: (score - low) / (high - low) for key, score in scores.items()}

    first, llm = minmax(counts), minmax(shown["llm"])
    assert shown["fused"] == pytest.approx({key: first[key] + llm[key] for key in first})


def test_a_service_elsewhere_or_another_kind_makes_the_endpoint_anew(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker
) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        old = InferencePlan("rh", "http://old", "text", service="hugging_face")
        cluster.endpoints["rh"] = old.endpoint()
        endpoint = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url, service)), KEY)
        assert endpoint.drift(endpoint.find()) == [f"url is http://old/rerank, not {service}/rerank"]
        assert [call.method for call in endpoint.install()] == ["DELETE", "PUT"]
        assert cluster.endpoints["rh"]["service_settings"]["url"] == f"{service}/rerank"
        custom = ElasticsearchEndpoint(connection, InferencePlan.of(options(cluster.url, service), "custom"), KEY)
        assert [call.method for call in custom.install()] == ["DELETE", "PUT"]
        assert cluster.endpoints["rh"]["service_settings"]["url"] == f"{service}/v2/rerank"


def test_a_changed_key_is_noticed_and_renewed(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker
) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        plan = InferencePlan.of(options(cluster.url, service))
        ElasticsearchEndpoint(connection, plan, KEY).install()
        cluster.endpoints["rh"]["service_settings"]["api_key"] = "an older one"
        with pytest.raises(EngineError, match="key is wrong"):
            ElasticsearchEndpoint(connection, plan, KEY).prove()
        assert [call.method for call in ElasticsearchEndpoint(connection, plan, KEY).install()] == ["DELETE", "PUT"]
        assert cluster.endpoints["rh"]["service_settings"]["api_key"] == KEY


@pytest.mark.parametrize("service_kind", ["hugging_face", "custom"])
def test_a_wrong_key_and_a_dead_service_leave_nothing(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker, service_kind: Service
) -> None:
    with serving(reranker, options(cluster.url)) as (service, _):
        plan = InferencePlan.of(options(cluster.url, service), service_kind)
        with pytest.raises(EngineError, match="key is wrong") as caught:
            ElasticsearchEndpoint(connection, plan, "qu0ted").install()
        assert "qu0ted" not in str(caught.value)
    dead = InferencePlan.of(options(cluster.url), service_kind)
    with pytest.raises(EngineError, match="must reach writeback.service_url"):
        ElasticsearchEndpoint(connection, dead, KEY).install()
    assert cluster.endpoints == {}


def test_custom_reads_placeholders_in_texts(
    cluster: InferenceDouble, connection: Connection, reranker: Reranker
) -> None:
    """Why ``hugging_face`` is what is used unless ``custom`` is asked for."""
    with serving(reranker, options(cluster.url)) as (service, _):
        kinds: tuple[Service, ...] = ("hugging_face", "custom")
        for kind in kinds:
            plan = InferencePlan.of(options(cluster.url, service), kind)
            ElasticsearchEndpoint(connection, plan, KEY).install()
            answer = connection.request("POST", "/i/_search", plan.retriever("how long do ${cats} sleep"))
            # Between one and two, else counts of words.
            reranked = all(hit["_score"] < 2.0 for hit in answer["hits"]["hits"])
            assert reranked == (kind == "hugging_face")


@pytest.fixture
def installed(cluster: InferenceDouble, connection: Connection, reranker: Reranker) -> Iterator[InferencePlan]:
    """The plan of an endpoint that is there, with the service behind it."""
    with serving(reranker, options(cluster.url)) as (service, _):
        plan = InferencePlan.of(options(cluster.url, service))
        ElasticsearchEndpoint(connection, plan, KEY).install()
        yield plan


def retrieved(connection: Connection, kind: str, size: int = 10, **asked: Any) -> dict[str, float]:
    answer = connection.request("POST", "/i/_search", {"retriever": {kind: asked}, "size": size})
    return {hit["_id"]: hit["_score"] for hit in answer["hits"]["hits"]}


def test_scores_are_one_more_than_the_services_and_so_is_a_threshold_around_them(
    connection: Connection, installed: InferencePlan, cluster: InferenceDouble
) -> None:
    reranker = installed.retriever(QUERY)["retriever"]["text_similarity_reranker"]
    found = retrieved(connection, "text_similarity_reranker", **reranker)
    said = dict(zip(found, cluster.infer("rh", QUERY, [cluster.texts[key] for key in found]), strict=True))
    assert len(found) > 2
    assert found == {key: pytest.approx(1 + score, abs=1e-12) for key, score in said.items()}
    limit = sorted(said.values())[1]
    kept = [key for key, score in said.items() if score >= limit]
    # Of the retriever itself, the threshold is first held against the scores as they came.
    assert list(retrieved(connection, "text_similarity_reranker", **reranker, min_score=limit)) == kept
    assert retrieved(connection, "text_similarity_reranker", **reranker, min_score=1 + limit) == {}
    parts = [{"retriever": {"text_similarity_reranker": reranker}, "weight": 1.0, "normalizer": "none"}]
    assert list(retrieved(connection, "linear", retrievers=parts, min_score=1 + limit)) == kept


def test_inside_other_retrievers(
    connection: Connection, installed: InferencePlan, cluster: InferenceDouble, cats: list[str]
) -> None:
    inner = installed.retriever(QUERY)["retriever"]
    standard = inner["text_similarity_reranker"]["retriever"]
    ours = list(retrieved(connection, "text_similarity_reranker", **inner["text_similarity_reranker"]))
    first = list(retrieved(connection, "standard", **standard["standard"], rank_window_size=10))
    assert ours != first
    heavy = [{"retriever": standard, "weight": 1}, {"retriever": inner, "weight": 100}]
    assert list(retrieved(connection, "rrf", retrievers=heavy)) == ours
    assert list(retrieved(connection, "rrf", retrievers=[{**heavy[0], "weight": 10_000}, heavy[1]])) == first
    # A document that the words do not find.
    (pinned,) = [key for key, text in cluster.texts.items() if key not in ours][:1]
    assert list(retrieved(connection, "pinned", ids=[pinned, ours[-1]], retriever=inner)) == [
        pinned,
        ours[-1],
        *ours[:-1],
    ]
    cluster.rulesets["promoted"] = [ours[-1]]
    ruled = retrieved(connection, "rule", ruleset_ids=["promoted"], match_criteria={}, retriever=inner)
    assert list(ruled) == [ours[-1], *ours[:-1]]
    more = {"type": "mmr", "field": "vector", "rank_window_size": 10, "retriever": inner}
    assert list(retrieved(connection, "diversify", **more, **{"lambda": 1.0})) == ours
    mixed = list(retrieved(connection, "diversify", **more, **{"lambda": 0.0}))
    assert sorted(mixed) == sorted(ours) and mixed[0] == ours[0]


def test_the_endpoint_called_directly(connection: Connection, installed: InferencePlan, cats: list[str]) -> None:
    answer = connection.request("POST", f"/_inference/rerank/{installed.name}", {"query": QUERY, "input": cats})
    places = [hit["index"] for hit in answer["rerank"]]
    assert places[0] == 2 and sorted(places) == list(range(len(cats)))
    assert all(0 < hit["relevance_score"] < 1 for hit in answer["rerank"])


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
