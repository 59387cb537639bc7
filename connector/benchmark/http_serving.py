"""The real application on a loopback port of this process, and clients that wait for each answer."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from connector.benchmark.measuring import Way
from connector.benchmark.texts import Texts
from connector.errors import BackboneError, MissingExtraError
from connector.reranking.reranker import Reranker
from connector.sections import Settings

__all__ = ["AFTERWARDS", "WARM_UP", "Client", "Served", "clients_seconds", "clients_way", "serving"]

WARM_UP = 3
"""Requests on a new connection that are not timed: Linux acknowledges its first segments sooner than later ones."""
AFTERWARDS = 0.3
"""Seconds: longer than ``CoreSharing`` takes a crowd to be there."""
_REQUESTS = 32
_STOP_SECONDS = 20
_KEPT_SECONDS = 3600


@dataclass(frozen=True)
class Served:
    """One answered request, in seconds.

    Attributes:
        seconds: from before the request is written until the answer is read.
        rerank: of the reranker, within that.
        fusion: of the reranker's scoring, fusion and ordering, within that.
    """

    seconds: float
    rerank: float
    fusion: float


@contextmanager
def serving(reranker: Reranker, settings: Settings) -> Iterator[int]:
    """The service on a free port, with the settings' limits but without keys and gateway; yields the port.

    Raises:
        MissingExtraError: fastapi or uvicorn is not installed.
        BackboneError: the service does not get ready.
    """
    try:
        import uvicorn

        from connector.service.app import create_app
        from connector.service.server import listen
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from None
    serve = settings.serve.model_copy(update={"api_keys": (), "gateway": False})
    app = create_app(reranker, settings.model_copy(update={"serve": serve}))
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        # Connections stay open while other ways have their turn.
        timeout_keep_alive=_KEPT_SECONDS,
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="bench-server")
        thread.start()
        try:
            while thread.is_alive() and not (server.started and app.state.loading.status != "loading"):
                time.sleep(0.01)
            if app.state.loading.status != "ready":
                raise BackboneError(f"the service did not get ready: {app.state.loading.error}")
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)


class Client:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def rerank(self, query: str, documents: Sequence[str]) -> Served:
        """Ask once, documents in first-stage order.

        Raises:
            BackboneError: no answer, or one that is no reranked window.
        """
        started = time.perf_counter()
        body = json.dumps({"query": query, "documents": list(documents), "first_stage": "order"})
        try:
            self._connection.request("POST", "/v1/rerank", body, {"content-type": "application/json"})
            with self._connection.getresponse() as answer:
                read = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise BackboneError(f"the service did not answer: {type(error).__name__}: {error}") from None
        json.loads(read)
        seconds = time.perf_counter() - started
        if answer.status != 200 or answer.headers.get("X-Reranked") != "true":
            raise BackboneError(f"the service answered {answer.status}: {read[:200].decode(errors='replace')}")
        timing = dict(entry.strip().split(";dur=") for entry in answer.headers["Server-Timing"].split(","))
        return Served(seconds, float(timing["rerank"]) / 1000, float(timing["score"]) / 1000)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def clients_seconds(clients: Sequence[Client], asked: Sequence[tuple[str, Sequence[str]]]) -> float:
    """Seconds a request when so many clients ask at once: wall-clock time divided by the number of requests.

    Args:
        clients: each waits for its answer before it asks again.
        asked: queries, each with the documents of its window; asked once each, shared out among the clients.

    Raises:
        BackboneError: an answer is no reranked window.
    """

    def ask(client: Client, share: Sequence[tuple[str, Sequence[str]]]) -> None:
        for query, documents in share:
            client.rerank(query, documents)

    with ThreadPoolExecutor(len(clients)) as pool:
        started = time.perf_counter()
        list(pool.map(ask, clients, [asked[at :: len(clients)] for at in range(len(clients))]))
        return (time.perf_counter() - started) / len(asked)


def clients_way(
    name: str,
    port: int,
    count: int,
    texts: Texts,
    window: int,
    known: int,
    about: Mapping[str, Any],
    stack: ExitStack,
) -> Way:
    """A way whose seconds are those of one request among many clients' requests.

    Every request has a query and a window of its own; documents come again in other windows.

    Args:
        name: of the way.
        port: of the service.
        count: clients.
        texts: queries and documents.
        window: how many documents each request has.
        known: that they are taken from, all cached before anything is timed.
        about: see ``Way``.
        stack: closes the connections.
    """
    clients = [Client(port) for _ in range(count)]
    for client in clients:
        stack.callback(client.close)
    documents = texts.documents[:known]

    def window_at(start: int) -> list[str]:
        return [documents[(start + at) % len(documents)] for at in range(min(window, len(documents)))]

    def call(turn: int) -> dict[str, float]:
        if turn < 0:
            for start in range(0, len(documents), window):
                clients[0].rerank(texts.query(start), window_at(start))
        # Before the first round every connection is used until it is no new one any more: see WARM_UP.
        count_asked = max(_REQUESTS, count) if turn >= 0 else WARM_UP * count
        numbers = [(turn + 1) * _REQUESTS + at for at in range(count_asked)]
        # Windows that are asked for at the same time lie side by side.
        asked = [(texts.query(number), window_at(number * (window + 1))) for number in numbers]
        seconds = clients_seconds(clients, asked)
        # For a moment after a crowd, calls keep to one core: what is timed next should not.
        time.sleep(AFTERWARDS)
        return {name: seconds}

    return Way(name, call, about={**about, "clients": count, "requests": max(_REQUESTS, count)})
