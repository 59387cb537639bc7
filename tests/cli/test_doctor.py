"""``rh-connector doctor``, on healthy and on broken set-ups with real nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.backbone.checkpoint import Checkpoint
from connector.cli import cli
from connector.documents import Document
from connector.engines import open_engine
from connector.engines.connection import connect
from connector.settings import Settings, load_settings
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.search_pipeline import PipelinePlan
from tests.nodes.process import Node
from tests.service.live import serving
from tests.service.standin import StandIn


def doctor(*flags: str, **settings: Any) -> Result:
    options = [part for key, value in settings.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
    return CliRunner().invoke(cli, ["--config", "/dev/null", *options, *flags, "doctor"])


def found(result: Result) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in json.loads(result.stdout)}


@pytest.fixture
def indexed(opensearch_node: Node, smollm2: Checkpoint) -> Iterator[dict[str, str]]:
    given = {
        "engine__kind": "opensearch",
        "engine__url": opensearch_node.url,
        "engine__index": "dr",
        "engine__fields": "text",
        "engine__retry_ms": "0",
        "writeback__name": "dr",
        "writeback__service_url": "http://127.0.0.1:9",
    }
    settings = made(given)
    with open_engine(settings) as engine:
        engine.index([Document("1", {"text": "cat"})])
    yield given
    with closing(connect(settings.engine)) as opened:
        OpenSearchPipeline(opened, PipelinePlan.of(settings, "rerank")).uninstall()
        opened.request("DELETE", "/dr")


def made(given: dict[str, str]) -> Settings:
    return load_settings("/dev/null", {key.replace("__", "."): value for key, value in given.items()}, {})


def test_all_is_well_until_the_service_stops(indexed: dict[str, str]) -> None:
    with serving(StandIn(), load_settings("/dev/null", {}, {})) as (url, _):
        given = {**indexed, "writeback__service_url": url}
        plan = PipelinePlan.of(made(given), "rerank")
        with closing(connect(made(given).engine)) as opened:
            OpenSearchPipeline(opened, plan).install()
        result = doctor("--json", **given)
        assert result.exit_code == 0, result.output
        levels = {name: finding["level"] for name, finding in found(result).items()}
        assert set(levels.values()) == {"ok"}, levels
        assert {"machine", "model", "router", "cluster", "plugins", "pipeline", "cluster to service"} <= set(levels)
        drifted = found(doctor("--json", **{**given, "writeback__timeout_s": "9"}))["pipeline"]
        assert drifted["level"] == "fail" and "pipeline install" in drifted["mend"]
    result = doctor(**given)
    assert result.exit_code == 3
    assert "FAIL cluster to service: " in result.output and "start rh-connector serve" in result.output


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        ({"engine__index": "nothing-here"}, "index", "rh-connector index SOURCE"),
        ({"engine__fields": "body"}, "fields", "set engine.fields to some of text, title"),
        ({"engine__url": "http://127.0.0.1:9"}, "cluster", "check engine.url"),
        ({"engine__kind": "elasticsearch"}, "cluster", "set engine.kind to opensearch"),
        ({"writeback__service_url": ""}, "service", "cannot be given a reranker"),
        ({}, "pipeline", "rh-connector pipeline install"),
        ({"backbone__model": "smollm2-1.7b"}, "model", "model"),
        ({"router__bundle": "/nowhere.onnx"}, "bundle", "/nowhere.onnx"),
    ],
)
def test_what_is_wrong_is_told_with_its_mend(
    indexed: dict[str, str], change: dict[str, str], check: str, words: str
) -> None:
    finding = found(doctor("--json", **{**indexed, **change}))[check]
    assert finding["level"] != "ok" and words in finding["seen"] + finding["mend"]


def test_without_a_cluster(tmp_path: Path) -> None:
    result = doctor("--json", engine__url=str(tmp_path))
    assert found(result)["index"]["mend"].startswith("rh-connector index SOURCE")


def test_elasticsearch(elasticsearch_node: Node) -> None:
    given = {"engine__kind": "elasticsearch", "engine__url": elasticsearch_node.url, "engine__fields": "text"}
    result = doctor("--json", **given, writeback__service_url="http://127.0.0.1:9")
    # This node has no inference API.
    assert result.exit_code == 3 and "the gateway" in result.stdout
