"""Routes as proxies, probes and clients write them, and what those are told who missed one."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from connector.errors import SettingsError
from connector.service.paths import nearest_route
from tests.service.conftest import ClientFactory, service_settings
from tests.service.live import serving
from tests.service.standin import StandIn

BODY = {"query": "cats sleep", "documents": ["steel bridges", "cats sleep a lot"]}
PAGES = (
    "/live",
    "/ready",
    "/health",
    "/.well-known/live",
    "/.well-known/ready",
    "/metrics",
    "/openapi.json",
    "/info",
)


def test_every_page_answers_head_as_get_without_the_body() -> None:
    with serving(StandIn(), service_settings()) as (url, _):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        for page in (*PAGES, "/meta", "/v1/models"):
            connection.request("GET", page)
            got = connection.getresponse()
            got.read()
            connection.request("HEAD", page)
            head = connection.getresponse()
            assert (head.status, head.read()) == (got.status, b""), page
            assert head.headers["content-type"] == got.headers["content-type"]
        connection.request("HEAD", "/v1/rerank")
        refused = connection.getresponse()
        assert (refused.status, refused.headers["allow"]) == (405, "POST")
        connection.close()


@pytest.mark.parametrize("path", ["/v1/rerank/", "/v1/rerank//", "/v1/reranks", "/rerank/", "/v1/reranks/"])
def test_slashes_at_the_end_and_other_names(client: TestClient, path: str) -> None:
    assert client.post(path, json=BODY).json()["results"][0]["index"] == 1


@pytest.mark.parametrize("prefix", ["/search", "/search/"])
def test_a_prefix_that_a_proxy_leaves_on_or_takes_off(make_client: ClientFactory, prefix: str) -> None:
    client = make_client(root_path=prefix, api_keys="k")
    for path in ("/search/v1/rerank", "/v1/rerank", "/search/v1/rerank/"):
        assert client.post(path, json=BODY).status_code == 401
        answer = client.post(path, json=BODY, headers={"Authorization": "Bearer k"})
        assert answer.json()["results"][0]["index"] == 1
    assert client.get("/search/ready").status_code == client.head("/search/health").status_code == 200
    assert client.post("/searching/v1/rerank", json=BODY, headers={"X-Api-Key": "k"}).status_code == 404
    assert client.get("/openapi.json", headers={"X-Api-Key": "k"}).json()["servers"] == [{"url": "/search"}]
    counted = client.get("/metrics", headers={"X-Api-Key": "k"}).text
    assert 'rh_requests_total{route="/v1/rerank",status="200"} 3.0' in counted


@pytest.mark.parametrize("asked", ["/search/v3/rerank", "/v3/rerank"])
def test_paths_are_told_with_the_prefix(make_client: ClientFactory, asked: str) -> None:
    client = make_client(root_path="/search")
    told = client.post(asked, json=BODY).json()["message"]
    assert told == "there is no /search/v3/rerank here; did you mean /search/v1/rerank?"
    assert "listed in /search/openapi.json" in client.post("/search/nothing", json=BODY).text
    assert "/search/live is not for POST" in client.post("/search/live").text


@pytest.mark.parametrize("prefix", ["search", "/a b", "//", "http://host/a", "/a?b"])
def test_a_prefix_that_is_none(prefix: str) -> None:
    if prefix == "//":
        assert service_settings(root_path=prefix).serve.root_path is None
        return
    with pytest.raises(SettingsError, match=r"serve\.root_path.*such as /search"):
        service_settings(root_path=prefix)


OWN = ["/rerank", "/v1/rerank", "/v2/rerank", "/v1/reranks", "/score", "/v1/score", "/v1/rerank_scores", "/live"]


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/reranks", "/v1/rerank"),
        ("/search/v1/rerank", "/v1/rerank"),
        ("/api/v2/rerank", "/v2/rerank"),
        ("/v1/scores", "/v1/score"),
        ("/v3/Rerank/", "/v1/rerank"),
        ("/rerank_score", "/v1/rerank_scores"),
        ("/v1/reranker", "/v1/rerank"),
        ("/v1/reran", "/v1/rerank"),
        ("/api/v2/rernak", "/v2/rerank"),
        ("/scoer", "/v1/score"),
        ("/v1/embeddings", None),
        ("/rerank/x", None),
        ("/", None),
    ],
)
def test_the_nearest_route(path: str, nearest: str | None) -> None:
    assert nearest_route(path, OWN) == nearest


def test_what_clients_of_other_services_ask_first(client: TestClient) -> None:
    info = client.get("/info").json()
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("smollm2-135m", 4096, 1000)
    assert "reranker" in info["model_type"]
    models = client.get("/v1/models").json()
    assert models["object"] == "list" and [model["id"] for model in models["data"]] == ["smollm2-135m"]
    assert client.get("/meta").json()["model"]["_name_or_path"] == "smollm2-135m"


def test_probes_need_no_key_and_the_rest_does(make_client: ClientFactory) -> None:
    client = make_client(api_keys="k")
    status = {page: client.get(page).status_code for page in (*PAGES, "/meta", "/v1/models")}
    assert {page for page, code in status.items() if code == 401} == {
        "/metrics", "/openapi.json", "/info", "/meta", "/v1/models"
    }  # fmt: skip


def test_probes_before_the_model_is_there_and_when_the_service_stops(make_client: ClientFactory) -> None:
    client = make_client()
    client.app.state.is_stopping = True  # type: ignore[attr-defined]
    assert [client.get(page).status_code for page in PAGES[:5]] == [200, 503, 503, 204, 503]
    assert client.get("/ready").json() == {"status": "stopping"}
