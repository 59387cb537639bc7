"""A TCP proxy in front of a cluster: it hands real answers on, and does to some of them what networks do."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

__all__ = ["FAULTS", "FaultyProxy", "faulty_proxy"]

_HTML = b"<html><head><title>%d</title></head><body><center><h1>%d</h1></center><hr>balancer</body></html>"
FAULTS = (
    "refuses connections",
    "resets in the middle of an answer",
    "accepts and never answers",
    "answers a byte at a time",
    "429 with Retry-After",
    "TLS where none is spoken",
    "502 with a balancer's HTML",
    "503 with a balancer's HTML",
    "200 with a login page's HTML",
    "cut JSON",
    "restarts",
)
"""What can be done to a request."""
_RESTART_S = 0.15
_DRIP_S = 0.05


class FaultyProxy:
    """Each connection is one request to ``target``, on a thread of its own.

    Attributes:
        fault: one of ``FAULTS``, or None.
        which: numbers of the requests since ``begin`` that it is done to, from 0; None: all.
        answered: path and status of the requests since then that the target answered whole.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self._target = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listening.getsockname()[1]
        self._lock = threading.Lock()
        self._closed = False
        self.fault: str | None = None
        self.which: frozenset[int] | None = None
        self.answered: list[tuple[str, int]] = []
        self._asked = self._faulted = 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def faulted(self) -> int:
        """Requests since ``begin`` that something was done to."""
        return self._faulted

    def begin(self, fault: str | None, which: frozenset[int] | None = None) -> None:
        """Count requests from 0, and do this to them."""
        with self._lock:
            self.fault, self.which, self._asked, self._faulted = fault, which, 0, 0
            self.answered = []
        if fault == "refuses connections":
            self._stop()
        elif self._closed:
            self._start()

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if not self._closed:
            self._closed = True
            # accept() is not woken by a close alone.
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._accepting.join(5)

    def _start(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._closed = False
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        listening = self._listening
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError, ValueError):
            connection.settimeout(30)
            asked = _read_request(connection)
            if not asked:
                return
            with self._lock:
                number, fault = self._asked, self.fault
                self._asked += 1
                if self.which is not None and number not in self.which:
                    fault = None
                self._faulted += fault is not None
            self._answer(connection, asked, fault)

    def _answer(self, connection: socket.socket, asked: bytes, fault: str | None) -> None:
        if fault == "accepts and never answers":
            # Until the other side loses its patience.
            connection.recv(1)
            return
        if fault == "TLS where none is spoken":
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
            return
        if fault == "restarts":
            self._stop()
            _reset(connection)
            time.sleep(_RESTART_S)
            if self.fault == fault:
                self._start()
            return
        answer = self._asked_of_target(asked)
        head, _, body = answer.partition(b"\r\n\r\n")
        if fault == "resets in the middle of an answer":
            connection.sendall(answer[: len(answer) // 2])
            time.sleep(0.01)
            _reset(connection)
        elif fault == "answers a byte at a time":
            connection.sendall(head + b"\r\n\r\n")
            for place in range(len(body)):
                connection.sendall(body[place : place + 1])
                time.sleep(_DRIP_S)
        elif fault == "429 with Retry-After":
            connection.sendall(_made(429, b'{"error":{"type":"circuit_breaking_exception"},"status":429}', b"json"))
        elif fault in ("502 with a balancer's HTML", "503 with a balancer's HTML", "200 with a login page's HTML"):
            status = int(fault[:3])
            connection.sendall(_made(status, _HTML % (status, status), b"html"))
        elif fault == "cut JSON":
            connection.sendall(_made(200, body[: len(body) * 2 // 3], b"json"))
        else:
            connection.sendall(answer)

    def _asked_of_target(self, asked: bytes) -> bytes:
        head, _, body = asked.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        # Of this search, whatever comes after it.
        answered = self.answered
        with socket.create_connection(self._target, 10) as target:
            target.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body)
            found = b""
            while part := target.recv(65536):
                found += part
        if _is_whole(found):
            answered.append((lines[0].split()[1].decode(), int(found.split()[1])))
        return found


def _is_whole(answer: bytes) -> bool:
    """Whether an answer has its end: a target may die in the middle."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if lengths:
        return len(body) == int(lengths[0].partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def _made(status: int, body: bytes, kind: bytes) -> bytes:
    family = b"application/json" if kind == b"json" else b"text/html"
    more = b"Retry-After: 1\r\n" if status in (429, 503) else b""
    # Some balancers stand in front of a cluster whose answers carry this.
    more += b"X-Elastic-Product: Elasticsearch\r\n" if kind == b"json" else b""
    told = b"HTTP/1.1 %d X\r\nContent-Type: %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n"
    return told % (status, family, more, len(body)) + body


def _read_request(connection: socket.socket) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        part = connection.recv(65536)
        if not part:
            return b""
        found += part
    head, _, body = found.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            return b""
        body += part
    return head + b"\r\n\r\n" + body


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy in front of ``target``, on a free loopback port."""
    proxy = FaultyProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
