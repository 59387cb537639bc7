"""The real server on a free loopback port, for clients that bring their own HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from connector.sections import Settings
from connector.service.app import create_app
from connector.service.server import listen
from tests.service.waiting import wait_until


@contextmanager
def serving(
    reranker: Any, settings: Settings, grace_seconds: int = 5, certificate: Path | None = None
) -> Iterator[tuple[str, Any]]:
    """URL and application of a server that is ready; it lets requests end for so long when it stops.

    With a certificate, a PEM file that holds its key too, it speaks TLS.
    """
    app = create_app(reranker, settings)
    config = uvicorn.Config(
        app, lifespan="on", log_config=None, timeout_graceful_shutdown=grace_seconds, ssl_certfile=certificate
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait_until(lambda: server.started and app.state.loading.status == "ready")
            yield f"http{'s' if certificate else ''}://127.0.0.1:{listening.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()
