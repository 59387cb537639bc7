"""The real server and its clients."""

from __future__ import annotations

from typing import Any

import pytest
import uvicorn

from connector.benchmark.http_serving import Client, clients_seconds, serving
from connector.errors import BackboneError
from connector.reranking.reranker import Reranker
from connector.sections import Settings


def test_a_connection_outlives_other_work_and_ends_with_the_server(
    reranker: Reranker, settings: Settings, cats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[uvicorn.Config] = []

    class Kept(uvicorn.Config):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(uvicorn, "Config", Kept)
    keyed = settings.model_copy(update={"serve": settings.serve.model_copy(update={"api_keys": ("x",)})})
    with serving(reranker, keyed) as port:
        client, other = Client(port), Client(port)
        served = client.rerank("how long do cats sleep", cats)
        assert 0 < served.fusion < served.rerank < served.seconds
        # By default a server waits five seconds for the next request: other ways take minutes.
        assert made[0].timeout_keep_alive >= 600
        assert client.rerank("who bakes bread", cats).seconds > 0
        assert clients_seconds([client, other], [(query, cats) for query in ("one", "two", "three")]) > 0
        with pytest.raises(BackboneError, match="the service answered 4"):
            client.rerank("", cats)
    with pytest.raises(BackboneError, match="the service did not answer"):
        client.rerank("who bakes bread", cats)
    client.close()
    other.close()
