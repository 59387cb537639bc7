"""Which of header, body and setting counts, and that an answer is there then, whatever the model is doing."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from starlette.datastructures import Headers

from connector.reranking.reranker import Reranker
from connector.service.deadlines import DEADLINE_HEADER, scope_of
from connector.settings import load_settings
from tests.service.conftest import ClientFactory
from tests.service.standin import Deaf, StandIn
from tests.service.test_admission import inside
from tests.service.test_dialects import BODIES, ROUTES
from tests.service.test_errors import check
from tests.service.waiting import wait_until


@pytest.mark.parametrize(
    ("setting", "header", "body", "wanted"),
    [
        (None, None, None, math.inf),
        (3000, None, None, 103),
        # What a request says wins over the setting, also where it is later.
        (3000, "60000", None, 160),
        (3000, None, 60_000.0, 160),
        (None, "500", 250.0, 100.25),
        (None, "250", 500.0, 100.25),
    ],
)
def test_the_deadline_counts_from_the_arrival(
    setting: int | None, header: str | None, body: float | None, wanted: float
) -> None:
    settings = load_settings(options={"rerank.deadline_ms": setting}, environment={})
    headers = Headers({} if header is None else {DEADLINE_HEADER: header})
    assert scope_of(headers, settings, 100.0, body).deadline == wanted


SOON = {DEADLINE_HEADER: "50"}


@pytest.mark.parametrize("route", ROUTES)
def test_the_answer_does_not_wait_for_a_batch_under_way(make_client: ClientFactory, route: str) -> None:
    deaf = Deaf()
    client = make_client(StandIn(deaf))
    path, body = route.split()[0], BODIES[route]
    with deaf.held():
        kept = client.post(path, json={**body, "first_stage": "order"}, headers=SOON)
        assert kept.status_code == 200 and kept.headers["x-reranked"] == "false"
        # Without a first stage any order would be made up.
        check(client.post(path, json=body, headers=SOON), route, 504 if route == "/rerank texts" else 503, "deadline")
        metrics = client.get("/metrics").text
        assert 'rh_fallback_total{reason="deadline"} 1.0' in metrics
    wait_until(lambda: inside(client) == 0)
    # What the threads came to afterwards is counted nowhere.
    assert client.get("/metrics").text.count('rh_reranked_total{outcome="reranked"} 0.0') == 1


def test_the_setting_releases_too(make_client: ClientFactory) -> None:
    deaf = Deaf()
    chosen = load_settings(options={"rerank.deadline_ms": 50, "serve.at_once": 1}, environment={})
    with deaf.held():
        answer = make_client(StandIn(deaf), settings=chosen).post(
            "/v1/rerank", json={**BODIES["/v1/rerank"], "first_stage": "order"}
        )
        assert answer.json()["reason"] == "deadline"


@pytest.mark.parametrize("step", ["encode", "read"])
def test_the_answer_does_not_wait_for_the_llm(
    make_client: ClientFactory, reranker: Reranker, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The first to come leads the batch in its own thread, and cannot leave it before its end."""
    runtime = reranker.reader.runtime
    own = getattr(runtime, step)
    release = threading.Event()

    def held(*arguments: Any, **keys: Any) -> Any:
        assert release.wait(60)
        return own(*arguments, **keys)

    client = make_client(reranker)
    monkeypatch.setattr(runtime, step, held)
    body = {"query": "how long do cats sleep", "documents": [f"Cats that {step} sleep.", f"Bridges that {step}."]}
    try:
        answer = client.post("/v1/rerank", json={**body, "first_stage": "order", "deadline_ms": 1000})
        assert answer.json()["reason"] == "deadline"
        assert not release.is_set()
    finally:
        release.set()
    wait_until(lambda: inside(client) == 0, 60)
