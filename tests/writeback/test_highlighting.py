"""The semantic highlighter of real OpenSearch nodes, with the real LLM behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.cli import cli
from connector.documents import Document
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import ClusterError, Connection, ServerVersion
from connector.engines.open_engine import open_engine
from connector.errors import EngineError, SettingsError
from connector.reranking.reranker import Reranker
from connector.writeback.highlighting import (
    FACTORIES,
    HighlightPlan,
    beside,
    check_version,
    install_highlighter,
    options_of,
    prove_highlights,
)
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.search_pipeline import PipelinePlan
from tests.nodes.process import Node
from tests.service.live import serving
from tests.service.standin import StandIn, not_reranked
from tests.writeback.test_opensearch import KEY, QUERY, options, state

ANSWER = "Adult cats sleep between twelve and sixteen hours a day."
FILLER = "Bridges are made of steel. Rivers carry sand to the sea."
TEXTS = {
    "plain": f"{FILLER} {ANSWER} {FILLER}",
    # What trips a connector up: Java counts two for each apple; quotes and controls; its own placeholders; JSON.
    "apples": f"🍎🍎 é “x”. {ANSWER} 🍎",
    "signs": f"A \"quote\", a \\ and \b\u0001 and $5 and é\t. {ANSWER}\n<b>End</b> 'it'.",
    "placeholders": f"${{parameters.inputs}} ${{parameters.rh_body}} ${{x}}. {ANSWER}",
    "json": f'["{ANSWER} "]',
}


@pytest.fixture
def node(opensearch_3_node: Node) -> Iterator[Node]:
    with open_engine(options(opensearch_3_node)) as engine:
        engine.index([Document(name, {"text": text}) for name, text in TEXTS.items()])
    yield opensearch_3_node
    with closing(connect(options(opensearch_3_node).engine)) as opened:
        opened.request("DELETE", "/pets")


@pytest.fixture
def connection(node: Node) -> Iterator[Connection]:
    opened = connect(options(node).engine)
    yield opened
    opened.close()


def marked(connection: Connection, chosen: dict[str, Any], **more: Any) -> dict[str, str]:
    """Of each hit the text with its marks."""
    highlight = {"fields": {"text": {"type": "semantic"}}, "options": chosen, **more}
    body = {"query": {"match": {"text": QUERY}}, "size": 10, "highlight": highlight}
    hits = connection.request("POST", "/pets/_search", body)["hits"]["hits"]
    return {hit["_id"]: hit["highlight"]["text"][0] for hit in hits}


def test_sentences_are_marked_one_by_one_and_in_one_call(
    node: Node, connection: Connection, reranker: Reranker
) -> None:
    before = state(connection)
    with serving(reranker, options(node)) as (url, _):
        plan = PipelinePlan.of(options(node, url, **{"writeback.timeout_s": 20}), "rerank")
        pipeline = OpenSearchPipeline(connection, plan, KEY)
        highlighter = beside(pipeline)
        sent, proofs = install_highlighter(highlighter, "pets")
        assert len(sent) == 4 and not any("pipeline" in call.path for call in sent)
        assert [proof for proof in proofs if not proof.holds] == [] and len(proofs) == 4
        assert highlighter.install() == [] and highlighter.drift(highlighter.find()) == []
        chosen = options_of(highlighter.find())
        assert chosen["batch_inference"] is True
        one_call = marked(connection, chosen)
        assert set(one_call) == set(TEXTS)
        for name, text in TEXTS.items():
            assert one_call[name].replace("<em>", "").replace("</em>", "") == text
            assert f"<em>{ANSWER}</em>" in one_call[name] or name == "json"
        assert "sleep between" in one_call["json"].partition("<em>")[2].partition("</em>")[0]
        # Here the question is what the analyzer made of it: it may mark more, never in the middle of a pair.
        single = marked(connection, {"model_id": chosen["model_id"]}, pre_tags=["["], post_tags=["]"])
        for name in ("plain", "apples", "signs", "placeholders"):
            assert f"[{ANSWER}]" in single[name]
    highlighter.uninstall()
    assert state(connection) == before


def test_what_the_page_says_of_queries(node: Node, connection: Connection, reranker: Reranker) -> None:
    connection.request("PUT", "/pets/_doc/bare", {"title": "without the field"}, {"refresh": "true"})
    words = {"match": {"text": QUERY}}
    queries: dict[str, dict[str, Any]] = {
        "multi_match": {"multi_match": {"query": QUERY, "fields": ["text", "title"]}},
        "filtered": {"bool": {"must": [words], "filter": [{"exists": {"field": "text"}}]}},
    }

    def answered(query: dict[str, Any], chosen: dict[str, Any], **more: Any) -> list[bool]:
        """Whether each hit is marked."""
        highlight = {"fields": {"text": {"type": "semantic"}}, "options": chosen, **more}
        body = {"query": query, "size": 10, "highlight": highlight}
        hits = connection.request("POST", "/pets/_search", body)["hits"]["hits"]
        return ["<em>" in str(hit.get("highlight")) for hit in hits]

    with serving(reranker, options(node)) as (url, _):
        plan = PipelinePlan.of(options(node, url, **{"writeback.timeout_s": 20}), "rerank")
        highlighter = beside(OpenSearchPipeline(connection, plan, KEY))
        highlighter.install()
        batch = options_of(highlighter.find())
        single = {"model_id": batch["model_id"]}
        for query in queries.values():
            assert all(answered(query, single, highlight_query=words))
            assert not any(answered(query, batch))
        assert not any(answered(queries["multi_match"], single))
        with pytest.raises(ClusterError, match="clauseText"):
            answered(queries["filtered"], single)
        both = {"bool": {"should": [words, {"match": {"title": "without"}}]}}
        with pytest.raises(ClusterError, match="not found in the document"):
            answered(both, single, highlight_query=words)
    highlighter.uninstall()


def test_a_service_that_fails_marks_nothing_and_one_that_is_gone_fails_the_search(
    node: Node, connection: Connection
) -> None:
    with serving(StandIn(not_reranked("failed: out of memory")), options(node)) as (url, _):
        plan = PipelinePlan.of(options(node, url), "rerank")
        highlighter = beside(OpenSearchPipeline(connection, plan, KEY))
        with pytest.raises(EngineError, match="no heads.*Nothing of the highlighter was left"):
            install_highlighter(highlighter, "pets")
        assert highlighter.find().is_empty
        highlighter.install()
        chosen = options_of(highlighter.find())
        assert marked(connection, chosen) == TEXTS
        assert marked(connection, {"model_id": chosen["model_id"]}) == TEXTS
    # OpenSearch gives this processor no way to ignore failures: docs/opensearch.md says so.
    with pytest.raises(ClusterError, match="Connection refused"):
        marked(connection, chosen)
    (proof,) = prove_highlights(highlighter, "pets")
    assert not proof.holds and "cannot reach" in proof.detail and KEY not in proof.detail
    highlighter.uninstall()


def test_what_others_set_stays(node: Node, connection: Connection) -> None:
    connection.request("PUT", "/_cluster/settings", {"persistent": {FACTORIES: ["mmr_rerank_factory"]}})
    try:
        before = state(connection)
        pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node), "rerank"), KEY)
        pipeline.install()
        between = state(connection)
        highlighter = beside(pipeline)
        highlighter.install()
        assert highlighter.find().persistent[FACTORIES] == ["mmr_rerank_factory", "semantic-highlighter"]
        assert pipeline.drift(pipeline.find()) == [], "neither knows of the other"
        highlighter.uninstall()
        assert state(connection)["names"] == between["names"]
        pipeline.uninstall()
        assert state(connection) == before
    finally:
        connection.request("PUT", "/_cluster/settings", {"persistent": {FACTORIES: None}})


def test_older_clusters_are_told() -> None:
    for version, good in (("2.19.1", False), ("3.0.0", True), ("3.6.0", True)):
        if good:
            check_version(ServerVersion.parse(version, "opensearch"))
        else:
            with pytest.raises(EngineError, match=r"2\.19\.1 has no semantic highlighter.*gateway"):
                check_version(ServerVersion.parse(version, "opensearch"))


def test_a_page_goes_in_one_call_where_the_cluster_knows_of_it() -> None:
    plan = HighlightPlan.beside(PipelinePlan("rh", "http://127.0.0.1:9", ("text",)))
    assert FACTORIES not in plan.settings_needed({}, True), "3.0 to 3.2"
    assert plan.settings_needed({FACTORIES: ["a"]}, True)[FACTORIES] == ["a", "semantic-highlighter"]
    for there in (["*"], ["semantic-highlighter", "a"]):
        assert FACTORIES not in plan.settings_needed({FACTORIES: there}, True)
    # No setting writeback.name can be this one.
    assert plan.mark == "rh-connector-rh-Highlight"


def call(*words: str, **settings: Any) -> Result:
    set_to = [part for key, value in settings.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
    return CliRunner().invoke(cli, ["--config", "/dev/null", *set_to, *words])


def test_the_command(node: Node, connection: Connection, reranker: Reranker) -> None:
    before = state(connection)
    settings = {
        "engine__kind": "opensearch",
        "engine__url": node.url,
        "engine__index": "pets",
        "engine__fields": "text",
        "writeback__timeout_s": "20",
    }
    with serving(reranker, options(node, **{"serve.api_keys": ""})) as (url, _):
        settings["writeback__service_url"] = url
        dry = call("pipeline", "install", "--highlight", "--dry-run", **settings)
        assert dry.exit_code == 0 and "/v1/highlight" in dry.output and state(connection) == before
        installed = call("pipeline", "install", "--highlight", **settings)
        assert installed.exit_code == 0, installed.output
        assert "ok  a search with highlight, one call" in installed.output and '"model_id"' in installed.output
        told = json.loads(call("--json", "pipeline", "install", **settings).stdout)
        assert told["calls"] == 0 and len(told["proofs"]) == 10, "once installed it is looked after"
        body = {"query": {"match": {"text": QUERY}}, **told["highlight"]}
        answer = connection.request("POST", "/pets/_search", body)
        assert any("<em>" in hit["highlight"]["text"][0] for hit in answer["hits"]["hits"])
        shown = call("pipeline", "status", **settings)
        assert shown.exit_code == 0 and "highlighter" in shown.output and "a sentence is found" in shown.output
        status = json.loads(call("--json", "pipeline", "status", **settings).stdout)
        assert status["highlight"]["reached"] and status["highlight"]["drift"] == []
        model = status["highlight"]["pieces"]["model"].split()[0]
        connection.request("POST", f"/_plugins/_ml/models/{model}/_undeploy")
        stale = call("pipeline", "status", **{**settings, "writeback__service_url": "http://127.0.0.1:10"})
        assert isinstance(stale.exception, EngineError) and "highlighter" in str(stale.exception)
    assert call("pipeline", "uninstall", **settings).exit_code == 0
    assert state(connection) == before


def test_the_command_on_a_cluster_without_the_highlighter(opensearch_node: Node) -> None:
    settings = {
        "engine__kind": "opensearch",
        "engine__url": opensearch_node.url,
        "engine__index": "pets",
        "engine__fields": "text",
        "writeback__service_url": "http://127.0.0.1:9",
    }
    refused = call("pipeline", "install", "--highlight", **settings)
    assert isinstance(refused.exception, EngineError) and "leave it out" in str(refused.exception)
    assert "nothing of rh is installed" in call("pipeline", "uninstall", **settings).output
    wrong = call("pipeline", "install", "--highlight", engine__kind="elasticsearch", engine__fields="text")
    assert isinstance(wrong.exception, SettingsError) and "--highlight" in str(wrong.exception)
