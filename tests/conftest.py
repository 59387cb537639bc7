"""Session-wide parts: the real small LLM, loaded once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.checkpoints.checkpoint import Checkpoint
from connector.reranker import Reranker
from connector.settings import Settings, load_settings
from tests.nodes import elasticsearch, opensearch
from tests.nodes.fixtures import running
from tests.nodes.process import Node, find_java
from tests.nodes.release import NodeError


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own RH_… variables must not change what is tested."""
    for name in os.environ:
        if name.startswith("RH_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The defaults, with weights in float32: the same scores on every machine."""
    return load_settings(os.devnull, {"backbone.dtype": "float32"}, environment={})


@pytest.fixture(scope="session")
def smollm2(settings: Settings) -> Checkpoint:
    """SmolLM2-135M-Instruct, pulled and converted on the first use of a machine."""
    from connector.checkpoints.pulling import obtain

    return obtain("smollm2-135m", cache=settings.cache.path)


@pytest.fixture(scope="session")
def reranker(settings: Settings, smollm2: Checkpoint) -> Reranker:
    """The reranker with the shipped static heads and all else at its default."""
    static = settings.router.model_copy(update={"mode": "static"})
    return Reranker.from_settings(settings.model_copy(update={"router": static}))


@pytest.fixture(scope="session")
def opensearch_node() -> Iterator[Node]:
    """A real OpenSearch 2.19.1 with ML Commons and Neural Search."""
    with running("2.19.1") as node:
        yield node


@pytest.fixture(scope="session")
def opensearch_3_node() -> Iterator[Node]:
    """A real OpenSearch 3.6.0."""
    try:
        find_java(opensearch.RELEASES["3.6.0"])
    except NodeError as error:
        pytest.skip(str(error))
    with running("3.6.0") as node:
        yield node


@pytest.fixture(scope="session")
def elasticsearch_node() -> Iterator[Node]:
    """A real Elasticsearch, core only: 9.1.0, or 8.17.0 where no Java is new enough for that."""
    try:
        find_java(elasticsearch.RELEASES["9.1.0"])
        version = "9.1.0"
    except NodeError:
        version = "8.17.0"
    with running(version) as node:
        yield node


@pytest.fixture
def cats() -> list[str]:
    """Five short texts; the third answers how long cats sleep."""
    return [
        "Rust is a systems programming language that guarantees memory safety.",
        "The stock market closed higher on Friday after a volatile week.",
        "Adult cats sleep between twelve and sixteen hours a day, kittens even longer.",
        "A cat's whiskers are about as wide as its body and help it to judge gaps.",
        "To bake bread, mix flour, water, salt and yeast and let the dough rest.",
    ]


@pytest.fixture
def repository() -> Path:
    """The root of the working tree."""
    return Path(__file__).parent.parent
