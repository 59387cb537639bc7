"""The request and answer shapes of the rerank APIs that clients already speak, one module a family."""

from __future__ import annotations

from connector.service.dialects.cohere import RerankV1Request, RerankV2Request, VoyageRerankRequest
from connector.service.dialects.explain import ExplainRequest
from connector.service.dialects.request import DialectRequest, read_request
from connector.service.dialects.score import ScoreRequest
from connector.service.dialects.scores import RerankScoresRequest
from connector.service.dialects.tei import TeiRerankRequest
from connector.service.dialects.vllm import InfinityRerankRequest, VllmRerankRequest, WeaviateRerankRequest

__all__ = [
    "DialectRequest",
    "InfinityRerankRequest",
    "ExplainRequest",
    "RerankScoresRequest",
    "RerankV1Request",
    "RerankV2Request",
    "ScoreRequest",
    "TeiRerankRequest",
    "VllmRerankRequest",
    "VoyageRerankRequest",
    "WeaviateRerankRequest",
    "read_request",
]
