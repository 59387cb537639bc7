"""/live, /ready and the way from loading to ready or failed."""

from __future__ import annotations

import threading

import pytest

from connector import __version__
from connector.documents import RankedHit, RerankResult
from connector.errors import BackboneError
from connector.golden import GOLDEN_DOCUMENTS
from connector.sections import Settings
from connector.service.loading import Loading
from connector.service.probing import OPEN_PATHS
from tests.service.conftest import ClientFactory, service_settings
from tests.service.standin import StandIn
from tests.service.test_dialects import ROUTES, post
from tests.service.test_errors import check
from tests.service.waiting import wait_until


@pytest.mark.parametrize("route", ROUTES)
def test_while_loading(make_client: ClientFactory, route: str) -> None:
    go_on = threading.Event()
    reranker = StandIn()

    def load(settings: Settings) -> StandIn:
        assert settings.serve.max_queue == 7
        assert go_on.wait(20)
        return reranker

    client = make_client(load, ready=False, max_queue=7)
    assert client.get("/live").json() == {"status": "live"}
    not_yet = client.get("/ready")
    assert (not_yet.status_code, not_yet.json()) == (503, {"status": "loading"})
    assert not_yet.headers["retry-after"] == "1"
    check(post(client, route), route, 504 if route == "/rerank texts" else 503, "being loaded")
    go_on.set()
    wait_until(lambda: client.get("/ready").status_code == 200)
    assert client.get("/ready").json() == {"status": "ready", "model": "smollm2-135m"}
    assert reranker.golden.is_set()
    assert post(client, route).status_code == 200


@pytest.mark.parametrize("error", [BackboneError("no such model; see model list"), MemoryError("too big")])
def test_when_loading_failed_the_process_goes_on_answering(make_client: ClientFactory, error: Exception) -> None:
    def load(settings: Settings) -> StandIn:
        raise error

    client = make_client(load, ready=False)
    wait_until(lambda: client.get("/ready").json()["status"] == "failed")
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert str(error) in answer.json()["reason"]
    assert client.get("/live").status_code == 200
    check(post(client, "/v1/rerank"), "/v1/rerank", 503, str(error))


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (RerankResult((), False, "failed: x"), "not reranked: failed: x"),
        (RerankResult((RankedHit(0, 1.0),), True), "every document"),
    ],
)
def test_a_model_that_fails_the_golden_query_is_not_ready(result: RerankResult, reason: str) -> None:
    class Broken(StandIn):
        def rerank(self, *_: object, **__: object) -> RerankResult:
            return result

    failed: list[str] = []
    loading = Loading(Broken(), service_settings(), lambda: failed.append("yes"))
    loading.load()
    loading.load()
    assert loading.status == "failed"
    assert reason in str(loading.error)
    assert failed == ["yes"]


def test_a_golden_score_must_be_a_number() -> None:
    class Broken(StandIn):
        def rerank(self, *_: object, **__: object) -> RerankResult:
            count = len(GOLDEN_DOCUMENTS)
            return RerankResult(tuple(RankedHit(i, float("nan")) for i in range(count)), True)

    loading = Loading(Broken(), service_settings())
    loading.load()
    assert loading.status == "failed"


def test_openapi(make_client: ClientFactory) -> None:
    document = make_client().get("/openapi.json").json()
    assert document["info"]["title"] == "rh-connector"
    assert document["info"]["version"] == __version__
    wanted = (
        {route.split()[0] for route in ROUTES} | set(OPEN_PATHS) | {"/info", "/meta", "/v1/models", "/v1/highlight"}
    )
    assert set(document["paths"]) == wanted
    for path in {route.split()[0] for route in ROUTES}:
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        for kind in schema.get("oneOf", [schema]):
            assert kind["examples"]
            assert all("description" in field for field in kind["properties"].values())
        assert "$ref" in str(operation["responses"]["200"])
        assert {"400", "401", "413", "415", "422", "429", "500", "503", "504"} <= set(operation["responses"])
