"""Three real processes behind a real HAProxy, restarted one by one while requests come: none fails."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from connector.checkpoints.checkpoint import Checkpoint
from connector.sections import Settings

pytestmark = pytest.mark.slow

_RUN = "from connector.cli import main; main()"
_CLIENTS = 4
_LONG = 120.0
_DOCUMENTS = [f"Cats sleep {at} hours a day, and bread needs yeast." for at in range(4)]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Replica:
    """One process of the service; it may be started again on its port."""

    def __init__(self, port: int, cache: Path) -> None:
        self.port, self._cache = port, cache
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        assignments = (f"cache.path={self._cache}", "cache.disk_mb=200", "serve.drain_s=3")
        options = [part for assignment in assignments for part in ("--set", assignment)]
        command = [sys.executable, "-c", _RUN, "--config", os.devnull, *options, "serve", "--port", str(self.port)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def until_ready(self) -> None:
        end = time.monotonic() + _LONG
        while time.monotonic() < end:
            try:
                if _asked(self.port, "GET", "/ready") == 200:
                    return
            except OSError:
                pass
            assert self.process.poll() is None, "the replica ended while it was starting"
            time.sleep(0.2)
        raise AssertionError("the replica did not get ready")

    def restart(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(_LONG)
        self.process = self._started()
        self.until_ready()


def _asked(port: int, method: str, path: str, body: str | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LONG)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        with connection.getresponse() as answer:
            answer.read()
            return answer.status if path == "/ready" or answer.headers.get("X-Reranked") == "true" else 0
    finally:
        connection.close()


@contextmanager
def _load(port: int) -> Iterator[list[str]]:
    """Clients that ask one request after the other; what fails is in the list."""
    failed: list[str] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            try:
                status = _asked(port, "POST", "/v1/rerank", json.dumps({"query": "cats", "documents": _DOCUMENTS}))
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
            else:
                failed.extend([] if status == 200 else [str(status)])
            answered.append(1)

    answered: list[int] = []
    threads = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        enough.set()
        for thread in threads:
            thread.join(_LONG)
    assert len(answered) > _CLIENTS


def _haproxy() -> str:
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        pytest.skip("HAProxy is missing here; on Debian: apt-get install haproxy")
    return program


def _environment(bind: int, replicas: Sequence[int]) -> dict[str, str]:
    names = {f"REPLICA_{letter}": f"127.0.0.1:{port}" for letter, port in zip("ABC", replicas, strict=True)}
    return {**os.environ, "LISTEN": f"127.0.0.1:{bind}", **names}


@contextmanager
def _balancer(config: Path, bind: int, replicas: Sequence[int]) -> Iterator[None]:
    command = [_haproxy(), "-db", "-f", str(config)]
    with subprocess.Popen(command, env=_environment(bind, replicas)) as process:
        try:
            yield
        finally:
            process.terminate()


def test_haproxy_takes_its_configuration(repository: Path) -> None:
    command = [_haproxy(), "-c", "-f", str(repository / "deploy" / "haproxy" / "haproxy.cfg")]
    checked = subprocess.run(command, env=_environment(1, (2, 3, 4)), capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and "[WARNING]" not in checked.stderr, checked.stderr


def test_a_rolling_restart_fails_no_request(
    repository: Path, smollm2: Checkpoint, settings: Settings, tmp_path: Path
) -> None:
    bind, *ports = _free_ports(4)
    (tmp_path / "models").symlink_to(settings.cache.path / "models")
    # Without its second tries: a replica that stopped listening before HAProxy knew would cost a request each time.
    shipped = (repository / "deploy" / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    config = tmp_path / "haproxy.cfg"
    config.write_text(shipped.replace("retries 3", "retries 0").replace("option redispatch", ""), encoding="utf-8")
    assert config.read_text(encoding="utf-8") != shipped
    replicas: list[Replica] = []
    try:
        replicas = [Replica(port, tmp_path) for port in ports]
        for replica in replicas:
            replica.until_ready()
        with _balancer(config, bind, ports):
            _until_answered(bind)
            with _load(bind) as failed:
                for replica in replicas:
                    replica.restart()
        assert failed == []
    finally:
        for replica in replicas:
            replica.process.kill()
            replica.process.wait()


def _until_answered(port: int) -> None:
    end = time.monotonic() + _LONG
    while time.monotonic() < end:
        try:
            if _asked(port, "GET", "/ready") == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("the balancer does not answer")
