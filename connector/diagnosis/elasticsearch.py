"""Elasticsearch's side of the write-back: release, licence, inference API, endpoint."""

from __future__ import annotations

from collections.abc import Iterator

from connector.diagnosis.findings import Finding
from connector.engines.cluster.connection import ClusterError, Connection
from connector.errors import EngineError
from connector.sections import Settings
from connector.writeback.elasticsearch import ElasticsearchEndpoint
from connector.writeback.inference_endpoint import InferencePlan

__all__ = ["endpoint", "inference", "licence"]

# The first releases whose hugging_face service reranks at a URL of one's own.
_FIRST = {8: 19, 9: 1}
_GATEWAY = (
    "put the gateway in front of it (rh-connector serve answers _search, reranked); search and runs work without"
)


def inference(connection: Connection) -> tuple[Finding, bool]:
    """Can it call a reranker of one's own? And is it any use to look further?"""
    version = connection.version
    if version.minor < _FIRST.get(version.major, 0):
        seen = f"Elasticsearch {version} cannot call a reranker at a URL of one's own (8.19 and 9.1 can)"
        return Finding("inference API", "warn", seen, _GATEWAY), False
    try:
        answer = connection.request("GET", "/_inference/_all")
    except ClusterError as error:
        if error.status == 403:
            return Finding("inference API", "warn", str(error), "give the user the privilege manage_inference"), False
        if error.status in (400, 404, 405):
            return Finding("inference API", "warn", "this Elasticsearch has no inference API", _GATEWAY), False
        raise
    return Finding("inference API", "ok", f"{len(answer.get('endpoints', ()))} endpoints"), True


def licence(connection: Connection) -> Iterator[Finding]:
    """Inference endpoints need an Enterprise or trial licence; a cluster that does not tell is passed over."""
    try:
        about = connection.request("GET", "/_license")["license"]
    except (ClusterError, KeyError, TypeError):
        return
    kind, status = about.get("type"), about.get("status")
    if kind in ("enterprise", "trial") and status == "active":
        yield Finding("licence", "ok", f"{kind}, {status}")
    else:
        yield Finding("licence", "warn", f"{kind}, {status}: inference endpoints need enterprise or trial", _GATEWAY)


def endpoint(connection: Connection, settings: Settings) -> tuple[Finding, bool | None]:
    """Is the endpoint there, as the settings say, and does the cluster reach the service through it?

    Returns:
        The finding, and whether the cluster reaches the service; None: not tried.

    Raises:
        EngineError, SettingsError: it cannot be told.
    """
    keys = settings.serve.api_keys
    key = keys[0].get_secret_value() if keys else "none"
    there = ElasticsearchEndpoint(connection, InferencePlan.of(settings), key)
    found, name = there.find(), settings.writeback.name
    install = "rh-connector pipeline install"
    if found is None:
        return Finding("endpoint", "warn", f"there is no inference endpoint {name}", install), None
    if list(there.calls(found)):
        return Finding("endpoint", "fail", f"{name} differs from the settings", install), None
    try:
        scores = there.prove()
    except EngineError as error:
        seen, _, mend = str(error).partition("; ")
        return Finding("endpoint", "fail", f"{name}: {seen}", mend), False
    return Finding("endpoint", "ok", f"{name}: scores {scores[0]:.3f} and {scores[1]:.3f}"), True
