"""Requests made at random from the schema: none may be answered 500, and one that is is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from connector.errors import SettingsError
from connector.studies.http_fuzz import fuzz, main
from tests.clients.live_service import KEY, serving_process


@pytest.fixture
def _installed() -> None:
    pytest.importorskip("schemathesis", reason="the clients have an environment of their own: make clients")


@pytest.mark.slow
@pytest.mark.usefixtures("_installed")
def test_a_live_service_answers_no_500() -> None:
    with serving_process() as url:
        found = fuzz(url, 20, key=KEY)
    assert found.faults == []
    assert found.statuses[200] > 20 and found.statuses[400] > 20 and not found.statuses[401]
    assert {"POST /rerank", "POST /v1/rerank", "POST /v2/rerank", "POST /v1/score"} <= found.operations


class _Failing(BaseHTTPRequestHandler):
    """A service with one route, which fails: by accident, or because it is not ready."""

    status = 500

    def do_GET(self) -> None:
        schema: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation = {"requestBody": body, "responses": {"200": {"description": "done"}}}
        page = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {"/rerank": {"post": operation}}}
        self._send(200, json.dumps(page).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._send(self.status, b"{}")

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def failing() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("status", [500, 503])
def test_a_500_is_seen(failing: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Failing, "status", status)
    ran = CliRunner().invoke(main, [f"{failing}/", "--minutes", "0.2"])
    told = json.loads(ran.stdout)
    assert ran.exit_code == (1 if status == 500 else 0)
    assert told["statuses"][str(status)] > 0 and told["operations"] == 1
    assert (told["status_500"] > 0) == (status == 500)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    program = tmp_path / "schemathesis"
    program.write_text("#!/bin/sh\necho no such schema >&2\nexit 2\n")
    program.chmod(0o755)
    with pytest.raises(SettingsError, match="schemathesis ended with 2: no such schema"):
        fuzz("http://127.0.0.1:9", 1, program=str(program))
