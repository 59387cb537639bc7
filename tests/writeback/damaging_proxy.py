"""A proxy in front of the service that damages its answers, as networks and overloaded services do."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["DAMAGES", "DamagingProxy", "proxying"]

Answer = tuple[int, bytes]


def _changed(change: Callable[[list[Any]], list[Any]]) -> Callable[[bytes], Answer]:
    def damage(body: bytes) -> Answer:
        answer = json.loads(body)
        key = "results" if "results" in answer else "scores"
        return 200, json.dumps({**answer, key: change(answer[key])}).encode()

    return damage


# Name -> what becomes of a good answer; None: the connection is treated badly, see ``_Handler``.
DAMAGES: dict[str, Callable[[bytes], Answer] | None] = {
    "one score too few": _changed(lambda scores: scores[:-1]),
    "one score too many": _changed(lambda scores: [*scores, scores[-1]]),
    "no scores": _changed(lambda scores: []),
    "cut body": lambda body: (200, body[:-20]),
    "empty body": lambda body: (200, b""),
    "HTML": lambda body: (200, b"<html>gateway</html>"),
    "429": lambda body: (429, b'{"message":"busy"}'),
    "500": lambda body: (500, b'{"message":"broken"}'),
    "500 without a body": lambda body: (500, b""),
    "503": lambda body: (503, b'{"message":"starting"}'),
    "reset": None,
    "silent": None,
    "half and silent": None,
}


class DamagingProxy(ThreadingHTTPServer):
    """Passes requests on to ``target`` and damages the answers as ``damage`` says."""

    daemon_threads = True

    def __init__(self, target: str, patience: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.patience = patience
        self.damage: str | None = None
        self.calls = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DamagingProxy

    def do_POST(self) -> None:
        self.server.calls += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
        request = urllib.request.Request(self.server.target + self.path, body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            status, text = answer.status, answer.read()
        damage = self.server.damage
        if damage == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if damage == "silent":
            self._until_gone()
            return
        if damage is not None and (change := DAMAGES.get(damage)) is not None:
            status, text = change(text)
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if damage == "half and silent":
                self.wfile.write(text[: len(text) // 2])
                self.wfile.flush()
                self._until_gone()
                return
            if damage == "drip":
                # Each silence is shorter than the cluster's patience, all of them together are longer.
                for start in range(0, len(text), len(text) // 3 + 1):
                    self.wfile.write(text[start : start + len(text) // 3 + 1])
                    self.wfile.flush()
                    time.sleep(self.server.patience * 0.5)
                return
            self.wfile.write(text)

    def _until_gone(self) -> None:
        """Say nothing until the cluster has lost its patience and closes the connection."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.recv(1)

    def finish(self) -> None:
        # The cluster may have gone away first.
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def proxying(target: str, patience: float) -> Iterator[DamagingProxy]:
    """A proxy in front of ``target`` whose silence is longer than ``patience`` seconds."""
    proxy = DamagingProxy(target, patience)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(10)
