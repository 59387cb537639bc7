"""The bodies that OpenSearch is given: settings, ML Commons connector, model, search pipeline.

Forms and traps: ``RerankProcessorFactory`` of neural-search, ``MLCreateConnectorInput`` and
``CohereRerankPreProcessFunction`` of ml-commons; all were run on 2.19.1 and 3.6.0.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from connector.engines.cluster.connection import ServerVersion
from connector.errors import SettingsError
from connector.sections import Settings, WritebackSettings
from connector.writeback.calls import FILE, KEY
from connector.writeback.hosting import holds, normalizes

__all__ = ["FIRST_STAGE_FIELDS", "JOINED_FIELD", "SCORE_FIELD", "PipelinePlan", "Route", "joining_script"]

Route = Literal["rerank", "scores"]

TRUSTED = "plugins.ml_commons.trusted_connector_endpoints_regex"
PRIVATE = "plugins.ml_commons.connector.private_ip_enabled"
ML_NODES_ONLY = "plugins.ml_commons.only_run_on_ml_node"
JOINED_FIELD = "rh_text"
SCORE_FIELD = "rh_score"
FIRST_STAGE_FIELDS = ("previous_score", "rh_first_stage")
"""Where the route ``scores`` keeps the first-stage score: the cluster's own name, and ours where it takes one."""

_UNVERIFIED_SINCE = (3, 5)
_DYNAMIC_SINCE = (3, 7)
_CERTIFIED_SINCE = (3, 9)
_NAMED_SINCE = (3, 8)
# What our own deadline leaves of the cluster's patience for the way back.
_MARGIN_MS = 500
_QUERY_PATH = "ext.query_context.query_text"
# The cluster's own defaults, spelled out.
_NORMALIZATION = {
    "normalization": {"technique": "min_max"},
    "combination": {"technique": "arithmetic_mean"},
}


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """All that an installation depends on.

    Attributes:
        name: of the pipeline, and mark of everything that belongs to it.
        service_url: of the service, as the cluster sees it.
        fields: whose text is scored.
        route: ``rerank`` (one processor), or ``scores`` (keeps the first-stage score in the hit).
        timeout_s: the cluster's patience, in whole seconds: ML Commons cuts fractions, and 0 is for ever.
        connections: of one node to the service.
        query_path: where the query text is in the request, for ``scores``; None: in ``ext``.
        oversample: how many times the page is reranked; 1: the page alone.
        hybrid: with normalization, so that hybrid queries can be searched with it.
        into: pipeline of somebody else that gets our processors; None: one of our own.
        skip_verification: the cluster takes any certificate of the service.
        client_files: certificate and its private key (PEM), which the cluster shows to the service.
        dynamic: deadline, mode and request id are parameters, which a call may set; else the deadline is fixed.
        first_stage_field: of ``_source``, where the route ``scores`` keeps the first-stage score.
    """

    name: str
    service_url: str
    fields: tuple[str, ...]
    route: Route = "rerank"
    timeout_s: int = 5
    connections: int = 30
    query_path: str | None = None
    oversample: int = 1
    hybrid: bool = False
    into: str | None = None
    skip_verification: bool = False
    client_files: tuple[Path, Path] | None = None
    dynamic: bool = False
    first_stage_field: str = FIRST_STAGE_FIELDS[0]

    @classmethod
    def of(
        cls,
        settings: Settings,
        route: Route,
        query_path: str | None = None,
        oversample: int = 1,
        *,
        hybrid: bool = False,
        into: str | None = None,
    ) -> PipelinePlan:
        """The plan that the settings ask for.

        Raises:
            SettingsError: what is needed is missing or does not go together.
        """
        url = settings.writeback.service_url
        if url is None or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise SettingsError(
                f"writeback.service_url = {url}: give the URL of rh-connector serve as the cluster sees it, "
                f"as in http://10.0.0.7:8080"
            )
        fields = tuple(settings.engine.field_weights())
        if not fields:
            raise SettingsError("engine.fields is empty; name the fields whose text is reranked, as in title,text")
        if route == "scores" and len(fields) > 1:
            raise SettingsError(
                f"engine.fields = {','.join(fields)}: the route scores reads one field; "
                "name one, or use --route rerank"
            )
        if route == "rerank" and query_path is not None:
            raise SettingsError("--query-path goes with --route scores; a search names it itself in query_text_path")
        back = settings.writeback
        return cls(
            back.name,
            url.rstrip("/"),
            fields,
            route,
            back.timeout_s,
            back.connections,
            query_path,
            oversample,
            hybrid,
            into,
            back.skip_verification,
            _client_files(back),
        )

    def on(self, version: ServerVersion) -> PipelinePlan:
        """With what this release of the cluster can do.

        Raises:
            SettingsError: it cannot do what is wanted.
        """
        release = (version.major, version.minor)
        if self.skip_verification and release < _UNVERIFIED_SINCE:
            raise SettingsError(
                f"writeback.skip_verification = true: OpenSearch {version} always verifies (3.5 and newer need not); "
                "leave it out and give the cluster's Java the CA of the service's certificate"
            )
        if self.client_files is not None and release < _CERTIFIED_SINCE:
            raise SettingsError(
                f"writeback.client_cert = {self.client_files[0]}: OpenSearch {version} shows no certificate (3.9 and "
                "newer do); leave it out and protect the service with serve.api_keys"
            )
        named = release >= _NAMED_SINCE
        return replace(self, first_stage_field=FIRST_STAGE_FIELDS[named], dynamic=release >= _DYNAMIC_SINCE)

    def as_installed(self, pipelines: Mapping[str, Mapping[str, Any]]) -> PipelinePlan:
        """With the options that only stand in the pipelines themselves.

        Args:
            pipelines: of the cluster, those that hold our processors: name -> body. One of our own wins.
        """
        plan = self
        name = next((own for own in (self.name, *sorted(pipelines)) if own in pipelines), None)
        if name is None:
            return plan
        if name != self.name:
            plan = replace(plan, into=name)
        tagged = {part: _of_tag(pipelines[name], part, self.mark) for part in pipelines[name]}
        for processor in tagged.get("request_processors", ()):
            factor = processor.get("oversample", {}).get("sample_factor")
            if factor is not None:
                plan = replace(plan, oversample=int(float(factor)))
        for processor in tagged.get("response_processors", ()):
            if "ml_inference" in processor:
                plan = replace(plan, route="scores")
                inputs = processor["ml_inference"].get("input_map") or [{}]
                path = str(inputs[0].get("query", "")).removeprefix("$._request.")
                if path and path != _QUERY_PATH:
                    plan = replace(plan, query_path=path)
        return replace(plan, hybrid=normalizes(tagged))

    @property
    def searched(self) -> str:
        """The pipeline that a search names."""
        return self.into or self.name

    @property
    def mark(self) -> str:
        """Name of connector, model and model group."""
        return f"rh-connector-{self.name}"

    @property
    def document_fields(self) -> list[str]:
        """What the processor reads: it joins fields without a blank, so several come as one script field."""
        return list(self.fields) if len(self.fields) == 1 else [JOINED_FIELD]

    def settings_needed(self, current: Mapping[str, Any], has_ml_nodes: bool) -> dict[str, Any]:
        """Cluster settings that are missing, of those that the current ones (flat) lack."""
        needed: dict[str, Any] = {}
        trusted = [str(pattern) for pattern in current.get(TRUSTED) or []]
        if not any(_matches(pattern, f"{self.service_url}/v1/rerank") for pattern in trusted):
            needed[TRUSTED] = [*trusted, self.own_pattern]
        if _is_private(self.service_url) and str(current.get(PRIVATE)).lower() != "true":
            needed[PRIVATE] = True
        if not has_ml_nodes and str(current.get(ML_NODES_ONLY)).lower() != "false":
            needed[ML_NODES_ONLY] = False
        return needed

    @property
    def own_pattern(self) -> str:
        """The regular expression that lets the cluster call the service, and nothing else."""
        return f"^{re.escape(self.service_url)}/.*$"

    def connector(self) -> dict[str, Any]:
        """Body of ``connectors/_create``."""
        # Documents come in first-stage order, and no scores with them: the service fuses by rank.
        known = '"documents": ${parameters.documents}, "query": "${parameters.query}", "first_stage": "order"'
        deadline = str(max(self.timeout_s * 1000 - _MARGIN_MS, _MARGIN_MS))
        headers = {"Authorization": "Bearer ${credential.rh_key}", "X-Rerank-Deadline-Ms": deadline}
        # Without the second, a document that holds "${parameters.x}" fails the call.
        parameters = {"model": "rh", "skip_validating_missing_parameters": "true"}
        if self.dynamic:
            headers |= {
                "X-Rerank-Deadline-Ms": "${parameters.deadline_ms}",
                "X-Request-Id": "${parameters.request_id}",
            }
            # What a call without them sends: an empty id, for which the service makes one.
            parameters |= {"deadline_ms": deadline, "request_id": ""}
            known += ', "router_mode": "${parameters.mode:-null}"'
        names = ("client_cert_pem", "client_key_pem")
        credential = {name: f"{FILE}{path}" for name, path in zip(names, self.client_files or (), strict=False)}
        action: dict[str, Any] = {"action_type": "predict", "method": "POST", "headers": headers}
        if self.route == "rerank":
            action |= {
                "url": f"{self.service_url}/v1/rerank",
                "request_body": "{ " + known + ', "model": "${parameters.model}", "top_n": ${parameters.top_n} }',
                "pre_process_function": "connector.pre_process.cohere.rerank",
                "post_process_function": "connector.post_process.cohere.rerank",
            }
        else:
            action |= {"url": f"{self.service_url}/v1/rerank_scores", "request_body": "{ " + known + " }"}
        return {
            "name": self.mark,
            "description": f"{self.mark}: reranking, made by rh-connector pipeline install",
            "version": "1",
            "protocol": "http",
            "parameters": parameters,
            "credential": {"rh_key": KEY, **credential},
            "client_config": {
                "max_connection": self.connections,
                "connection_timeout": min(2, self.timeout_s),
                "read_timeout": self.timeout_s,
                "max_retry_times": 0,
                **({"skip_ssl_verification": True} if self.skip_verification else {}),
                **({"mutual_tls_enabled": True, "keystore_type": "PEM"} if credential else {}),
            },
            "actions": [action],
        }

    def group(self) -> dict[str, Any]:
        """Body of ``model_groups/_register``."""
        return {"name": self.mark, "description": f"{self.mark}: made by rh-connector pipeline install"}

    def model(self, connector: str, group: str) -> dict[str, Any]:
        """Body of ``models/_register``."""
        return {
            "name": self.mark,
            "function_name": "remote",
            "description": f"{self.mark}: made by rh-connector pipeline install",
            "connector_id": connector,
            "model_group_id": group,
        }

    def pipeline(self, model: str) -> dict[str, Any] | None:
        """Body of ``PUT /_search/pipeline/NAME``; None: it needs none.

        Every processor ignores failures: a search must not fail.
        """
        common = {"tag": self.mark, "ignore_failure": True}
        processors: list[dict[str, Any]] = []
        if self.route == "rerank":
            rerank = {"ml_opensearch": {"model_id": model}, "context": {"document_fields": self.document_fields}}
            processors.append({"rerank": {**common, **rerank}})
        else:
            path = self.query_path or _QUERY_PATH
            inference = {
                "function_name": "remote",
                "model_id": model,
                "one_to_one": False,
                "full_response_path": False,
                "ignore_missing": False,
                "override": False,
                "model_input": '{ "parameters": ${ml_inference.parameters} }',
                "input_map": [{"documents": self.fields[0], "query": f"$._request.{path}"}],
                "output_map": [{SCORE_FIELD: "scores"}],
            }
            by_field: dict[str, Any] = {
                "target_field": SCORE_FIELD,
                "remove_target_field": True,
                "keep_previous_score": True,
            }
            if self.first_stage_field != FIRST_STAGE_FIELDS[0]:
                by_field["previous_score_field"] = self.first_stage_field
            processors += [{"ml_inference": {**common, **inference}}, {"rerank": {**common, "by_field": by_field}}]
        body: dict[str, Any] = {"description": f"{self.mark}: made by rh-connector pipeline install"}
        if self.oversample > 1:
            body["request_processors"] = [{"oversample": {**common, "sample_factor": float(self.oversample)}}]
            processors.append({"truncate_hits": {**common}})
        if self.hybrid:
            # Not ignored where it fails: without it the hits of a hybrid query hold the delimiters of its lists.
            body["phase_results_processors"] = [{"normalization-processor": {"tag": self.mark, **_NORMALIZATION}}]
        body["response_processors"] = processors
        return body

    def search(self, query: str, first_stage: Mapping[str, Any]) -> dict[str, Any]:
        """A search body that the pipeline reranks."""
        body: dict[str, Any] = {"query": dict(first_stage)}
        if self.query_path is None:
            body["ext"] = {"rerank": {"query_context": {"query_text": query}}}
        if self.route == "rerank" and len(self.fields) > 1:
            script = {"lang": "painless", "source": joining_script(self.fields)}
            # Script fields drop _source unless it is asked for as well.
            body |= {"_source": True, "script_fields": {JOINED_FIELD: {"script": script}}}
        return body


def joining_script(fields: Sequence[str]) -> str:
    """Painless that joins fields of ``_source`` with a line break; missing ones and lists are fine."""
    parts = []
    for name in fields:
        steps = "".join(
            f"if (v instanceof Map) {{ v = v.get('{_quoted(step)}') }} else {{ v = null }} "
            for step in name.split(".")
        )
        parts.append(
            f"v = params['_source']; {steps}"
            "if (v instanceof List) { v = v.stream().map(x -> String.valueOf(x)).collect(Collectors.joining(' ')) } "
            # Painless knows no escape for a line break, so a real one stands in its text.
            "if (v != null) { if (t.length() > 0) { t.append('\n') } t.append(v) } "
        )
    return "def v; StringBuilder t = new StringBuilder(); " + "".join(parts) + "return t.toString()"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _client_files(back: WritebackSettings) -> tuple[Path, Path] | None:
    given = {"client_cert": back.client_cert, "client_key": back.client_key}
    for name, path in given.items():
        if path is not None and not path.is_file():
            raise SettingsError(f"writeback.{name} = {path}: there is no such file; name a PEM file on this machine")
    if back.client_cert is None and back.client_key is None:
        return None
    if back.client_cert is None or back.client_key is None:
        missing = next(name for name, path in given.items() if path is None)
        raise SettingsError(f"writeback.{missing} is missing; a certificate and its key go together")
    return back.client_cert, back.client_key


def _of_tag(pipeline: Mapping[str, Any], part: str, tag: str) -> list[Mapping[str, Any]]:
    found = pipeline[part] if isinstance(pipeline[part], list) else []
    return [processor for processor in found if holds({"response_processors": [processor]}, tag)]


def _matches(pattern: str, url: str) -> bool:
    try:
        return re.fullmatch(pattern, url) is not None
    except re.error:
        # Java's, not ours to read.
        return False


def _is_private(url: str) -> bool:
    """The cluster would refuse to call this address unless told; a name that is unknown here may be one."""
    host = urlsplit(url).hostname or ""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return True
    return any(not ipaddress.ip_address(str(address).partition("%")[0]).is_global for address in found)
