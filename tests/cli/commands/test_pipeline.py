"""``rh-connector pipeline`` as a user types it; what it does is tested in tests/writeback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connector.cli import cli
from connector.documents import Document
from connector.engines.open_engine import open_engine
from connector.errors import EngineError, SettingsError
from connector.settings import load_settings
from tests.nodes.process import Node
from tests.service.live import serving
from tests.service.standin import StandIn
from tests.writeback.inference_double import inferring


def call(*words: str, **settings: Any) -> Result:
    options = [part for key, value in settings.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
    return CliRunner().invoke(cli, ["--config", "/dev/null", *options, *words])


@pytest.mark.parametrize(
    ("settings", "words", "message"),
    [
        ({}, ["install"], "engine.kind = embedded: there is no cluster"),
        ({"engine__kind": "opensearch"}, ["install"], "writeback.service_url = None: give the URL"),
        ({"engine__kind": "opensearch", "writeback__service_url": "http://h"}, ["status"], "engine.fields is empty"),
        ({"engine__kind": "elasticsearch", "writeback__service_url": "http://h"}, ["install"], "reads one field"),
        ({"engine__kind": "elasticsearch"}, ["install", "--route", "scores"], "--route is OpenSearch's"),
        (
            {"engine__kind": "elasticsearch"},
            ["install", "--into", "own", "--hybrid", "--default-for", "i"],
            "--hybrid, --into, --default-for are OpenSearch's",
        ),
        ({"engine__kind": "opensearch"}, ["install", "--service", "custom"], "--service is Elasticsearch's"),
    ],
)
def test_wrong_settings(settings: dict[str, str], words: list[str], message: str) -> None:
    result = call("pipeline", *words, **settings)
    assert isinstance(result.exception, SettingsError) and message in str(result.exception)


def test_a_proof_that_fails_leaves_nothing_and_a_good_one_is_told(opensearch_node: Node, tmp_path: Path) -> None:
    settings = {
        "engine__kind": "opensearch",
        "engine__url": opensearch_node.url,
        "engine__index": "cli",
        "engine__fields": "text",
        "writeback__name": "cli",
        "writeback__service_url": "http://127.0.0.1:9",
        "writeback__timeout_s": "1",
    }
    opened = open_engine(load_settings("/dev/null", {k.replace("__", "."): v for k, v in settings.items()}, {}))
    opened.index([Document("1", {"text": "cat"}), Document("2", {"text": "dog"})])
    result = call("pipeline", "install", **settings)
    assert isinstance(result.exception, EngineError)
    assert "the cluster cannot reach http://127.0.0.1:9" in str(result.exception)
    assert "Nothing was left in the cluster" in str(result.exception)
    assert "nothing of cli is installed" in call("pipeline", "uninstall", **settings).output
    with serving(StandIn(), load_settings("/dev/null", {}, {})) as (url, _):
        settings["writeback__service_url"] = url
        shown = call("pipeline", "install", "--dry-run", **settings)
        assert shown.exit_code == 0 and "curl -sS -X PUT" in shown.output
        result = call("--json", "pipeline", "install", **settings)
        told = json.loads(result.stdout)
        assert told["calls"] == 5 and all(proof["holds"] for proof in told["proofs"]) and len(told["proofs"]) == 6
        state = json.loads(call("--json", "pipeline", "status", **settings).stdout)
        assert state["drift"] == [] and state["service"]["reached"] and state["statistics"]["count"] > 0
    result = call("--json", "pipeline", "status", **settings)
    assert isinstance(result.exception, EngineError) and not json.loads(result.stdout)["service"]["reached"]
    assert call("pipeline", "uninstall", **settings).exit_code == 0
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("service", ["hugging_face", "custom"])
def test_an_inference_endpoint(service: str, cats: list[str]) -> None:
    settings = {
        "engine__kind": "elasticsearch",
        "engine__fields": "text",
        "serve__api_keys": "s3cret",
        "writeback__name": "cli",
    }
    keyed = load_settings("/dev/null", {"serve.api_keys": "s3cret"}, {})
    with (
        serving(StandIn(), keyed) as (url, _),
        inferring({str(place): text for place, text in enumerate(cats)}) as double,
    ):
        settings |= {"engine__url": double.url, "writeback__service_url": url}
        shown = call("pipeline", "install", "--dry-run", "--service", service, **settings)
        assert "curl -sS -X PUT" in shown.output and "$RH_KEY" in shown.output and "s3cret" not in shown.output
        (planned,) = json.loads(
            call("--json", "pipeline", "install", "--dry-run", "--service", service, **settings).stdout
        )
        assert planned["body"]["service"] == service and double.endpoints == {}
        missing = call("pipeline", "status", **settings)
        assert isinstance(missing.exception, EngineError) and "missing" in missing.output
        told = call("pipeline", "install", "--service", service, **settings)
        assert told.exit_code == 0 and '"linear"' in told.output and "s3cret" not in told.output
        state = call("--json", "pipeline", "status", **settings)
        assert state.exit_code == 0 and "s3cret" not in state.output
        assert json.loads(state.stdout)["service"]["reached"] and json.loads(state.stdout)["drift"] == []
        again = json.loads(call("--json", "pipeline", "install", **settings).stdout)
        assert again["calls"] == 0 and again["weighted"]["retriever"]["linear"]
        assert "curl -sS -X DELETE" in call("pipeline", "uninstall", "--dry-run", **settings).output
        assert call("pipeline", "uninstall", **settings).exit_code == 0 and double.endpoints == {}
        assert "nothing of cli is installed" in call("pipeline", "uninstall", **settings).output
