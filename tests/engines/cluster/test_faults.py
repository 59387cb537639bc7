"""A cluster behind a network that fails: hits, or one clear line, and soon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connector.engines.engine import Engine
from connector.engines.open_engine import open_engine
from connector.errors import EngineError
from connector.settings import load_settings
from tests.campaign.clusters import speaks_as
from tests.campaign.faulty_proxy import FaultyProxy, faulty_proxy
from tests.service.gateway.fake_cluster import FakeCluster, hit, running_cluster

KINDS = ["opensearch", "elasticsearch"]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with running_cluster() as made:
        made.hits = [hit(at, 9 - at, "cats") for at in range(3)]
        yield made


@pytest.fixture
def proxy(cluster: FakeCluster) -> Iterator[FaultyProxy]:
    with faulty_proxy(cluster.url) as made:
        yield made


def opened(cluster: FakeCluster, proxy: FaultyProxy, kind: str) -> Engine:
    speaks_as(cluster, kind)
    options = {"kind": kind, "url": proxy.url, "index": "books", "timeout_ms": 200, "retry_ms": 0}
    chosen = load_settings("/dev/null", {f"engine.{name}": value for name, value in options.items()}, {})
    return open_engine(chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_never_ends(cluster: FakeCluster, proxy: FaultyProxy, kind: str) -> None:
    with opened(cluster, proxy, kind) as engine:
        assert [one.id for one in engine.search("cats", 3)] == ["0", "1", "2"]
        proxy.begin("answers a byte at a time")
        with pytest.raises(EngineError, match=r"did not end its answer within 0.6 s; raise engine.timeout_ms"):
            engine.search("cats", 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_html_instead_of_an_answer(cluster: FakeCluster, proxy: FaultyProxy, kind: str) -> None:
    with opened(cluster, proxy, kind) as engine:
        engine.search("cats", 3)
        proxy.begin("200 with a login page's HTML")
        with pytest.raises(EngineError, match="did not answer with JSON|is no Elasticsearch"):
            engine.search("cats", 3)
