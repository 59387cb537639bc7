"""A cascade behind the service: what answers, explanations and metrics say of the second model."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from connector.cancelling import CancelScope
from connector.documents import RerankResult
from connector.reranking.cascade import Cascade
from connector.reranking.reranker import Reranker
from connector.routing.opening import open_reader
from connector.sections import Settings
from connector.service.admission import Admission
from connector.service.scoring import RerankJob, fall_back, rank_in_time
from tests.reranking.test_cascade import NAME, QUERY, failing, opposed, with_second
from tests.service.conftest import ClientFactory
from tests.service.test_metrics import value
from tests.test_explanation import score_again


def test_explanations_add_up_with_the_second_model(
    make_client: ClientFactory, reranker: Reranker, cats: list[str]
) -> None:
    client = make_client(with_second(reranker, hits=2))
    body = {"query": QUERY, "documents": cats}
    told: dict[str, Any] = client.post("/v1/explain", json=body).json()["explanation"]
    assert "+ second.counted" in told["formula"]
    read = [hit["second"]["value"] is not None for hit in told["hits"]]
    assert sorted(read) == [False, False, False, True, True]
    for hit in told["hits"]:
        alone = {**hit, "head_score": hit["head_score"] - hit["second"]["counted"]}
        assert score_again(told, alone) + hit["second"]["counted"] == pytest.approx(hit["score"])
    results = client.post("/v1/rerank", json=body).json()["results"]
    assert [hit["index"] for hit in results] == [hit["index"] for hit in told["hits"]]
    assert [hit["relevance_score"] for hit in results] == pytest.approx(
        [hit["probability"] for hit in told["hits"]], abs=1e-6
    )


def test_without_a_second_model_nothing_is_told_of_one(
    make_client: ClientFactory, reranker: Reranker, cats: list[str]
) -> None:
    client = make_client(reranker)
    told = client.post("/v1/explain", json={"query": QUERY, "documents": cats}).json()["explanation"]
    assert "second" not in told["formula"] and not any("second" in hit for hit in told["hits"])
    assert value(client, "rh_second_hits_total") == value(client, "rh_second_skipped_total") == 0


def test_metrics_count_what_the_second_model_reads(
    make_client: ClientFactory, reranker: Reranker, cats: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"query": QUERY, "documents": cats}
    client = make_client(with_second(reranker, hits=2))
    assert client.post("/v1/rerank", json=asked).status_code == 200
    assert (value(client, "rh_second_hits_total"), value(client, "rh_second_skipped_total")) == (2, 0)

    def broken(*_: Any) -> None:
        raise RuntimeError("the card is gone")

    with caplog.at_level(logging.WARNING):
        client = make_client(failing(reranker, broken))
    assert "has read nothing of the golden query" in caplog.text
    assert client.post("/v1/rerank", json=asked).status_code == 200
    assert (value(client, "rh_second_hits_total"), value(client, "rh_second_skipped_total")) == (0, 1)


def test_metrics_tell_both_caches_apart(
    make_client: ClientFactory, reranker: Reranker, settings: Settings, cats: list[str]
) -> None:
    own = open_reader(settings.model_copy(update={"cache": settings.cache.model_copy(update={"memory_mb": 77})}))
    second = Cascade(own, opposed(reranker.routes, own), NAME, 2)
    client = make_client(Reranker(reranker.reader, reranker.routes, cascade=second))
    assert client.post("/v1/rerank", json={"query": QUERY, "documents": cats}).status_code == 200
    held, first = own.statistics(), reranker.reader.statistics()
    assert value(client, "rh_second_cache_bytes") == held.bytes > 0
    assert value(client, "rh_cache_bytes") == first.bytes != held.bytes
    assert value(client, "rh_second_cache_limit_bytes") == held.limit == 77_000_000 != first.limit
    for cache, reader in (("memory", reranker.reader), ("second-memory", own)):
        counted = [value(client, "rh_cache_lookups_total", cache=cache, result=result) for result in ("hit", "miss")]
        assert tuple(counted) == reader.lookups()["memory"]
    assert value(make_client(reranker), "rh_second_cache_bytes") is None


def test_both_caches_are_let_go_of(
    make_client: ClientFactory, reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, closed = with_second(reranker), []
    monkeypatch.setattr(type(reranker.reader), "close", lambda self: closed.append(self))
    client = make_client(both)
    client.app.state.loading.close()  # type: ignore[attr-defined]
    assert closed == [both.reader, both.reader]


@pytest.mark.parametrize("more", [{}, {"first_stage": "order"}])
def test_at_the_deadline_the_first_models_order_goes_back(
    make_client: ClientFactory, reranker: Reranker, cats: list[str], more: dict[str, str]
) -> None:
    """A batch of the second model cannot be stopped: the answer does not wait for it."""
    answered = threading.Event()
    both = failing(reranker, lambda *_: answered.wait(60))
    asked = {"query": QUERY, "documents": cats, **more}
    alone = make_client(reranker).post("/v1/rerank", json=asked).json()
    try:
        # Not the golden query, which would wait for it, too.
        answered.set()
        client = make_client(both)
        answered.clear()
        told = client.post("/v1/rerank", json={**asked, "deadline_ms": 3000}).json()
    finally:
        answered.set()
    assert told["reranked"] is True and told["results"] == alone["results"]


def test_time_is_shared_by_the_searches_of_one_request(make_client: ClientFactory) -> None:
    shares: list[float] = []

    async def asked() -> list[RerankResult]:
        async with Admission(1) as admission:
            jobs = [RerankJob(QUERY, ["a"], "order", second=second) for second in (True, True, False, True)]
            return await rank_in_time(admission, jobs, ranked, CancelScope.after(60_000))

    def ranked(job: RerankJob, scope: CancelScope) -> RerankResult:
        shares.append(scope.share)
        return fall_back(job, "tried")

    assert len(asyncio.run(asked())) == 4
    assert shares == [1 / 4, 1 / 3, 0.0, 1.0]


def test_highlights_take_the_first_model_alone(
    make_client: ClientFactory, reranker: Reranker, cats: list[str]
) -> None:
    asked: list[object] = []
    client = make_client(failing(reranker, lambda *arguments: asked.append(arguments)))
    before = len(asked)
    answer = client.post("/v1/highlight", json={"inputs": [{"question": QUERY, "context": cats[2]}]})
    assert answer.status_code == 200 and len(asked) == before == 1
