"""The search pipeline in real OpenSearch nodes, with the real LLM behind it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from connector.documents import Document, Hit
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import ClusterError, Connection, ServerVersion
from connector.engines.open_engine import open_engine
from connector.errors import EngineError, SettingsError
from connector.reranking.reranker import Reranker
from connector.routing.selection import Routes
from connector.sections import Settings
from connector.settings import load_settings
from connector.writeback import search_pipeline
from connector.writeback.calls import Call, curl, without_files
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.proving import Proof, predict, prove_searches, was_reranked
from connector.writeback.search_pipeline import PipelinePlan, Route, joining_script
from tests.nodes.process import Node
from tests.service.live import serving
from tests.service.standin import StandIn
from tests.service.waiting import wait_until

KEY = 'k"ey\\1'
QUERY = "how long do cats sleep"


@pytest.fixture(scope="module", params=["opensearch_node", "opensearch_3_node"])
def node(request: pytest.FixtureRequest) -> Node:
    found: Node = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def routed(settings: Settings, reranker: Reranker) -> Reranker:
    """With the shipped router, on the session's LLM."""
    return Reranker(reranker.reader, Routes.from_settings(settings, reranker.reader))


def options(node: Node, service: str = "http://127.0.0.1:9", **more: Any) -> Settings:
    given: dict[str, Any] = {
        "engine.kind": "opensearch",
        "engine.url": node.url,
        "engine.index": "pets",
        "engine.fields": "text",
        "engine.retry_ms": 2000,
        "writeback.service_url": service,
        "serve.api_keys": KEY,
        "rerank.window": 10,
        **more,
    }
    return load_settings("/dev/null", given, {})


@pytest.fixture
def connection(node: Node) -> Iterator[Connection]:
    opened = connect(options(node).engine)
    yield opened
    opened.close()


@pytest.fixture
def pets(node: Node, cats: list[str]) -> Iterator[list[str]]:
    """An index in which the answer is not BM25's best hit."""
    texts = [
        *cats,
        "Cats, cats and more cats: a musical that ran for long.",
        "How long is a marathon? Forty-two kilometres.",
        "How to bake bread: let the dough sleep over night.",
        "How long, how long do words do nothing, and how do they sleep.",
    ]
    with open_engine(options(node)) as engine:
        engine.index([Document(str(place), {"text": text, "title": f"t{place}"}) for place, text in enumerate(texts)])
    yield texts
    with closing(connect(options(node).engine)) as opened:
        opened.request("DELETE", "/pets")


def state(connection: Connection) -> dict[str, Any]:
    """All that an installation touches."""

    def searched(kind: str) -> Any:
        try:
            answer = connection.request("POST", f"/_plugins/_ml/{kind}/_search", {"query": {"match_all": {}}})
        except ClusterError:
            return []
        return sorted(hit["_source"]["name"] for hit in answer["hits"]["hits"])

    try:
        pipelines = connection.request("GET", "/_search/pipeline")
    except ClusterError:
        pipelines = {}
    settings = connection.request("GET", "/_cluster/settings", params={"flat_settings": "true"})
    indices = connection.request("GET", "/pets/_settings", params={"flat_settings": "true"})
    names = [searched(kind) for kind in ("connectors", "models", "model_groups")]
    return {"settings": settings, "pipelines": pipelines, "indices": indices, "names": names}


def search(connection: Connection, plan: PipelinePlan, **more: Any) -> tuple[list[str], dict[str, Any]]:
    body = {**plan.search(QUERY, {"match": {"text": QUERY}}), **more}
    answer = connection.request("POST", "/pets/_search", body, {"search_pipeline": plan.name})
    return [hit["_id"] for hit in answer["hits"]["hits"]], answer


def plain(connection: Connection) -> list[Hit]:
    answer = connection.request("POST", "/pets/_search", {"query": {"match": {"text": QUERY}}})
    return [Hit(hit["_id"], hit["_score"], hit["_source"]) for hit in answer["hits"]["hits"]]


@pytest.mark.parametrize("route", ["rerank", "scores"])
def test_from_install_to_uninstall(
    node: Node, connection: Connection, pets: list[str], routed: Reranker, route: Route
) -> None:
    before = state(connection)
    first = plain(connection)
    settings = options(node)
    with serving(routed, settings) as (url, _):
        plan = PipelinePlan.of(options(node, url, **{"writeback.timeout_s": 3}), route)
        pipeline = OpenSearchPipeline(connection, plan, KEY)
        assert len(pipeline.install("pets")) >= 5
        assert pipeline.install("pets") == [] and pipeline.drift(pipeline.find(), "pets") == []
        found = pipeline.find()
        assert found.model is not None and found.indices == ("pets",)
        reach = predict(connection, plan, found.model[0])
        assert reach.holds, reach.detail
        proofs = list(prove_searches(connection, plan, "pets"))
        assert [proof for proof in proofs if not proof.holds] == [] and len(proofs) == 5

        calls = pipeline.statistics()
        with open_engine(settings) as engine:
            assert engine.count() == len(pets) == len(list(engine.documents())) == len(engine.get(list("012345678")))
            assert [hit.id for hit in engine.search(QUERY, 3)] == [hit.id for hit in first[:3]]
        assert pipeline.statistics() == calls, "what the library ranks itself goes past the pipeline"
        ids, answer = search(connection, plan)
        assert was_reranked(answer, plan)
        # The processor sends texts in first-stage order, without scores.
        wanted = routed.rerank(QUERY, [str(hit.fields["text"]) for hit in first], first_stage="order")
        assert ids == [first[hit.index].id for hit in wanted.hits]
        assert ids != [hit.id for hit in first], "the example must be one that moves"
        if route == "scores":
            kept = {hit["_id"]: hit["_source"]["previous_score"] for hit in answer["hits"]["hits"]}
            assert kept == pytest.approx({hit.id: hit.score for hit in first})
        # The default pipeline must not break what has no ext.
        assert connection.request("POST", "/pets/_count", {"query": {"match_all": {}}})["count"] == len(pets)
        failed = pipeline.statistics()["failed"]

    ids, answer = search(connection, plan)
    assert ids == [hit.id for hit in first] and not was_reranked(answer, plan)
    assert pipeline.statistics()["failed"] > failed
    gone = predict(connection, plan, found.model[0])
    assert not gone.holds and "cannot reach" in gone.detail and KEY not in gone.detail
    pipeline.uninstall()
    assert state(connection) == before
    assert pipeline.uninstall() == []


def test_drift_is_seen_and_mended(node: Node, connection: Connection, pets: list[str]) -> None:
    pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node), "rerank"), KEY)
    before = state(connection)
    pipeline.install()
    moved = OpenSearchPipeline(connection, PipelinePlan.of(options(node, "http://127.0.0.1:10"), "rerank"), KEY)
    drift = moved.drift(moved.find())
    assert any("connector" in line for line in drift) and any("settings" in line for line in drift)
    moved.install()
    assert moved.drift(moved.find()) == []
    connection.request("DELETE", f"/_search/pipeline/{pipeline.plan.name}")
    assert moved.drift(moved.find()) == ["search pipeline"]
    moved.install()
    moved.uninstall()
    assert state(connection) == before


def test_settings_of_others_stay(node: Node, connection: Connection, pets: list[str]) -> None:
    trusted = "plugins.ml_commons.trusted_connector_endpoints_regex"
    connection.request("PUT", "/_cluster/settings", {"persistent": {trusted: ["^https://mine/.*$"]}})
    try:
        pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node), "rerank"), KEY)
        pipeline.install()
        now = pipeline.find().persistent[trusted]
        connection.request("PUT", "/_cluster/settings", {"persistent": {trusted: [*now, "^https://later/.*$"]}})
        pipeline.uninstall()
        left = pipeline.find().persistent
        assert left == {trusted: ["^https://mine/.*$", "^https://later/.*$"]}
    finally:
        connection.request("PUT", "/_cluster/settings", {"persistent": {trusted: None}})


@pytest.mark.parametrize("first_to_go", [0, 1])
def test_two_installations_share_the_settings(
    node: Node, connection: Connection, pets: list[str], first_to_go: int
) -> None:
    before = state(connection)
    plans = [
        PipelinePlan.of(options(node, f"http://127.0.0.1:{9 + n}", **{"writeback.name": f"rh{n}"}), "rerank")
        for n in range(2)
    ]
    pair = [OpenSearchPipeline(connection, plan) for plan in plans]
    for pipeline in pair:
        pipeline.install()
    pair[first_to_go].uninstall()
    other = pair[1 - first_to_go]
    assert other.drift(other.find()) == []
    other.uninstall()
    assert state(connection) == before


def test_a_half_failed_install_leaves_nothing_and_a_killed_one_is_continued(
    node: Node, connection: Connection, pets: list[str]
) -> None:
    before = state(connection)
    pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node), "rerank"), KEY)

    def stop(call: Any) -> None:
        if "models/_register" in call.path:
            raise KeyboardInterrupt

    pipeline.told = stop
    with pytest.raises(KeyboardInterrupt):
        pipeline.install()
    assert state(connection) == before
    # A killed process cannot clean up: the calls up to there are all that it leaves.
    killed = OpenSearchPipeline(connection, pipeline.plan, KEY)
    for call in list(killed.calls(killed.find()))[:2]:
        call.send(connection, KEY)
    wait_until(lambda: killed.find().connector is not None)
    sent = killed.install()
    assert [call.why for call in sent] == ["group of the model", "remote model, deployed", "search pipeline"]
    killed.uninstall()
    assert state(connection) == before


def test_a_pipeline_of_somebody_else_is_left_alone(node: Node, connection: Connection, pets: list[str]) -> None:
    body = {"description": "mine", "request_processors": []}
    connection.request("PUT", "/_search/pipeline/rh", body)
    try:
        pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node), "rerank"), KEY)
        with pytest.raises(EngineError, match="did not make.*writeback.name"):
            pipeline.install()
        pipeline.uninstall()
        assert connection.request("GET", "/_search/pipeline/rh")["rh"] == body
    finally:
        connection.request("DELETE", "/_search/pipeline/rh")


def test_several_fields_come_joined(node: Node, connection: Connection, pets: list[str], routed: Reranker) -> None:
    with serving(routed, options(node)) as (url, app):
        plan = PipelinePlan.of(options(node, url, **{"engine.fields": "title,text,tags,meta.note,none"}), "rerank")
        pipeline = OpenSearchPipeline(connection, plan, KEY)
        pipeline.install()
        document = {"title": "a", "text": "zebra", "tags": ["x", "y"], "meta": {"note": "deep"}}
        connection.request("PUT", "/pets/_doc/z", document, {"refresh": "true"})
        body = plan.search("zebra", {"match": {"text": "zebra"}})
        answer = connection.request("POST", "/pets/_search", body, {"search_pipeline": plan.name})
        (hit,) = answer["hits"]["hits"]
        assert hit["fields"]["rh_text"] == ["a\nzebra\nx y\ndeep"] and hit["_source"] == document
        assert was_reranked(answer, plan)
        # Without the script field nothing is known of the texts: the cluster's order, never a random one.
        first = [hit.id for hit in plain(connection)]
        body = {"query": {"match": {"text": QUERY}}, "ext": {"rerank": {"query_context": {"query_text": QUERY}}}}
        answer = connection.request("POST", "/pets/_search", body, {"search_pipeline": plan.name})
        assert [hit["_id"] for hit in answer["hits"]["hits"]] == first
        pipeline.uninstall()


@pytest.mark.parametrize("route", ["rerank", "scores"])
def test_more_than_the_page_is_reranked(
    node: Node, connection: Connection, pets: list[str], routed: Reranker, route: Route
) -> None:
    first = plain(connection)
    ranked = routed.rerank(QUERY, [str(hit.fields["text"]) for hit in first], first_stage="order")
    wanted = [first[hit.index].id for hit in ranked.hits]
    # The smallest page that holds other hits.
    size = next(n for n in range(1, len(first)) if set(wanted[:n]) != {hit.id for hit in first[:n]})
    with serving(routed, options(node)) as (url, _):
        pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node, url), route, None, 10), KEY)
        if node.version.startswith("2."):
            # The module is part of the distribution from 2.12 on, but as an artifact of its own only from 3 on.
            before = state(connection)
            with pytest.raises(EngineError, match="lacks the module.*leave --oversample out"):
                pipeline.install()
            assert state(connection) == before
            return
        pipeline.install()
        ids, answer = search(connection, pipeline.plan, size=size)
        pipeline.uninstall()
    assert was_reranked(answer, pipeline.plan) and ids == wanted[:size]


def test_words_are_read_from_the_query(node: Node, connection: Connection, pets: list[str], routed: Reranker) -> None:
    first = plain(connection)
    wanted = routed.rerank(QUERY, [str(hit.fields["text"]) for hit in first], first_stage="order")
    with serving(routed, options(node)) as (url, _):
        plan = PipelinePlan.of(options(node, url), "scores", "query.match.text.query")
        pipeline = OpenSearchPipeline(connection, plan, KEY)
        pipeline.install()
        # Nothing but what any client sends.
        body = {"query": {"match": {"text": {"query": QUERY}}}}
        answer = connection.request("POST", "/pets/_search", body, {"search_pipeline": plan.name})
        pipeline.uninstall()
    assert was_reranked(answer, plan)
    assert [hit["_id"] for hit in answer["hits"]["hits"]] == [first[hit.index].id for hit in wanted.hits]


def test_what_is_shown_holds_no_key(node: Node, connection: Connection, pets: list[str]) -> None:
    pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node), "rerank"), KEY)
    calls = list(pipeline.calls(pipeline.find(), "pets"))
    shown = "\n".join(curl(call, node.url) for call in calls)
    assert KEY not in shown and json.dumps(KEY)[1:-1] not in shown and '"$RH_KEY"' in shown
    assert [call.method for call in calls] == ["PUT", "POST", "POST", "POST", "PUT", "PUT"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_a_call_says_for_itself(
    node: Node, connection: Connection, pets: list[str], monkeypatch: pytest.MonkeyPatch, dynamic: bool
) -> None:
    """From 3.7 on also in headers; releases before that put the connector's own values there."""
    monkeypatch.setattr(search_pipeline, "_DYNAMIC_SINCE", (2, 0) if dynamic else (9, 0))
    standin = StandIn()
    with serving(standin, options(node)) as (url, _):
        pipeline = OpenSearchPipeline(connection, PipelinePlan.of(options(node, url), "scores"), KEY)
        pipeline.install()
        assert pipeline.drift(pipeline.find()) == []
        found = pipeline.find()
        assert found.model is not None and predict(connection, pipeline.plan, found.model[0]).holds
        parameters = {"query": QUERY, "documents": ["a", "b"], "mode": "static", "request_id": "mine"}
        path = f"/_plugins/_ml/models/{found.model[0]}/_predict"
        connection.request("POST", path, {"parameters": parameters})
        assert standin.modes[-1] == ("static" if dynamic else None)
        pipeline.uninstall()


def test_releases_get_what_they_can_do() -> None:
    given = {"engine.kind": "opensearch", "engine.fields": "text", "writeback.service_url": "https://h"}
    plan = PipelinePlan.of(load_settings("/dev/null", given, {}), "scores")
    for text, dynamic, field in (
        ("2.19.1", False, "previous_score"),
        ("3.6.0", False, "previous_score"),
        ("3.7.0", True, "previous_score"),
        ("3.8.0", True, "rh_first_stage"),
    ):
        there = plan.on(ServerVersion.parse(text, "opensearch"))
        headers = there.connector()["actions"][0]["headers"]
        assert (headers["X-Rerank-Deadline-Ms"] == "${parameters.deadline_ms}") == dynamic
        by_field = there.pipeline("m")["response_processors"][1]["rerank"]["by_field"]
        assert by_field.get("previous_score_field", "previous_score") == field
        assert "skip_ssl_verification" not in there.connector()["client_config"]
    trusting = PipelinePlan.of(
        load_settings("/dev/null", {**given, "writeback.skip_verification": True}, {}), "rerank"
    )
    with pytest.raises(SettingsError, match=r"skip_verification = true: OpenSearch 3.4.0 always verifies"):
        trusting.on(ServerVersion.parse("3.4.0", "opensearch"))
    newer = trusting.on(ServerVersion.parse("3.5.0", "opensearch"))
    assert newer.connector()["client_config"]["skip_ssl_verification"] is True


def test_a_certificate_that_nobody_knows_is_refused_unless_it_is_asked_for(
    node: Node, connection: Connection, pets: list[str], tmp_path: Path
) -> None:
    certificate = tmp_path / "service.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    before = state(connection)
    with serving(StandIn(), options(node), certificate=certificate) as (url, _):
        assert url.startswith("https://")

        def proof(**more: Any) -> Proof:
            plan = PipelinePlan.of(options(node, url, **more), "rerank")
            pipeline = OpenSearchPipeline(connection, plan, KEY)
            pipeline.install()
            try:
                model = pipeline.find().model
                assert model is not None
                proved = predict(connection, plan, model[0])
                assert was_reranked(search(connection, plan)[1], plan) == proved.holds
            finally:
                pipeline.uninstall()
            return proved

        refused = proof()
        assert not refused.holds and "does not trust the certificate" in refused.detail
        assert "writeback.skip_verification: true" in refused.detail
        if node.version.startswith("2."):
            with pytest.raises(SettingsError, match="always verifies"):
                proof(**{"writeback.skip_verification": True})
        else:
            assert proof(**{"writeback.skip_verification": True}).holds
    assert state(connection) == before


def test_certificates_are_sent_and_never_shown(tmp_path: Path) -> None:
    cert, key = tmp_path / "it's cert.pem", tmp_path / "key.pem"
    cert.write_text("-----BEGIN CERTIFICATE-----\nMARK1\n")
    given = {"engine.kind": "opensearch", "engine.fields": "text", "writeback.service_url": "https://h"}
    given["writeback.client_cert"] = str(cert)
    with pytest.raises(SettingsError, match=r"writeback.client_key is missing"):
        PipelinePlan.of(load_settings("/dev/null", given, {}), "rerank")
    given["writeback.client_key"] = str(key)
    with pytest.raises(SettingsError, match=r"writeback.client_key = .*key.pem: there is no such file"):
        PipelinePlan.of(load_settings("/dev/null", given, {}), "rerank")
    key.write_text("-----BEGIN PRIVATE KEY-----\nMARK2\n")
    plan = PipelinePlan.of(load_settings("/dev/null", given, {}), "rerank")
    with pytest.raises(SettingsError, match=r"client_cert = .*: OpenSearch 3.8.0 shows no certificate"):
        plan.on(ServerVersion.parse("3.8.0", "opensearch"))
    call = Call("POST", "/c", plan.on(ServerVersion.parse("3.9.0", "opensearch")).connector())
    assert call.body is not None and call.body["client_config"]["mutual_tls_enabled"] is True
    line = curl(call, "http://c")
    assert "MARK" not in line + json.dumps(call.body)
    sent: list[Any] = []

    class Kept:
        def request(self, method: str, path: str, body: Any) -> None:
            sent.append(body)

    call.send(cast(Connection, Kept()), KEY)
    wanted = {"rh_key": KEY, "client_cert_pem": cert.read_text(), "client_key_pem": key.read_text()}
    assert sent[0]["credential"] == wanted
    # The line for a shell says the same: the shell reads the files.
    shown = line.partition(" -d ")[2]
    said = subprocess.run(
        ["bash", "-c", f"printf %s {shown}"], env={"RH_KEY": "k"}, capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout)["credential"] == {**wanted, "rh_key": "k"}
    quoted = f"refused: {json.dumps(wanted)} {key.read_text()}"
    assert "MARK" not in without_files(quoted, call.body)


def test_bad_plans_are_told() -> None:
    base = {"engine.kind": "opensearch", "engine.fields": "text", "writeback.service_url": "http://h:1"}

    def plan(route: Route, query_path: str | None = None, **more: Any) -> PipelinePlan:
        return PipelinePlan.of(load_settings("/dev/null", {**base, **more}, {}), route, query_path)

    for wrong in ("h:1", "ftp://h", ""):
        with pytest.raises(SettingsError, match="writeback.service_url"):
            plan("rerank", **{"writeback.service_url": wrong})
    with pytest.raises(SettingsError, match="engine.fields is empty"):
        plan("rerank", **{"engine.fields": ""})
    with pytest.raises(SettingsError, match="reads one field"):
        plan("scores", **{"engine.fields": "a,b"})
    with pytest.raises(SettingsError, match="--query-path goes with"):
        plan("rerank", "query.x")
    assert "it\\'s" in joining_script(["it's"])
