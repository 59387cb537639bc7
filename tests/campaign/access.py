"""Who may ask what: keys, paths, hosts and requests inside requests, on raw sockets, and secrets in what comes back.

The service is a process of its own with every secret set, in front of a cluster that keeps what it was asked.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from tests.campaign.rows import Row, Tally
from tests.service.gateway.fake_cluster import Asked, FakeCluster, hit, running_cluster

__all__ = ["access"]

_PART = "access"
_KEYS = ("zK1-first-of-ours-7Qx", "zK2-second-of-ours-9Wp")
_OTHER_TENANT = "zK9-of-another-service-4Rt"
_PASSWORD, _TOKEN = "zPw-of-the-cluster-3Lm", "zTk-for-the-cluster-8Vn"
_SECRETS = tuple(secret.encode() for secret in (*_KEYS, _PASSWORD, _TOKEN))
_SERVE = """
import logging, sys
from connector.service.server import run_server
from connector.settings import load_settings
from connector.cli import cli
from tests.service.standin import StandIn
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
run_server(StandIn(), load_settings("/dev/null"), lambda url: print(url, flush=True))
"""
_BODY = json.dumps({"query": {"match": {"text": "cats"}}}).encode()
_RERANK = json.dumps({"query": "cats", "documents": ["cats", "dogs"]}).encode()
_OPEN_TRICKS = ("/live/../", "/live/%2e%2e/", "//live/..//", "/live;/", "/live%2f..%2f", "/live/./../", "/ready/..;/")
_PROTECTED = ("_search", "books/_search", "_cat/indices", "v1/rerank", "metrics", "_bulk")
_READS = re.compile(
    r"_(search|msearch|count|mget|field_caps|validate|explain|analyze|render|rank_eval|pit)\b|point_in_time"
)


def access(rounds: int, seed: int = 0) -> Iterator[Row]:
    """A row for each way in, and one for what came out.

    Args:
        rounds: requests of each.
        seed: of their details.
    """
    drawn = random.Random(seed)
    with running_cluster() as cluster, running_cluster() as elsewhere, _service(cluster.url) as service:
        cluster.hits = [hit(at, 9 - at, "cats") for at in range(3)]
        service.aims = cluster.url.removeprefix("http://"), elsewhere.url.removeprefix("http://")
        for what, send in (
            ("no key, a wrong one, another service's", _without_key),
            ("paths that mean others", _tricky_path),
            ("other hosts, absolute URLs", _other_host),
            ("requests hidden in requests", _smuggled),
        ):
            tally = Tally()
            for _ in range(rounds):
                cluster.asked.clear()
                lost = send(service, cluster, drawn)
                if lost is None and elsewhere.asked:
                    lost = "another host was asked"
                tally.add(lost)
            yield tally.row(_PART, what, "no write and nothing without a key reached the cluster")
        log = service.stop()
    tally = Tally()
    for text in (*service.answers, *log.splitlines()):
        told = [secret for secret in _SECRETS if secret in text or b64encode(secret) in text]
        tally.add("a secret was told" if told else None)
    note = (
        f"{len(service.answers):,} answers and {tally.tried - len(service.answers):,} lines of a log at level DEBUG"
    )
    yield tally.row(_PART, f"{len(_SECRETS)} secrets looked for in all that was answered and logged", note)


class _Service:
    """The process, and all that it answered."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        assert process.stdout is not None
        self._process, self._log = process, log
        host, _, port = process.stdout.readline().strip().removeprefix("http://").partition(":")
        self.address = host, int(port)
        self.answers: list[bytes] = []
        # Where the cluster is, and where nobody may be led.
        self.aims = ("", "")

    def send(self, raw: bytes, patience: float = 10.0) -> bytes:
        """All that comes back on one connection."""
        found = b""
        with suppress(OSError), socket.create_connection(self.address, 10) as connection:
            connection.sendall(raw)
            connection.settimeout(patience)
            while part := connection.recv(65536):
                found += part
        self.answers.append(found)
        return found

    def stop(self) -> bytes:
        """End it; its log."""
        self._process.terminate()
        self._process.wait(30)
        return self._log.read_bytes()


@contextmanager
def _service(cluster: str) -> Iterator[_Service]:
    own = {
        "RH_CONFIG": "/dev/null",
        "RH_ENGINE__KIND": "opensearch",
        "RH_ENGINE__URL": cluster.replace("http://", f"http://rh:{_PASSWORD}@"),
        "RH_SERVE__API_KEYS": ",".join(_KEYS),
        "RH_ENGINE__BEARER_TOKEN": _TOKEN,
        "RH_SERVE__PORT": "0",
        "RH_SERVE__ACCESS_LOG": "true",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RH_")}
    with tempfile.TemporaryDirectory(prefix="rh-campaign-") as folder, (Path(folder) / "log").open("wb") as log:
        command = [sys.executable, "-c", _SERVE]
        process = subprocess.Popen(command, env=inherited | own, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            service = _Service(process, Path(folder) / "log")
            until = time.monotonic() + 30
            while b" 200 " not in service.send(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
                assert time.monotonic() < until, "the service did not come up"
            yield service
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _request(method: str, target: str, headers: list[str], body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _key(drawn: random.Random) -> str:
    key = drawn.choice(_KEYS)
    return drawn.choice([f"Authorization: Bearer {key}", f"X-Api-Key: {key}"])


def _status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return int(found[1]) if found else 0


def _without_key(service: _Service, cluster: FakeCluster, drawn: random.Random) -> str | None:
    right = drawn.choice(_KEYS)
    target, body = drawn.choice([("/books/_search", _BODY), ("/v1/rerank", _RERANK), ("/_msearch", b"{}\n{}\n")])
    if drawn.random() < 0.15:
        answer = service.send(_request("POST", target, [_key(drawn)], body))
        return None if _status(answer) in (200, 400) else f"a right key was answered {_status(answer)}"
    wrong = drawn.choice(
        [right[:-1], right + "x", right.lower(), right.upper(), _OTHER_TENANT, "", " ", ",".join(_KEYS), f'"{right}"',
         right[::-1], "*", "null", "Bearer", f"{right}\x00", f"Bearer {right}", right.encode().hex()]
    )  # fmt: skip
    headers = drawn.choice(
        [[], [f"Authorization: Bearer {wrong}"], [f"X-Api-Key: {wrong}"], [f"Authorization: Basic {wrong}"],
         [f"Authorization: Basic {b64encode(f'x:{right}'.encode()).decode()}"], [f"Cookie: X-Api-Key={right}"],
         [f"X_Api_Key: {right}"], [f"Proxy-Authorization: Bearer {right}"], [f"Authorization: Token {right}"],
         [f"X-Api-Key : {right}"], ["X-Original-URL: /live"], ["X-Forwarded-For: 127.0.0.1"]]
    )  # fmt: skip
    if drawn.random() < 0.2:
        target += f"?api_key={right}"
    answer = service.send(_request("POST", target, headers, body))
    if cluster.asked:
        return f"the cluster was asked without a key: {headers}"
    return None if _status(answer) in (400, 401) else f"without a key: status {_status(answer)}"


def _tricky_path(service: _Service, cluster: FakeCluster, drawn: random.Random) -> str | None:
    method = drawn.choice(["POST", "POST", "PUT", "DELETE", "GET", "PATCH", "post"])
    if drawn.random() < 0.35:
        target = drawn.choice(_OPEN_TRICKS) + drawn.choice(_PROTECTED)
        answer = service.send(_request(method, target, [], _BODY))
        if cluster.asked:
            return f"{method} {target} reached the cluster without a key"
        return None if 400 <= _status(answer) < 500 else f"{method} {target} without a key: {_status(answer)}"
    written = drawn.choice(["_bulk", "books/_doc/1", "books/_delete_by_query", "_reindex", "books", "_aliases"])
    path = drawn.choice(["/_search/../", "/books/_search/%2e%2e/%2e%2e/", "//", "/%2f", "/./", "/_search%2f..%2f",
                         "/_search/..%5c", "/_search;/../", "/%5f", "/books/_search/..%2f..%2f", "/_search%00/",
                         "/_search%0d%0a", "/%252e%252e/", "/_search?/../", "/_search#/../", "/*/_search/../../",
                         "/books,_search/"]) + written  # fmt: skip
    path = drawn.choice([path, path, path.replace("_", "%5F"), path.upper(), path + "/_search", path + "%2f_search"])
    answer = service.send(_request(method, path, [_key(drawn)], _BODY))
    for asked in cluster.asked:
        if not _reads(asked):
            return f"{method} {path} reached the cluster as {asked.method} {asked.target}"
    return None if _status(answer) < 500 else f"{method} {path}: status {_status(answer)}"


def _reads(asked: Asked) -> bool:
    """Whether a request only reads, however the cluster may decode its path."""
    path = unquote(unquote(asked.path)).replace("\\", "/")
    if ".." in path.split("/") or "\0" in path or "\r" in path or "\n" in path:
        return False
    if asked.method in ("GET", "HEAD", "OPTIONS"):
        return True
    last = path.rstrip("/").rpartition("/")[2]
    return asked.method == "POST" and bool(_READS.search(last)) or asked.method == "DELETE" and "scroll" in path


def _other_host(service: _Service, cluster: FakeCluster, drawn: random.Random) -> str | None:
    own, other = service.aims
    target = drawn.choice(["/books/_search", f"http://{other}/books/_search", f"http://{other}@{own}/_search",
                           f"//{other}/_search", f"/http://{other}/_search", f"http://{own}/_bulk", f"{other}",
                           f"http://x:y@{other}/_search", f"/@{other}/_search", f"/_search@{other}"])  # fmt: skip
    extra = drawn.choice(
        [[], [f"Host: {other}"], [f"X-Forwarded-Host: {other}"], [f"Forwarded: host={other}"], [f"Host: {own}\x00"],
         [f"X-Original-URL: http://{other}/"], ["Host: "]]
    )  # fmt: skip
    raw = _request(drawn.choice(["POST", "GET", "CONNECT"]), target, [_key(drawn), *extra], _BODY)
    if drawn.random() < 0.5:
        raw = raw.replace(b"Host: localhost", f"Host: {other}".encode())
    answer = service.send(raw)
    for asked in cluster.asked:
        if asked.headers.get("host") != own or not _reads(asked):
            return f"the cluster was asked {asked.method} {asked.target} for {asked.headers.get('host')}"
    return None if _status(answer) < 500 else f"{target}: status {_status(answer)}"


def _smuggled(service: _Service, cluster: FakeCluster, drawn: random.Random) -> str | None:
    hidden = f"{drawn.choice(['PUT', 'POST', 'GET'])} /smuggled/_doc/1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY)
    begun = f"POST /books/_search HTTP/1.1\r\nHost: x\r\n{_key(drawn)}\r\nContent-Type: application/json\r\n".encode()
    length, short = b"Content-Length: %d\r\n" % len(chunked + hidden), b"Content-Length: 4\r\n"
    coding = drawn.choice(
        [b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding : chunked\r\n",
         b"Transfer-Encoding:\tchunked\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
         b"X: y\r\n Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity, chunked\r\n",
         b"Transfer-Encoding\r\n : chunked\r\n", b"Transfer-Encoding: CHUNKED\r\n", b"transfer_encoding: chunked\r\n"]
    )  # fmt: skip
    raw = drawn.choice(
        [
            begun + length + coding + b"\r\n" + chunked + hidden,
            begun + coding + short + b"\r\n" + chunked + hidden,
            begun + short + length + b"\r\n" + chunked + hidden,
            begun + b"Content-Length: 0, %d\r\n\r\n" % len(hidden) + hidden,
            begun + b"Content-Length: +0\r\n\r\n" + hidden,
            begun + b"Content-Length: 0x0\r\n\r\n" + hidden,
            begun + b"Content-Length:\r\n 0\r\n\r\n" + hidden,
            begun + b"Content-Length: 0\nX: y\r\n\r\n" + hidden,
            begun + coding + b"\r\n0;x=\r\n" + hidden + b"\r\n0\r\n\r\n",
            begun + coding + b"\r\n-1\r\n" + hidden,
            begun + coding + b"\r\nffffffffffffffff0\r\n" + hidden,
            begun + b"X: a\r\n\tb\r\n" + b"Content-Length: 0\r\n\r\n" + hidden,
            begun.replace(b"/books/_search", b"/books/_search HTTP/1.1\r\nX: y\r\n\r\n") + hidden,
            begun.replace(b"/books/_search", b"/_search?x=%0d%0a%0d%0aPUT%20/smuggled/_doc/1") + b"\r\n",
            begun + b"X-Y: a\rPUT /smuggled/_doc/1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        ]
    )
    answer = service.send(raw, 0.3)
    for asked in cluster.asked:
        if "smuggled" in asked.path or not _reads(asked):
            return f"the hidden request reached the cluster: {raw[:300]!r}"
    statuses = [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
    # Of a body that is no JSON the stand-in for a cluster makes a 500 of its own.
    ours = statuses and max(statuses) >= 500 and not cluster.asked
    return f"status {max(statuses)}: {raw[:200]!r}" if ours else None
