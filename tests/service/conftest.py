"""Clients of the service, with a stand-in for the reranker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from connector.sections import Settings
from connector.service.app import create_app
from connector.settings import load_settings
from tests.service.standin import StandIn
from tests.service.waiting import wait_until

ClientFactory = Callable[..., TestClient]


def service_settings(**options: Any) -> Settings:
    """Settings of the service alone; nothing of the machine, not even its number of cores."""
    chosen = {"at_once": 1, **options}
    return load_settings(options={f"serve.{name}": value for name, value in chosen.items()}, environment={})


@pytest.fixture
def make_client() -> Iterator[ClientFactory]:
    """Makes clients of the running application; ``ready=False`` does not wait for the model."""
    with ExitStack() as stack:

        def make(
            reranker: Any = None, *, ready: bool = True, settings: Settings | None = None, **options: Any
        ) -> TestClient:
            chosen = service_settings(**options) if settings is None else settings
            app: FastAPI = create_app(StandIn() if reranker is None else reranker, chosen)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            if ready:
                wait_until(lambda: app.state.loading.status == "ready")
            return client

        yield make


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    """A client of the application with all settings at their defaults."""
    return make_client()
