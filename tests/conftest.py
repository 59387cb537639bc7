"""Session-wide parts: the real small LLM, loaded once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from connector import credentials
from connector.checkpoints.checkpoint import Checkpoint
from connector.cli import waiting
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.settings import load_settings
from tests.loaded_models import LoadedModels
from tests.nodes.fixtures import SessionNodes
from tests.nodes.process import Node
from tests.nodes.release import NoJava
from tests.tiers import MARKERS, give_markers, nodes_of, refuse_unmarked

if TYPE_CHECKING:
    from tests.backbone.tiny_exports import TinyExports

# How fast a machine is, is nothing that a test fails for.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

_SAME = {"backbone.dtype": "float32", "backbone.runtime": "torch"}
_NODES = pytest.StashKey[SessionNodes]()
_RUNNING = pytest.StashKey[pytest.Item]()


def pytest_configure(config: pytest.Config) -> None:
    for marker, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")
    config.stash[_NODES] = SessionNodes()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    give_markers(items)


def pytest_runtestloop(session: pytest.Session) -> None:
    """Nodes boot while the tests that come before theirs run."""
    if not session.config.option.collectonly and not _is_worker(session.config):
        _boot(session)


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_RUNNING] = item
    # Of several processes one gets the nodes' tests, all of them, and only then knows.
    if _is_worker(item.config) and item.get_closest_marker("nodes"):
        _boot(item.session)


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _boot(session: pytest.Session) -> None:
    for name in nodes_of(session.items):
        session.config.stash[_NODES].begin(name)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_NODES].stop()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own RH_… variables must not change what is tested."""
    for name in os.environ:
        if name.startswith("RH_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of slow steps depends on the machine; tests/cli/test_waiting.py looks at it."""
    monkeypatch.setattr(waiting, "_LINE", 3600.0)


@pytest.fixture(autouse=True)
def secrets_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that one test gives is no secret of the next: hidden there, it would be cut out of what is told."""
    monkeypatch.setattr(credentials, "_secrets", set(credentials._secrets))


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The defaults, with weights in float32 and in torch: the same scores on every machine."""
    return load_settings(os.devnull, _SAME, environment={})


@pytest.fixture(scope="session")
def smollm2(settings: Settings) -> Checkpoint:
    """SmolLM2-135M-Instruct, pulled and converted on the first use of a machine."""
    from connector.checkpoints.pulling import obtain

    return obtain("smollm2-135m", cache=settings.cache.path)


@pytest.fixture(scope="session")
def reranker(settings: Settings, smollm2: Checkpoint) -> Reranker:
    """The reranker with the same weights for every query, and all else at its default."""
    static = settings.router.model_copy(update={"mode": "static"})
    return Reranker.from_settings(settings.model_copy(update={"router": static}))


@pytest.fixture(scope="session")
def late_settings() -> Settings:
    """The same in the layout ``late``, which reads attention heads."""
    return load_settings(os.devnull, {**_SAME, "backbone.layout": "late"}, environment={})


@pytest.fixture(scope="session")
def late_reranker(late_settings: Settings, smollm2: Checkpoint) -> Reranker:
    """The reranker of the layout ``late``, with the shipped static heads."""
    static = late_settings.router.model_copy(update={"mode": "static"})
    return Reranker.from_settings(late_settings.model_copy(update={"router": static}))


@pytest.fixture(scope="session")
def models(reranker: Reranker) -> LoadedModels:
    """The reranker for commands: ``main(arguments, Context(models=models))``."""
    return LoadedModels(reranker)


@pytest.fixture(scope="session")
def opensearch_node(pytestconfig: pytest.Config) -> Node:
    """A real OpenSearch 2.19.1 with ML Commons and Neural Search."""
    return _node(pytestconfig, "opensearch_node")


@pytest.fixture(scope="session")
def opensearch_3_node(pytestconfig: pytest.Config) -> Node:
    """A real OpenSearch 3.6.0; without a Java for it, its tests are skipped."""
    try:
        return _node(pytestconfig, "opensearch_3_node")
    except NoJava as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def elasticsearch_node(pytestconfig: pytest.Config) -> Node:
    """A real Elasticsearch, core only: 9.1.0, or 8.17.0 where no Java is new enough for that."""
    return _node(pytestconfig, "elasticsearch_node")


def _node(config: pytest.Config, name: str) -> Node:
    refuse_unmarked(config.stash.get(_RUNNING, None), "nodes")
    return config.stash[_NODES].get(name)


@pytest.fixture(scope="session")
def tiny_exports(
    pytestconfig: pytest.Config, smollm2: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> TinyExports:
    """Tiny random models and their exports, each made once a session."""
    from tests.backbone.tiny_exports import TinyExports

    refuse_unmarked(pytestconfig.stash.get(_RUNNING, None), "export")
    return TinyExports(tmp_path_factory.mktemp("tiny"), smollm2.path)


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real one, without a window."""
    from connector.studies.page_pictures import open_browser

    with open_browser() as driver:
        yield driver
