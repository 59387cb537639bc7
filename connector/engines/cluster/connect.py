"""From settings to a connection: the one place that knows which clusters there are."""

from __future__ import annotations

import importlib.util

from connector.engines.cluster.connection import Connection
from connector.errors import MissingExtraError, SettingsError
from connector.sections import CLUSTER_KINDS, EngineSettings

__all__ = ["connect"]


def connect(engine: EngineSettings) -> Connection:
    """A connection to the cluster that the settings name; nothing is sent yet.

    Raises:
        MissingExtraError: the client is not installed.
        SettingsError: ``engine.kind`` is no cluster, or ``engine.embedder`` or ``engine.language`` is set, which no
            cluster has.
        EngineError: a file or credential of the settings is of no use.
    """
    if engine.kind in CLUSTER_KINDS and engine.embedder is not None:
        raise SettingsError(
            f"engine.embedder = {engine.embedder}: it is for the embedded engine, and engine.kind is {engine.kind}; "
            f"leave it out, and let the cluster search by vectors itself (engine.query_json)"
        )
    if engine.kind in CLUSTER_KINDS and engine.language is not None:
        raise SettingsError(
            f"engine.language = {engine.language}: it is for the embedded engine, and engine.kind is {engine.kind}; "
            "leave it out: a cluster's mapping names the analyzer of each field"
        )
    if engine.kind == "opensearch":
        _need("opensearch", "opensearchpy", "tenacity")
        from connector.engines.cluster.opensearch import OpenSearchConnection

        return OpenSearchConnection(engine)
    if engine.kind == "elasticsearch":
        _need("elasticsearch", "elasticsearch", "elastic_transport", "tenacity")
        from connector.engines.cluster.elasticsearch import ElasticsearchConnection

        return ElasticsearchConnection(engine)
    raise SettingsError(f"engine.kind = {engine.kind} is no cluster; set it to one of {', '.join(CLUSTER_KINDS)}")


def _need(extra: str, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
