"""Every dialect's answers to the byte, headers included, with a stand-in for the model.

``golden_answers.json`` holds them as clients know them; a difference is a change of the HTTP interface.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from connector.documents import RerankResult, UsedHead
from tests.service.conftest import ClientFactory
from tests.service.standin import Behaviour, StandIn, not_reranked, overlap
from tests.service.test_dialects import BODIES, ROUTES

GOLDEN = Path(__file__).with_name("golden_answers.json")
# Of no two answers the same.
UNLIKE = ("content-length", "x-request-id")
CASES: dict[str, tuple[Behaviour | None, dict[str, Any]]] = {
    "reranked": (None, {}),
    "options": (None, {"model": "a", "top_n": 2, "return_documents": True, "return_text": True, "raw_scores": True}),
    "deadline": (not_reranked("deadline"), {"first_stage_scores": [1, 9.5, 4]}),
    "failed": (not_reranked("failed: é\n" + "x" * 300), {"first_stage": "order", "raw_scores": True}),
    "error": (not_reranked("failed: out of memory"), {}),
    "empty documents": (not_reranked("empty documents"), {"raw_scores": True}),
    "malformed": (None, {"first_stage": "order", "first_stage_scores": [1, 2, 3]}),
}


def routed(query: str, documents: Any, *_: object) -> RerankResult:
    result = overlap(query, documents)
    return RerankResult(
        result.hits,
        True,
        timings_ms=result.timings_ms,
        mode="routed",
        gates=(UsedHead(3, 1, "query", 0.75), UsedHead(2, 0, "share", 0.25)),
        first_stage_gate=0.5,
        deepest_layer=3,
    )


CASES["route"] = (routed, {"return_route": True, "router_mode": "routed"})


def answer(make_client: ClientFactory, case: str, route: str) -> dict[str, Any]:
    """Status, headers and body, without what no two answers share."""
    behaviour, more = CASES[case]
    client = make_client(StandIn(behaviour))
    response = client.post(route.split()[0], json={**BODIES[route], **more})
    headers = {name: value for name, value in response.headers.items() if name not in UNLIKE}
    if "server-timing" in headers:
        headers["server-timing"] = re.sub(r"(queue|total);dur=[0-9.]+", r"\1", headers["server-timing"])
    body = re.sub(r'"id":"(score-|rerank-)?[0-9a-f-]{32,36}"', r'"id":"\1"', response.text)
    body = re.sub(r'"created":[0-9]+', '"created":0', body)
    return {"status": response.status_code, "headers": headers, "body": body}


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_the_same_to_the_byte(make_client: ClientFactory, case: str, route: str) -> None:
    assert answer(make_client, case, route) == json.loads(GOLDEN.read_text(encoding="utf-8"))[case][route]
