"""The service's own routes in front of a cluster, and those that a client missed."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.service.paths import nearest_route
from tests.service.gateway.conftest import GatewayFactory, gateway_settings
from tests.service.gateway.fake_cluster import FakeCluster
from tests.service.live import serving
from tests.service.standin import StandIn
from tests.service.test_admission import count
from tests.service.test_paths import BODY, OWN, PAGES
from tests.service.waiting import wait_until


@pytest.mark.parametrize("path", ["/reranks", "/search/v1/rerank", "/v1/scores", "/v2/reranks", "/v1/reranker"])
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
    refused = make_gateway({"serve.root_path": "/own"}).post(f"/own{path}", json=BODY)
    assert refused.json()["message"] == f"there is no /own{path} here; did you mean /own{named}?"
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


@pytest.mark.parametrize("path", ["/", "/ui", "/live", "/metrics"])
@pytest.mark.parametrize("options", [{}, {"serve.gateway_writes": True}, {"serve.page": "false"}])
def test_pages_take_no_post(
    make_gateway: GatewayFactory, cluster: FakeCluster, path: str, options: dict[str, Any]
) -> None:
    refused = make_gateway(options).post(path, json=BODY)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert cluster.asked == []


def test_who_leaves_while_sending_a_search_is_no_error(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(StandIn(), gateway_settings(cluster.url)) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /books/_search HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        wait_until(lambda: count(url, 'rh_requests_total{route="gateway",status="499"}') == 1)
        assert count(url, 'rh_reranked_total{outcome="error"}') == 0
    assert "Traceback" not in caplog.text
    assert cluster.asked == []
