"""Services that are no cluster, and listen where one is looked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["ANSWERS", "other_service"]

ANSWERS = {
    "a page": (200, "text/html; charset=utf-8", b"<!doctype html><title>Welcome</title>"),
    "an empty page": (200, "text/html", b""),
    "words": (200, "text/plain", b"ok"),
    "half of JSON": (200, "application/json", b'{"a":'),
    "an object": (200, "application/json", b'{"version": "1.2.3", "name": "other"}'),
    "a list": (200, "application/json", b"[1]"),
    "not found": (404, "application/json", b'{"detail": "Not Found"}'),
    "not found, as a list": (404, "application/json", b"[]"),
    "not found, as a page": (404, "text/html", b"<h1>404</h1>"),
    "not allowed": (405, "text/plain", b"no"),
    "a redirect": (302, "text/html", b""),
}
"""Status, content type and body of every answer."""


@contextmanager
def other_service(status: int, kind: str, body: bytes) -> Iterator[str]:
    """URL of one that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", "/login")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)
