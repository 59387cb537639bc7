"""OpenSearch's side of the write-back: plugins, settings, the pieces, the way to the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from connector.diagnosis.findings import Finding
from connector.engines.cluster.connection import ClusterError, Connection
from connector.errors import EngineError
from connector.sections import Settings
from connector.writeback.hosting import described, normalizes
from connector.writeback.opensearch import Found, OpenSearchPipeline
from connector.writeback.proving import Proof, predict
from connector.writeback.search_pipeline import PipelinePlan

__all__ = [
    "Installed",
    "counted",
    "default_pipelines",
    "installed",
    "pieces",
    "plugins",
    "reached",
    "searches",
    "settings_of",
]

_PLUGINS = ("opensearch-ml", "opensearch-neural-search")
_DEFAULT = "index.search.default_pipeline"
# Fields that are searched together with words, as hybrid queries do.
_VECTORS = ("knn_vector", "rank_features", "semantic", "sparse_vector")
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
    pipeline.plan = plan.as_installed(found.holding)
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
    name, searched, found = there.pipeline.plan.name, there.pipeline.plan.searched, there.found
    dangling = [at for at, default in found.defaults.items() if default == name and found.pipeline is None]
    if dangling:
        mend = f"{_INSTALL}; or PUT /INDEX/_settings {json.dumps({_DEFAULT: None})}"
        seen = f"every search in {', '.join(dangling)} fails: its default pipeline {name} is missing"
        yield Finding("default pipeline", "fail", seen, mend)
        return
    others = _defaults(connection, index) - {name, *found.hosts, "_none", "None"}
    gone = sorted(others - set(found.pipelines))
    if gone:
        mend = f"{_INSTALL} --default-for {index}, or PUT /{index}/_settings {json.dumps({_DEFAULT: None})}"
        seen = f"every search in {index} fails: its default pipeline {gone[0]} is missing"
        yield Finding("default pipeline", "fail", seen, mend)
    elif others:
        own = sorted(others)[0]
        does = described(found.pipelines[own])
        mend = (
            f"{_INSTALL} --into {own} adds reranking to it; with ?search_pipeline={searched} a search goes without "
            "what it does"
        )
        yield Finding("default pipeline", "warn", f"that of {index} is {own} ({does}): no reranking", mend)
    elif found.indices:
        yield Finding("default pipeline", "ok", f"{searched} for {', '.join(found.indices)}")
    elif found.holding:
        yield Finding("default pipeline", "ok", f"of no index; searches name ?search_pipeline={searched}")


def searches(connection: Connection, there: Installed, index: str) -> Iterator[Finding]:
    """Searches that do not come back as their users expect, though the pipeline is as it should be."""
    found = there.found
    for name, body in found.holding.items():
        if normalizes(body):
            yield Finding("hybrid searches", "ok", f"{name} normalizes, then reranks")
            continue
        own = f" --into {name}" if name in found.hosts else ""
        mend = f"for hybrid queries: {_INSTALL} --hybrid{own}, or --into NAME of a pipeline that normalizes"
        seen = (
            f"{name} has no normalization: a hybrid query through it shows hits twice, with scores of minus billions"
        )
        ranked = any(normalizes(other) for other in found.pipelines.values()) or _has_vectors(connection, index)
        yield Finding("hybrid searches", "warn" if ranked else "ok", seen, mend if ranked else "")
    if found.holding:
        seen = (
            "a pipeline named inside a search template is ignored by the cluster (name it in the URL, or make it the "
            "default); a search with its own sort is reranked like any other, so its order is lost (leave "
            "search_pipeline out, or say search_pipeline=_none)"
        )
        yield Finding("templates and sort", "ok", seen)


def counted(there: Installed) -> Iterator[Finding]:
    """How often reranking failed."""
    statistics = there.pipeline.statistics()
    seen = f"{statistics['count']} pages reranked, {statistics['failed']} failed, since the nodes started"
    if statistics["failed"]:
        mend = (
            "these came in the cluster's order: four proofs of each pipeline install count too, and under a default "
            "pipeline searches and counts without query text; for others look at the service's log, or raise "
            "writeback.timeout_s"
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


def _defaults(connection: Connection, index: str) -> set[str]:
    path = f"/{quote(index, safe='*,-_.')}/_settings/{_DEFAULT}"
    try:
        answer = connection.request("GET", path, params={"flat_settings": "true"})
    except ClusterError:
        # The index has a finding of its own.
        return set()
    return {str(about["settings"].get(_DEFAULT)) for about in answer.values()}


def _has_vectors(connection: Connection, index: str) -> bool:
    try:
        answer = connection.request("GET", f"/{quote(index, safe='*,-_.')}/_mapping")
    except ClusterError:
        return False
    return any(f'"type": "{kind}"' in json.dumps(answer) for kind in _VECTORS)
