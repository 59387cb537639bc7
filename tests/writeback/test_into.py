"""Reranking in search pipelines that are there already: what they did, they do on; in real OpenSearch nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.cli import cli
from connector.documents import Document
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import Connection
from connector.engines.open_engine import open_engine
from connector.errors import EngineError
from connector.settings import load_settings
from connector.writeback import hosting
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.search_pipeline import PipelinePlan
from tests.nodes.process import Node
from tests.service.live import serving
from tests.service.standin import StandIn

INDEX, DEFAULT = "into", "index.search.default_pipeline"
QUERY = "how many hours does a cat sleep"
TEXTS = (
    "A healthy adult cat sleeps between twelve and sixteen hours a day.",
    "Kittens may sleep up to twenty hours a day while they grow.",
    "Cats are most active at dawn and dusk.",
    "Older cats rest more than young ones.",
    "Dogs sleep about twelve hours a day.",
    "A cat's sleep is light three quarters of the time.",
    "The cat sleeps.",
    "Kittens and a cat.",
)
NORMALIZED = {
    "description": "ours, since 2021",
    "phase_results_processors": [
        {
            "normalization-processor": {
                "normalization": {"technique": "min_max"},
                "combination": {"technique": "arithmetic_mean", "parameters": {"weights": [0.7, 0.3]}},
            }
        }
    ],
    "version": 7,
}
FILTERED = {
    "request_processors": [{"filter_query": {"tag": "tenant", "query": {"term": {"kind": "a"}}}}],
    "response_processors": [],
}
HYBRID = {"hybrid": {"queries": [{"match": {"text": QUERY}}, {"match": {"text": "kittens"}}]}}
TEXT: dict[str, Any] = {"ext": {"rerank": {"query_context": {"query_text": QUERY}}}}


@pytest.fixture(scope="module", params=["opensearch_node", "opensearch_3_node"])
def node(request: pytest.FixtureRequest) -> Node:
    found: Node = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with serving(StandIn(), load_settings("/dev/null", {}, {})) as (url, _):
        yield url


def options(node: Node, url: str = "http://127.0.0.1:9", **more: Any) -> dict[str, Any]:
    return {
        "engine.kind": "opensearch",
        "engine.url": node.url,
        "engine.index": INDEX,
        "engine.fields": "text",
        "writeback.service_url": url,
        **more,
    }


@pytest.fixture
def connection(node: Node) -> Iterator[Connection]:
    settings = load_settings("/dev/null", options(node), {})
    opened = connect(settings.engine)
    mapping = {"properties": {"text": {"type": "text"}, "kind": {"type": "keyword"}}}
    opened.request("PUT", f"/{INDEX}", {"mappings": mapping, "settings": {"number_of_shards": 1}})
    with open_engine(settings) as engine:
        engine.index([Document(str(n), {"text": text, "kind": "ab"[n % 2]}) for n, text in enumerate(TEXTS)])
    yield opened
    opened.request("DELETE", f"/{INDEX}")
    opened.close()


@pytest.fixture
def own(node: Node, connection: Connection) -> Iterator[dict[str, Any]]:
    """The index's own default pipeline: a filter where the node has that processor, else normalization."""
    body = NORMALIZED if node.version.startswith("2.") else {**FILTERED, **NORMALIZED}
    connection.request("PUT", "/_search/pipeline/own", body)
    connection.request("PUT", f"/{INDEX}/_settings", {DEFAULT: "own"})
    yield body
    connection.request("PUT", f"/{INDEX}/_settings", {DEFAULT: None})
    connection.request("DELETE", "/_search/pipeline/own")


def call(node: Node, url: str, *words: str) -> Result:
    given = [part for key, value in options(node, url).items() for part in ("--set", f"{key}={value}")]
    return CliRunner().invoke(cli, ["--config", "/dev/null", *given, *words])


def bytes_of(connection: Connection) -> str:
    """All pipelines and defaults, in the cluster's own order of keys."""
    pipelines = connection.request("GET", "/_cluster/state/metadata", params={"filter_path": "**.search_pipeline"})
    settings = connection.request("GET", f"/{INDEX}/_settings", params={"flat_settings": "true"})
    cluster = connection.request("GET", "/_cluster/settings", params={"flat_settings": "true"})
    return json.dumps([pipelines, settings, cluster])


def hits(connection: Connection, pipeline: str | None = None, **body: Any) -> list[tuple[str, float]]:
    params = {} if pipeline is None else {"search_pipeline": pipeline}
    answer = connection.request("POST", f"/{INDEX}/_search", {"size": 5, **body}, params)
    return [(hit["_id"], hit["_score"]) for hit in answer["hits"]["hits"]]


def test_a_default_pipeline_is_never_replaced(node: Node, service: str, connection: Connection, own: Any) -> None:
    before, found = bytes_of(connection), hits(connection, query=HYBRID)
    assert "ours, since 2021" in before
    result = call(node, service, "pipeline", "install", "--default-for", INDEX)
    assert isinstance(result.exception, EngineError)
    told = str(result.exception)
    assert f"{INDEX} has the default pipeline own (" in told and "normalization-processor" in told
    assert "--into own" in told and ("filter_query" in told) == ("request_processors" in own)
    assert bytes_of(connection) == before and hits(connection, query=HYBRID) == found
    # One by pattern is no way around it.
    assert isinstance(call(node, service, "pipeline", "install", "--default-for", "int*").exception, EngineError)
    assert bytes_of(connection) == before


def test_from_into_to_uninstall(node: Node, service: str, connection: Connection, own: Any) -> None:
    before = bytes_of(connection)
    plain = {kind: hits(connection, query=query) for kind, query in (("all", {"match_all": {}}), ("hybrid", HYBRID))}
    result = call(node, service, "--json", "pipeline", "install", "--into", "own", "--default-for", INDEX)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["pipeline"] == "own" and "a hybrid search" in [proof["name"] for proof in told["proofs"]]
    assert connection.request("GET", f"/{INDEX}/_settings")[INDEX]["settings"]["index"]["search"] == {
        "default_pipeline": "own"
    }
    body = connection.request("GET", "/_search/pipeline/own")["own"]
    assert body["phase_results_processors"] == own["phase_results_processors"] and body["version"] == 7
    assert [name for processor in body["response_processors"] for name in processor] == ["rerank"]
    # Without query text nothing is reranked, and what the pipeline did it does on.
    assert hits(connection, query={"match_all": {}}) == plain["all"]
    assert hits(connection, query=HYBRID) == plain["hybrid"]
    # With it the same hits, each once, scored by the service.
    reranked = hits(connection, query=HYBRID, **TEXT)
    assert sorted(hit for hit, _ in reranked) == sorted(hit for hit, _ in plain["hybrid"])
    assert reranked != plain["hybrid"] and all(score > -1e6 for _, score in reranked)

    again = call(node, service, "--json", "pipeline", "install")
    assert json.loads(again.stdout)["calls"] == 0, "a second run changes nothing, and knows where it is installed"
    state = json.loads(call(node, service, "--json", "pipeline", "status").stdout)
    assert state["drift"] == [] and state["in"] == ["own"] and state["default_for"] == [INDEX]
    # The plugin's own figures came with 3.1, switched off.
    figures = None if node.version.startswith("2.") else {"enabled": False, "counts": {}}
    assert state["neural_stats"] == figures
    assert state["statistics"]["count"] > 0 and state["pieces"]["pipeline"] == "in own"
    doctor = call(node, service, "--json", "doctor").stdout
    assert "own normalizes, then reranks" in doctor and f"own for {INDEX}" in doctor

    result = call(node, service, "pipeline", "uninstall")
    assert result.exit_code == 0, result.output
    assert bytes_of(connection) == before
    assert hits(connection, query=HYBRID) == plain["hybrid"]


def test_what_others_change_meanwhile_stays(node: Node, service: str, connection: Connection, own: Any) -> None:
    assert call(node, service, "pipeline", "install", "--into", "own").exit_code == 0
    body = connection.request("GET", "/_search/pipeline/own")["own"]
    later = {"rerank": {"tag": "theirs", "ignore_failure": True, "by_field": {"target_field": "none"}}}
    changed = {**body, "description": "changed", "response_processors": [*body["response_processors"], later]}
    connection.request("PUT", "/_search/pipeline/own", changed)
    status = call(node, service, "pipeline", "status")
    assert "reranking in the search pipeline own" in str(status.exception), "ours are no longer behind theirs"
    assert call(node, service, "pipeline", "install").exit_code == 0
    both = connection.request("GET", "/_search/pipeline/own")["own"]["response_processors"]
    assert [about["rerank"]["tag"] for about in both] == ["theirs", "rh-connector-rh"]
    assert call(node, service, "pipeline", "uninstall").exit_code == 0
    left = connection.request("GET", "/_search/pipeline/own")["own"]
    assert left == {**own, "description": "changed", "response_processors": [later]}


def test_one_command_for_hybrid_searches(node: Node, service: str, connection: Connection) -> None:
    before = bytes_of(connection)
    assert call(node, service, "pipeline", "install").exit_code == 0
    raw = [hit for hit, _ in hits(connection, "rh", query=HYBRID, **TEXT)]
    assert len(set(raw)) < len(raw), "without normalization a hybrid query shows delimiters: that is what is mended"
    assert "has no normalization: a hybrid query" in call(node, service, "--json", "doctor").stdout
    assert call(node, service, "pipeline", "install", "--hybrid").exit_code == 0
    assert call(node, service, "--json", "pipeline", "status").exit_code == 0
    connection.request("PUT", "/_search/pipeline/normal", NORMALIZED)
    try:
        found = hits(connection, "normal", query=HYBRID)
    finally:
        connection.request("DELETE", "/_search/pipeline/normal")
    reranked = hits(connection, "rh", query=HYBRID, **TEXT)
    assert sorted(hit for hit, _ in reranked) == sorted(hit for hit, _ in found) and len(dict(reranked)) == 5
    # A later run without the option keeps it; --no-hybrid takes it out.
    assert json.loads(call(node, service, "--json", "pipeline", "install").stdout)["calls"] == 0
    assert call(node, service, "pipeline", "install", "--no-hybrid").exit_code == 0
    assert "phase_results_processors" not in connection.request("GET", "/_search/pipeline/rh")["rh"]
    assert call(node, service, "pipeline", "uninstall").exit_code == 0
    assert bytes_of(connection) == before


def test_every_step_is_undone_where_a_later_one_fails(
    node: Node, service: str, connection: Connection, own: Any
) -> None:
    untouched = bytes_of(connection)
    assert call(node, service, "pipeline", "install").exit_code == 0

    def whole() -> list[Any]:
        found = OpenSearchPipeline(connection, plan("http://x:1")).find()
        assert found.connector is not None
        return [bytes_of(connection), {key: found.connector[1].get(key) for key in ("actions", "client_config")}]

    def plan(url: str, **more: Any) -> PipelinePlan:
        return PipelinePlan.of(load_settings("/dev/null", options(node, url), {}), "rerank", **more)

    before = whole()
    moved = plan("http://127.0.0.1:10", into="own", hybrid=True)
    steps = list(OpenSearchPipeline(connection, moved).calls(OpenSearchPipeline(connection, moved).find()))
    assert len(steps) >= 5
    for last, step in enumerate(steps):
        pipeline, left = OpenSearchPipeline(connection, moved), iter(range(last))

        def stop(call: Any, left: Iterator[int] = left) -> None:
            if not call.why.startswith("undo") and next(left, None) is None:
                raise KeyboardInterrupt

        pipeline.told = stop
        with pytest.raises(KeyboardInterrupt):
            pipeline.install()
        assert whole() == before, step.why
    # The proof is a step, too: nothing listens at the new address.
    result = call(node, "http://127.0.0.1:9", "pipeline", "install", "--into", "own")
    assert "The cluster is as it was before" in str(result.exception)
    assert whole() == before
    assert call(node, service, "pipeline", "status").exit_code == 0
    assert call(node, service, "pipeline", "uninstall").exit_code == 0
    assert bytes_of(connection) == untouched


def test_names_that_do_not_fit_are_told(node: Node, service: str, connection: Connection, own: Any) -> None:
    before = bytes_of(connection)
    there = ", ".join(sorted(connection.request("GET", "/_search/pipeline")))
    assert "own" in there
    cases = [
        (["--into", "none"], f"--into none: there is no such search pipeline; those of the cluster: {there}"),
        (["--into", "rh"], "--into rh: there is no such search pipeline"),
    ]
    for words, message in cases:
        assert message in str(call(node, service, "pipeline", "install", *words).exception)
    connection.request("PUT", f"/{INDEX}/_mapping", {"properties": {"previous_score": {"type": "float"}}})
    told = str(call(node, service, "pipeline", "install", "--route", "scores").exception)
    assert "the first-stage score as previous_score in _source, over the field" in told
    assert bytes_of(connection) == before


def test_lists_that_were_empty_or_missing_are_so_again() -> None:
    ours = {"description": "x", "response_processors": [{"rerank": {"tag": "t"}}]}
    bodies: list[dict[str, Any]] = [{}, {"request_processors": []}, {"response_processors": []}]
    for body in [*bodies, {"response_processors": [{"sort": {}}], "version": 7}]:
        grown = hosting.with_ours(body, ours, "t", "own")
        assert grown["response_processors"][-1] == ours["response_processors"][0] and "description" not in grown
        assert hosting.with_ours(grown, ours, "t", "own") == grown
        assert hosting.without_ours(grown, "t", hosting.empty_parts(body)) == body


def test_a_pipeline_that_cuts_hits_takes_no_oversampling() -> None:
    ours = {
        "request_processors": [{"oversample": {"tag": "t", "sample_factor": 2.0}}],
        "response_processors": [{"rerank": {"tag": "t"}}, {"truncate_hits": {"tag": "t"}}],
    }
    with pytest.raises(EngineError, match="--oversample with --into own.*truncate_hits of its own"):
        hosting.with_ours({"response_processors": [{"truncate_hits": {"target_size": 5}}]}, ours, "t", "own")
    grown = hosting.with_ours({"request_processors": [{"filter_query": {}}]}, ours, "t", "own")
    assert [name for one in grown["request_processors"] for name in one] == ["filter_query", "oversample"]
