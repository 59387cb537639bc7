"""An embedded index for the page, and a service in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.documents import Document
from connector.engines.embedded import EmbeddedEngine
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from tests.service.gateway.conftest import _cluster, cluster, make_gateway
from tests.service.live import serving

__all__ = ["_cluster", "cluster", "make_gateway"]

QUERY = "how long do cats sleep"
EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"> cats & \"sleep\""
TEXTS = {
    "rust": "Rust is a systems programming language. How long do its builds take? Long.",
    "cats": "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
    "whiskers": "A cat's whiskers are as wide as its body: how long they are differs from cat to cat; cats vary.",
    "bread": "To bake bread, mix flour, water, salt and yeast and let the dough sleep for how long you like.",
    "evil<b>id</b>": EVIL,
    "odd": "sleep \x00 and \x1b[31mred\x1b[0m \ud800 \u202eover\u202c",
}
PageClient = Callable[..., TestClient]


@pytest.fixture(scope="session")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the index ``pets``."""
    folder = tmp_path_factory.mktemp("page-indexes")
    with EmbeddedEngine(folder / "pets") as engine:
        engine.index(
            Document(identity, {"title": f"About {identity}", "text": text}) for identity, text in TEXTS.items()
        )
    return folder


@pytest.fixture
def page_settings(indexes: Path) -> Settings:
    """Settings of a service with that index."""
    return settings_of(indexes)


def settings_of(indexes: Path, **options: Any) -> Settings:
    """Settings of a service with that index; ``options``: keys with ``__`` for the point."""
    chosen = {"engine.url": str(indexes), "engine.index": "pets", "serve.at_once": 1}
    chosen |= {name.replace("__", "."): value for name, value in options.items()}
    return load_settings(options=chosen, environment={})


@pytest.fixture
def make_page(make_client: PageClient, indexes: Path) -> PageClient:
    """Makes clients of services with that index."""

    def make(reranker: Any = None, *, ready: bool = True, **options: Any) -> TestClient:
        return make_client(reranker, ready=ready, settings=settings_of(indexes, **options))

    return make


@pytest.fixture(scope="session")
def page_url(indexes: Path, reranker: Reranker) -> Iterator[str]:
    """URL of a real server with that index and the small LLM."""
    with serving(reranker, settings_of(indexes)) as (url, _):
        yield url
