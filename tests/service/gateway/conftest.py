"""The application in front of a cluster that is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from connector.cancelling import CancelScope
from connector.documents import FirstStage, RankedHit, RerankResult
from connector.sections import Settings
from connector.settings import load_settings
from tests.service.gateway.fake_cluster import FakeCluster, running_cluster
from tests.service.standin import StandIn

GatewayFactory = Callable[..., TestClient]


def gateway_settings(url: str, options: dict[str, Any] | None = None, kind: str = "opensearch") -> Settings:
    """Settings of a gateway in front of ``url``; ``options``: dotted keys."""
    chosen = {"engine.kind": kind, "engine.url": url, "serve.at_once": 1, **(options or {})}
    return load_settings(options=chosen, environment={})


def shuffling() -> StandIn:
    """A reranker whose order has nothing to do with the cluster's, and is always the same."""

    def behaviour(query: str, documents: Sequence[Any], first_stage: FirstStage, scope: CancelScope) -> RerankResult:
        def score(at: int) -> float:
            digest = hashlib.sha256(f"{query}\n{documents[at]}".encode("utf-8", "replace")).digest()
            return int.from_bytes(digest[:4]) / 2**32

        order = sorted(range(len(documents)), key=lambda at: -score(at))
        return RerankResult(tuple(RankedHit(at, score(at), score(at)) for at in order), True)

    return StandIn(behaviour)


@pytest.fixture(scope="module")
def _cluster() -> Iterator[FakeCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: FakeCluster) -> FakeCluster:
    """A cluster without hits that has not been asked anything."""
    fresh = FakeCluster()
    for name, value in vars(fresh).items():
        if name != "url":
            setattr(_cluster, name, value)
    return _cluster


@pytest.fixture
def make_gateway(make_client: Callable[..., TestClient], cluster: FakeCluster) -> GatewayFactory:
    """Makes clients of gateways in front of ``cluster``."""

    def make(
        options: dict[str, Any] | None = None, *, reranker: Any = None, kind: str = "opensearch", ready: bool = True
    ) -> TestClient:
        return make_client(reranker, settings=gateway_settings(cluster.url, options, kind), ready=ready)

    return make
