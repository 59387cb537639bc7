"""Load: what counts as lost, and a few seconds of it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.campaign.load import Load, Mix, Refused, Step, measure, served, step_rows
from tests.campaign.load_plot import plot
from tests.campaign.rows import Tally

TEXTS = [f"Cats of kind {number} sleep long." for number in range(30)]


@contextmanager
def answering(status: int, body: object, headers: dict[str, str] | None = None) -> Iterator[int]:
    """Port of a server that always gives this answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            text = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(text)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def results(*order: int) -> dict[str, list[dict[str, int]]]:
    return {"results": [{"index": at} for at in order]}


@pytest.mark.parametrize(
    ("status", "body", "lost"),
    [
        (200, results(1, 0, 2), None),
        (200, results(1, 1, 2), "a hit is lost or doubled"),
        (200, results(1, 0), "a hit is lost or doubled"),
        (500, {}, "status 500"),
    ],
)
def test_what_is_lost(status: int, body: object, lost: str | None) -> None:
    with answering(status, body) as port:
        load = Load(port, TEXTS, Mix((3,), 0.0))
        with closing(load.connection()) as connection:
            assert load.one(connection, random.Random(0))[2] == lost


def test_another_order_of_the_same_request_is_lost() -> None:
    load = Load(0, TEXTS[:1], Mix((3,), 0.0))
    for order in ((1, 0, 2), (0, 1, 2)):
        with answering(200, results(*order)) as port:
            load.port = port
            with closing(load.connection()) as connection:
                told = load.one(connection, random.Random(0))[2]
    assert told == "another order than before"


def test_refused_is_not_lost_where_it_says_when_to_come_again() -> None:
    with answering(429, {}, {"Retry-After": "7"}) as port:
        load = Load(port, TEXTS)
        with closing(load.connection()) as connection, pytest.raises(Refused, match="7"):
            load.one(connection, random.Random(0))


@pytest.mark.parametrize(
    ("hits", "lost"), [(range(20), None), (range(19), "a search lost hits"), ([0] * 20, "a search lost hits")]
)
def test_what_a_search_loses(hits: range, lost: str | None) -> None:
    with answering(200, {"hits": {"hits": [{"_id": str(at)} for at in hits]}}) as port:
        load = Load(port, TEXTS)
        with closing(load.connection()) as connection:
            assert load.search(connection, 0)[1] == lost


def test_growth_leaves_the_warming_up_out() -> None:
    step = Step(1, 1.0, "", (1.0, 2.0, 3.0), (), (1.0, 2.0, 3.0), 1.0, 0, (1, 10, 10, 10, 10, 11))
    assert step.growth == pytest.approx(1.1)
    rows = list(step_rows(step, Tally(3, {"a hit": 1}), Tally(2)))
    assert [(row.tried, row.survived) for row in rows] == [(3, 2), (2, 2)]
    assert "memory +10.0%" in rows[0].note
    step = {"clients": 1, "warm": (1.0, 2.0, 3.0), "a_second": 1.0, "refused": 0, "minutes": 2, "memory": [900, 950]}
    drawn = plot([step, {**step, "clients": 8}])
    assert all(told in drawn for told in ("<svg", "seconds of a request", "GB resident", "8 clients"))


@pytest.mark.slow
def test_a_few_seconds_of_load() -> None:
    with served((), TEXTS) as (port, pid):
        load = Load(port, TEXTS, Mix((3, 5), 0.5))
        load.warm_up()
        step, requests, searches = measure(load, 3, 3.0, pid)
    assert requests.tried and not requests.lost and searches.tried and not searches.lost
    assert step.warm and step.cold and step.memory[0] > 50
