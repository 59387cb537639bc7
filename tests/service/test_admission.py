"""Waiting, deadlines, a full queue, and clients that go away."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx2
import pytest
from starlette.testclient import TestClient

from connector.cancelling import Cancelled, CancelScope
from connector.documents import FirstStage, RerankResult
from connector.reranking.reranker import Reranker
from connector.service.admission import Admission, QueueFull
from tests.service.conftest import ClientFactory, service_settings
from tests.service.live import serving
from tests.service.standin import StandIn, not_reranked, overlap
from tests.service.test_dialects import BODIES, ROUTES, post
from tests.service.test_errors import check
from tests.service.waiting import wait_until


class Gate:
    """A reranker's behaviour that waits until it is opened, or its request is over."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.ended: list[str] = []
        self._opened = False
        self._changed = threading.Condition()

    def open(self) -> None:
        """Let all go on."""
        self._opened = True
        self._wake()

    def __call__(self, query: str, documents: Any, first_stage: FirstStage, scope: CancelScope) -> RerankResult:
        with self._changed:
            self.running += 1
            self.most = max(self.most, self.running)
        with scope.waking(self._wake), self._changed:
            self._changed.wait_for(lambda: self._opened or scope.reason is not None, min(20.0, scope.remaining()))
            self.running -= 1
            if self._opened:
                return overlap(query, documents)
            assert scope.reason is not None
            self.ended.append(scope.reason)
        return not_reranked(scope.reason)(query, documents, first_stage, scope)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def inside(client: TestClient) -> int:
    count = client.app.state.admission.inside  # type: ignore[attr-defined]
    assert isinstance(count, int)
    return count


def test_all_who_are_in_are_with_the_reranker(make_client: ClientFactory) -> None:
    """Who waits does so in the library's scheduler; none waits for a thread."""
    gate = Gate()
    client = make_client(StandIn(gate), at_once=1, max_queue=50)
    with ThreadPoolExecutor(51) as pool:
        answers = [pool.submit(post, client, "/v1/rerank") for _ in range(51)]
        wait_until(lambda: gate.running == 51)
        assert inside(client) == 51
        gate.open()
        assert [answer.result().status_code for answer in answers] == [200] * 51
    assert inside(client) == 0


@pytest.mark.parametrize("route", ROUTES)
def test_a_full_queue_is_429_and_for_elasticsearch_504(make_client: ClientFactory, route: str) -> None:
    gate = Gate()
    client = make_client(StandIn(gate), max_queue=1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(post, client, "/v1/rerank") for _ in range(2)]
        wait_until(lambda: inside(client) == 2)
        response = post(client, route, first_stage="order")
        check(response, route, 504 if route == "/rerank texts" else 429, "serve.max_queue")
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
    assert 0 < with_deadline.remaining() <= 60
    assert without.deadline == math.inf


@pytest.mark.parametrize("value", ["soon", "0", "-5", "nan", "inf", ""])
def test_a_deadline_that_is_none(client: TestClient, value: str) -> None:
    sent = {"X-Rerank-Deadline-Ms": value}
    response = client.post("/v1/rerank", json=BODIES["/v1/rerank"], headers=sent)
    check(response, "/v1/rerank", 400, f"X-Rerank-Deadline-Ms is '{value}'")


def abandoned(url: str, path: str, body: Any, while_open: Callable[[], None]) -> None:
    """Ask, and close the connection before the answer."""
    host, port = url.removeprefix("http://").split(":")
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + sent)
        while_open()


def count(url: str, sample: str) -> float:
    """A sample of /metrics; 0 where there is none."""
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample), 0.0)


def test_abandoned_requests_free_their_places_at_once() -> None:
    gate = Gate()
    with (
        serving(StandIn(gate), service_settings(at_once=8, max_queue=1)) as (url, app),
        ThreadPoolExecutor(9) as pool,
    ):
        all_in = threading.Barrier(9)

        def until_all_are_in() -> None:
            wait_until(lambda: gate.running == 9)
            all_in.wait(20)

        asked = [pool.submit(abandoned, url, "/v1/rerank", BODIES["/v1/rerank"], until_all_are_in) for _ in range(9)]
        for each in asked:
            each.result()
        # None was let go on: the gate is closed.
        wait_until(lambda: app.state.admission.inside == 0)
        assert gate.ended == ["cancelled"] * 9
        gate.open()
        answer = httpx2.post(f"{url}/v1/rerank", json=BODIES["/v1/rerank"])
        assert answer.json()["reranked"] is True
        # They are told apart from answers, and are nobody's fault.
        wait_until(lambda: count(url, 'rh_requests_total{route="/v1/rerank",status="499"}') == 9)
        assert count(url, 'rh_reranked_total{outcome="error"}') == 0
        assert count(url, 'rh_reranked_total{outcome="fallback"}') == 0
        assert count(url, 'rh_reranked_total{outcome="reranked"}') == 1


def test_who_leaves_while_sending_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with serving(StandIn(), service_settings()) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        wait_until(lambda: count(url, 'rh_requests_total{route="/v1/rerank",status="499"}') == 1)
        assert count(url, 'rh_reranked_total{outcome="error"}') == 0
    assert "Traceback" not in caplog.text


def test_when_the_server_stops_requests_end_as_the_first_stage_ordered_them() -> None:
    gate = Gate()
    with serving(StandIn(gate), service_settings()) as (url, app), ThreadPoolExecutor(1) as pool:
        body = {**BODIES["/v1/rerank"], "first_stage": "order"}
        asked = pool.submit(httpx2.post, f"{url}/v1/rerank", json=body)
        wait_until(lambda: gate.running == 1)
        app.state.stopping.cancel()
        answer = asked.result()
        assert (answer.status_code, answer.json()["reranked"], answer.json()["reason"]) == (200, False, "cancelled")
        # Those that come even later too.
        assert httpx2.post(f"{url}/v1/rerank", json=body).json()["reason"] == "cancelled"


@pytest.mark.slow
def test_documents_of_abandoned_requests_are_not_encoded_to_the_end(reranker: Reranker) -> None:
    """Eight requests of 150 new documents, left while they are worked on."""

    def body(request: int) -> dict[str, Any]:
        documents = [f"Item {at} of {request}: a cat sleeps by the river." for at in range(150)]
        return {"query": "how long do cats sleep", "documents": documents}

    with serving(reranker, service_settings(at_once=8)) as (url, app), ThreadPoolExecutor(8) as pool:

        def until_all_are_in() -> None:
            wait_until(lambda: app.state.admission.inside == 8)
            all_in.wait(20)

        all_in = threading.Barrier(8)
        known = reranker.reader.statistics().entries
        asked = [pool.submit(abandoned, url, "/v1/rerank", body(request), until_all_are_in) for request in range(8)]
        for each in asked:
            each.result()
        wait_until(lambda: app.state.admission.inside == 0, 120)
        encoded = reranker.reader.statistics().entries - known
        next_one = httpx2.post(f"{url}/v1/rerank", json=BODIES["/v1/rerank"], timeout=60)
        assert next_one.json()["reranked"] is True
    assert encoded < 8 * 150


def test_a_server_that_stops_ends_what_it_does() -> None:
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        with serving(StandIn(gate), service_settings(), grace_seconds=0) as (url, _):
            asked = pool.submit(httpx2.post, f"{url}/v1/rerank", json=BODIES["/v1/rerank"])
            wait_until(lambda: gate.running == 1)
        wait_until(lambda: gate.ended == ["cancelled"])
        assert asked.exception() is not None or asked.result().status_code >= 500


def test_a_reranker_that_does_not_end_keeps_its_place() -> None:
    """The bound is of what the process holds, not of who still waits."""
    release = threading.Event()

    def deaf(query: str, documents: Any, *_: object) -> RerankResult:
        assert release.wait(20)
        return overlap(query, documents)

    reranker = StandIn(deaf)
    with serving(reranker, service_settings()) as (url, app):
        abandoned(url, "/v1/rerank", BODIES["/v1/rerank"], lambda: wait_until(lambda: len(reranker.asked) == 1))
        wait_until(lambda: reranker.asked[0][3].reason == "cancelled")
        assert app.state.admission.inside == 1
        release.set()
        wait_until(lambda: app.state.admission.inside == 0)
        wait_until(lambda: count(url, 'rh_requests_total{route="/v1/rerank",status="499"}') == 1)
        assert count(url, 'rh_reranked_total{outcome="reranked"}') == 0


def test_the_door_alone() -> None:
    async def main() -> None:
        async with Admission(1) as admission:
            assert await admission.run(lambda: 3, CancelScope()) == 3
            release = threading.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(admission.run, release.wait, CancelScope())
                with anyio.fail_after(20):
                    while admission.inside == 0:
                        await anyio.sleep(0)
                with pytest.raises(QueueFull):
                    await admission.run(lambda: 3, CancelScope())
                release.set()
            assert admission.inside == 0
            with pytest.raises(ZeroDivisionError):
                await admission.run(lambda: 1 / 0, CancelScope())
            # What one call raised ends no other.
            assert await admission.run(lambda: 4, CancelScope()) == 4

    anyio.run(main)


@pytest.mark.parametrize("by", ["deadline", "cancelled"])
def test_the_door_does_not_wait_for_what_is_over(by: str) -> None:
    """The call that cannot be stopped keeps its place; who asked for it does not wait."""

    async def main() -> None:
        release, begun = threading.Event(), threading.Event()
        scope = CancelScope.after(50) if by == "deadline" else CancelScope()

        def deaf() -> None:
            begun.set()
            assert release.wait(60)

        def leave() -> None:
            begun.wait(60)
            scope.cancel()

        async with Admission(1) as admission:
            try:
                if by == "cancelled":
                    threading.Thread(target=leave).start()
                with anyio.fail_after(50), pytest.raises(Cancelled, match=by):
                    await admission.run(deaf, scope)
                assert not release.is_set() and admission.inside == 1
                with pytest.raises(QueueFull):
                    await admission.run(lambda: 3, CancelScope())
            finally:
                release.set()
        assert admission.inside == 0

    anyio.run(main)


def test_who_comes_after_the_end_is_not_begun() -> None:
    async def main() -> None:
        begun: list[int] = []
        async with Admission(1) as admission:
            with pytest.raises(Cancelled, match="deadline"):
                await admission.run(lambda: begun.append(1), CancelScope(0.0))
        assert begun == []

    anyio.run(main)
