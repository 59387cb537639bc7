"""Waiting, deadlines, a full queue, and clients that go away."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from connector.cancelling import CancelScope
from connector.documents import RerankResult
from connector.service.admission import Admission, QueueFull
from connector.service.app import create_app
from tests.service.conftest import ClientFactory, service_settings
from tests.service.standin import StandIn, not_reranked, overlap
from tests.service.test_dialects import BODIES, ROUTES, post
from tests.service.test_errors import check
from tests.service.waiting import wait_until


class Gate:
    """A reranker's behaviour: it waits until it is opened, or, as the real one does, until the scope ends."""

    def __init__(self) -> None:
        self.running = 0
        self._open = False
        self._changed = threading.Condition()

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __call__(self, query: str, documents: Any, first_stage: Any, scope: CancelScope) -> RerankResult:
        with scope.waking(self._wake), self._changed:
            self.running += 1
            self._changed.wait_for(lambda: self._open or scope.reason, min(scope.remaining(), 20))
            self.running -= 1
        if scope.reason is not None:
            return not_reranked(scope.reason)(query, documents, first_stage, scope)
        return overlap(query, documents)


def inside(client: TestClient) -> int:
    count = client.app.state.admission.inside  # type: ignore[attr-defined]
    assert isinstance(count, int)
    return count


def test_requests_that_are_let_in_all_come_to_the_reranker_s_own_queue(make_client: ClientFactory) -> None:
    gate = Gate()
    client = make_client(StandIn(gate), max_queue=3)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, client, "/v1/rerank") for _ in range(4)]
        wait_until(lambda: inside(client) == gate.running == 4)
        gate.open()
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert inside(client) == 0


@pytest.mark.parametrize("route", ROUTES)
def test_a_full_queue_is_429_and_for_elasticsearch_500(make_client: ClientFactory, route: str) -> None:
    gate = Gate()
    client = make_client(StandIn(gate), max_queue=1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, client, "/v1/rerank") for _ in range(2)]
        wait_until(lambda: inside(client) == 2)
        response = post(client, route, first_stage="order")
        check(response, route, 500 if route == "/rerank texts" else 429, "serve.max_queue")
        gate.open()
        assert [answer.result().status_code for answer in waiting] == [200, 200]
    assert post(client, route).status_code == 200


@pytest.mark.parametrize("by", ["header", "body"])
def test_time_in_the_queue_counts_against_the_deadline(make_client: ClientFactory, by: str) -> None:
    gate = Gate()
    client = make_client(StandIn(gate))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client, "/v1/rerank")
        wait_until(lambda: gate.running == 1)
        headers = {"X-Rerank-Deadline-Ms": "50"} if by == "header" else {}
        body = {**BODIES["/v1/rerank"], **({} if headers else {"deadline_ms": 50}), "first_stage": "order"}
        late = client.post("/v1/rerank", json=body, headers=headers)
        assert late.status_code == 200
        assert late.headers["x-reranked"] == "false"
        assert late.json()["reason"] == "deadline"
        del body["first_stage"]
        check(client.post("/v1/rerank", json=body, headers=headers), "/v1/rerank", 503, "deadline")
        gate.open()
        assert first.result().json()["reranked"] is True
    assert inside(client) == 0


def test_the_reranker_is_told_what_time_is_left(make_client: ClientFactory) -> None:
    reranker = StandIn()
    client = make_client(reranker)
    sent = {"X-Rerank-Deadline-Ms": "60000"}
    client.post("/v1/rerank", json={**BODIES["/v1/rerank"], "deadline_ms": 90_000}, headers=sent)
    client.post("/v1/rerank", json=BODIES["/v1/rerank"])
    with_deadline, without = (asked[3] for asked in reranker.asked)
    assert 30 < with_deadline.remaining() <= 60
    assert without.remaining() == math.inf


@pytest.mark.parametrize("value", ["soon", "0", "-5", "nan", "inf", ""])
def test_a_deadline_that_is_none(client: TestClient, value: str) -> None:
    sent = {"X-Rerank-Deadline-Ms": value}
    response = client.post("/v1/rerank", json=BODIES["/v1/rerank"], headers=sent)
    check(response, "/v1/rerank", 400, f"X-Rerank-Deadline-Ms is '{value}'")


def asgi_scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [],
        "client": None,
        "server": ("test", 80),
    }


async def ask(app: Any, gone: anyio.Event, statuses: list[int]) -> None:
    """One request over ASGI, whose client goes away at the event."""
    messages = [{"type": "http.request", "body": b'{"query":"q","documents":["a","b"]}', "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(asgi_scope("/v1/rerank"), receive, send)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


def test_clients_that_go_away_free_their_places_at_once() -> None:
    """Eight that time out, as a client that tries again leaves them behind, keep nobody waiting."""
    gate = Gate()
    reranker = StandIn(gate)
    app = create_app(reranker, service_settings(max_queue=7))

    async def main() -> None:
        async with app.router.lifespan_context(app), anyio.create_task_group() as group:
            await until(lambda: app.state.loading.status == "ready")
            gone, never = anyio.Event(), anyio.Event()
            left: list[list[int]] = [[] for _ in range(8)]
            for statuses in left:
                group.start_soon(ask, app, gone, statuses)
            await until(lambda: gate.running == app.state.admission.inside == 8)
            gone.set()
            # The gate stays shut: nothing but their scopes ends them.
            await until(lambda: left == [[499]] * 8)
            assert gate.running == app.state.admission.inside == 0
            answer: list[int] = []
            group.start_soon(ask, app, never, answer)
            await until(lambda: gate.running == 1)
            gate.open()
            await until(lambda: answer == [200])
            never.set()

    anyio.run(main)
    assert [asked[3].reason for asked in reranker.asked] == ["cancelled"] * 8 + [None]


def test_a_client_that_goes_away_is_no_error(make_client: ClientFactory) -> None:
    gate = Gate()
    app = create_app(StandIn(gate), service_settings())

    async def main() -> None:
        async with app.router.lifespan_context(app), anyio.create_task_group() as group:
            await until(lambda: app.state.loading.status == "ready")
            gone, statuses = anyio.Event(), list[int]()
            group.start_soon(ask, app, gone, statuses)
            await until(lambda: gate.running == 1)
            gone.set()
            await until(lambda: statuses == [499])

    anyio.run(main)
    shown = TestClient(app).get("/metrics").text
    assert 'rh_reranked_total{outcome="error"} 0.0' in shown
    assert 'rh_reranked_total{outcome="fallback"} 0.0' in shown


def test_admission_alone() -> None:
    async def main() -> None:
        admission = Admission(1)
        assert await admission.run(lambda: 3, CancelScope()) == 3
        entered, release = threading.Event(), threading.Event()

        def held() -> None:
            entered.set()
            release.wait(20)

        async with anyio.create_task_group() as group:
            group.start_soon(admission.run, held, CancelScope())
            await until(entered.is_set)
            with pytest.raises(QueueFull):
                await admission.run(lambda: 3, CancelScope())
            release.set()
        assert admission.inside == 0

    anyio.run(main)
