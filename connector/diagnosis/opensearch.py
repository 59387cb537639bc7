"""OpenSearch's side of the write-back: plugins, settings, the pieces, the way to the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote

from connector.diagnosis.findings import Finding
from connector.engines.cluster.connection import ClusterError, Connection
from connector.errors import EngineError
from connector.settings import Settings
from connector.writeback.opensearch import Found, OpenSearchPipeline
from connector.writeback.proving import Proof, predict
from connector.writeback.search_pipeline import PipelinePlan

__all__ = ["Installed", "counted", "default_pipelines", "installed", "pieces", "plugins", "reached", "settings_of"]

_PLUGINS = ("opensearch-ml", "opensearch-neural-search")
_DEFAULT = "index.search.default_pipeline"
_INSTALL = "rh-connector pipeline install"


class Installed(NamedTuple):
    """The plan as it was installed, and what is there of it."""

    pipeline: OpenSearchPipeline
    found: Found


def plugins(connection: Connection, wanted: bool) -> Iterator[Finding]:
    """Does every node have what a search pipeline needs?

    Args:
        wanted: the settings ask for a pipeline.
    """
    params = {"filter_path": "nodes.*.name,nodes.*.plugins.name"}
    try:
        nodes = connection.request("GET", "/_nodes/plugins", params=params)["nodes"]
    except ClusterError as error:
        if error.status not in (401, 403):
            raise
        yield Finding(
            "plugins", "warn", str(error), "give the user the cluster privilege monitor to have them checked"
        )
        return
    for plugin in _PLUGINS:
        without = [
            str(node.get("name", identity))
            for identity, node in nodes.items()
            # Some builds leave the prefix out.
            if not {plugin, plugin.removeprefix("opensearch-")} & {entry["name"] for entry in node.get("plugins", ())}
        ]
        if without:
            mend = (
                f"on each node: bin/opensearch-plugin install {plugin}, then restart it; or put the gateway in front"
            )
            seen = f"{plugin} is missing on {', '.join(sorted(without)[:5])}"
            yield Finding("plugins", "fail" if wanted else "warn", seen, mend)
            return
    yield Finding("plugins", "ok", f"{' and '.join(_PLUGINS)} on {len(nodes)} node{'' if len(nodes) == 1 else 's'}")


def installed(connection: Connection, settings: Settings) -> Installed:
    """What is there, with route, query path and oversampling as they were installed.

    Raises:
        SettingsError: the settings do not suffice for a pipeline.
        ClusterError: the cluster refuses to show it.
    """
    plan = PipelinePlan.of(settings, "rerank")
    keys = settings.serve.api_keys
    pipeline = OpenSearchPipeline(connection, plan, keys[0].get_secret_value() if keys else "none")
    found = pipeline.find()
    pipeline.plan = _as_installed(plan, found.pipeline or {})
    return Installed(pipeline, found)


def settings_of(connection: Connection, there: Installed) -> Iterator[Finding]:
    """The cluster settings without which the cluster may not call the service."""
    nodes = connection.request("GET", "/_nodes", params={"filter_path": "nodes.*.roles"})["nodes"]
    has_ml_nodes = any("ml" in node.get("roles", ()) for node in nodes.values())
    needed = there.pipeline.plan.settings_needed(there.found.settings, has_ml_nodes)
    transient = {key: there.found.transient[key] for key in needed if key in there.found.transient}
    if transient:
        key, value = next(iter(transient.items()))
        mend = f"PUT /_cluster/settings {json.dumps({'transient': {key: None}})}, then {_INSTALL}"
        yield Finding(
            "cluster settings", "fail", f"the transient setting {key} = {value} forbids what is needed", mend
        )
    elif needed and there.found.is_empty:
        yield Finding("cluster settings", "ok", f"pipeline install will set {', '.join(needed)}")
    elif needed:
        body = json.dumps({"persistent": needed})
        mend = f"{_INSTALL}, or PUT /_cluster/settings {body}; after private_ip_enabled deploy the model again"
        yield Finding("cluster settings", "fail", f"missing: {', '.join(needed)}", mend)
    else:
        yield Finding("cluster settings", "ok", "the service is trusted, its address allowed, and nodes may run ML")


def pieces(there: Installed) -> Iterator[Finding]:
    """Connector, model, pipeline: are they there, and as the settings say?"""
    name, found = there.pipeline.plan.name, there.found
    if found.is_empty:
        yield Finding("pipeline", "warn", f"nothing of {name} is installed", _INSTALL)
        return
    try:
        drift = there.pipeline.drift(found)
    except EngineError as error:
        if "transient" in str(error):
            # Told with the settings.
            return
        raise
    if drift:
        yield Finding("pipeline", "fail", f"{name} differs from the settings: {'; '.join(drift)}", _INSTALL)
    else:
        yield Finding("pipeline", "ok", f"{name}: connector, model and pipeline are as the settings say")


def default_pipelines(connection: Connection, there: Installed, index: str) -> Iterator[Finding]:
    """An index whose default pipeline is missing fails every search."""
    name, found = there.pipeline.plan.name, there.found
    if found.indices and found.pipeline is None:
        mend = f"{_INSTALL}; or PUT /INDEX/_settings {json.dumps({_DEFAULT: None})}"
        seen = f"every search in {', '.join(found.indices)} fails: its default pipeline {name} is missing"
        yield Finding("default pipeline", "fail", seen, mend)
        return
    others = _defaults(connection, index) - {name, "_none", "None"}
    gone = sorted(other for other in others if not _exists(connection, other))
    if gone:
        mend = f"{_INSTALL} --default-for {index}, or PUT /{index}/_settings {json.dumps({_DEFAULT: None})}"
        seen = f"every search in {index} fails: its default pipeline {gone[0]} is missing"
        yield Finding("default pipeline", "fail", seen, mend)
    elif others:
        mend = f"searches there need ?search_pipeline={name}, or {_INSTALL} --default-for {index}"
        yield Finding("default pipeline", "warn", f"that of {index} is {', '.join(sorted(others))}", mend)
    elif found.indices:
        yield Finding("default pipeline", "ok", f"{name} for {', '.join(found.indices)}")
    elif found.pipeline is not None:
        yield Finding("default pipeline", "ok", f"of no index; searches name ?search_pipeline={name}")


def counted(there: Installed) -> Iterator[Finding]:
    """How often reranking failed."""
    statistics = there.pipeline.statistics()
    seen = f"{statistics['count']} pages reranked, {statistics['failed']} failed, since the nodes started"
    if statistics["failed"]:
        mend = (
            "these came in the cluster's order: a search or count without query text counts too, under a default "
            "pipeline; else look at the service's log, or raise writeback.timeout_s"
        )
        yield Finding("failures", "warn", seen, mend)
    else:
        yield Finding("failures", "ok", seen)


def reached(there: Installed) -> tuple[Finding, bool]:
    """Two documents through the cluster to the service; an undeployed model is deployed by that, as by a search."""
    assert there.found.model is not None
    proof: Proof = predict(there.pipeline.connection, there.pipeline.plan, there.found.model[0])
    seen, _, mend = proof.detail.rpartition("; ")
    if proof.holds:
        return Finding("service from the cluster", "ok", proof.detail), True
    return Finding("service from the cluster", "fail", seen or proof.detail, mend if seen else ""), False


def _as_installed(plan: PipelinePlan, pipeline: Any) -> PipelinePlan:
    """Options of ``pipeline install`` stand in the pipeline alone."""
    for processor in pipeline.get("request_processors", ()):
        factor = processor.get("oversample", {}).get("sample_factor")
        if factor is not None:
            plan = replace(plan, oversample=int(float(factor)))
    for processor in pipeline.get("response_processors", ()):
        if "ml_inference" in processor:
            plan = replace(plan, route="scores")
            inputs = processor["ml_inference"].get("input_map") or [{}]
            path = str(inputs[0].get("query", "")).removeprefix("$._request.")
            if path and path != "ext.query_context.query_text":
                plan = replace(plan, query_path=path)
    return plan


def _defaults(connection: Connection, index: str) -> set[str]:
    path = f"/{quote(index, safe='*,-_.')}/_settings/{_DEFAULT}"
    try:
        answer = connection.request("GET", path, params={"flat_settings": "true"})
    except ClusterError:
        # The index has a finding of its own.
        return set()
    return {str(about["settings"].get(_DEFAULT)) for about in answer.values()}


def _exists(connection: Connection, pipeline: str) -> bool:
    try:
        connection.request("GET", f"/_search/pipeline/{quote(pipeline)}")
    except ClusterError as error:
        return error.status != 404
    return True
