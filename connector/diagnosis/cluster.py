"""What both kinds of cluster are asked: reachable, right release, index, fields, blocks; and our own service."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from connector.diagnosis.findings import Finding, Level
from connector.engines.cluster.connection import ClusterError, Connection, reason_of
from connector.engines.cluster.query import text_fields
from connector.engines.index_names import other_indexes
from connector.errors import BackboneError
from connector.sections import EngineSettings, Settings

__all__ = ["blocks", "fields", "index", "reach", "service"]

_SERVICE_SECONDS = 5.0
# The cluster's words -> what to do, first match wins.
_MENDS = {
    "certificate_verify_failed": "name the cluster's authority in engine.ca_certs; or set engine.verify_certs: false",
    "wrong_version_number": "the cluster does not speak TLS there: begin engine.url with http://",
    "record layer": "the cluster does not speak TLS there: begin engine.url with http://",
    "ssl": "check engine.ca_certs, engine.client_cert and engine.client_key",
    "tls": "check engine.ca_certs, engine.client_cert and engine.client_key",
    "refused": "start the cluster, or mend host and port in engine.url",
    "name or service": "mend the host name in engine.url",
    "name resolution": "mend the host name in engine.url",
    "nodename": "mend the host name in engine.url",
    "aborted": "is it TLS? begin engine.url with https://; else look at the proxy in front of the cluster",
    "reset": "is it TLS? begin engine.url with https://; else look at the proxy in front of the cluster",
    "disconnected": "is it TLS? begin engine.url with https://; else look at the proxy in front of the cluster",
    "in time": "raise engine.timeout_ms, or look at the cluster's load and the firewall",
    "too old": "upgrade the cluster",
    "is no opensearch": "for Elasticsearch set engine.kind to elasticsearch",
    "is no elasticsearch": "for OpenSearch set engine.kind to opensearch",
}


def reach(connection: Connection, engine: EngineSettings) -> tuple[Finding, bool]:
    """Does the cluster answer, and is it one that can be used? And can it be asked further?"""
    try:
        version = connection.version
    except ClusterError as error:
        seen, _, known = str(error).rpartition("; ")
        if error.status == 403:
            # Whoever may search need not be allowed to ask for the version.
            mend = "give the user of engine.username (or the key) the cluster privilege monitor"
            return Finding("cluster", "warn", f"{error}", mend), True
        if error.status == 401:
            given = _credentials(engine)
            mend = f"the cluster does not take {given}; set engine.username and engine.password, or engine.api_key"
            return Finding("cluster", "fail", str(error), mend), False
        said = str(error).lower()
        mend = next((mend for words, mend in _MENDS.items() if words in said), known or "check engine.url")
        return Finding("cluster", "fail", seen or str(error), mend), False
    name = {"opensearch": "OpenSearch", "elasticsearch": "Elasticsearch"}[version.product]
    return Finding("cluster", "ok", f"{name} {version} at {connection.url}"), True


def index(connection: Connection, settings: Settings) -> Iterator[Finding]:
    """Is the index there, and are documents in it?"""
    name = settings.engine.index
    make = "make it with: rh-connector index SOURCE; or set engine.index"
    # Under a default pipeline even a count without query text is a failure that its statistics show.
    params = {"search_pipeline": "_none"} if settings.engine.kind == "opensearch" else {}
    try:
        answer = connection.request("POST", f"{_path(name)}/_search", {"size": 0, "track_total_hits": True}, params)
    except ClusterError as error:
        if error.status == 404:
            yield Finding("index", "fail", f"there is no index {name}{other_indexes(settings)}", make)
        elif error.status == 403:
            yield Finding("index", "fail", str(error), f"give the user the privilege read on {name}")
        elif error.status == 503:
            yield Finding("index", "fail", str(error), f"its shards are not there: GET /_cat/shards/{name}")
        else:
            raise
        return
    count, broken = int(answer["hits"]["total"]["value"]), int(answer.get("_shards", {}).get("failed", 0))
    seen = f"{name} has {count} document{'' if count == 1 else 's'}"
    if broken:
        yield Finding(
            "index", "warn", f"{seen}; {broken} of its shards failed", f"GET /_cat/shards/{name} says which"
        )
    elif not count:
        yield Finding("index", "warn", seen, make)
    else:
        yield Finding("index", "ok", seen)


def fields(connection: Connection, settings: Settings) -> Iterator[Finding]:
    """Are the fields mapped as text, and does ``_source`` hold them?"""
    try:
        mappings = connection.request("GET", f"{_path(settings.engine.index)}/_mapping")
    except ClusterError as error:
        if error.status != 403 or settings.engine.query_json is not None:
            raise
        mend = "give the user the privilege view_index_metadata, or set engine.query_json"
        yield Finding("fields", "fail", str(error), mend)
        return
    there = [field.name for field in text_fields(mappings)]
    wanted = list(settings.engine.field_weights())
    missing = [name for name in wanted if not any(have == name or have.startswith(f"{name}.") for have in there)]
    known = ", ".join(sorted(there)) or "none"
    mend = f"set engine.fields; the text fields are: {known}"
    if settings.engine.query_json is not None and missing:
        # Fields of the user's own query are not looked at; these are the ones that are scored.
        yield Finding("fields", "warn", f"no text fields: {', '.join(missing)}", mend)
    elif missing or not there:
        # Where some are left, searches go through them.
        level: Level = "warn" if len(missing) < len(wanted) else "fail"
        seen = f"no text fields of {settings.engine.index}: {', '.join(missing)}" if missing else "no text fields"
        yield Finding("fields", level, seen, mend)
    else:
        yield Finding("fields", "ok", ", ".join(wanted) if wanted else f"all text fields: {known}")
    yield from _source(mappings, wanted or there)


def _source(mappings: Mapping[str, Any], names: Sequence[str]) -> Iterator[Finding]:
    for name, about in mappings.items():
        source = about.get("mappings", {}).get("_source", {})
        mend = "index the documents again into an index that keeps it: the reranker reads the texts from there"
        if str(source.get("enabled", True)).lower() == "false":
            yield Finding("_source", "fail", f"{name} keeps no _source", mend)
            return
        excludes, includes = source.get("excludes") or [], source.get("includes") or ["*"]
        lost = [
            field
            for field in names
            if any(fnmatchcase(field, part) for part in excludes)
            or not any(fnmatchcase(field, part) for part in includes)
        ]
        if lost:
            yield Finding("_source", "fail", f"_source of {name} leaves out {', '.join(lost)}", mend)
            return
    yield Finding("_source", "ok", "holds the fields")


def blocks(connection: Connection) -> Iterator[Finding]:
    """Indices that the cluster has closed for writing because a disk is full."""
    params = {"flat_settings": "true", "expand_wildcards": "all"}
    answer = connection.request("GET", "/_all/_settings/index.blocks.*", params=params)
    key = "index.blocks.read_only_allow_delete"
    closed = [name for name, about in answer.items() if str(about["settings"].get(key)).lower() == "true"]
    if closed:
        mend = f"make room on the nodes' disks, then PUT /_all/_settings {json.dumps({key: None})}"
        seen = f"a full disk has closed {', '.join(sorted(closed)[:5])} for writing"
        yield Finding("disk", "warn", seen, mend)
    else:
        yield Finding("disk", "ok", "no index is closed for writing by a full disk")


def service(settings: Settings, cluster_reaches: bool | None) -> Iterator[Finding]:
    """Does the service answer at ``writeback.service_url``, asked from this machine?

    Args:
        cluster_reaches: whether the cluster does; None: not known.
    """
    url = (settings.writeback.service_url or "").rstrip("/")
    # Straight, as the cluster does, whatever proxy this shell has.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/ready", timeout=_SERVICE_SECONDS) as answer:
            about = _json(answer.read(65_536))
    except urllib.error.HTTPError as error:
        yield _not_ready(url, error.code, _json(error.read(65_536)))
        return
    except (OSError, ValueError) as error:
        said = reason_of(getattr(error, "reason", error))
        if cluster_reaches:
            yield Finding("service from here", "ok", f"{url} is not reached from here ({said}), but by the cluster")
            return
        mend = (
            "start rh-connector serve with serve.host an address that the cluster sees, or mend writeback.service_url"
        )
        yield Finding("service from here", "fail", f"{url} does not answer: {said}", mend)
        return
    model = about.get("model")
    if model is None:
        mend = "mend writeback.service_url; is it the URL of rh-connector serve?"
        yield Finding("service from here", "fail", f"{url} is not rh-connector", mend)
    elif model != settings.backbone.model:
        mend = f"start it with the same settings, or set backbone.model to {model}"
        seen = f"{url} is ready with {model}, not {settings.backbone.model}"
        yield Finding("service from here", "warn", seen, mend)
    else:
        yield Finding("service from here", "ok", f"{url} is ready with {model}")


def _not_ready(url: str, code: int, about: Mapping[str, Any]) -> Finding:
    status = about.get("status")
    if status == "loading":
        return Finding("service from here", "warn", f"{url} is loading its model", "try again in some seconds")
    if status == "failed":
        seen = f"{url} could not load its model: {about.get('reason')}"
        mend = "run rh-connector doctor on the machine of the service"
        return Finding("service from here", "fail", seen, mend, BackboneError.exit_code)
    mend = "mend writeback.service_url, or look at the proxy in front of the service"
    return Finding("service from here", "fail", f"{url}/ready answered {code}", mend)


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _credentials(engine: EngineSettings) -> str:
    if engine.aws_region is not None:
        return f"requests signed for {engine.aws_service} in {engine.aws_region}"
    if engine.username is not None:
        return "engine.username and engine.password"
    given = [name for name in ("bearer_token", "api_key", "client_cert") if getattr(engine, name) is not None]
    return f"engine.{given[0]}" if given else "requests without credentials"


def _path(name: str) -> str:
    return f"/{quote(name, safe='*,-_.')}"
