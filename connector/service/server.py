"""The application behind a socket, or for one request without any."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from threading import Timer
from types import FrameType
from typing import NamedTuple

import anyio
import uvicorn
from fastapi import FastAPI
from starlette.types import Message

from connector.documents import SupportsRerank
from connector.errors import SettingsError
from connector.sections import Settings
from connector.service.app import create_app
from connector.service.observing.access_log import writing_access_log

__all__ = ["HttpAnswer", "answer_once", "listen", "run_server"]

_log = logging.getLogger(__name__)

_BACKLOG = 2048
# Requests that run when the server is to stop are done within this time, or go back as the first stage ordered them;
# whatever runs even longer is broken off.
_FINISH_SECONDS, _GRACE_SECONDS = 5, 15


class HttpAnswer(NamedTuple):
    """What ``answer_once`` got."""

    status: int
    body: bytes


def run_server(
    reranker: SupportsRerank | Callable[[Settings], SupportsRerank],
    settings: Settings,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Listen and answer until a signal ends the process.

    Args:
        reranker: a reranker, or what makes one of the settings.
        settings: ``serve.host``, ``serve.port`` and the rest.
        announce: called with the URL once the socket listens.

    Raises:
        SettingsError: the address cannot be listened on.
        RhConnectorError: the model cannot be loaded; the server has been stopped.
    """
    log = writing_access_log(sys.stderr) if settings.serve.access_log else nullcontext()
    with listen(settings.serve.host, settings.serve.port) as listening, log:
        servers: list[uvicorn.Server] = []

        def stop() -> None:
            servers[0].should_exit = True

        app = create_app(reranker, settings, when_load_failed=stop)
        config = uvicorn.Config(
            app,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        servers.append(_Server(config, app, settings.serve.drain_s))
        if announce is not None:
            announce(_url(listening))
        servers[0].run(sockets=[listening])
        error = app.state.loading.error
        if error is not None:
            raise error


class _Server(uvicorn.Server):
    """A server whose requests end soon after it was told to stop.

    Args:
        config: of the server.
        app: what it serves; ``app.state.is_stopping`` is set at once, ``app.state.stopping`` is cancelled later.
        drain: seconds in which requests are still taken: see ``serve.drain_s``.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain: float) -> None:
        super().__init__(config)
        self._state, self._drain = app.state, drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain and not self._state.is_stopping:
            self._state.is_stopping = True
            _log.warning("stopping in %g s: /ready is 503, requests are still taken", self._drain)
            _later(self._drain, lambda: self._drained(sig, frame))
        else:
            self._end(sig, frame)

    def _drained(self, sig: int, frame: FrameType | None) -> None:
        # A second signal may have come before.
        if not self.should_exit:
            self._end(sig, frame)

    def _end(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._state.is_stopping = True
        _log.warning("stopping, no new connections; %s", self._waits_for())
        _later(_FINISH_SECONDS, self._state.stopping.cancel)

    def _waits_for(self) -> str:
        admission = getattr(self._state, "admission", None)
        running = 0 if admission is None else admission.inside
        if not running:
            return "no request runs"
        return (
            f"waiting for {running} request{'s' * (running > 1)}: after {_FINISH_SECONDS} s they go back as the first"
            f" stage ordered them, after {_GRACE_SECONDS} s they are broken off"
        )


def _later(seconds: float, act: Callable[[], object]) -> None:
    timer = Timer(seconds, act)
    timer.daemon = True
    timer.start()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        SettingsError: the name is unknown, the port is taken or forbidden.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        # Connections inherit it. asyncio sets it only where it knows the protocol, which sockets made so do not tell;
        # without it, each answer on a kept connection waits some 40 ms for an acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        mend = "choose another with --host and --port, or serve.host and serve.port"
        raise SettingsError(f"cannot listen on {host}:{port}: {why}; {mend}") from None


def answer_once(
    reranker: SupportsRerank | Callable[[Settings], SupportsRerank], settings: Settings, path: str
) -> HttpAnswer:
    """Answer one GET request in this process, without a port. ``/ready`` waits for the model.

    Raises:
        SettingsError: path does not start with a slash.
        RhConnectorError: the model is needed and cannot be loaded.
    """
    if not path.startswith("/"):
        raise SettingsError(f"'{path}' is not a path; give one such as /ready")
    app = create_app(reranker, settings)
    if path.partition("?")[0] == "/ready":
        app.state.loading.load()
        if app.state.loading.error is not None:
            raise app.state.loading.error
    return anyio.run(_get, app, path, settings)


async def _get(app: FastAPI, path: str, settings: Settings) -> HttpAnswer:
    headers = [(b"host", b"localhost")]
    if settings.serve.api_keys:
        # Whoever can read the settings may ask.
        headers.append((b"authorization", b"Bearer " + settings.serve.api_keys[0].get_secret_value().encode()))
    name, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": name,
        "raw_path": name.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": ("localhost", 80),
        "state": {},
    }
    status = 500
    body = bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    await app(scope, receive, send)
    return HttpAnswer(status, bytes(body))


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"http://{host}:{port}"
