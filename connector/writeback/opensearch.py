"""Install, look at and remove a search pipeline with all that it needs in an OpenSearch cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from connector.engines.cluster.connection import ClusterError, Connection
from connector.errors import EngineError
from connector.writeback.calls import Call, without_key
from connector.writeback.deployment import MODELS, Deployment
from connector.writeback.search_pipeline import PipelinePlan
from connector.writeback.settings_record import PREFIX, SettingsRecord

__all__ = ["Found", "OpenSearchPipeline"]

_ML = "/_plugins/_ml"
_DEFAULT = "index.search.default_pipeline"
_DEPLOY_SECONDS = 30.0
_FLAT = {"flat_settings": "true"}
# What a connector is compared by; the cluster adds times and ids of its own, and hides the credential.
_COMPARED = ("parameters", "client_config", "actions")


@dataclass(frozen=True, slots=True)
class Found:
    """What of an installation is in the cluster.

    Attributes:
        settings: all cluster settings, flat; transient wins over persistent over default.
        persistent: those of them that somebody set to last.
        record: what the installation changed: setting or index -> value before, None where there was none.
        connector, model, group: (id, body); None where missing.
        pipeline: its body, whoever made it.
        indices: indices whose default pipeline it is.
    """

    settings: Mapping[str, Any]
    persistent: Mapping[str, Any]
    transient: Mapping[str, Any]
    record: SettingsRecord | None
    connector: tuple[str, Mapping[str, Any]] | None
    model: tuple[str, Mapping[str, Any]] | None
    group: tuple[str, Mapping[str, Any]] | None
    pipeline: Mapping[str, Any] | None
    indices: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Nothing of it is there."""
        ours = (self.record, self.connector, self.model, self.group)
        return all(part is None for part in ours) and self.pipeline is None


@dataclass
class OpenSearchPipeline:
    """One installation, by its name.

    Args:
        connection: to the cluster.
        plan: what is wanted.
        key: the service's key, or any text where it has none: ML Commons refuses an empty credential.
        told: called with each call before it is sent.
    """

    connection: Connection
    plan: PipelinePlan
    key: str = "none"
    told: Callable[[Call], None] = field(default=lambda call: None)

    def find(self) -> Found:
        """Look at the cluster.

        Raises:
            ClusterError: it cannot be asked.
        """
        self.connection.version  # noqa: B018  a wrong product or release is told first
        answer = self.connection.request(
            "GET", "/_cluster/settings", params={"include_defaults": "true", "flat_settings": "true"}
        )
        persistent, transient = answer["persistent"], answer["transient"]
        record = persistent.get(PREFIX + self.plan.name)
        name = self.plan.name
        pipelines = self._get(f"/_search/pipeline/{name}") or {}
        indices = self._get("/_all/_settings", {"flat_settings": "true", "expand_wildcards": "all"}) or {}
        return Found(
            {**answer["defaults"], **persistent, **transient},
            persistent,
            transient,
            None if record is None else SettingsRecord.read(record),
            self._named("connectors"),
            self._named("models"),
            self._named("model_groups"),
            pipelines.get(name),
            tuple(sorted(i for i, about in indices.items() if about["settings"].get(_DEFAULT) == name)),
        )

    def calls(self, found: Found, default_for: str | None = None) -> Iterator[Call]:
        """The calls that are missing, in their order; ids of what does not exist yet stand as shell variables."""
        plan = self.plan
        if found.pipeline is not None and not self._is_ours(found.pipeline):
            raise EngineError(
                f"there is a search pipeline {plan.name} that rh-connector did not make; "
                "choose another writeback.name"
            )
        yield from self._settings_calls(found, default_for)
        connector, model = "$CONNECTOR_ID", "$MODEL_ID"
        remade = found.connector is not None and self._connector_drift(found) != []
        if found.connector is None:
            gives = ("CONNECTOR_ID", "connector_id")
            yield Call("POST", f"{_ML}/connectors/_create", plan.connector(), "connector to the service", gives)
        else:
            connector = found.connector[0]
            if remade:
                yield from self._connector_update(found)
        group = "$GROUP_ID" if found.group is None else found.group[0]
        if found.group is None:
            gives = ("GROUP_ID", "model_group_id")
            yield Call("POST", f"{_ML}/model_groups/_register", plan.group(), "group of the model", gives)
        if found.model is None:
            yield Call(
                "POST",
                f"{MODELS}/_register?deploy=true",
                plan.model(connector, group),
                "remote model, deployed",
                ("MODEL_ID", "model_id"),
            )
        else:
            model = found.model[0]
            if remade or found.model[1].get("model_state") != "DEPLOYED":
                yield Call("POST", f"{MODELS}/{model}/_deploy", None, "deploy the model")
        wanted = plan.pipeline(model)
        if wanted is not None and found.pipeline != wanted:
            yield Call("PUT", f"/_search/pipeline/{plan.name}", wanted, "search pipeline")
        if default_for is not None and default_for not in found.indices:
            body = {_DEFAULT: plan.name}
            yield Call("PUT", f"/{quote(default_for)}/_settings", body, f"default pipeline of {default_for}")

    def install(self, default_for: str | None = None) -> list[Call]:
        """Make what is missing or differs; what a failed first installation made is removed again.

        Returns:
            The calls that were sent.

        Raises:
            ClusterError: the cluster refuses a call.
            EngineError: the name is taken.
        """
        found = self.find()
        calls = list(self.calls(found, default_for))
        sent: list[Call] = []
        known: dict[str, str] = {}
        try:
            for call in calls:
                call = _filled(call, known)
                answer = self._send(call)
                sent.append(call)
                if call.gives is not None:
                    known[call.gives[0]] = str(answer[call.gives[1]])
            if calls:
                self._wait_until_deployed()
        except BaseException as error:
            if found.is_empty and sent:
                self._roll_back(error)
            raise
        return sent

    def renew_key(self) -> None:
        """Give the connector the present key; it cannot be compared, because the cluster does not show it.

        Raises:
            ClusterError: the cluster refuses.
        """
        found = self.find()
        assert found.connector and found.model
        for call in (*self._connector_update(found), Call("POST", f"{MODELS}/{found.model[0]}/_deploy")):
            self._send(call)
        self._wait_until_deployed()

    def uninstall(self) -> list[Call]:
        """Remove exactly what was installed, in the reverse order; what is not there is passed over.

        Returns:
            The calls that were sent.
        """
        found = self.find()
        sent: list[Call] = []
        for call in self.removal(found):
            try:
                self._send(call)
            except ClusterError as error:
                if error.status != 404:
                    raise
            sent.append(call)
        return sent

    def removal(self, found: Found) -> Iterator[Call]:
        """The calls that remove it."""
        indices = {} if found.record is None else found.record.indices
        for index in found.indices:
            why = f"default pipeline of {index} as before"
            yield Call("PUT", f"/{quote(index)}/_settings", {_DEFAULT: indices.get(index)}, why)
        if found.pipeline is not None and self._is_ours(found.pipeline):
            yield Call("DELETE", f"/_search/pipeline/{self.plan.name}", None, "search pipeline")
        if found.model is not None:
            yield Call("POST", f"{MODELS}/{found.model[0]}/_undeploy", None, "undeploy the model")
            yield Call("DELETE", f"{MODELS}/{found.model[0]}", None, "model")
        if found.group is not None:
            yield Call("DELETE", f"{_ML}/model_groups/{found.group[0]}", None, "group of the model")
        if found.connector is not None:
            yield Call("DELETE", f"{_ML}/connectors/{found.connector[0]}", None, "connector")
        if found.record is not None:
            back = found.record.undone(self.plan.name, found.persistent)
            yield Call("PUT", "/_cluster/settings", {"persistent": back}, "settings as before")

    def drift(self, found: Found, default_for: str | None = None) -> list[str]:
        """What differs from the plan, in words; empty: nothing."""
        if found.is_empty:
            return ["nothing is installed"]
        return [call.why for call in self.calls(found, default_for)]

    def statistics(self) -> dict[str, int]:
        """How often the reranking processor ran and failed, over all nodes since they started."""
        answer = self.connection.request("GET", "/_nodes/stats/search_pipeline")
        totals = {"count": 0, "failed": 0}
        for node in answer["nodes"].values():
            about = node["search_pipeline"]["pipelines"].get(self.plan.name, {})
            for processor in about.get("response_processors", []):
                for name, stats in processor.items():
                    # ml_inference's own counters are wrong under ignore_failure.
                    if name.startswith("rerank"):
                        totals = {key: totals[key] + int(stats["stats"][key]) for key in totals}
        return totals

    def _settings_calls(self, found: Found, default_for: str | None) -> Iterator[Call]:
        nodes = self.connection.request("GET", "/_nodes", params={"filter_path": "nodes.*.roles"})
        has_ml_nodes = any("ml" in node.get("roles", ()) for node in nodes["nodes"].values())
        needed = self.plan.settings_needed(found.settings, has_ml_nodes)
        for key in needed:
            if key in found.transient:
                raise EngineError(
                    f"the cluster's transient setting {key} = {found.transient[key]} forbids what is needed; "
                    f"remove it or set it to {json.dumps(needed[key])}"
                )
        record = SettingsRecord() if found.record is None else deepcopy(found.record)
        for key in needed:
            record.settings.setdefault(key, (found.persistent.get(key), found.settings.get(key)))
        lists = {key: value for key, value in needed.items() if isinstance(value, list)}
        added = [entry for key, own in lists.items() for entry in own if entry not in (found.settings.get(key) or [])]
        record.patterns = list(dict.fromkeys([*record.patterns, *added]))
        if default_for is not None and default_for not in (*record.indices, *found.indices):
            about = self.connection.request("GET", f"/{quote(default_for)}/_settings", params=_FLAT)
            record.indices |= {index: inner["settings"].get(_DEFAULT) for index, inner in about.items()}
        if found.record != record:
            body = {"persistent": {**needed, PREFIX + self.plan.name: record.to_text()}}
            yield Call("PUT", "/_cluster/settings", body, "cluster settings: " + (", ".join(needed) or "own record"))

    def _connector_drift(self, found: Found) -> list[str]:
        assert found.connector is not None
        wanted, there = self.plan.connector(), found.connector[1]
        return [part for part in _COMPARED if not _holds(there.get(part), wanted[part])]

    def _connector_update(self, found: Found) -> Iterator[Call]:
        assert found.connector is not None
        if found.model is not None:
            # A connector of a deployed model cannot be changed.
            yield Call("POST", f"{MODELS}/{found.model[0]}/_undeploy", None, "undeploy the model")
        yield Call("PUT", f"{_ML}/connectors/{found.connector[0]}", self.plan.connector(), "connector to the service")

    def _named(self, kind: str) -> tuple[str, Mapping[str, Any]] | None:
        body = {"query": {"match": {"name": self.plan.mark}}, "size": 100}
        answer = self._post(f"{_ML}/{kind}/_search", body)
        for hit in (answer or {}).get("hits", {}).get("hits", []):
            if hit["_source"].get("name") == self.plan.mark:
                # The search index lags behind by its refresh; the thing itself does not.
                about = self._get(f"{_ML}/{kind}/{hit['_id']}") if kind != "model_groups" else hit["_source"]
                if about is not None:
                    return hit["_id"], about
        return None

    def _wait_until_deployed(self) -> None:
        until = time.monotonic() + _DEPLOY_SECONDS
        state: Any = "missing"
        while time.monotonic() < until:
            found = self._named("models")
            state = "missing" if found is None else found[1].get("model_state")
            if state == "DEPLOYED":
                return
            time.sleep(0.2)
        raise ClusterError(f"the model {self.plan.mark} stays {state}; look at the cluster's log")

    def _roll_back(self, reason: BaseException) -> None:
        try:
            self.uninstall()
        except EngineError as error:
            # The first error is what the user must mend; this one comes along.
            reason.args = (
                f"{reason}; what had been made was not all removed ({error}): run rh-connector pipeline uninstall",
                *reason.args[1:],
            )

    def _is_ours(self, pipeline: Mapping[str, Any]) -> bool:
        return str(pipeline.get("description", "")).startswith(f"{self.plan.mark}:")

    def _send(self, call: Call) -> Any:
        self.told(call)
        try:
            if call.path.startswith(MODELS) and call.path.endswith("/_undeploy"):
                return Deployment(self.connection, call.path.split("/")[-2]).undeploy()
            return call.send(self.connection, self.key)
        except ClusterError as error:
            message = without_key(f"{call.why}: {error}", self.key)
            if "Invalid processor type oversample" in message:
                message += "; this cluster lacks the module search-pipeline-common: leave --oversample out"
            raise ClusterError(message, error.status, error.body) from None

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        try:
            return self.connection.request("GET", path, params=params)
        except ClusterError as error:
            if error.status != 404:
                raise
            return None

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            return self.connection.request("POST", path, body)
        except ClusterError as error:
            if error.status != 404:
                raise
            return None


def _filled(call: Call, known: Mapping[str, str]) -> Call:
    text, path = json.dumps(call.body), call.path
    for name, value in known.items():
        text, path = text.replace(f"${name}", value), path.replace(f"${name}", value)
    return Call(call.method, path, json.loads(text), call.why, call.gives)


def _holds(there: Any, wanted: Any) -> bool:
    """``there`` has all that is wanted; the cluster adds fields and writes numbers its own way."""
    if isinstance(wanted, Mapping):
        return isinstance(there, Mapping) and all(_holds(there.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(_holds, there, wanted))
    # PREDICT for predict, 30 for "30".
    return str(there).lower() == str(wanted).lower()
