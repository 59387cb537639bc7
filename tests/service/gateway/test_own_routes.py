"""The service's own routes in front of a cluster, and those that a client missed."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from connector.service.paths import nearest_route
from tests.service.gateway.conftest import GatewayFactory
from tests.service.gateway.fake_cluster import FakeCluster
from tests.service.test_paths import BODY, OWN, PAGES


@pytest.mark.parametrize("path", ["/reranks", "/search/v1/rerank", "/v1/scores", "/v2/reranks"])
@pytest.mark.parametrize("writes", [False, True])
def test_a_missed_route_is_named_and_never_reaches_the_cluster(
    make_gateway: GatewayFactory, cluster: FakeCluster, client: TestClient, path: str, writes: bool
) -> None:
    named = nearest_route(path, OWN)
    assert named is not None
    for asked in (make_gateway({"serve.gateway_writes": writes}), client):
        refused = asked.post(path, json=BODY)
        assert refused.status_code == 404
        assert refused.json()["message"] == f"there is no {path} here; did you mean {named}?"
        assert "gateway_writes" not in refused.text
    assert cluster.asked == []


def test_other_paths_that_no_cluster_takes_post_for(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    refused = make_gateway({"serve.gateway_writes": True}).post("/v1/embeddings", json={"input": "secret words"})
    assert refused.status_code == 404 and "/openapi.json" in refused.json()["message"]
    assert cluster.asked == []


def test_the_service_answers_its_own_pages_in_front_of_a_cluster(
    make_gateway: GatewayFactory, cluster: FakeCluster
) -> None:
    gateway = make_gateway()
    assert [gateway.get(page).status_code for page in PAGES] == [200, 200, 200, 204, 204, 200, 200, 200]
    assert gateway.post("/v1/rerank/", json=BODY).status_code == 200
    assert cluster.asked == []
