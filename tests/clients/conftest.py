"""The service that the clients call, and what they should get from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from tests.clients.live_service import KEY, serving_process

# They would ask hosts of their makers: for prices of models, for tokenizers, with counts of use.
os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True", HF_HUB_OFFLINE="1", HAYSTACK_TELEMETRY_ENABLED="False", TIKTOKEN_CACHE_DIR=""
)

QUERY = "How long do cats sleep?"


@dataclass(frozen=True, slots=True)
class Service:
    """A service that is ready.

    Attributes:
        url: without a slash at its end.
        key: one that it accepts.
        query: what the clients ask.
        texts: the documents that they send.
        scores: of the texts, as a plain request gets them.
    """

    url: str
    key: str
    query: str
    texts: list[str]
    scores: list[float]

    @property
    def order(self) -> list[int]:
        """Places of the texts, best first."""
        return sorted(range(len(self.texts)), key=lambda place: -self.scores[place])

    def check(self, found: list[tuple[int, float]], count: int | None = None) -> None:
        """Fail unless these are the best ``count`` (None: all) places with their scores."""
        wanted = [(place, pytest.approx(self.scores[place], rel=1e-4)) for place in self.order[:count]]
        assert found == wanted


@pytest.fixture(scope="session")
def service_url() -> Iterator[str]:
    """URL of a live service with a key."""
    with serving_process() as url:
        yield url


@pytest.fixture
def service(service_url: str, cats: list[str]) -> Service:
    """The service, five texts, and their scores."""
    answer = httpx2.post(
        f"{service_url}/v1/rerank_scores",
        json={"query": QUERY, "documents": cats},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=60,
    )
    scores = answer.raise_for_status().json()["scores"]
    assert max(range(5), key=lambda place: scores[place]) == 2, "the text that answers"
    return Service(service_url, KEY, QUERY, cats, scores)
