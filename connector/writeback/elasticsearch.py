"""Install, look at and remove an inference endpoint in Elasticsearch that reranks with our service.

Forms: ``put_hugging_face`` of the Elasticsearch specification; ``HuggingFaceRerankRequestEntity`` and
``TextSimilarityRankRetrieverBuilder`` of its source. No server with ``_inference`` could be had: see docs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from connector.engines.connection import ClusterError, Connection, ServerVersion
from connector.errors import EngineError, SettingsError
from connector.settings import Settings
from connector.writeback.calls import KEY, Call, without_key

__all__ = ["ElasticsearchEndpoint", "InferencePlan"]

# The first releases whose hugging_face service reranks at a URL of one's own.
_FIRST = {8: 19, 9: 1}
_DOCUMENTS = ["Bread is made of flour.", "A healthy adult cat sleeps between twelve and sixteen hours a day."]


@dataclass(frozen=True, slots=True)
class InferencePlan:
    """What is wanted: the endpoint's id, the service's URL as the cluster sees it, the field, the window."""

    name: str
    service_url: str
    field: str
    window: int = 20

    @classmethod
    def of(cls, settings: Settings) -> InferencePlan:
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
        return cls(settings.writeback.name, url.rstrip("/"), fields[0], settings.rerank.window)

    @property
    def path(self) -> str:
        """Of the endpoint."""
        return f"/_inference/rerank/{self.name}"

    def endpoint(self) -> dict[str, Any]:
        """Body of its PUT. No top_n: fewer scores than texts fail the search."""
        service = {"api_key": KEY, "url": f"{self.service_url}/rerank", "rate_limit": {"requests_per_minute": 3000}}
        return {
            "service": "hugging_face",
            "service_settings": service,
            "task_settings": {"return_documents": False},
        }

    def retriever(self, query: str) -> dict[str, Any]:
        """A search that is reranked; a failure gives the first-stage order."""
        first = {"standard": {"query": {"match": {self.field: query}}}}
        reranker = {
            "retriever": first,
            "field": self.field,
            "inference_id": self.name,
            "inference_text": query,
            "rank_window_size": self.window,
            "allow_rerank_failures": True,
        }
        return {"retriever": {"text_similarity_reranker": reranker}, "size": min(10, self.window)}

    def weighted(self, query: str) -> dict[str, Any]:
        """The same, fused with the first stage, which the service is not told."""
        parts = [{"standard": {"query": {"match": {self.field: query}}}}, self.retriever(query)["retriever"]]
        linear = [{"retriever": part, "weight": 1.0, "normalizer": "minmax"} for part in parts]
        return {
            "retriever": {"linear": {"retrievers": linear, "rank_window_size": self.window}},
            "size": min(10, self.window),
        }


@dataclass
class ElasticsearchEndpoint:
    """One installation, by its name.

    Args:
        connection: to the cluster.
        plan: what is wanted.
        key: the service's key, or any text where it has none.
        told: called with each call before it is sent.
    """

    connection: Connection
    plan: InferencePlan
    key: str = "none"
    told: Callable[[Call], None] = field(default=lambda call: None)

    def find(self) -> Mapping[str, Any] | None:
        """The endpoint of that name, whoever made it; None: there is none.

        Raises:
            EngineError: this Elasticsearch cannot have one; the message says what else works.
        """
        _check(self.connection.version)
        try:
            answer = self.connection.request("GET", self.plan.path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise _explained(error) from None
        return next((dict(one) for one in answer.get("endpoints", []) if one["inference_id"] == self.plan.name), None)

    def calls(self, found: Mapping[str, Any] | None) -> Iterator[Call]:
        """The calls that are missing; an endpoint's URL cannot be changed, only made anew.

        Raises:
            EngineError: the name is taken by an endpoint that is not ours.
        """
        if found is not None:
            if not self._is_ours(found):
                raise EngineError(
                    f"there is an inference endpoint {self.plan.name} that rh-connector did not make; "
                    "choose another writeback.name"
                )
            if _url(found) == f"{self.plan.service_url}/rerank":
                return
            yield from self.removal(found)
        yield Call("PUT", self.plan.path, self.plan.endpoint(), "inference endpoint")

    def removal(self, found: Mapping[str, Any] | None) -> Iterator[Call]:
        """The calls that remove it; none where there is none of ours."""
        if found is not None and self._is_ours(found):
            yield Call("DELETE", self.plan.path, None, "inference endpoint")

    def install(self) -> list[Call]:
        """Make what is missing or differs. Elasticsearch calls the service while it makes the endpoint.

        Returns:
            The calls that were sent.

        Raises:
            EngineError: the cluster or the service refuses; a new endpoint is not left behind.
        """
        calls = list(self.calls(self.find()))
        for call in calls:
            self._send(call)
        return calls

    def uninstall(self) -> list[Call]:
        """Remove it. Returns the calls that were sent."""
        calls = list(self.removal(self.find()))
        for call in calls:
            self._send(call)
        return calls

    def prove(self) -> list[float]:
        """Two documents through the cluster to the service and back: their scores.

        Raises:
            EngineError: it does not work.
        """
        body = {"query": "How long do cats sleep?", "input": _DOCUMENTS}
        answer = self._send(Call("POST", self.plan.path, body, "two documents through the endpoint"))
        scores = {int(entry["index"]): float(entry["relevance_score"]) for entry in answer["rerank"]}
        if sorted(scores) != [0, 1]:
            raise EngineError(f"the endpoint {self.plan.name} gave {len(scores)} scores for two documents")
        return [scores[0], scores[1]]

    def _is_ours(self, found: Mapping[str, Any]) -> bool:
        # Endpoints have no description; a rerank endpoint at a /rerank of one's own is what we make.
        return found.get("service") == "hugging_face" and _url(found).endswith("/rerank")

    def _send(self, call: Call) -> Any:
        self.told(call)
        try:
            return call.send(self.connection, self.key)
        except ClusterError as error:
            raise _explained(ClusterError(without_key(str(error), self.key), error.status, error.body)) from None


def _url(found: Mapping[str, Any]) -> str:
    return str(found.get("service_settings", {}).get("url", ""))


def _check(version: ServerVersion) -> None:
    if version.minor < _FIRST.get(version.major, 0):
        raise EngineError(
            f"Elasticsearch {version} cannot call a reranker at a URL of one's own (8.19 and 9.1 can); "
            "put the gateway in front of it: docs/gateway.md"
        )


def _explained(error: ClusterError) -> EngineError:
    said = str(error)
    if error.status == 403 or "non-compliant" in said:
        mend = "inference endpoints need an Enterprise or trial licence and the privilege manage_inference"
    elif "no handler found" in said or error.status == 405:
        mend = "this Elasticsearch has no inference API"
    elif "onnect" in said:
        mend = "the cluster must reach writeback.service_url while the endpoint is made"
    else:
        return error
    return EngineError(f"{said}; {mend}; the gateway works without: docs/gateway.md")
