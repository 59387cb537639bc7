"""Credentials, versions, refusals: what a connection does before and when things go wrong."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.documents import Document
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import ClusterError, ServerVersion, reason_of
from connector.engines.engine import Engine
from connector.engines.open_engine import open_engine
from connector.errors import EngineError
from connector.settings import load_settings
from tests.engines.cluster.cluster_double import ClusterDouble, counted, doubling
from tests.engines.cluster.other_services import ANSWERS, other_service
from tests.nodes.fixtures import running

GOOD = {"opensearch": "2.19.1", "elasticsearch": "9.1.0"}
KINDS = list(GOOD)


@pytest.fixture(params=KINDS)
def double(request: pytest.FixtureRequest) -> Iterator[ClusterDouble]:
    with doubling(request.param, GOOD[request.param]) as made:
        yield made


def engine_of(double: ClusterDouble, **more: Any) -> Engine:
    given = {"kind": double.product, "url": double.url, "index": "i", "retry_ms": 3000, **more}
    return open_engine(load_settings("/dev/null", {f"engine.{name}": value for name, value in given.items()}, {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({"username": "me", "password": "s:e"}, "Basic " + base64.b64encode(b"me:s:e").decode()),
        ({"bearer_token": "token"}, "Bearer token"),
        ({"api_key": "YWJjOmRlZg=="}, "ApiKey YWJjOmRlZg=="),
        ({}, None),
    ],
)
def test_credentials(double: ClusterDouble, given: dict[str, str], header: str | None) -> None:
    double.answers = [counted(3)]
    with engine_of(double, **given) as engine:
        assert engine.count() == 3
    assert {asked[2].get("authorization") for asked in double.asked} == {header}


def test_an_api_key_may_be_a_pair() -> None:
    with doubling("elasticsearch", "8.19.0") as double:
        double.answers = [counted(1)]
        engine_of(double, api_key="abc:def").count()
        assert double.asked[-1][2]["authorization"] == "ApiKey " + base64.b64encode(b"abc:def").decode()


def test_requests_to_aws_are_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with doubling("opensearch", "2.19.1") as double:
        double.answers = [counted(1)]
        engine_of(double, aws_region="eu-west-1", aws_service="aoss").count()
        signed = double.asked[-1][2]["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKID/") and "/eu-west-1/aoss/" in signed
    assert "secret" not in signed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("product", "kind", "version", "words"),
    [
        ("opensearch", "opensearch", "2.11.1", "opensearch 2.11.1 is too old; 2.12"),
        ("elasticsearch", "elasticsearch", "8.13.4", "elasticsearch 8.13.4 is too old; 8.14"),
        ("elasticsearch", "opensearch", "9.1.0", "is no OpenSearch; for Elasticsearch set engine.kind"),
        ("opensearch", "elasticsearch", "2.19.1", "is no Elasticsearch; for OpenSearch set engine.kind"),
    ],
)
def test_another_server_is_told(product: str, kind: str, version: str, words: str) -> None:
    with doubling(product, version) as double, pytest.raises(ClusterError, match=words):
        engine_of(double, kind=kind).count()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_cluster_is_told_at_once(kind: str, answer: str) -> None:
    with other_service(*ANSWERS[answer]) as url:
        # It would be asked again for an hour, were it taken for a cluster that is busy.
        given = {"engine.kind": kind, "engine.url": url, "engine.retry_ms": 3_600_000}
        with open_engine(load_settings("/dev/null", given, {})) as engine, pytest.raises(ClusterError) as refused:
            engine.search("cats", 3)
    said = str(refused.value)
    assert said.startswith(f"{url} is neither OpenSearch nor Elasticsearch") and "; set engine.url" in said
    assert "\n" not in said and "<" not in said


@pytest.mark.slow
def test_a_client_that_is_too_new_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real 8.17 server, and what client 9 sends."""
    from elasticsearch._sync.client import _base

    for name in ("_COMPAT_MIMETYPE_SUB", "_COMPAT_MIMETYPE_TEMPLATE"):
        if hasattr(_base, name):
            old = getattr(_base, name)
            monkeypatch.setattr(_base, name, old.replace("compatible-with=8", "compatible-with=9"))
    with running("8.17.0") as node:
        settings = {"engine.kind": "elasticsearch", "engine.url": node.url}
        with pytest.raises(ClusterError, match="newer than the server.*pip install 'elasticsearch>="):
            open_engine(load_settings("/dev/null", settings, {})).count()
        monkeypatch.undo()
        assert open_engine(load_settings("/dev/null", settings, {})).count() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there(kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        given = {"engine.kind": kind, "engine.url": url, "engine.retry_ms": 0}
        with pytest.raises(EngineError, match=f"cannot reach {url}.*check engine.url"):
            open_engine(load_settings("/dev/null", given, {})).count()


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_what_is_refused_for_now_is_asked_again(double: ClusterDouble, status: int) -> None:
    double.answers = [(status, {"error": {"type": "x", "reason": "busy"}}), counted(7)]
    assert engine_of(double).count() == 7


def test_for_a_limited_time(double: ClusterDouble) -> None:
    double.answers = [(429, {"error": {"type": "x", "reason": "busy"}})]
    with pytest.raises(ClusterError, match="answered 429: busy"):
        engine_of(double, retry_ms=700).count()
    assert 2 <= len(double.asked) < 12


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 401, 403])
def test_what_is_refused_for_good_is_not(double: ClusterDouble, status: int) -> None:
    double.answers = [(status, {"error": {"type": "x", "reason": "no"}})]
    with pytest.raises(ClusterError, match=f"answered {status}: no"):
        engine_of(double).count()
    assert [asked[1] for asked in double.asked].count("/i/_search") == 1


def test_items_without_room_are_sent_again(double: ClusterDouble) -> None:
    def item(status: int, **more: Any) -> dict[str, Any]:
        return {"index": {"status": status, **more}}

    busy = item(429, error={"type": "es_rejected_execution_exception", "reason": "full"})
    bad = item(400, error={"type": "mapper_parsing_exception", "reason": "bad field"})
    double.answers = [
        (200, {}),
        (200, {"errors": True, "items": [item(201, result="created"), busy, bad]}),
        (200, {"errors": False, "items": [item(200, result="updated")]}),
        (200, {}),
    ]
    report = engine_of(double).index([Document(name, {"text": name}) for name in "abc"])
    assert (report.indexed, report.replaced) == (2, 1)
    assert [(failure.id, failure.place, failure.reason) for failure in report.failures] == [("c", 2, "bad field")]
    bulks = [asked[3] for asked in double.asked if asked[1].endswith("/_bulk")]
    assert len(bulks) == 2 and b'"b"' in bulks[1] and b'"a"' not in bulks[1]


def test_a_certificate_of_a_named_authority(tmp_path: Path) -> None:
    """Checked against a file that is no certificate: the setting reaches the client, which says so."""
    bad = tmp_path / "ca.pem"
    bad.write_text("nothing")
    for kind in KINDS:
        given = {"engine.kind": kind, "engine.url": "https://127.0.0.1:9", "engine.ca_certs": str(bad)}
        with pytest.raises(EngineError):
            connect(load_settings("/dev/null", {**given, "engine.retry_ms": 0}, {}).engine).request("GET", "/")


def test_versions_are_ordered() -> None:
    assert ServerVersion.parse("8.19.0", "elasticsearch") < ServerVersion.parse("9.1.0-SNAPSHOT", "elasticsearch")
    with pytest.raises(ClusterError, match="no version"):
        ServerVersion.parse("nine", "elasticsearch")


def test_the_reason_in_all_shapes() -> None:
    deep = {"error": {"reason": "all shards failed", "caused_by": {"reason": "a\nb", "caused_by": {"type": "t"}}}}
    assert reason_of(deep) == "all shards failed; a b; t"
    assert reason_of({"error": "no handler"}) == "no handler" and reason_of("plain") == "plain"


def test_clients_are_loaded_by_their_engine_only() -> None:
    code = "import sys, connector.engines; print({'opensearchpy', 'elasticsearch', 'tenacity'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
