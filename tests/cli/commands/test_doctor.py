"""``rh-connector doctor``, on real nodes with a stand-in for the model behind the service."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import main
from connector.cli.context import Context
from connector.documents import Document
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import Connection
from connector.engines.embedded import EmbeddedEngine
from connector.engines.open_engine import open_engine
from connector.sections import Settings
from connector.settings import load_settings
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.search_pipeline import TRUSTED, PipelinePlan
from tests.embedding.tiny_model import save_embedder
from tests.engines.cluster.other_services import ANSWERS, other_service
from tests.loaded_models import LoadedModels
from tests.nodes.process import Node
from tests.routing.embedder_router import embedder_router
from tests.service.live import serving
from tests.service.standin import StandIn

KEY = "a-key-of-the-service"
Rows = dict[str, dict[str, str]]


def given(node: Node, kind: str = "opensearch", **more: str) -> dict[str, str]:
    return {
        "engine.kind": kind,
        "engine.url": node.url,
        "engine.index": "dr-pets",
        "engine.fields": "text",
        "engine.retry_ms": "2000",
        "writeback.name": "dr",
        "serve.api_keys": KEY,
        **more,
    }


def settings_of(options: dict[str, str]) -> Settings:
    return load_settings("/dev/null", options, {})


@pytest.fixture(scope="module", params=["opensearch_node", "opensearch_3_node"])
def node(request: pytest.FixtureRequest) -> Node:
    """A real node of either major."""
    found: Node = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def doctor(
    smollm2: Checkpoint, models: LoadedModels, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Rows]]:
    """Exit code, and the findings by their check."""

    def run(options: dict[str, str], *arguments: str) -> tuple[int, Rows]:
        assignments = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        with pytest.raises(SystemExit) as ended:
            main(["--config", "/dev/null", "--json", *assignments, "doctor", *arguments], Context(models=models))
        out = capsys.readouterr().out
        assert KEY not in out
        rows = json.loads(out)
        assert all(list(row) == ["check", "level", "seen", "mend"] for row in rows)
        found = {row["check"]: row for row in rows}
        assert len(found) == len(rows)
        assert all(row["mend"] for row in rows if row["level"] != "ok")
        return int(ended.value.code or 0), found

    return run


@pytest.fixture
def pets(node: Node, cats: list[str]) -> Iterator[Connection]:
    """A connection to a node that has an index of texts."""
    settings = settings_of(given(node))
    with open_engine(settings) as engine:
        engine.index([Document(str(place), {"text": text}) for place, text in enumerate(cats)])
    with closing(connect(settings.engine)) as opened:
        yield opened
        opened.request("DELETE", "/dr-pets")


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def levels(rows: Rows) -> dict[str, str]:
    return {name: row["level"] for name, row in rows.items() if row["level"] != "ok"}


def test_a_pipeline_from_healthy_to_broken(
    request: pytest.FixtureRequest, node: Node, pets: Connection, doctor: Callable[..., tuple[int, Rows]]
) -> None:
    options = given(node)
    with serving(StandIn(), settings_of(options)) as (url, _):
        options["writeback.service_url"] = url
        code, rows = doctor(options)
        assert code == 0
        assert levels(rows) == {"pipeline": "warn"}
        assert "pipeline install will set" in rows["cluster settings"]["seen"]
        pipeline = OpenSearchPipeline(pets, PipelinePlan.of(settings_of(options), "rerank"), KEY)
        pipeline.install("dr-pets")
        request.addfinalizer(pipeline.uninstall)
        before = pets.request("GET", "/_cluster/state/metadata", params={"filter_path": "metadata.version"})
        code, rows = doctor(options)
        assert (code, levels(rows)) == (0, {})
        assert "5 documents" in rows["index"]["seen"]
        assert rows["default pipeline"]["seen"] == "dr for dr-pets"
        assert rows["service from the cluster"]["seen"].startswith("scores ")
        assert "ready with smollm2-135m" in rows["service from here"]["seen"]
        after = pets.request("GET", "/_cluster/state/metadata", params={"filter_path": "metadata.version"})
        assert after == before

        moved = {**options, "writeback.timeout_s": "9"}
        code, rows = doctor(moved)
        assert code == 3 and levels(rows) == {"pipeline": "fail"}
        assert rows["pipeline"]["mend"] == "rh-connector pipeline install"

        trusted = pipeline.find().persistent[TRUSTED]
        pets.request("PUT", "/_cluster/settings", {"transient": {TRUSTED: ["^https://other/.*$"]}})
        code, rows = doctor(options)
        assert rows["cluster settings"]["level"] == "fail" and '"transient"' in rows["cluster settings"]["mend"]
        pets.request("PUT", "/_cluster/settings", {"transient": {TRUSTED: None}})
        pets.request("PUT", "/_cluster/settings", {"persistent": {TRUSTED: ["^https://other/.*$"]}})
        code, rows = doctor(options)
        assert rows["cluster settings"]["level"] == "fail" and TRUSTED in rows["cluster settings"]["seen"]
        pets.request("PUT", "/_cluster/settings", {"persistent": {TRUSTED: trusted}})

        pets.request("PUT", "/dr-pets/_settings", {"index.blocks.read_only_allow_delete": True})
        code, rows = doctor(options)
        assert code == 0 and levels(rows) == {"disk": "warn"} and "dr-pets" in rows["disk"]["seen"]
        pets.request("PUT", "/dr-pets/_settings", {"index.blocks.read_only_allow_delete": None})

        pets.request("DELETE", "/_search/pipeline/dr")
        code, rows = doctor(options)
        assert code == 3 and rows["default pipeline"]["level"] == "fail"
        pipeline.install()
    code, rows = doctor(options)
    assert code == 3
    assert levels(rows) == {"service from the cluster": "fail", "service from here": "fail"}
    for name in ("service from the cluster", "service from here"):
        assert "start rh-connector serve" in rows[name]["mend"]
    body = pipeline.plan.search("cats", {"match_all": {}})
    pets.request("POST", "/dr-pets/_search", body, {"search_pipeline": "dr"})
    _, rows = doctor(options)
    assert rows["failures"]["level"] == "warn" and "1 failed" in rows["failures"]["seen"]


@pytest.mark.parametrize("route", ["rerank", "scores"])
def test_options_of_the_installation_are_no_drift(
    node: Node, pets: Connection, doctor: Callable[..., tuple[int, Rows]], route: Any
) -> None:
    options = given(node, **{"writeback.service_url": "http://127.0.0.1:9"})
    path = "query.match.text.query" if route == "scores" else None
    pipeline = OpenSearchPipeline(pets, PipelinePlan.of(settings_of(options), route, path), KEY)
    pipeline.install()
    try:
        _, rows = doctor(options)
        assert rows["pipeline"]["level"] == "ok", rows["pipeline"]
        assert rows["service from the cluster"]["level"] == "fail"
        # Whoever sets no URL still learns that searches may go through it.
        _, rows = doctor(given(node))
        assert rows["pipeline"]["level"] == "warn" and "is installed and was not checked" in rows["pipeline"]["seen"]
        assert "writeback.service_url" in rows["pipeline"]["mend"]
    finally:
        pipeline.uninstall()


def test_an_index_without_what_is_needed(
    node: Node, pets: Connection, doctor: Callable[..., tuple[int, Rows]]
) -> None:
    code, rows = doctor(given(node, **{"engine.index": "dr-none"}))
    assert code == 3 and "rh-connector index" in rows["index"]["mend"] and "fields" not in rows
    # What does not depend on the index goes on.
    assert rows["plugins"]["level"] == "ok" and rows["pipeline"]["seen"].startswith("not tried")
    code, rows = doctor(given(node, **{"engine.fields": "body,abstract"}))
    assert code == 3 and rows["fields"]["level"] == "fail" and "body, abstract" in rows["fields"]["seen"]
    assert "text" in rows["fields"]["mend"]
    code, rows = doctor(given(node, **{"engine.fields": "text,abstract"}))
    assert code == 0 and levels(rows) == {"fields": "warn"}
    text = {"properties": {"text": {"type": "text"}}}
    for number, source in enumerate(({"enabled": False}, {"excludes": ["te*"]})):
        name = f"dr-source-{number}"
        pets.request("PUT", f"/{name}", {"mappings": {"_source": source, **text}})
        try:
            code, rows = doctor(given(node, **{"engine.index": name}))
            assert code == 3 and levels(rows) == {"index": "warn", "_source": "fail"}
        finally:
            pets.request("DELETE", f"/{name}")


def test_settings_that_do_not_suffice(node: Node, pets: Connection, doctor: Callable[..., tuple[int, Rows]]) -> None:
    more = {"engine.fields": "", "writeback.service_url": "http://127.0.0.1:9"}
    code, rows = doctor(given(node, **more))
    assert code == 2 and "engine.fields is empty" in rows["pipeline"]["seen"]
    # The wrong kind of cluster.
    code, rows = doctor(given(node, "elasticsearch"))
    assert code == 3 and "engine.kind to opensearch" in rows["cluster"]["mend"] and "index" not in rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_unreachable(kind: str, unused_port: int, doctor: Callable[..., tuple[int, Rows]]) -> None:
    base = {"engine.kind": kind, "engine.username": "me", "engine.password": KEY}
    code, rows = doctor({**base, "engine.url": f"http://127.0.0.1:{unused_port}"})
    assert code == 3 and "start the cluster" in rows["cluster"]["mend"] and list(rows)[-1] == "cluster"
    code, rows = doctor({**base, "engine.url": "http://no-such-host.invalid:9200"})
    assert code == 3 and "host name" in rows["cluster"]["mend"]


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_another_service_at_the_url(kind: str, doctor: Callable[..., tuple[int, Rows]]) -> None:
    with other_service(*ANSWERS["a page"]) as url:
        code, rows = doctor({"engine.kind": kind, "engine.url": url})
    assert code == 3 and "neither OpenSearch nor Elasticsearch" in rows["cluster"]["seen"]
    assert rows["cluster"]["mend"].startswith("set engine.url (of init: --url)") and "index" not in rows


@pytest.mark.parametrize("kind", ["opensearch", "elasticsearch"])
def test_tls_where_there_is_none(kind: str, node: Node, doctor: Callable[..., tuple[int, Rows]]) -> None:
    url = node.url.replace("http:", "https:")
    code, rows = doctor({"engine.kind": kind, "engine.url": url})
    assert code == 3 and "begin engine.url with http://" in rows["cluster"]["mend"], rows["cluster"]


def test_elasticsearch(elasticsearch_node: Node, cats: list[str], doctor: Callable[..., tuple[int, Rows]]) -> None:
    options = given(elasticsearch_node, "elasticsearch")
    code, rows = doctor(options)
    assert code == 3 and rows["index"]["level"] == "fail"
    with open_engine(settings_of(options)) as engine:
        engine.index([Document(str(place), {"text": text}) for place, text in enumerate(cats)])
    with closing(connect(settings_of(options).engine)) as opened:
        try:
            code, rows = doctor(options)
            assert code == 0 and rows["cluster"]["seen"].startswith("Elasticsearch ")
            assert rows["fields"]["level"] == rows["_source"]["level"] == rows["disk"]["level"] == "ok"
            # These nodes are the core alone.
            assert levels(rows) == {"inference API": "warn"} and "gateway" in rows["inference API"]["mend"]
            with serving(StandIn(), settings_of(options)) as (url, _):
                code, rows = doctor({**options, "writeback.service_url": url})
                assert code == 0 and rows["service from here"]["level"] == "ok"
        finally:
            opened.request("DELETE", "/dr-pets")


@pytest.mark.slow
def test_embedded(tmp_path: Path, cats: list[str], doctor: Callable[..., tuple[int, Rows]]) -> None:
    options = {"engine.url": str(tmp_path)}
    code, rows = doctor(options)
    assert code == 0 and levels(rows) == {"index": "warn"} and "rh-connector index" in rows["index"]["mend"]
    assert list(tmp_path.iterdir()) == []
    with closing(EmbeddedEngine(tmp_path / "default")) as engine:
        engine.index([Document(str(place), {"text": text}) for place, text in enumerate(cats)])
    code, rows = doctor(options)
    assert (code, levels(rows)) == (0, {}) and rows["heads"]["seen"].startswith("router smollm2-135m.solo.onnx")
    code, rows = doctor({**options, "engine.fields": "body"})
    assert code == 3 and levels(rows) == {"index": "fail"}


@pytest.mark.parametrize(
    ("model", "mend"),
    [
        ("gemma3-270m", "rh-connector model pull gemma3-270m"),
        ("smolm2-135m", "did you mean smollm2-135m?"),
        ("nobody/nothing", "rh-connector model pull nobody/nothing"),
        ("missing.gguf", "give the path"),
    ],
)
def test_a_model_that_is_not_here(
    model: str, mend: str, tmp_path: Path, doctor: Callable[..., tuple[int, Rows]]
) -> None:
    code, rows = doctor({"backbone.model": model, "cache.path": str(tmp_path / "cache")})
    assert code == 4 and mend in rows["model"]["mend"]
    assert "heads" not in rows and not (tmp_path / "cache").exists()


def test_heads_that_do_not_fit(tmp_path: Path, repository: Path, doctor: Callable[..., tuple[int, Rows]]) -> None:
    options = {"engine.url": str(tmp_path)}
    code, rows = doctor(
        {**options, "router.bundle": str(repository / "connector/routing/shipped/qwen2.5-coder-0.5b.solo.onnx")}
    )
    assert code == 4 and "qwen2.5-coder-0.5b" in rows["heads"]["seen"] and "router.bundle" in rows["heads"]["mend"]
    code, rows = doctor({**options, "backbone.layout": "joint", "router.mode": "static"})
    assert code == 4 and "rh-connector train --static" in rows["heads"]["mend"]
    code, rows = doctor({**options, "backbone.layout": "late"})
    assert code == 0 and rows["heads"]["level"] == "warn" and "no router" in rows["heads"]["seen"]


def test_an_embedding_model_beside_the_llm(
    tmp_path: Path, doctor: Callable[..., tuple[int, Rows]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    options = {"engine.url": str(tmp_path)}
    code, rows = doctor({**options, "router.embedder": "bge-small-en-v1.5"})
    assert code == 5 and rows["embedding model"]["seen"] == "bge-small-en-v1.5 is not here"
    assert "--set router.embedder=bge-small-en-v1.5 model pull smollm2-135m" in rows["embedding model"]["mend"]
    code, rows = doctor({**options, "router.embedder": "nowhere"})
    assert code == 5 and rows["embedding model"]["seen"] == "no embedding model nowhere"
    tiny = save_embedder(tmp_path / "tiny")
    code, rows = doctor({**options, "router.embedder": str(tiny)})
    assert code == 0 and rows["embedding model"]["level"] == "warn"
    assert "smollm2-135m.solo.onnx does not weigh" in rows["embedding model"]["seen"]
    weighs = {"router.embedder": str(tiny), "router.bundle": str(embedder_router(tmp_path / "own", tiny))}
    code, rows = doctor({**options, **weighs})
    found = rows["embedding model"]
    assert (code, found["level"]) == (0, "ok") and "which r.onnx weighs" in found["seen"]
    code, rows = doctor({**options, "router.bundle": weighs["router.bundle"]})
    assert code == 4 and "and there is none" in rows["embedding model"]["seen"]
    other = save_embedder(tmp_path / "other")
    (other / "model.onnx").write_bytes((other / "model.onnx").read_bytes().replace(b"embedder", b"embeddes"))
    code, rows = doctor({**options, **weighs, "router.embedder": str(other)})
    assert code == 4 and "and router.embedder is other" in rows["embedding model"]["seen"]


def test_load(tmp_path: Path, models: LoadedModels, doctor: Callable[..., tuple[int, Rows]]) -> None:
    before = len(models.asked)
    code, rows = doctor({"engine.url": str(tmp_path)}, "--load")
    assert code == 0 and rows["golden query"]["level"] == "ok"
    assert [settings.backbone.offline for settings in models.asked[before:]] == [True]


def test_lines(tmp_path: Path, smollm2: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            ["--config", "/dev/null", "--set", f"engine.url={tmp_path}", "--set", "backbone.model=nothing", "doctor"]
        )
    assert ended.value.code == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok    machine: Python 3.")
    assert any(line.startswith("FAIL  model: nothing is no catalogue name") for line in lines)
    assert lines[-1].startswith("warn  index: there is no index in ") and lines[-1].endswith("or set engine.index")


@pytest.mark.slow
def test_embedded_with_vectors(tmp_path: Path, cats: list[str], doctor: Callable[..., tuple[int, Rows]]) -> None:
    words = {"engine.url": str(tmp_path / "indexes")}
    model = save_embedder(tmp_path / "tiny")
    both = {**words, "engine.embedder": str(model)}
    stored = [Document(str(place), {"text": text}) for place, text in enumerate(cats)]
    with open_engine(settings_of(both)) as engine:
        engine.index(stored)
    code, rows = doctor(both)
    assert code == 0 and rows["index"]["level"] == "ok" and f"with vectors of {model}, in " in rows["index"]["seen"]
    assert "faiss" in rows["packages"]["seen"]
    with open_engine(settings_of({**words, "engine.index": "plain"})) as engine:
        engine.index(stored)
    code, rows = doctor({**both, "engine.index": "plain"})
    assert code == 3 and rows["index"]["level"] == "fail" and "engine.embedder" in rows["index"]["seen"]
    code, rows = doctor({**words, "engine.embedder": "mini"})
    assert code == 5 and "no embedding model mini" in rows["index"]["seen"]
    code, rows = doctor({"engine.kind": "opensearch", "engine.url": "http://127.0.0.1:9", "engine.embedder": "mini"})
    assert code == 2 and "engine.embedder = mini: it is for the embedded engine" in rows["cluster"]["seen"]
