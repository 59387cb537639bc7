"""Install, look at and remove a search pipeline with all that it needs in an OpenSearch cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from connector.engines.cluster.connection import ClusterError, Connection
from connector.errors import EngineError
from connector.writeback import hosting
from connector.writeback.calls import Call, filled, without_files, without_key
from connector.writeback.deployment import MODELS, Deployment
from connector.writeback.search_pipeline import PipelinePlan
from connector.writeback.settings_record import PREFIX, SettingsRecord

__all__ = ["Found", "OpenSearchPipeline"]

_ML = "/_plugins/_ml"
_DEFAULT = "index.search.default_pipeline"
_DEPLOY_SECONDS = 30.0
_FLAT = {"flat_settings": "true"}
# What a connector is compared by; the cluster adds times and ids of its own, and hides the credential.
_UNVERIFIED = "skip_ssl_verification"
_COMPARED = ("parameters", "client_config", "actions")


@dataclass(frozen=True, slots=True)
class Found:
    """What of an installation is in the cluster.

    Attributes:
        settings: all cluster settings, flat; transient wins over persistent over default.
        persistent: those of them that somebody set to last.
        record: what the installation changed: setting or index -> value before, None where there was none.
        connector, model, group: (id, body); None where missing.
        pipeline: its body, where it is ours.
        defaults: index -> its default pipeline, where that is ours or one of ``hosts``.
        pipelines: all search pipelines of the cluster: name -> body.
        hosts: those of somebody else that hold our processors.
    """

    settings: Mapping[str, Any]
    persistent: Mapping[str, Any]
    transient: Mapping[str, Any]
    record: SettingsRecord | None
    connector: tuple[str, Mapping[str, Any]] | None
    model: tuple[str, Mapping[str, Any]] | None
    group: tuple[str, Mapping[str, Any]] | None
    pipeline: Mapping[str, Any] | None
    defaults: Mapping[str, str] = field(default_factory=dict)
    pipelines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()

    @property
    def indices(self) -> tuple[str, ...]:
        """Indices whose searches are reranked without naming a pipeline."""
        return tuple(sorted(self.defaults))

    @property
    def holding(self) -> dict[str, Mapping[str, Any]]:
        """The pipelines that hold our processors: name -> body."""
        return {name: body for name, body in self.pipelines.items() if body is self.pipeline or name in self.hosts}

    @property
    def is_empty(self) -> bool:
        """Nothing of it is there."""
        ours = (self.record, self.connector, self.model, self.group)
        return all(part is None for part in ours) and self.pipeline is None and not self.hosts


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
    _sent: list[Call] = field(default_factory=list, init=False)
    _fresh: bool = field(default=False, init=False)

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
        name, mark = self.plan.name, self.plan.mark
        pipelines = self._get("/_search/pipeline") or {}
        own = pipelines.get(name)
        own = own if own is not None and self._is_ours(own) else None
        hosts = tuple(sorted(n for n, body in pipelines.items() if body is not own and hosting.holds(body, mark)))
        indices = self._get("/_all/_settings", {"flat_settings": "true", "expand_wildcards": "all"}) or {}
        defaults = {index: about["settings"].get(_DEFAULT) for index, about in indices.items()}
        return Found(
            {**answer["defaults"], **persistent, **transient},
            persistent,
            transient,
            None if record is None else SettingsRecord.read(record),
            self._named("connectors"),
            self._named("models"),
            self._named("model_groups"),
            own,
            {index: default for index, default in defaults.items() if default in (name, *hosts)},
            pipelines,
            hosts,
        )

    def calls(self, found: Found, default_for: str | None = None) -> Iterator[Call]:
        """The calls that are missing, in their order; ids of what does not exist yet stand as shell variables."""
        plan = self.plan
        self._check_names(found)
        replaced = self._defaults(found, default_for)
        yield from self._settings_calls(found, replaced)
        connector, model = "$CONNECTOR_ID", "$MODEL_ID"
        remade = found.connector is not None and self._connector_drift(found) != []
        if found.connector is None:
            gives = ("CONNECTOR_ID", "connector_id")
            back = (Call("DELETE", f"{_ML}/connectors/$CONNECTOR_ID"),)
            body = self._connector()
            yield Call("POST", f"{_ML}/connectors/_create", body, "connector to the service", gives, back)
        else:
            connector = found.connector[0]
            if remade:
                yield from self._connector_update(found)
        group = "$GROUP_ID" if found.group is None else found.group[0]
        if found.group is None:
            gives = ("GROUP_ID", "model_group_id")
            back = (Call("DELETE", f"{_ML}/model_groups/$GROUP_ID"),)
            yield Call("POST", f"{_ML}/model_groups/_register", plan.group(), "group of the model", gives, back)
        if found.model is None:
            yield Call(
                "POST",
                f"{MODELS}/_register?deploy=true",
                plan.model(connector, group),
                "remote model, deployed",
                ("MODEL_ID", "model_id"),
                (Call("POST", f"{MODELS}/$MODEL_ID/_undeploy"), Call("DELETE", f"{MODELS}/$MODEL_ID")),
            )
        else:
            model = found.model[0]
            if remade or found.model[1].get("model_state") != "DEPLOYED":
                back = (Call("POST", f"{MODELS}/{model}/_undeploy"),)
                yield Call("POST", f"{MODELS}/{model}/_deploy", None, "deploy the model", None, back)
        yield from self._pipeline_calls(found, model)
        if default_for is not None and replaced:
            body = {_DEFAULT: plan.searched}
            undo = tuple(Call("PUT", f"/{quote(i)}/_settings", {_DEFAULT: was}) for i, was in replaced.items())
            why = f"default pipeline of {default_for}"
            yield Call("PUT", f"/{quote(default_for)}/_settings", body, why, None, undo)

    def install(self, default_for: str | None = None) -> list[Call]:
        """Make what is missing or differs; where a call fails, those before it are undone.

        Returns:
            The calls that were sent.

        Raises:
            ClusterError: the cluster refuses a call.
            EngineError: the name is taken.
        """
        found = self.find()
        calls = list(self.calls(found, default_for))
        self._sent, self._fresh = [], found.is_empty
        known: dict[str, str] = {}
        try:
            for call in calls:
                call = filled(call, known)
                try:
                    answer = self._send(call)
                except ClusterError as error:
                    if error.status is None:
                        # No answer: it may have been done.
                        self._sent.append(call)
                    raise
                if call.gives is not None:
                    known[call.gives[0]] = str(answer[call.gives[1]])
                    call = filled(call, known)
                self._sent.append(call)
            if calls:
                self._wait_until_deployed()
        except BaseException as error:
            try:
                self.take_back()
            except EngineError as left:
                # The first error is what the user must mend; this one comes along.
                error.args = (
                    f"{error}; what had been made was not all undone ({left}): run rh-connector pipeline status",
                    *error.args[1:],
                )
            raise
        return list(self._sent)

    def take_back(self) -> bool:
        """Undo the last ``install``: the cluster is as it was before it.

        Returns:
            There was something to undo.

        Raises:
            ClusterError: the cluster refuses.
        """
        sent, self._sent = self._sent, []
        if sent and self._fresh:
            # Finds by name what a call that failed half-way may have left, too.
            self.uninstall()
        elif sent:
            for back in (replace(one, why=f"undo: {call.why}") for call in reversed(sent) for one in call.undo):
                if "$" in back.path:
                    # What it made has no id yet; its name is found by the next install or uninstall.
                    continue
                try:
                    self._send(back)
                except ClusterError as error:
                    if error.status != 404:
                        raise
        return bool(sent)

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
        record = found.record or SettingsRecord()
        for index in found.indices:
            # A pipeline of somebody else stays the default pipeline where it was that before.
            if index in record.indices or found.defaults[index] == self.plan.name:
                was = record.indices.get(index)
                # One that is gone by now would fail every search.
                there = was == "_none" or (was in found.pipelines and was != self.plan.name)
                why = f"default pipeline of {index} as before"
                yield Call("PUT", f"/{quote(index)}/_settings", {_DEFAULT: was if there else None}, why)
        for host in found.hosts:
            body = hosting.without_ours(found.pipelines[host], self.plan.mark, record.hosts.get(host, []))
            yield Call("PUT", f"/_search/pipeline/{host}", body, f"search pipeline {host} as before")
        if found.pipeline is not None:
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
            for about in node["search_pipeline"]["pipelines"].values():
                for processor in about.get("response_processors", []):
                    # ml_inference's own counters are wrong under ignore_failure.
                    stats = processor.get(f"rerank:{self.plan.mark}")
                    if stats is not None:
                        totals = {key: totals[key] + int(stats["stats"][key]) for key in totals}
        return totals

    def plugin_statistics(self) -> dict[str, Any] | None:
        """What the neural-search plugin itself counts of reranking (3.1 and newer): ``enabled``, and ``counts``.

        They are of all pipelines of the cluster, and switched off unless somebody turns them on. None: the cluster
        has none, or does not show them to this user.
        """
        try:
            answer = self.connection.request("GET", "/_plugins/_neural/stats", params={"flat_stat_paths": "true"})
        except ClusterError as error:
            # 403 also where they are switched off.
            return {"enabled": False, "counts": {}} if "disabled" in str(error) else None
        nodes = answer.get("all_nodes") or {}
        counts = {key.rpartition(".")[2]: value for key, value in nodes.items() if "rerank" in key}
        return {"enabled": True, "counts": counts}

    def _check_names(self, found: Found) -> None:
        plan = self.plan
        if plan.into is None:
            if plan.name in found.pipelines and found.pipeline is None:
                raise EngineError(
                    f"there is a search pipeline {plan.name} that rh-connector did not make; "
                    f"choose another writeback.name, or add to that pipeline with --into {plan.name}"
                )
        elif plan.into not in found.pipelines:
            there = ", ".join(sorted(set(found.pipelines) - {plan.name})) or "none"
            raise EngineError(f"--into {plan.into}: there is no such search pipeline; those of the cluster: {there}")
        elif found.pipeline is not None and plan.into == plan.name:
            raise EngineError(f"--into {plan.into}: that is our own pipeline; leave --into out")

    def _defaults(self, found: Found, default_for: str | None) -> dict[str, str | None]:
        """Indices that get another default pipeline, and what they have now.

        Raises:
            EngineError: what they have does something, which would be lost.
        """
        if default_for is None:
            return {}
        about = self.connection.request("GET", f"/{quote(default_for)}/_settings", params=_FLAT)
        now = {index: inner["settings"].get(_DEFAULT) for index, inner in about.items()}
        changed = {index: name for index, name in now.items() if name != self.plan.searched}
        for index, name in changed.items():
            if name in found.pipelines and name != self.plan.name:
                raise EngineError(
                    f"--default-for {default_for}: {index} has the default pipeline {name} "
                    f"({hosting.described(found.pipelines[name])}), which would be off from then on. "
                    f"Add reranking to it: --into {name}. Or take it off first: "
                    f"PUT /{index}/_settings {json.dumps({_DEFAULT: None})}"
                )
        return changed

    def _pipeline_calls(self, found: Found, model: str) -> Iterator[Call]:
        plan, wanted = self.plan, self.plan.on(self.connection.version).pipeline(model)
        if wanted is None:
            return
        if plan.into is None or found.pipeline is not None:
            path = f"/_search/pipeline/{plan.name}"
            if found.pipeline != wanted:
                back = Call("DELETE", path) if found.pipeline is None else Call("PUT", path, found.pipeline)
                yield Call("PUT", path, wanted, "search pipeline", None, (back,))
        for host in sorted({*found.hosts, *([plan.into] if plan.into else [])}):
            there = found.pipelines[host]
            grown = hosting.with_ours(there, wanted, plan.mark, host)
            if grown != there:
                path = f"/_search/pipeline/{host}"
                back = Call("PUT", path, there)
                yield Call("PUT", path, grown, f"reranking in the search pipeline {host}", None, (back,))

    def _settings_calls(self, found: Found, replaced: Mapping[str, str | None]) -> Iterator[Call]:
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
        for index, name in replaced.items():
            record.indices.setdefault(index, name)
        if self.plan.into is not None and self.plan.into not in found.hosts:
            record.hosts[self.plan.into] = hosting.empty_parts(found.pipelines[self.plan.into])
        if found.record != record:
            changed = {**needed, PREFIX + self.plan.name: record.to_text()}
            back = {"persistent": {key: found.persistent.get(key) for key in changed}}
            why = "cluster settings: " + (", ".join(needed) or "own record")
            undo = (Call("PUT", "/_cluster/settings", back),)
            yield Call("PUT", "/_cluster/settings", {"persistent": changed}, why, None, undo)

    def _connector_drift(self, found: Found) -> list[str]:
        assert found.connector is not None
        wanted, there = self._connector(), found.connector[1]
        differs = [part for part in _COMPARED if not _holds(there.get(part), wanted[part])]
        if there.get("client_config", {}).get(_UNVERIFIED) and not wanted["client_config"].get(_UNVERIFIED):
            # Somebody else's change, which nobody here asked for.
            differs.append(f"client_config.{_UNVERIFIED}")
        return differs

    def _connector(self) -> dict[str, Any]:
        return self.plan.on(self.connection.version).connector()

    def _connector_update(self, found: Found) -> Iterator[Call]:
        assert found.connector is not None
        if found.model is not None:
            # A connector of a deployed model cannot be changed.
            path = f"{MODELS}/{found.model[0]}"
            back = (Call("POST", f"{path}/_deploy"),) if found.model[1].get("model_state") == "DEPLOYED" else ()
            yield Call("POST", f"{path}/_undeploy", None, "undeploy the model", None, back)
        path, there = f"{_ML}/connectors/{found.connector[0]}", found.connector[1]
        # The cluster does not show the key that was there; the new one stays.
        undo = (Call("PUT", path, {part: there[part] for part in _COMPARED if part in there}),)
        yield Call("PUT", path, self._connector(), "connector to the service", None, undo)

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

    def _is_ours(self, pipeline: Mapping[str, Any]) -> bool:
        return str(pipeline.get("description", "")).startswith(f"{self.plan.mark}:")

    def _send(self, call: Call) -> Any:
        self.told(call)
        try:
            if call.path.startswith(MODELS) and call.path.endswith("/_undeploy"):
                return Deployment(self.connection, call.path.split("/")[-2]).undeploy()
            return call.send(self.connection, self.key)
        except ClusterError as error:
            message = without_files(without_key(f"{call.why}: {error}", self.key), call.body)
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


def _holds(there: Any, wanted: Any) -> bool:
    """``there`` has all that is wanted; the cluster adds fields and writes numbers its own way."""
    if isinstance(wanted, Mapping):
        return isinstance(there, Mapping) and all(_holds(there.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(_holds, there, wanted))
    # PREDICT for predict, 30 for "30".
    return str(there).lower() == str(wanted).lower()
