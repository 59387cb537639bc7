"""Three real processes behind a real HAProxy or nginx, restarted one by one while requests come: none fails."""

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from connector.checkpoints.checkpoint import Checkpoint
from connector.sections import Settings
from tests.deploy.conftest import DEPLOY

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
        assignments = (f"cache.path={self._cache}", "cache.disk_mb=200", "serve.drain_s=3", "backbone.runtime=onnx")
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


def _program(name: str) -> str:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is missing here; on Debian: apt-get install {name}")
    return program


def _change(path: Path, texts: Mapping[str, str]) -> None:
    told = path.read_text(encoding="utf-8")
    for old, new in texts.items():
        assert old in told
        told = told.replace(old, new)
    path.write_text(told, encoding="utf-8")


@dataclass(frozen=True)
class Balancer:
    """How one is run with what ``deploy`` ships.

    Attributes:
        command: runs it in the foreground.
        environment: of the process.
        check: what makes the command look at its configuration and end.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    check: Sequence[str]

    @contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen(self.command, env=self.environment) as process:
            try:
                yield
            finally:
                process.terminate()


def _haproxy(bind: int, replicas: Sequence[int], folder: Path) -> Balancer:
    config = Path(shutil.copy(DEPLOY / "haproxy" / "haproxy.cfg", folder))
    names = {f"REPLICA_{letter}": f"127.0.0.1:{port}" for letter, port in zip("ABC", replicas, strict=True)}
    environment = {**os.environ, "LISTEN": f"127.0.0.1:{bind}", **names}
    return Balancer([_program("haproxy"), "-db", "-f", str(config)], environment, ["-c"])


# What a distribution's own nginx.conf has around the files of conf.d, in a folder of the test.
_AROUND = """
daemon off;
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include rh-connector.conf;
}
"""


def _nginx(bind: int, replicas: Sequence[int], folder: Path) -> Balancer:
    named = {f"10.0.0.{at}:8080": f"127.0.0.1:{port}" for at, port in enumerate(replicas, 1)}
    own = Path(shutil.copy(DEPLOY / "nginx" / "rh-connector.conf", folder))
    _change(own, {"listen 8080;": f"listen 127.0.0.1:{bind};", **named})
    # As root its workers would be another user, who cannot enter the test's folder.
    root = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(root + _AROUND, encoding="utf-8")
    command = [_program("nginx"), "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"]
    return Balancer(command, os.environ, ["-t"])


BALANCERS = {"haproxy": _haproxy, "nginx": _nginx}


@pytest.mark.parametrize("name", list(BALANCERS))
def test_a_balancer_takes_its_configuration(name: str, tmp_path: Path) -> None:
    balancer = BALANCERS[name](1, (2, 3, 4), tmp_path)
    command = [*balancer.command, *balancer.check]
    checked = subprocess.run(command, env=balancer.environment, capture_output=True, text=True, check=False)
    told = checked.stderr.lower()
    assert checked.returncode == 0 and "[warn" not in told and "[alert]" not in told, checked.stderr


@pytest.mark.parametrize("name", list(BALANCERS))
def test_a_rolling_restart_fails_no_request(
    name: str, smollm2: Checkpoint, settings: Settings, tmp_path: Path
) -> None:
    bind, *ports = _free_ports(4)
    (tmp_path / "models").symlink_to(settings.cache.path / "models")
    balancer = BALANCERS[name](bind, ports, tmp_path)
    if name == "haproxy":
        # It asks /ready. Without second tries, one that stopped listening before it knew costs a request each time.
        _change(tmp_path / "haproxy.cfg", {"retries 3": "retries 0", "option redispatch": ""})
    replicas: list[Replica] = []
    try:
        replicas = [Replica(port, tmp_path) for port in ports]
        for replica in replicas:
            replica.until_ready()
        with balancer.running():
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
