from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from connector.errors import BackboneError, SettingsError
from connector.sections import Settings
from connector.service.server import answer_once, listen, run_server
from tests.service.conftest import service_settings
from tests.service.live import serving
from tests.service.standin import StandIn
from tests.service.waiting import wait_until


def broken(settings: Settings) -> StandIn:
    raise BackboneError("no such model")


def test_a_server_whose_model_cannot_be_loaded_ends() -> None:
    urls: list[str] = []
    with pytest.raises(BackboneError, match="no such model"):
        run_server(broken, service_settings(port=0), urls.append)
    assert urls[0].startswith("http://127.0.0.1:")
    assert not urls[0].endswith(":0")


def test_a_port_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}: .*choose another with"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "."])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(SettingsError, match="cannot listen on"):
        listen(host, 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6() -> None:
    urls: list[str] = []
    try:
        listen("::1", 0).close()
    except SettingsError:
        pytest.skip("no IPv6 loopback")
    with pytest.raises(BackboneError):
        run_server(broken, service_settings(port=0, host="::1"), urls.append)
    assert urls[0].startswith("http://[::1]:")


def test_one_answer_without_a_port() -> None:
    settings = service_settings(api_keys="key")
    assert answer_once(broken, settings, "/live") == (200, b'{"status":"live"}')
    status, body = answer_once(broken, settings, "/openapi.json?x=1")
    assert (status, json.loads(body)["info"]["title"]) == (200, "rh-connector")
    assert answer_once(broken, settings, "/nothing").status == 404
    assert answer_once(broken, settings, "/v1/rerank").status == 405
    status, body = answer_once(StandIn(), settings, "/ready")
    assert (status, json.loads(body)["status"]) == (200, "ready")


def test_one_answer_that_cannot_be_given() -> None:
    with pytest.raises(BackboneError, match="no such model"):
        answer_once(broken, service_settings(), "/ready")
    with pytest.raises(SettingsError, match="such as /ready"):
        answer_once(broken, service_settings(), "ready")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_too_much_reads_the_answer(chunked: bool) -> None:
    """Closing a connection with unread bytes would reset it, and the answer would be lost."""
    body = b" " * 3_000_000
    with serving(StandIn(), service_settings(max_body_mb=1)) as (url, _):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        sent = iter([body[at : at + 65_536] for at in range(0, len(body), 65_536)]) if chunked else body
        connection.request("POST", "/v1/rerank", sent, encode_chunked=chunked)
        with connection.getresponse() as response:
            assert response.status == 413
            assert response.headers["connection"] == "close"
            assert "serve.max_body_mb" in json.load(response)["message"]
        connection.close()


def test_a_body_without_end_is_not_read_for_ever() -> None:
    with serving(StandIn(), service_settings(max_body_mb=1)) as (url, _):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.putrequest("POST", "/v1/rerank")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        with pytest.raises(OSError):
            for _ in range(10_000):
                connection.send(chunk)
        connection.close()


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with closing(listen("127.0.0.1", 0)) as listening, closing(socket.create_connection(listening.getsockname())):
        accepted, _ = listening.accept()
        with closing(accepted):
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


WAITING = """
from connector.service.server import run_server
from tests.service.conftest import service_settings
from tests.service.standin import StandIn
from tests.service.test_admission import Gate
run_server(StandIn(Gate()), service_settings(port=0), lambda url: print(url, flush=True))
"""


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_says_what_it_waits_for(repository: Path) -> None:
    """A request runs that would never end: it goes back as the first stage ordered it."""
    body = {"query": "q", "documents": ["a", "b"], "first_stage": "order"}
    command = [sys.executable, "-c", WAITING]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=repository, **pipes) as process, ThreadPoolExecutor(1) as threads:
        try:
            assert process.stdout is not None and process.stderr is not None
            url = process.stdout.readline().strip()
            wait_until(lambda: httpx2.get(f"{url}/ready").status_code == 200)
            headers = {"X-Request-Id": "waits"}
            answer = threads.submit(httpx2.post, f"{url}/v1/rerank", json=body, headers=headers, timeout=60)
            wait_until(lambda: "rh_running 1.0" in httpx2.get(f"{url}/metrics").text)
        finally:
            process.terminate()
        assert answer.result().json()["reason"] == "cancelled"
        said = process.stderr.read()
        assert process.wait(20) in (0, -signal.SIGTERM)
    assert "stopping, no new connections; waiting for 1 request: after 5 s" in said
    (line,) = [json.loads(line) for line in said.splitlines() if '"waits"' in line]
    assert (line["route"], line["reranked"], line["reason"]) == ("/v1/rerank", False, "cancelled")


DRAINING = """
from connector.service.server import run_server
from tests.service.conftest import service_settings
from tests.service.standin import StandIn
run_server(StandIn(), service_settings(port=0, drain_s=120), lambda url: print(url, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_are_taken_until_a_balancer_has_seen_it(repository: Path, number: int) -> None:
    body = {"query": "q", "documents": ["a", "b"]}
    # A shell's background jobs ignore SIGINT, and so would theirs.
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n{DRAINING}"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=repository, **pipes) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            url = process.stdout.readline().strip()
            wait_until(lambda: httpx2.get(f"{url}/ready").status_code == 200)
            process.send_signal(number)
            wait_until(lambda: httpx2.get(f"{url}/ready").status_code == 503)
            assert httpx2.get(f"{url}/ready").json()["status"] == "stopping"
            assert httpx2.get(f"{url}/live").status_code == 200
            assert httpx2.post(f"{url}/v1/rerank", json=body).status_code == 200
            # Who does not want to wait says it again.
            process.send_signal(number)
            assert process.wait(20) in (0, -number, 1)
        finally:
            process.kill()
        said = process.stderr.read()
    assert "stopping in 120 s: /ready is 503, requests are still taken" in said
    assert "stopping, no new connections; no request runs" in said
