"""``rh-connector serve``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from connector.cli import main
from connector.reranking.reranker import Reranker
from connector.service.server import listen


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_get_answers_one_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--get", "/live") == 0
    assert json.loads(capsys.readouterr().out) == {"status": "live"}


def test_get_of_a_path_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--get", "/nothing") == 2
    printed = capsys.readouterr()
    assert "error" in json.loads(printed.out)
    assert printed.err.startswith("Error: GET /nothing is not a route")


def test_get_ready_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", f"backbone.model={tmp_path / 'none'}", "serve", "--get", "/ready") == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_serve_ends_when_the_model_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--set", f"backbone.model={tmp_path / 'none'}", "serve", "--port", "0") == 4
    printed = capsys.readouterr()
    assert json.loads(printed.out)["url"].startswith("http://127.0.0.1:")
    assert "Error: " in printed.err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        assert run("serve", "--port", str(taken.getsockname()[1])) == 2
    assert "--port" in capsys.readouterr().err


def test_an_open_service_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = f"backbone.model={tmp_path / 'none'}"
    assert run("--set", missing, "serve", "--host", "0.0.0.0", "--port", "0") == 4
    assert "serve.api_keys is empty" in capsys.readouterr().err
    assert run("--set", missing, "--set", "serve.api_keys=k", "serve", "--host", "0.0.0.0", "--port", "0") == 4
    assert "serve.api_keys" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "everybody who reaches it can make the model work; set"),
        ({"serve.page": "true"}, "can read the index default on the page, and make the model work; set"),
        ({"engine.kind": "opensearch"}, "can read what this service can read in the cluster; set"),
        ({"engine.kind": "opensearch", "serve.gateway": "false"}, "can make the model work; set"),
    ],
)
def test_the_warning_says_what_strangers_can_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, str], told: str
) -> None:
    given = {"backbone.model": str(tmp_path / "none"), **options}
    words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    assert run(*words, "serve", "--host", "0.0.0.0", "--port", "0") == 4
    assert told in capsys.readouterr().err


def call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    # A proxy of the machine does not know the loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, data, timeout=60) as response:
        return json.load(response)


@pytest.mark.slow
def test_serve_with_the_real_model(reranker: Reranker, cats: list[str]) -> None:
    """From the command to an answer, then SIGTERM. (The fixture has fetched the model.)"""
    command = [sys.executable, "-c", "from connector.cli import main; main()", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Listening on http://127.0.0.1:")
            url = line.split()[-1]
            # The question waits in the socket's queue until the server has started.
            assert call(f"{url}/live") == {"status": "live"}
            for _ in range(600):
                try:
                    assert call(f"{url}/ready")["status"] == "ready"
                    break
                except urllib.error.HTTPError as error:
                    with error:
                        assert json.load(error) == {"status": "loading"}
                    assert process.poll() is None
                    time.sleep(0.1)
            answer = call(f"{url}/v1/rerank", {"query": "How long do cats sleep?", "documents": cats})
            assert answer["results"][0]["index"] == 2
        finally:
            process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(20) in (0, -signal.SIGTERM)
    assert "stopping, no new connections; no request runs" in said
    (line,) = [json.loads(line) for line in said.splitlines() if '"/v1/rerank"' in line]
    assert (line["status"], line["documents"], line["reranked"]) == (200, len(cats), True)
