"""Install, look at and remove an inference endpoint in Elasticsearch that reranks with our service.

No server with ``_inference`` could be had: see docs/elasticsearch.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from connector.engines.cluster.connection import ClusterError, Connection, ServerVersion
from connector.errors import EngineError
from connector.golden import GOLDEN_DOCUMENTS, GOLDEN_QUERY
from connector.writeback.calls import Call, without_key
from connector.writeback.inference_endpoint import InferencePlan, Service

__all__ = ["ElasticsearchEndpoint"]

# The first releases whose hugging_face and custom services rerank at a URL of one's own.
_FIRST = {8: 19, 9: 1}


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
            # 401 is about our own credentials here, not about the service's key.
            raise (error if error.status == 401 else _explained(error)) from None
        return next((dict(one) for one in answer.get("endpoints", []) if one["inference_id"] == self.plan.name), None)

    def calls(self, found: Mapping[str, Any] | None) -> Iterator[Call]:
        """The calls that are missing; an endpoint's URL cannot be changed, only made anew.

        Raises:
            EngineError: the name is taken by an endpoint that is not ours.
        """
        if found is None:
            yield self._creation(found)
            return
        if not self.plan.is_ours(found):
            raise EngineError(
                f"there is an inference endpoint {self.plan.name} that rh-connector did not make; "
                "choose another writeback.name"
            )
        if self.plan.differences(found):
            yield from self._renewal(found)

    def drift(self, found: Mapping[str, Any] | None) -> list[str]:
        """What differs from the plan, in words; empty: nothing."""
        return ["nothing is installed"] if found is None else self.plan.differences(found)

    def removal(self, found: Mapping[str, Any] | None) -> Iterator[Call]:
        """The calls that remove it; none where there is none of ours."""
        if found is not None and self.plan.is_ours(found):
            yield Call("DELETE", self.plan.path, None, "inference endpoint")

    def install(self) -> list[Call]:
        """Make what is missing or differs, and prove that it works; Elasticsearch calls the service meanwhile.

        Returns:
            The calls that were sent.

        Raises:
            EngineError: the cluster or the service refuses; an endpoint that was not there before is removed again.
        """
        found = self.find()
        calls = list(self.calls(found))
        try:
            self._send_all(calls)
            self.prove()
        except ClusterError as error:
            if found is None:
                self._removed_again()
            if error.status != 401 or found is None or calls:
                raise
            # The cluster does not show the key that it has: a refusal is how a changed one is noticed.
            calls = list(self._renewal(found))
            self._send_all(calls)
            self.prove()
        except BaseException:
            if found is None:
                self._removed_again()
            raise
        return calls

    def uninstall(self) -> list[Call]:
        """Remove it. Returns the calls that were sent."""
        calls = list(self.removal(self.find()))
        self._send_all(calls)
        return calls

    def prove(self) -> list[float]:
        """Two documents through the cluster to the service and back: their scores.

        Raises:
            EngineError: it does not work.
        """
        body = {"query": GOLDEN_QUERY, "input": list(GOLDEN_DOCUMENTS[:2])}
        answer = self._send(Call("POST", self.plan.path, body, "two documents through the endpoint"))
        scores = {int(entry["index"]): float(entry["relevance_score"]) for entry in answer["rerank"]}
        if sorted(scores) != [0, 1]:
            raise EngineError(f"the endpoint {self.plan.name} gave {len(scores)} scores for two documents")
        return [scores[0], scores[1]]

    def _creation(self, found: Mapping[str, Any] | None) -> Call:
        kept = None if found is None else cast(Service, found.get("service"))
        wanted = replace(self.plan, service=self.plan.service or kept or "hugging_face")
        return Call("PUT", self.plan.path, wanted.endpoint(), "inference endpoint")

    def _renewal(self, found: Mapping[str, Any]) -> Iterator[Call]:
        yield from self.removal(found)
        yield self._creation(found)

    def _removed_again(self) -> None:
        try:
            self.uninstall()
        except EngineError:
            # What failed before says more.
            return

    def _send_all(self, calls: list[Call]) -> None:
        removed = False
        for call in calls:
            try:
                self._send(call)
            except ClusterError as error:
                if not removed:
                    raise
                raise ClusterError(
                    f"{error}. The old endpoint is removed already: searches that allow failures keep the "
                    "first-stage order until pipeline install works",
                    error.status,
                ) from None
            removed = removed or call.method == "DELETE"

    def _send(self, call: Call) -> Any:
        self.told(call)
        try:
            return call.send(self.connection, self.key)
        except ClusterError as error:
            # Quoted in JSON the key looks otherwise.
            said = without_key(without_key(str(error), json.dumps(self.key)[1:-1]), self.key)
            raise _explained(ClusterError(said, error.status)) from None


def _check(version: ServerVersion) -> None:
    if version.minor < _FIRST.get(version.major, 0):
        raise EngineError(
            f"Elasticsearch {version} cannot call a reranker at a URL of one's own (8.19 and 9.1 can); "
            "put the gateway in front of it: docs/gateway.md"
        )


def _explained(error: ClusterError) -> ClusterError:
    said = str(error)
    gateway = "; the gateway works without: docs/gateway.md"
    if "no handler found" in said or error.status == 405:
        mend = f"this Elasticsearch has no inference API (it needs an Enterprise or trial licence){gateway}"
    elif error.status == 403 or "non-compliant" in said:
        mend = f"inference endpoints need an Enterprise or trial licence and the privilege manage_inference{gateway}"
    elif error.status == 409:
        mend = "something uses the endpoint; take it out there first, then do this again"
    elif error.status == 401:
        mend = "the key is wrong; give serve.api_keys here as the service has it, then run pipeline install"
    elif "being loaded" in said:
        mend = "the service is loading its model; try again in some seconds"
    elif error.status is not None and "onnect" in said:
        mend = f"the cluster must reach writeback.service_url while the endpoint is made{gateway}"
    else:
        return error
    return ClusterError(f"{said}; {mend}", error.status)
