"""/metrics: what is counted, under which labels, and who may read it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from connector import __version__
from connector.backbone.batching.work_queue import SchedulerStatistics
from connector.backbone.caching.document_cache import CacheStatistics
from connector.backbone.runtime import DeviceStatistics
from connector.documents import RankedHit, RerankResult
from connector.reranking.reranker import Reranker
from connector.sections import Settings
from connector.service.metrics import FALLBACK_REASONS, fallback_reason
from tests.service.conftest import ClientFactory, service_settings
from tests.service.standin import StandIn, not_reranked, overlap
from tests.service.waiting import wait_until

BODY = {"query": "cats sleep", "documents": ["steel bridges", "cats sleep all day", "bread"]}


def value(client: TestClient, name: str, headers: dict[str, str] | None = None, **labels: str) -> float | None:
    """One sample as Prometheus would read it; None where there is none."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def test_requests_by_route_and_status(client: TestClient) -> None:
    assert client.post("/v1/rerank", json=BODY).status_code == 200
    assert client.post("/v1/rerank", json=BODY).status_code == 200
    assert client.post("/v1/rerank", content=b"{").status_code == 400
    assert client.get("/v1/rerank").status_code == 405
    assert value(client, "rh_requests_total", route="/v1/rerank", status="200") == 2
    assert value(client, "rh_requests_total", route="/v1/rerank", status="400") == 1
    assert value(client, "rh_requests_total", route="/v1/rerank", status="405") == 1
    assert value(client, "rh_request_seconds_count", route="/v1/rerank") == 4
    assert value(client, "rh_request_seconds_bucket", route="/v1/rerank", le="+Inf") == 4


def test_paths_that_clients_invent_are_no_labels(make_client: ClientFactory) -> None:
    client = make_client(gateway=False)
    for number in range(50):
        client.get(f"/made/up/{number}")
    routes = {
        sample.labels["route"]
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if "route" in sample.labels
    }
    assert routes == {"other"}
    assert value(client, "rh_requests_total", route="other", status="404") == 50


def test_routes_with_a_pattern_are_the_gateway(make_client: ClientFactory) -> None:
    client = make_client(gateway=False)

    async def anything(path: str) -> dict[str, str]:
        return {"path": path}

    app: Any = client.app
    app.add_api_route("/{path:path}", anything, methods=["GET"])
    assert client.get("/articles/_search").json() == {"path": "articles/_search"}
    assert client.get("/live").json() == {"status": "live"}
    assert value(client, "rh_requests_total", route="gateway", status="200") == 1
    assert value(client, "rh_requests_total", route="/live", status="200") == 1


def test_a_request_that_fails_unexpectedly_counts_as_500(make_client: ClientFactory) -> None:
    client = make_client(gateway=False)

    async def broken() -> None:
        raise RuntimeError("broken")

    app: Any = client.app
    app.add_api_route("/broken", broken)
    assert client.get("/broken").status_code == 500
    assert value(client, "rh_requests_total", route="/broken", status="500") == 1


def test_reranked_windows_documents_and_passages(make_client: ClientFactory) -> None:
    def behaviour(query: str, documents: Sequence[Any], *_: object) -> RerankResult:
        result = overlap(query, documents)
        return RerankResult(result.hits, True, cached=1, encoded=2)

    client = make_client(StandIn(behaviour))
    assert value(client, "rh_reranked_total", outcome="reranked") == 0
    client.post("/v1/rerank", json=BODY)
    client.post("/v1/score", json={"text_1": ["cats", "bread"], "text_2": ["cats sleep", "bread rises"]})
    assert value(client, "rh_reranked_total", outcome="reranked") == 3
    assert value(client, "rh_documents_total") == 5
    assert value(client, "rh_passages_cached_total") == 3
    assert value(client, "rh_passages_encoded_total") == 6
    assert value(client, "rh_reranked_total", outcome="fallback") == 0
    assert value(client, "rh_reranked_total", outcome="error") == 0


def test_the_golden_query_is_not_counted(client: TestClient) -> None:
    assert value(client, "rh_reranked_total", outcome="reranked") == 0
    assert value(client, "rh_documents_total") == 0


@pytest.mark.parametrize(
    ("said", "counted"),
    [("deadline", "deadline"), ("failed: ValueError: x\ny", "failed"), ("empty documents", "other")],
)
def test_fallbacks_by_reason(make_client: ClientFactory, said: str, counted: str) -> None:
    client = make_client(StandIn(not_reranked(said)))
    answer = client.post("/v1/rerank", json={**BODY, "first_stage": "order"})
    assert answer.headers["x-reranked"] == "false"
    assert value(client, "rh_fallback_total", reason=counted) == 1
    assert value(client, "rh_reranked_total", outcome="fallback") == 1
    assert value(client, "rh_reranked_total", outcome="reranked") == 0
    others = [reason for reason in FALLBACK_REASONS if reason != counted]
    assert [value(client, "rh_fallback_total", reason=reason) for reason in others] == [0] * len(others)


@pytest.mark.parametrize("reason", [None, "", "deadlines", "failedly: x", "Überlastet", "a" * 10_000])
def test_unknown_reasons_are_other(reason: str | None) -> None:
    assert fallback_reason(reason) == "other"


def test_errors_of_the_service_count_and_those_of_clients_do_not(make_client: ClientFactory) -> None:
    client = make_client(StandIn(not_reranked("failed: broken")))
    assert client.post("/v1/rerank", json=BODY).status_code == 503
    assert client.post("/v1/rerank", json={"query": "cats"}).status_code == 400
    assert client.post("/v1/rerank", json={**BODY, "documents": []}).status_code == 400
    assert value(client, "rh_reranked_total", outcome="error") == 1


def test_while_loading(make_client: ClientFactory) -> None:
    go_on = threading.Event()

    def load(settings: Settings) -> StandIn:
        assert go_on.wait(20)
        return StandIn()

    client = make_client(load, ready=False)
    assert value(client, "rh_model_ready") == 0
    assert client.post("/v1/rerank", json=BODY).status_code == 503
    assert value(client, "rh_reranked_total", outcome="error") == 1
    go_on.set()
    wait_until(lambda: value(client, "rh_model_ready") == 1)


def test_queue_length_and_running(make_client: ClientFactory) -> None:
    go_on = threading.Event()

    def slow(query: str, documents: Sequence[Any], *_: object) -> RerankResult:
        assert go_on.wait(20)
        return RerankResult(tuple(RankedHit(i, -float(i)) for i in range(len(documents))), True)

    client = make_client(StandIn(slow), max_queue=2)
    assert (value(client, "rh_running"), value(client, "rh_queue_length")) == (0, 0)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(client.post("/v1/rerank", json=BODY).status_code))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: value(client, "rh_queue_length") == 2)
    assert value(client, "rh_running") == 1
    assert client.post("/v1/rerank", json=BODY).status_code == 429
    assert value(client, "rh_reranked_total", outcome="error") == 1
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert statuses == [200, 200, 200]
    assert (value(client, "rh_running"), value(client, "rh_queue_length")) == (0, 0)


def test_build_and_process(make_client: ClientFactory) -> None:
    settings = service_settings().model_copy(
        update={"backbone": service_settings().backbone.model_copy(update={"model": 'C:\\a "model"\n'})}
    )
    client = make_client(settings=settings)
    assert value(client, "rh_build_info", version=__version__, model='C:\\a "model"\n') == 1
    memory = value(client, "process_resident_memory_bytes")
    assert memory is not None and memory > 1_000_000


def test_applications_do_not_share_counts(make_client: ClientFactory) -> None:
    first, second = make_client(), make_client()
    first.post("/v1/rerank", json=BODY)
    assert value(first, "rh_documents_total") == 3
    assert value(second, "rh_documents_total") == 0


def test_a_key_is_wanted_where_keys_are_set(make_client: ClientFactory) -> None:
    client = make_client(api_keys="one")
    assert client.get("/metrics").status_code == 401
    key = {"Authorization": "Bearer one"}
    assert value(client, "rh_requests_total", key, route="/metrics", status="401") == 1


def test_the_format_is_negotiated(client: TestClient) -> None:
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    asked = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert asked.text.endswith("# EOF\n")


def test_the_plan_is_told_once_there_is_one(make_client: ClientFactory) -> None:
    class Planned(StandIn):
        """A stand-in with a reader that tells what its machine lets it do."""

        reader = SimpleNamespace(
            statistics=lambda: None,
            lookups=dict,
            scheduler_statistics=lambda: None,
            device_statistics=lambda: None,
            close=lambda: None,
            plan={"runtime": "torch", "weights": "packed"},
        )

    assert value(make_client(Planned()), "rh_runtime_plan_info", runtime="torch", weights="packed") == 1
    assert "rh_runtime_plan" not in make_client(StandIn()).get("/metrics").text


def test_the_scheduler_tells_its_counts(make_client: ClientFactory) -> None:
    class Queued(StandIn):
        """A stand-in with a reader that has a queue."""

        reader = SimpleNamespace(
            statistics=lambda: None,
            lookups=dict,
            scheduler_statistics=lambda: SchedulerStatistics(1, 20, 3, 4, 5),
            device_statistics=lambda: None,
            close=lambda: None,
            plan={},
        )

    client = make_client(Queued())
    names = ("waiting", "waiting_tokens", "batches_total", "works_total", "abandoned_total")
    assert [value(client, f"rh_scheduler_{name}") for name in names] == [1, 20, 3, 4, 5]
    assert value(make_client(), "rh_scheduler_waiting") is None


def test_the_device_tells_its_memory(make_client: ClientFactory) -> None:
    class OnDevice(StandIn):
        """A stand-in with a reader whose LLM runs on an accelerator."""

        reader = SimpleNamespace(
            statistics=lambda: None,
            lookups=dict,
            scheduler_statistics=lambda: None,
            device_statistics=lambda: DeviceStatistics("NVIDIA H100", 10, 80, 40, 7, 30, 9, 2),
            close=lambda: None,
            plan={},
        )

    client = make_client(OnDevice())
    assert value(client, "rh_device_info", device="NVIDIA H100") == 1
    names = ("memory_free", "memory_total", "memory_process", "cache", "cache_limit", "pinned")
    assert [value(client, f"rh_device_{name}_bytes") for name in names] == [10, 80, 40, 7, 30, 9]
    assert value(client, "rh_device_shortages_total") == 2
    # Without a device, nothing is told of one.
    assert "rh_device" not in make_client(StandIn()).get("/metrics").text


def test_the_queue_tells_its_places(make_client: ClientFactory, settings: Settings) -> None:
    client = make_client()
    assert value(client, "rh_queue_limit") == settings.serve.max_queue
    assert value(client, "rh_queue_length") == 0


def test_the_document_cache_tells_its_counts(make_client: ClientFactory) -> None:
    class Cached(StandIn):
        """A stand-in with a reader whose cache has a disk level or none."""

        def __init__(self, counts: CacheStatistics) -> None:
            super().__init__()
            self.reader = SimpleNamespace(
                statistics=lambda: counts,
                lookups=dict,
                scheduler_statistics=lambda: None,
                device_statistics=lambda: None,
                close=lambda: None,
                plan={},
            )

    memory = CacheStatistics(5, 4, 3, 2, 360, 1_000, 2_000)
    disk = replace(
        memory,
        disk_hits=11,
        disk_evictions=12,
        disk_entries=13,
        disk_bytes=14,
        disk_limit=15,
        disk_damaged=16,
        disk_unwritten=17,
    )
    client = make_client(Cached(disk))
    assert value(client, "rh_cache_entries") == 2
    assert value(client, "rh_cache_bytes") == 1_000
    assert value(client, "rh_cache_limit_bytes") == 2_000
    assert value(client, "rh_cache_evictions_total") == 3
    assert value(client, "rh_disk_cache_hits_total") == 11
    assert value(client, "rh_disk_cache_evictions_total") == 12
    assert value(client, "rh_disk_cache_entries") == 13
    assert value(client, "rh_disk_cache_bytes") == 14
    assert value(client, "rh_disk_cache_limit_bytes") == 15
    assert value(client, "rh_disk_cache_damaged_total") == 16
    assert value(client, "rh_disk_cache_unwritten_total") == 17
    # Without a disk level there is nothing to tell of it; without a cache, nothing at all.
    client = make_client(Cached(memory))
    assert value(client, "rh_cache_entries") == 2 and value(client, "rh_disk_cache_hits_total") is None
    assert value(make_client(), "rh_cache_entries") is None


def test_counts_of_a_real_cache(reranker: Reranker, make_client: ClientFactory) -> None:
    client = make_client(reranker)
    entries = value(client, "rh_cache_entries")
    assert entries == reranker.reader.statistics().entries and entries >= 3


def test_look_ups_of_every_real_cache(reranker: Reranker, make_client: ClientFactory) -> None:
    client = make_client(reranker)
    counts = dict(reranker.reader.lookups())
    assert {"memory", "texts", "prefixes", "tails"} <= set(counts)
    for cache, (hits, misses) in counts.items():
        assert value(client, "rh_cache_lookups_total", cache=cache, result="hit") == hits
        assert value(client, "rh_cache_lookups_total", cache=cache, result="miss") == misses
    # The reranker is shared by tests; what this request adds is its own.
    body = {"query": "hit rates", "documents": ["A text of hit rates alone.", "Another text of hit rates."]}
    answer = client.post("/v1/rerank", json=body)
    assert answer.status_code == 200 and answer.headers["x-reranked"] == "true"
    assert client.post("/v1/rerank", json={**body, "query": "other words"}).status_code == 200
    after = reranker.reader.lookups()
    for cache in ("memory", "texts"):
        assert after[cache].misses - counts[cache].misses == 2
        assert after[cache].hits - counts[cache].hits == 2
        assert value(client, "rh_cache_lookups_total", cache=cache, result="hit") == after[cache].hits
    assert value(make_client(), "rh_cache_lookups_total", cache="memory", result="hit") is None


def test_counts_of_a_real_scheduler(reranker: Reranker, make_client: ClientFactory) -> None:
    client = make_client(reranker)
    counts = reranker.reader.scheduler_statistics()
    assert value(client, "rh_scheduler_batches_total") == counts.batches >= 1
    assert value(client, "rh_scheduler_waiting") == 0
