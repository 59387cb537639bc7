"""Waiting, deadlines, a full queue, and clients that go away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from connector.documents import RerankResult
from connector.service.admission import Admission, Deadline, DeadlinePassed, QueueFull
from connector.service.app import create_app
from tests.service.conftest import ClientFactory, service_settings
from tests.service.standin import StandIn, overlap
from tests.service.test_dialects import BODIES, ROUTES, post
from tests.service.test_errors import check
from tests.service.waiting import wait_until


class Gate:
    """A reranker's behaviour that waits until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = 0
        self.most = 0

    def __call__(self, query: str, documents: Any, first_stage: Any, deadline_ms: float | None) -> RerankResult:
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.open.wait(20)
        self.running -= 1
        return overlap(query, documents)


def inside(client: TestClient) -> int:
    count = client.app.state.admission.inside  # type: ignore[attr-defined]
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("at_once", [1, 3])
def test_some_requests_run_and_the_others_wait(make_client: ClientFactory, at_once: int) -> None:
    gate = Gate()
    client = make_client(StandIn(gate), at_once=at_once)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, client, "/v1/rerank") for _ in range(4)]
        wait_until(lambda: inside(client) == 4 and gate.running == at_once)
        gate.open.set()
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert gate.most == at_once
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
        gate.open.set()
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
        began = time.monotonic()
        late = client.post("/v1/rerank", json=body, headers=headers)
        assert time.monotonic() - began < 10
        assert late.status_code == 200
        assert late.headers["x-reranked"] == "false"
        assert late.json()["reason"] == "deadline"
        del body["first_stage"]
        check(client.post("/v1/rerank", json=body, headers=headers), "/v1/rerank", 503, "deadline")
        gate.open.set()
        assert first.result().json()["reranked"] is True
    assert inside(client) == 0


def test_the_reranker_is_told_what_time_is_left(make_client: ClientFactory) -> None:
    reranker = StandIn()
    client = make_client(reranker)
    sent = {"X-Rerank-Deadline-Ms": "60000"}
    client.post("/v1/rerank", json={**BODIES["/v1/rerank"], "deadline_ms": 90_000}, headers=sent)
    client.post("/v1/rerank", json=BODIES["/v1/rerank"])
    with_deadline, without = (asked[3] for asked in reranker.asked)
    assert with_deadline is not None
    assert 0 < with_deadline <= 60_000
    assert without is None


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


@pytest.mark.parametrize("gone_while", ["waiting", "running"])
def test_a_client_that_goes_away_frees_its_place(gone_while: str) -> None:
    gate = Gate()
    reranker = StandIn(gate)
    app = create_app(reranker, service_settings(max_queue=1))
    body = b'{"query":"q","documents":["a","b"]}'

    async def ask(gone: anyio.Event, statuses: list[int]) -> None:
        messages = [{"type": "http.request", "body": body, "more_body": False}]

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

    async def main() -> None:
        async with app.router.lifespan_context(app), anyio.create_task_group() as group:
            await until(lambda: app.state.loading.status == "ready")
            first, second, never = anyio.Event(), anyio.Event(), anyio.Event()
            answers: tuple[list[int], list[int], list[int]] = ([], [], [])
            group.start_soon(ask, first, answers[0])
            await until(lambda: gate.running == 1)
            group.start_soon(ask, second, answers[1])
            await until(lambda: app.state.admission.inside == 2)
            if gone_while == "waiting":
                second.set()
                await until(lambda: answers[1] == [499])
                assert app.state.admission.inside == 1
                # Its place is free: another may wait there.
                group.start_soon(ask, never, answers[2])
                await until(lambda: app.state.admission.inside == 2)
                gate.open.set()
                await until(lambda: answers == ([200], [499], [200]))
            else:
                first.set()
                await anyio.sleep(0.05)
                # The LLM still works for it, so the place is taken until it has ended.
                assert app.state.admission.inside == 2
                gate.open.set()
                await until(lambda: answers[1] == [200])
                await until(lambda: len(answers[0]) == 1)
            assert app.state.admission.inside == 0
            for event in (first, second, never):
                event.set()

    anyio.run(main)
    assert len(reranker.asked) == 2


def test_admission_alone() -> None:
    async def main() -> None:
        admission = Admission(max_queue=0)
        assert await admission.run(lambda: 3, Deadline()) == 3
        with pytest.raises(DeadlinePassed):
            await admission.run(lambda: 3, Deadline.after(1, time.monotonic() - 1))
        release = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(admission.run, release.wait, Deadline())
            await anyio.sleep(0.02)
            with pytest.raises(QueueFull):
                await admission.run(lambda: 3, Deadline())
            release.set()
        assert admission.inside == 0

    anyio.run(main)
