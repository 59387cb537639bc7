"""All documents of an index on real nodes, each once, whatever becomes of the scroll that brings them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx2
import pytest

from connector.documents import Document
from connector.engines.cluster import cluster_engine
from connector.engines.open_engine import open_engine
from connector.errors import EngineError
from connector.settings import load_settings
from tests.campaign.faulty_proxy import faulty_proxy

_COUNT, _PAGE = 60, 16


@pytest.fixture(scope="module", params=["opensearch_node", "elasticsearch_node"])
def index(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Settings of an engine on a node with sixty documents."""
    url = request.getfixturevalue(request.param).url
    options = {"engine.kind": request.param.removesuffix("_node"), "engine.url": url}
    options |= {"engine.index": f"scrolls-{uuid.uuid4().hex[:8]}", "engine.timeout_ms": 5000}
    with closing(open_engine(load_settings("/dev/null", options, {}))) as engine:
        engine.index(Document(str(at), {"text": f"cat number {at}"}) for at in range(_COUNT))
    yield options
    httpx2.delete(f"{url}/{options['engine.index']}", timeout=30)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_engine, "_PAGE", _PAGE)


def forget_scrolls(url: str) -> None:
    """What the node does with those that nobody asked for in five minutes."""
    httpx2.delete(f"{url}/_search/scroll/_all", timeout=30)


def test_a_scroll_that_ended_meanwhile_is_begun_anew(index: dict[str, Any]) -> None:
    found = []
    with closing(open_engine(load_settings("/dev/null", index, {}))) as engine:
        for document in engine.documents():
            found.append(document.id)
            if len(found) in (_PAGE, 2 * _PAGE + 3):
                forget_scrolls(index["engine.url"])
    assert len(found) == _COUNT and set(found) == {str(at) for at in range(_COUNT)}


def test_a_scroll_that_brings_nothing_new_is_no_endless_loop(
    index: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_engine(load_settings("/dev/null", index, {}))) as engine:
        walk = engine.documents()
        taken = [next(walk) for _ in range(_PAGE)]
        real = cluster_engine.ClusterEngine.ask

        def ask(*given: Any) -> Any:
            # Gone before its second page, each time.
            answer = real(*given)
            forget_scrolls(index["engine.url"])
            return answer

        monkeypatch.setattr(cluster_engine.ClusterEngine, "ask", ask)
        forget_scrolls(index["engine.url"])
        with pytest.raises(EngineError, match="No search context found"):
            taken.extend(walk)
    assert len({one.id for one in taken}) == len(taken) < _COUNT


@pytest.mark.parametrize("fault", ["resets in the middle of an answer", "503 with a balancer's HTML"])
def test_an_answer_that_broke_off_costs_no_document(index: dict[str, Any], fault: str) -> None:
    """Asked again, a scroll goes on behind the page that did not arrive."""
    with faulty_proxy(index["engine.url"]) as proxy:
        options = {**index, "engine.url": proxy.url, "engine.retry_ms": 10_000}
        with closing(open_engine(load_settings("/dev/null", options, {}))) as engine:
            faulted = 0
            for number in range(8):
                proxy.begin(fault, frozenset({number}))
                found = [document.id for document in engine.documents()]
                faulted += proxy.faulted
                assert sorted(found, key=int) == [str(at) for at in range(_COUNT)], number
    assert faulted >= 5
