"""Checks against answers that the nodes of the tests do not give."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from connector.backbone.caching.shared_cache import export_store
from connector.backbone.caching.sqlite_store import PassageStore, store_path
from connector.checkpoints.checkpoint import Checkpoint
from connector.diagnosis import Finding, diagnose, exit_code
from connector.diagnosis import cluster as cluster_checks
from connector.diagnosis import elasticsearch as elasticsearch_checks
from connector.diagnosis import machine as machine_checks
from connector.diagnosis import opensearch as opensearch_checks
from connector.diagnosis.findings import run
from connector.engines.cluster.connection import ClusterError, ServerVersion
from connector.errors import BackboneError, EngineError, SettingsError
from connector.installation import this_installation
from connector.sections import ClusterKind, Settings
from connector.settings import load_settings
from connector.writeback.inference_endpoint import InferencePlan


class Cluster:
    """Answers by path; a ClusterError is raised."""

    url = "http://cluster:9200"

    def __init__(
        self, version: str | ClusterError = "2.19.1", product: ClusterKind = "opensearch", **answers: Any
    ) -> None:
        self._version, self._product, self._answers = version, product, answers

    @property
    def version(self) -> ServerVersion:
        if isinstance(self._version, ClusterError):
            raise self._version
        return ServerVersion.parse(self._version, self._product)

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        answer = self._answers[path.strip("/").replace("/", "_").lstrip("_")]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def bulk(self, lines: Any, params: Any = None) -> Any:
        raise AssertionError("nothing is written")

    def close(self) -> None: ...


def settings(**more: Any) -> Settings:
    return load_settings("/dev/null", {key.replace("__", "."): value for key, value in more.items()}, {})


@contextmanager
def answering(status: int, body: Any) -> Iterator[str]:
    """A service that always answers this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_exit_code_is_the_first_failure_s() -> None:
    assert exit_code([Finding("a", "ok", ""), Finding("b", "warn", "")]) == 0
    rows = [Finding("a", "warn", ""), Finding("b", "fail", "", "", 4), Finding("c", "fail", "", "", 3)]
    assert exit_code(rows) == 4


@pytest.mark.parametrize(
    ("error", "level", "seen", "mend", "code"),
    [
        (EngineError("a is wrong; b mends it"), "fail", "a is wrong", "b mends it", 3),
        (SettingsError("no mend"), "fail", "no mend", "", 2),
        (BackboneError("x: y; z; mend"), "fail", "x: y; z", "mend", 4),
        (ValueError("two\nlines"), "fail", "the check itself failed: ValueError: two lines", "--debug", 1),
        (ClusterError("forbidden", 403), "warn", "forbidden", "monitor", 3),
    ],
)
def test_exceptions_become_findings(error: Exception, level: str, seen: str, mend: str, code: int) -> None:
    def check() -> Iterator[Finding]:
        yield Finding("first", "ok", "")
        raise error

    first, last = run("name", check)
    assert first.check == "first"
    assert (last.check, last.level, last.seen) == ("name", level, seen)
    assert mend in last.mend and (exit_code([last]) == code if level == "fail" else True)


@pytest.mark.parametrize(
    ("said", "status", "options", "mend", "level"),
    [
        ("answered 401: no", 401, {}, "requests without credentials", "fail"),
        ("answered 401: no", 401, {"engine__api_key": "a:b"}, "engine.api_key", "fail"),
        ("answered 401: no", 401, {"engine__username": "u"}, "engine.username", "fail"),
        ("answered 403: no permissions", 403, {}, "monitor", "warn"),
        ("cannot reach: CERTIFICATE_VERIFY_FAILED; check engine.url", None, {}, "engine.ca_certs", "fail"),
        ("cannot reach: Connection refused; check engine.url", None, {}, "start the cluster", "fail"),
        ("cannot reach: RemoteDisconnected; check engine.url", None, {}, "https://", "fail"),
        ("did not answer in time; raise it", None, {}, "engine.timeout_ms", "fail"),
        ("something else; do this", 500, {}, "do this", "fail"),
    ],
)
def test_each_way_of_not_being_reached_has_its_mend(
    said: str, status: int | None, options: dict[str, str], mend: str, level: str
) -> None:
    found, answers = cluster_checks.reach(Cluster(ClusterError(said, status)), settings(**options).engine)
    assert found.level == level and mend in found.mend and answers == (level == "warn")


def test_plugins_are_wanted_on_every_node() -> None:
    both = [{"name": "opensearch-ml"}, {"name": "opensearch-neural-search"}]
    nodes = {"1": {"name": "one", "plugins": both}, "2": {"name": "two", "plugins": both[:1]}, "3": {"name": "three"}}
    (found,) = opensearch_checks.plugins(Cluster(nodes_plugins={"nodes": nodes}), True)
    assert found.level == "fail" and found.seen == "opensearch-ml is missing on three"
    del nodes["3"]
    (found,) = opensearch_checks.plugins(Cluster(nodes_plugins={"nodes": nodes}), False)
    assert found.level == "warn" and "opensearch-neural-search is missing on two" in found.seen
    (found,) = opensearch_checks.plugins(Cluster(nodes_plugins=ClusterError("no", 403)), True)
    assert found.level == "warn"


@pytest.mark.parametrize("version", ["8.18.9", "9.0.4"])
def test_an_elasticsearch_that_is_too_old_for_endpoints(version: str) -> None:
    found, usable = elasticsearch_checks.inference(Cluster(version, "elasticsearch"))
    assert found.level == "warn" and "gateway" in found.mend and not usable


def test_inference_and_licence() -> None:
    answers: dict[str, Any] = {"inference__all": {"endpoints": []}}
    found, usable = elasticsearch_checks.inference(Cluster("8.19.0", "elasticsearch", **answers))
    assert found.level == "ok" and usable
    refused = Cluster("9.1.0", "elasticsearch", inference__all=ClusterError("no", 403))
    found, usable = elasticsearch_checks.inference(refused)
    assert found.level == "warn" and "manage_inference" in found.mend and not usable
    for kind, level in (("trial", "ok"), ("basic", "warn")):
        about = {"license": {"type": kind, "status": "active"}}
        (found,) = elasticsearch_checks.licence(Cluster("9.1.0", "elasticsearch", license=about))
        assert found.level == level
    assert not list(elasticsearch_checks.licence(Cluster(license=ClusterError("no handler", 400))))


def test_an_endpoint_is_compared_and_tried() -> None:
    more = settings(engine__fields="text", writeback__service_url="http://h:1", writeback__name="dr")
    path = "inference_rerank_dr"
    found, reached = elasticsearch_checks.endpoint(
        Cluster("9.1.0", "elasticsearch", **{path: ClusterError("no", 404)}), more
    )
    assert (found.level, found.mend, reached) == ("warn", "rh-connector pipeline install", None)
    there = {"inference_id": "dr", **InferencePlan("dr", "http://h:2", "text", service="hugging_face").endpoint()}
    found, reached = elasticsearch_checks.endpoint(
        Cluster("9.1.0", "elasticsearch", **{path: {"endpoints": [there]}}), more
    )
    assert (found.level, reached) == ("fail", None) and "differs" in found.seen


def test_broken_shards_and_forbidden_indices_are_told() -> None:
    answer = {"hits": {"total": {"value": 1}}, "_shards": {"failed": 2}}
    (found,) = cluster_checks.index(Cluster(default__search=answer), settings())
    assert found.level == "warn" and "1 document; 2 of its shards failed" in found.seen
    (found,) = cluster_checks.index(Cluster(default__search=ClusterError("no", 403)), settings())
    assert found.level == "fail" and "read" in found.mend
    (found,) = cluster_checks.fields(Cluster(default__mapping=ClusterError("no", 403)), settings())
    assert found.level == "fail" and "view_index_metadata" in found.mend


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body", "level", "words"),
    [
        (200, {"status": "ready", "model": "smollm2-135m"}, "ok", "ready with"),
        (200, {"status": "ready", "model": "gemma3-270m"}, "warn", "backbone.model"),
        (200, b"<html>", "fail", "is not rh-connector"),
        (503, {"status": "loading"}, "warn", "loading"),
        (503, {"status": "failed", "reason": "no room"}, "fail", "no room"),
        (502, b"", "fail", "answered 502"),
    ],
)
def test_what_the_service_says(status: int, body: Any, level: str, words: str) -> None:
    with answering(status, body) as url:
        (found,) = cluster_checks.service(settings(writeback__service_url=url), None)
    assert found.level == level and words in f"{found.seen} {found.mend}"


def test_a_service_that_only_the_cluster_reaches_is_fine() -> None:
    (found,) = cluster_checks.service(settings(writeback__service_url="http://127.0.0.1:9"), True)
    assert found.level == "ok" and "by the cluster" in found.seen


def test_missing_packages_and_their_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("torch", "opensearchpy") else 1)
    (found,) = machine_checks.packages(settings(engine__kind="opensearch"))
    assert found.level == "fail" and found.code == 4
    assert found.mend == this_installation().adding("torch", "opensearch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("faiss", "onnxruntime") else 1)
    (found,) = machine_checks.packages(settings(engine__embedder="all-MiniLM-L6-v2", router__mode="static"))
    assert found.mend == this_installation().adding("vectors", "cpu")


def test_a_cache_folder_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (found,) = machine_checks.cache_folder(settings(cache__path=file / "inner"), False)
    assert found.level == "fail" and "is not a folder" in found.seen
    (found,) = machine_checks.cache_folder(settings(cache__path=tmp_path / "inner"), False)
    assert "made at first use" in found.seen and not (tmp_path / "inner").exists()


def test_shared_documents_are_counted_or_their_fault_told(tmp_path: Path) -> None:
    assert not list(machine_checks.shared_documents(settings()))
    with closing(PassageStore(store_path(tmp_path), 10_000_000)) as store:
        store.put(b"a" * 32, b"states", 1)
    made = tmp_path / "made.sqlite3"
    export_store(store.path, made)
    (found,) = machine_checks.shared_documents(settings(cache__shared=made))
    assert (found.level, found.seen) == ("ok", f"{made} holds 1 passages")
    for fault in (lambda: made.write_bytes(b"nothing" * 999), made.unlink):
        fault()
        findings = diagnose(settings(cache__shared=made, cache__path=tmp_path))
        (told,) = [one for one in findings if one.check == "shared documents"]
        assert told.level == "fail" and str(made) in told.seen and "cache export" in told.mend


def test_a_router_that_is_not_there_hides_nothing_else(tmp_path: Path) -> None:
    findings = list(diagnose(settings(router__bundle=tmp_path / "none.onnx", cache__path=tmp_path)))
    levels = {finding.check: finding.level for finding in findings}
    assert levels["heads"] == "fail" and "index" in levels


def test_no_secret_is_shown(tmp_path: Path) -> None:
    secret = "swordfish"
    more = settings(
        engine__kind="opensearch",
        engine__url=f"http://me:{secret}@127.0.0.1:9",
        engine__password=secret,
        cache__path=tmp_path / secret,
        backbone__model="none-of-these",
    )
    findings = list(diagnose(more))
    assert {finding.check for finding in findings if finding.level == "fail"} == {"model", "cluster"}
    assert secret not in str(findings) and "me:" not in str(findings)


def test_gpu_is_named_with_its_memory_only_where_the_llm_may_run_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # mem_get_info gives (free, total) in bytes, as PyTorch documents it: no card is needed to check the sentence.
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_000_000_000, 24_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A card")
    settings = Settings.model_validate({"backbone": {"device": "auto"}})
    assert [finding.seen for finding in machine_checks.gpu(settings)] == ["A card, 3.0 GB of 24.0 GB free"]
    assert not list(machine_checks.gpu(Settings.model_validate({"backbone": {"device": "cpu"}})))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not list(machine_checks.gpu(settings))


def test_a_second_model_is_looked_at_too(smollm2: Checkpoint) -> None:
    cache = smollm2.path.parent.parent

    def found(**more: object) -> dict[str, Finding]:
        given = {f"cascade.{name}": str(value) for name, value in more.items()}
        options = {"cache.path": str(cache), "backbone.runtime": "torch", **given}
        return {each.check: each for each in diagnose(load_settings("/dev/null", options, environment={}))}

    plain, both = found(), found(model="smollm2-135m")
    assert "second model" not in plain and plain["machine"].seen.count("smollm2-135m takes") == 1
    assert both["second model"].level == both["second heads"].level == "ok"
    assert re.search(r"; smollm2-135m takes (.+ GB), smollm2-135m \1, the program", both["machine"].seen)
    without = found(model="owner/large")["second model"]
    assert without.level == "fail" and "cascade.model = owner/large" in without.seen
    assert "second heads" not in found(model="owner/large")
    missing = found(model="qwen2.5-coder-0.5b")["second model"]
    assert (missing.level, missing.seen) == ("fail", "qwen2.5-coder-0.5b is not here")
