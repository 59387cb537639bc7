"""A cluster of a few scripted answers, for what no real node on loopback does: refuse for now, want credentials."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["ClusterDouble", "counted", "doubling"]

Answer = tuple[int, Any]


def counted(number: int) -> Answer:
    """The answer of a search that found so many."""
    return 200, {"hits": {"total": {"value": number, "relation": "eq"}, "hits": []}}


class ClusterDouble(ThreadingHTTPServer):
    """Answers ``GET /`` as its product does, and everything else from ``answers``, the last one for ever.

    Attributes:
        settings: what ``/_settings/`` answers; no settings unless set.
    """

    daemon_threads = True

    def __init__(self, product: str, version: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.product = product
        about: dict[str, Any] = {"number": version}
        if product == "opensearch":
            about["distribution"] = "opensearch"
        self.about = {"version": about, "tagline": "You Know, for Search"}
        self.settings: Answer = (200, {})
        self.answers: list[Answer] = [(200, {})]
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ClusterDouble

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers, body))
        if self.path == "/":
            status, value = 200, self.server.about
        elif "/_settings/" in self.path:
            status, value = self.server.settings
        else:
            status, value = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        text = b"" if self.command == "HEAD" else json.dumps(value).encode()
        self.send_response(status)
        if self.server.product == "elasticsearch":
            self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def doubling(product: str, version: str) -> Iterator[ClusterDouble]:
    """One that listens on loopback."""
    double = ClusterDouble(product, version)
    thread = threading.Thread(target=double.serve_forever, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        double.shutdown()
        double.server_close()
        thread.join(10)
