"""What is wrong with this set-up, and how to mend it. Nothing is changed, and one failing check stops no other."""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from connector.engines.connection import ClusterError, Connection, connect
from connector.errors import RhConnectorError
from connector.settings import Settings

__all__ = ["Finding", "diagnose"]

Level = Literal["ok", "warn", "fail"]
_REACH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what.
        level: ``fail`` where something that the settings ask for cannot work.
        seen: what was found.
        mend: what to do; empty where all is well.
        exit_code: of the command line, for a failure.
    """

    check: str
    level: Level
    seen: str
    mend: str = ""
    exit_code: int = 3


def diagnose(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which problems are best mended."""
    checks: list[Callable[[Settings], Iterator[Finding]]] = [_machine, _packages, _model, _bundle]
    checks.append(_embedded if settings.engine.kind == "embedded" else _cluster)
    for check in checks:
        name = check.__name__.strip("_")
        try:
            yield from check(settings)
        except RhConnectorError as error:
            yield Finding(name, "fail", str(error), exit_code=error.exit_code)
        except Exception as error:
            # A doctor that dies of an illness helps nobody.
            yield Finding(name, "fail", f"{type(error).__name__}: {error}", "run again with --debug", 1)


def _machine(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
    if settings.cache.memory_mb > memory // 2:
        mend = f"set cache.memory_mb to {memory // 2} or less"
        yield Finding(
            "machine", "warn", f"{memory} MB of memory, {settings.cache.memory_mb} of them for the cache", mend
        )
    else:
        yield Finding("machine", "ok", f"{cores} cores, {memory} MB of memory")
    folder = settings.cache.path
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(there, os.W_OK):
        yield Finding("cache folder", "ok", str(folder))
    else:
        mend = "set cache.path to a folder that may be written"
        yield Finding("cache folder", "fail", f"{folder} cannot be written", mend, 2)


def _packages(settings: Settings) -> Iterator[Finding]:
    needed = {"torch": "torch", "transformers": "torch", "onnxruntime": "cpu", "fastapi": "serve"}
    client = {"opensearch": "opensearchpy", "elasticsearch": "elasticsearch"}.get(settings.engine.kind)
    if client is not None:
        needed[client] = settings.engine.kind
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if not missing:
        yield Finding("packages", "ok", ", ".join(needed))
    for package in missing:
        yield Finding("packages", "fail", f"no {package}", f"pip install 'rh-connector[{needed[package]}]'", 4)


def _model(settings: Settings) -> Iterator[Finding]:
    from connector.backbone.pulling import find_local

    model = settings.backbone.model
    checkpoint = find_local(model, cache=settings.cache.path)
    if checkpoint is None:
        yield Finding("model", "fail", f"{model} is not on this machine", f"rh-connector model pull {model}", 4)
    else:
        yield Finding("model", "ok", model)


def _bundle(settings: Settings) -> Iterator[Finding]:
    from connector.heads.head_sets import shipped_path
    from connector.routing.bundle import Bundle, shipped_bundle

    model, layout, chosen = settings.backbone.model, settings.backbone.layout, settings.router.bundle
    path = chosen or shipped_bundle(model, layout)
    if path is not None and path.suffix == ".onnx":
        metadata = Bundle.load(path).metadata
        if metadata.layout != layout:
            mend = f"set backbone.layout to {metadata.layout}, or train a router for {layout}"
            yield Finding("router", "fail", f"{path.name} is for the layout {metadata.layout}", mend, 4)
        else:
            yield Finding("router", "ok", path.name)
    elif path is not None or shipped_path(model, layout) is not None:
        yield Finding("router", "ok", "static heads")
    else:
        seen = f"none is shipped for {model} in the layout {layout}: all heads are read, which helps least"
        yield Finding("router", "warn", seen, "rh-connector train")


def _embedded(settings: Settings) -> Iterator[Finding]:
    from connector.engines import open_engine

    with open_engine(settings) as engine:
        count = engine.count()
    if count:
        yield Finding("index", "ok", f"{count:,} documents in {settings.engine.index} (embedded)")
    else:
        seen = f"{settings.engine.index} holds no documents (embedded)"
        yield Finding("index", "warn", seen, "rh-connector index SOURCE, or set engine.kind to your cluster's")


def _cluster(settings: Settings) -> Iterator[Finding]:
    connection = connect(settings.engine)
    try:
        try:
            version = connection.version
        except ClusterError as error:
            yield Finding("cluster", "fail", str(error), _mend_of(error))
            return
        yield Finding("cluster", "ok", f"{version.product} {version} at {connection.url}")
        yield from _index(connection, settings)
        if settings.engine.kind == "opensearch":
            yield from _plugins(connection)
        yield from _service(settings)
        if settings.writeback.service_url is None:
            return
        if settings.engine.kind == "opensearch":
            yield from _pipeline(connection, settings)
        else:
            yield from _endpoint(connection, settings)
    finally:
        connection.close()


def _mend_of(error: ClusterError) -> str:
    if error.status == 401:
        return "set engine.username and engine.password, engine.api_key or engine.bearer_token"
    if error.status == 403:
        return "the user lacks the privilege cluster:monitor/main; give it, or use another user"
    if "certificate" in str(error).lower() or "ssl" in str(error).lower():
        return "set engine.ca_certs to the CA's file; check that engine.url says https where the cluster does"
    return "" if "engine." in str(error) else "check engine.url"


def _index(connection: Connection, settings: Settings) -> Iterator[Finding]:
    from connector.engines.cluster_query import text_fields

    index = settings.engine.index
    path = f"/{quote(index, safe='*,-_.')}"
    try:
        count = connection.request("GET", f"{path}/_count")["count"]
        mapping = connection.request("GET", f"{path}/_mapping")
        about = connection.request("GET", f"{path}/_settings", params={"flat_settings": "true"})
    except ClusterError as error:
        mend = "rh-connector index SOURCE, or set engine.index" if error.status == 404 else _mend_of(error)
        yield Finding("index", "fail", str(error), mend)
        return
    level: Level = "ok" if count else "warn"
    yield Finding("index", level, f"{count:,} documents in {index}", "" if count else "rh-connector index SOURCE")
    known = {field.name for field in text_fields(mapping)}
    wrong = [
        name
        for name in settings.engine.field_weights()
        if not any(field == name or field.startswith(f"{name}.") for field in known)
    ]
    if wrong:
        seen = f"{', '.join(wrong)}: no text field of {index}"
        yield Finding("fields", "fail", seen, f"set engine.fields to some of {', '.join(sorted(known)) or '(none)'}")
    else:
        yield Finding("fields", "ok", ", ".join(settings.engine.field_weights()) or "all text fields")
    for name, one in mapping.items():
        if one["mappings"].get("_source", {}).get("enabled", True) is False:
            yield Finding("_source", "fail", f"{name} keeps no _source: there is no text to read", "index it again")
    for name, one in about.items():
        if str(one["settings"].get("index.blocks.read_only_allow_delete")) == "true":
            mend = "free disk space on the cluster's nodes; it lifts the block itself"
            yield Finding("disk", "warn", f"{name} is read-only: the cluster's disk is nearly full", mend)


def _plugins(connection: Connection) -> Iterator[Finding]:
    nodes = connection.request("GET", "/_nodes/plugins")["nodes"].values()
    for plugin in ("opensearch-ml", "opensearch-neural-search"):
        short = plugin.removeprefix("opensearch-")
        lacking = [
            node["name"]
            for node in nodes
            if not any(str(entry["name"]).removeprefix("opensearch-") == short for entry in node["plugins"])
        ]
        if lacking:
            mend = f"opensearch-plugin install {plugin} on each, or use the gateway (docs/gateway.md)"
            yield Finding("plugins", "fail", f"no {plugin} on {', '.join(lacking)}", mend)
        else:
            yield Finding("plugins", "ok", f"{plugin} on {len(nodes)} nodes")


def _service(settings: Settings) -> Iterator[Finding]:
    url = settings.writeback.service_url
    if url is None:
        yield Finding("service", "warn", "writeback.service_url is not set: the cluster cannot be given a reranker")
        return
    try:
        # Not through a proxy of the environment: the cluster would not go through it either.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url.rstrip('/')}/ready", timeout=_REACH_SECONDS) as answer:
            yield Finding("service", "ok", f"{url} is ready ({answer.status})")
    except urllib.error.HTTPError as error:
        mend = "wait until it has loaded its model, or look at its log"
        yield Finding("service", "fail", f"{url}/ready answered {error.code}", mend)
    except (OSError, ValueError) as error:
        mend = "start rh-connector serve there, or mend writeback.service_url"
        yield Finding("service", "warn", f"{url} is not reached from here: {error}", mend)


def _pipeline(connection: Connection, settings: Settings) -> Iterator[Finding]:
    from connector.writeback.opensearch import OpenSearchPipeline
    from connector.writeback.proving import predict
    from connector.writeback.search_pipeline import PipelinePlan

    name = settings.writeback.name
    pipeline = OpenSearchPipeline(connection, PipelinePlan.of(settings, "rerank"))
    found = pipeline.find()
    if found.is_empty:
        yield Finding("pipeline", "warn", f"{name} is not installed", "rh-connector pipeline install")
        return
    route: Literal["rerank", "scores"] = "scores" if "ml_inference" in str(found.pipeline) else "rerank"
    plan = PipelinePlan.of(settings, route)
    pipeline = OpenSearchPipeline(connection, plan)
    drift = pipeline.drift(found)
    if drift:
        seen = f"{name} differs from the settings: {'; '.join(drift)}"
        yield Finding("pipeline", "fail", seen, f"rh-connector pipeline install --route {route}")
    else:
        yield Finding("pipeline", "ok", f"{name}, route {route}, as the settings say")
    if found.model is not None:
        reach = predict(connection, plan, found.model[0])
        yield Finding("cluster to service", "ok" if reach.holds else "fail", reach.detail)
    counts = pipeline.statistics()
    seen = f"{counts['failed']} of {counts['count']} pages kept the cluster's order"
    yield Finding("failures", "warn" if counts["failed"] else "ok", seen, _failure_mend(counts))


def _failure_mend(counts: dict[str, int]) -> str:
    if not counts["failed"]:
        return ""
    return "searches without ext count too; else look at the cluster's log for the tag and at the service's /metrics"


def _endpoint(connection: Connection, settings: Settings) -> Iterator[Finding]:
    from connector.writeback.elasticsearch import ElasticsearchEndpoint, InferencePlan

    endpoint = ElasticsearchEndpoint(connection, InferencePlan.of(settings))
    found: Any = endpoint.find()
    if found is None:
        yield Finding("endpoint", "warn", f"{endpoint.plan.name} is not installed", "rh-connector pipeline install")
        return
    if list(endpoint.calls(found)):
        yield Finding("endpoint", "fail", "it differs from the settings", "rh-connector pipeline install")
    scores = endpoint.prove()
    yield Finding("cluster to service", "ok", f"scores {scores[0]:.3f} and {scores[1]:.3f}")
