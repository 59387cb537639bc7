"""The bodies that Elasticsearch is given: inference endpoint, and example searches.

Forms: ``put_hugging_face`` and ``put_custom`` of the Elasticsearch specification; ``HuggingFaceRerankRequestEntity``,
``CustomServiceSettings`` and ``TextSimilarityRankRetrieverBuilder`` of its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from connector.errors import SettingsError
from connector.sections import Settings
from connector.writeback.calls import KEY

__all__ = ["InferencePlan", "Service"]

Service = Literal["hugging_face", "custom"]

_PATHS: Mapping[str, str] = {"hugging_face": "/rerank", "custom": "/v2/rerank"}
_TASK = {"return_documents": False}
# A search is one request, and the service itself says when it is too much. Nobody else sets it so: our mark.
_LIMIT = {"requests_per_minute": 60_000}
# Its names of texts and query; an unquoted placeholder becomes JSON.
_REQUEST = '{"documents": ${input}, "query": ${query}, "model": "rh"}'


@dataclass(frozen=True, slots=True)
class InferencePlan:
    """All that an installation depends on.

    Attributes:
        name: the endpoint's id.
        service_url: of the service, as the cluster sees it.
        field: whose text is scored; the retriever takes one.
        window: how many hits of the first stage are reranked.
        service: Elasticsearch's way to call us; None: the one that is installed, else ``hugging_face``.
    """

    name: str
    service_url: str
    field: str
    window: int = 20
    service: Service | None = None

    @classmethod
    def of(cls, settings: Settings, service: Service | None = None) -> InferencePlan:
        """The plan that the settings ask for.

        Raises:
            SettingsError: what is needed is missing, or more than one field is named.
        """
        url = settings.writeback.service_url
        if url is None or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise SettingsError(
                f"writeback.service_url = {url}: give the URL of rh-connector serve as the cluster sees it, "
                f"as in http://10.0.0.7:8080"
            )
        fields = tuple(settings.engine.field_weights())
        if len(fields) != 1:
            raise SettingsError(
                f"engine.fields = {','.join(fields) or '(empty)'}: the retriever reads one field; name one, "
                "or put the gateway in front of the cluster"
            )
        return cls(settings.writeback.name, url.rstrip("/"), fields[0], settings.rerank.window, service)

    @classmethod
    def for_removal(cls, settings: Settings) -> InferencePlan:
        """Enough to remove it; neither the service's URL nor the field need be known any more."""
        return cls(settings.writeback.name, (settings.writeback.service_url or "").rstrip("/"), "text")

    @property
    def path(self) -> str:
        """Of the endpoint."""
        return f"/_inference/rerank/{self.name}"

    def differences(self, found: Mapping[str, Any]) -> list[str]:
        """What of an endpoint is not as planned, in words."""
        service, url = str(found.get("service")), _url(found)
        wanted = self.service or (service if service in _PATHS else "hugging_face")
        different = [] if service == wanted else [f"service is {service}, not {wanted}"]
        if url != self.service_url + _PATHS[wanted]:
            different.append(f"url is {url or '(none)'}, not {self.service_url}{_PATHS[wanted]}")
        return different

    def is_ours(self, found: Mapping[str, Any]) -> bool:
        """Whether this installation, or one with another URL, made it.

        Endpoints have no description, so it is told by what only this program sets just so.
        """
        service, url = str(found.get("service")), _url(found)
        if service not in _PATHS or not url.endswith(_PATHS[service]):
            return False
        if self.service_url and url == self.service_url + _PATHS[service]:
            return True
        settings = found.get("service_settings", {})
        if service == "custom":
            return bool(settings.get("request") == _REQUEST)
        return found.get("task_settings") == _TASK and settings.get("rate_limit") == _LIMIT

    def endpoint(self) -> dict[str, Any]:
        """Body of its PUT. No top_n: fewer scores than texts fail the search."""
        if self.service == "custom":
            results = {"reranked_index": "$.results[*].index", "relevance_score": "$.results[*].relevance_score"}
            custom = {
                "secret_parameters": {"api_key": KEY},
                "url": self.service_url + _PATHS["custom"],
                "headers": {"Authorization": "Bearer ${api_key}", "Content-Type": "application/json"},
                "request": _REQUEST,
                "response": {"json_parser": results},
                "rate_limit": dict(_LIMIT),
            }
            return {"service": "custom", "service_settings": custom}
        plain = {"api_key": KEY, "url": self.service_url + _PATHS["hugging_face"], "rate_limit": dict(_LIMIT)}
        return {"service": "hugging_face", "service_settings": plain, "task_settings": dict(_TASK)}

    def retriever(self, query: str, first_stage: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A search that is reranked; a failure gives the first-stage order.

        Args:
            query: what the LLM reads.
            first_stage: query clause; None: a match in the field.
        """
        reranker = {
            "retriever": self._standard(query, first_stage),
            "field": self.field,
            # Without it another reranker would be asked, and nobody told.
            "inference_id": self.name,
            "inference_text": query,
            "rank_window_size": self.window,
            "allow_rerank_failures": True,
        }
        return {"retriever": {"text_similarity_reranker": reranker}, "size": min(10, self.window)}

    def weighted(self, query: str, first_stage: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The same, fused with the first stage, which the service is not told."""
        parts = [self._standard(query, first_stage), self.retriever(query, first_stage)["retriever"]]
        linear = [{"retriever": part, "weight": 1.0, "normalizer": "minmax"} for part in parts]
        return {
            "retriever": {"linear": {"retrievers": linear, "rank_window_size": self.window}},
            "size": min(10, self.window),
        }

    def _standard(self, query: str, first_stage: Mapping[str, Any] | None) -> dict[str, Any]:
        clause = {"match": {self.field: query}} if first_stage is None else dict(first_stage)
        return {"standard": {"query": clause}}


def _url(found: Mapping[str, Any]) -> str:
    return str(found.get("service_settings", {}).get("url", ""))
