"""The caller's credentials go to the cluster, ours stay here."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from connector.service.gateway.forwarding import Cluster, cluster_url
from tests.service.gateway.conftest import GatewayFactory, gateway_settings
from tests.service.gateway.fake_cluster import FakeCluster, hit

CATS = {"query": {"match": {"text": "cats"}}, "_source": False}
PATHS = ("/books/_search", "/books/_mapping")
KEY = {"serve.api_keys": "sesame,other"}


@pytest.fixture(autouse=True)
def _hits(cluster: FakeCluster) -> None:
    cluster.hits = [hit(0, 1, None)]
    cluster.texts = {"0": {"text": "cats"}}


@pytest.mark.parametrize("path", PATHS)
def test_the_callers_credentials_go_on(make_gateway: GatewayFactory, cluster: FakeCluster, path: str) -> None:
    headers = {"Authorization": "ApiKey abc", "Cookie": "a=b", "X-Api-Key": "theirs", "es-security-runas-user": "me"}
    make_gateway().request("GET", path, json=CATS, headers=headers)
    assert cluster.asked
    for asked in cluster.asked:
        assert {name: asked.headers[name.lower()] for name in headers} == headers


@pytest.mark.parametrize("path", PATHS)
def test_ours_are_never_added(make_gateway: GatewayFactory, cluster: FakeCluster, path: str) -> None:
    own = {
        "engine.username": "rh-user",
        "engine.password": "rh-secret",
        "engine.api_key": "rh-key",
        "engine.url": cluster.url.replace("http://", "http://rh-user:rh-secret@"),
    }
    for options in ({"engine.bearer_token": "rh-token"}, own):
        assert make_gateway(options).request("GET", path, json=CATS).status_code == 200
    for asked in cluster.asked:
        assert "authorization" not in asked.headers
        assert "rh-" not in str(asked.headers)
        assert "rh-user" not in asked.target


def test_errors_do_not_tell_what_the_url_holds(make_gateway: GatewayFactory) -> None:
    answer = make_gateway({"engine.url": "http://rh-user:rh-secret@127.0.0.1:1"}).get("/books/_mapping")
    assert answer.status_code == 502
    assert "rh-" not in answer.text


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic eDp5"}, {"X-Api-Key": "wrong"}, {"Authorization": "Bearer x"}]
)
def test_without_our_key_nothing_goes_on(
    make_gateway: GatewayFactory, cluster: FakeCluster, headers: dict[str, str]
) -> None:
    answer = make_gateway(KEY).post("/books/_search", json=CATS, headers=headers)
    assert answer.status_code == answer.json()["status"] == 401
    assert answer.json()["error"]["type"] == "security_exception"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert cluster.asked == []


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"X-Api-Key": "sesame"}, {}),
        ({"Authorization": "Bearer other"}, {}),
        ({"X-Api-Key": "sesame", "Authorization": "Basic eDp5"}, {"authorization": "Basic eDp5"}),
        ({"X-Api-Key": "sesame", "Authorization": "Bearer theirs"}, {"authorization": "Bearer theirs"}),
        ({"X-Api-Key": "theirs", "Authorization": "Bearer sesame"}, {"x-api-key": "theirs"}),
        ({"X-Api-Key": "sesame", "Authorization": "bearer  other"}, {}),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_the_header_that_carried_our_key_stays_here(
    make_gateway: GatewayFactory, cluster: FakeCluster, headers: dict[str, str], kept: dict[str, str], path: str
) -> None:
    assert make_gateway(KEY).request("GET", path, json=CATS, headers=headers).status_code == 200
    for asked in cluster.asked:
        found = {name: value for name, value in asked.headers.items() if name in ("authorization", "x-api-key")}
        assert found == kept


def test_our_own_routes_take_either_header_and_answer_in_their_own_way(make_gateway: GatewayFactory) -> None:
    client = make_gateway(KEY)
    body: dict[str, Any] = {"query": "cats", "documents": ["cats"]}
    assert client.post("/v1/rerank", json=body, headers={"X-Api-Key": "other"}).status_code == 200
    assert client.post("/v1/rerank", json=body, headers={"Authorization": "Bearer sesame"}).status_code == 200
    refused = client.post("/v1/rerank", json=body)
    assert refused.status_code == 401
    assert "X-Api-Key" in refused.json()["message"]
    assert client.get("/live").status_code == 200


def test_headers_between_two_neighbours_go_no_further(make_gateway: GatewayFactory, cluster: FakeCluster) -> None:
    headers = {
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "TE": "trailers",
        "Proxy-Authorization": "x",
        "X-End": "1",
    }
    cluster.answers["/books/_mapping"] = (200, {"Keep-Alive": "timeout=9", "X-Reranked": "true", "X-Y": "1"}, b"")
    answer = make_gateway().get("/books/_mapping", headers=headers)
    (asked,) = cluster.asked
    assert asked.headers["x-end"] == "1"
    assert not {"x-hop", "te", "proxy-authorization"} & set(asked.headers)
    assert asked.headers["host"] == cluster.url.removeprefix("http://")
    assert answer.headers["X-Y"] == "1"
    assert not {"keep-alive", "x-reranked"} & set(answer.headers)


def test_the_certificate_is_checked_as_the_settings_say_and_ours_is_not_shown(tmp_path: Any) -> None:
    missing = str(tmp_path / "client.pem")
    for verify, mode in ((True, ssl.CERT_REQUIRED), (False, ssl.CERT_NONE)):
        options = {"engine.verify_certs": verify, "engine.client_cert": missing, "engine.client_key": missing}
        # The files do not exist: reading them would fail.
        client: Any = Cluster(gateway_settings("https://127.0.0.1:1", options))._client()
        assert client._transport._pool._ssl_context.verify_mode is mode


def test_where_the_cluster_is() -> None:
    assert str(cluster_url(gateway_settings("http://u:p@[::1]:9/base/"))) == "http://[::1]:9/base"
    unset = gateway_settings("http://x").model_copy(
        update={"engine": gateway_settings("http://x").engine.model_copy(update={"url": None})}
    )
    assert str(cluster_url(unset)) == "http://localhost:9200"
