"""Whatever the service does, a search through the pipeline answers 200 with every hit; on real OpenSearch nodes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from connector.documents import Document
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import Connection
from connector.engines.open_engine import open_engine
from connector.sections import Settings
from connector.settings import load_settings
from connector.writeback.opensearch import OpenSearchPipeline
from connector.writeback.proving import was_reranked
from connector.writeback.search_pipeline import PipelinePlan, Route
from tests.nodes.process import Node
from tests.service.live import serving
from tests.service.standin import StandIn
from tests.writeback.damaging_proxy import DAMAGES, DamagingProxy, proxying

PATIENCE = 1
# One of each kind: a wrong answer, none that can be read, a status, no connection, no answer.
SOME = ("one score too few", "cut body", "503", "reset", "silent")


@pytest.fixture(scope="module", params=["opensearch_node", "opensearch_3_node"])
def node(request: pytest.FixtureRequest) -> Node:
    found: Node = request.getfixturevalue(request.param)
    return found


def options(node: Node, service: str, **more: Any) -> Settings:
    given = {
        "engine.kind": "opensearch",
        "engine.url": node.url,
        "engine.index": "words",
        "engine.fields": "text",
        "writeback.service_url": service,
        "writeback.timeout_s": PATIENCE,
        "serve.max_queue": 2,
        **more,
    }
    return load_settings("/dev/null", given, {})


@pytest.fixture(scope="module")
def connection(node: Node) -> Iterator[Connection]:
    settings = options(node, "http://127.0.0.1:9")
    with open_engine(settings) as engine:
        engine.index([Document(f"d{n}", {"text": "apple " * (9 - n) + "pear " * n}) for n in range(9)])
    with closing(connect(settings.engine)) as opened:
        yield opened
        opened.request("DELETE", "/words")


@pytest.fixture(scope="module", params=["rerank", "scores"])
def installed(
    request: pytest.FixtureRequest, node: Node, connection: Connection
) -> Iterator[tuple[DamagingProxy, PipelinePlan]]:
    route: Route = request.param
    with (
        serving(StandIn(), options(node, "http://127.0.0.1:9")) as (service, _),
        proxying(service, PATIENCE) as proxy,
    ):
        plan = PipelinePlan.of(options(node, proxy.url), route)
        pipeline = OpenSearchPipeline(connection, plan)
        pipeline.install()
        yield proxy, plan
        pipeline.uninstall()


def search(connection: Connection, plan: PipelinePlan, **more: Any) -> dict[str, Any]:
    body = {**plan.search("apple", {"match": {"text": "apple"}}), "size": 10, **more}
    answer = connection.request("POST", "/words/_search", body, {"search_pipeline": plan.name})
    assert isinstance(answer, dict)
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["_id"] for hit in answer["hits"]["hits"]]


@pytest.mark.parametrize(
    ("node", "damage"),
    [*(("opensearch_node", damage) for damage in DAMAGES), *(("opensearch_3_node", damage) for damage in SOME)],
    indirect=["node"],
)
def test_first_stage_order_with_its_scores(
    connection: Connection, installed: tuple[DamagingProxy, PipelinePlan], damage: str
) -> None:
    proxy, plan = installed
    proxy.damage = damage
    plain = connection.request("POST", "/words/_search", {"query": {"match": {"text": "apple"}}})
    calls = proxy.calls
    answer = search(connection, plan)
    assert proxy.calls > calls, "the service was not asked"
    assert not was_reranked(answer, plan)
    assert [(hit["_id"], hit["_score"]) for hit in answer["hits"]["hits"]] == [
        (hit["_id"], hit["_score"]) for hit in plain["hits"]["hits"]
    ]
    proxy.damage = None
    # Asked again where the machine is so busy that the pipeline's time was up: that is no word on recovery.
    answers = (search(connection, plan) for _ in range(3))
    good = next((good for good in answers if was_reranked(good, plan)), None)
    assert good is not None and sorted(ids(good)) == sorted(ids(plain)), "it recovers at once"


def test_a_dripping_answer_is_waited_for(
    connection: Connection, installed: tuple[DamagingProxy, PipelinePlan]
) -> None:
    """The cluster's time-out is the silence between two bytes: such an answer comes late, and whole."""
    proxy, plan = installed
    proxy.damage = "drip"
    answer = search(connection, plan)
    proxy.damage = None
    assert was_reranked(answer, plan) and sorted(ids(answer)) == [f"d{n}" for n in range(9)]


def test_under_load(connection: Connection, installed: tuple[DamagingProxy, PipelinePlan]) -> None:
    proxy, plan = installed
    proxy.damage = None
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: search(connection, plan), range(60)))
    assert all(sorted(ids(answer)) == sorted(ids(answers[0])) for answer in answers)
    # With two places to wait, some were refused; those kept the cluster's order.
    assert any(was_reranked(answer, plan) for answer in answers)


@pytest.mark.parametrize(
    "text",
    [
        '["apple"]',
        '{"a": 1}',
        'say "apple" \\ now',
        "${parameters.documents}",
        "${parameters",
        "apple ${parameters.x}",
    ],
)
def test_query_texts_that_trip_the_cluster_up(
    connection: Connection, installed: tuple[DamagingProxy, PipelinePlan], text: str
) -> None:
    proxy, plan = installed
    proxy.damage = None
    answer = search(connection, plan, ext={"rerank": {"query_context": {"query_text": text}}})
    assert sorted(ids(answer)) == [f"d{n}" for n in range(9)]
