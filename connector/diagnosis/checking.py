"""Every check, in the order in which things depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from connector.backbone.prompt.fingerprint import BackboneIdentity
from connector.checkpoints.checkpoint import Checkpoint
from connector.credentials import redacted
from connector.diagnosis import cluster, exported, machine, model
from connector.diagnosis.findings import Check, Finding, failed, run
from connector.diagnosis.model import Load
from connector.engines.cluster.connect import connect
from connector.engines.cluster.connection import ClusterError, Connection
from connector.errors import BackboneError, RhConnectorError
from connector.reranking.second_settings import check_routers, second_settings
from connector.sections import Settings

__all__ = ["diagnose", "exit_code"]

_Reaching = Generator[Finding, None, bool | None]
_Watching = Generator[Finding, None, bool]
_NO_SERVICE = "not tried: writeback.service_url is not set"


def diagnose(settings: Settings, *, load: Load | None = None) -> Iterator[Finding]:
    """Look at everything that the settings name; nothing is changed, fetched or made.

    What is left out of it: a model that the cluster has undeployed is deployed by the call through it, and hashes of
    weights are remembered in the cache folder, as by every start.

    Args:
        settings: see ``load_settings``.
        load: makes the reranker of settings, which is tried (``Reranker.from_settings``); None: none is made.
    """
    for finding in _findings(settings, load):
        yield replace(finding, seen=redacted(finding.seen), mend=redacted(finding.mend))


def exit_code(findings: Iterable[Finding]) -> int:
    """0, or the code of the first failure."""
    return next((finding.code for finding in findings if finding.level == "fail"), 0)


def _findings(settings: Settings, load: Load | None) -> Iterator[Finding]:
    second, told = _second(settings)
    yield from told
    try:
        own = _llm(settings)
    except RhConnectorError as error:
        yield failed("heads", error)
    else:
        yield from _first(settings, own, 0 if second is None else second.size or 0, load)
    if settings.engine.kind == "embedded":
        yield from run("index", lambda: _embedded(settings))
        return
    try:
        connection = connect(settings.engine)
    except RhConnectorError as error:
        yield failed("cluster", error)
        return
    with closing(connection):
        found, answers = cluster.reach(connection, settings.engine)
        yield found
        if answers:
            yield from _cluster(connection, settings)


@dataclass(frozen=True, slots=True)
class _Llm:
    """One LLM, before any of its weights are loaded.

    Attributes:
        is_exported: ONNX Runtime runs it.
        size: bytes of its weights as they run; None: they are not here.
        found: whether it is here, and whole.
        identity: what routers and head sets must fit; None: it is not here.
    """

    is_exported: bool
    size: int | None
    found: Sequence[Finding]
    identity: Callable[[], BackboneIdentity] | None


def _llm(settings: Settings) -> _Llm:
    """The LLM of these settings.

    Raises:
        RhConnectorError: see ``export_that_runs``.
    """
    export = exported.export_that_runs(settings)
    if export is not None:
        found = list(run("model", lambda: exported.exported_model(settings, export)))
        if any(finding.level != "ok" for finding in found):
            return _Llm(True, None, found, None)
        return _Llm(True, exported.weights_of(export), found, lambda: exported.exported_identity(settings, export))
    checkpoint, problem = _checkpoint(settings)
    if problem is not None:
        return _Llm(False, None, [problem], None)
    found = list(run("model", lambda: model.model(settings, checkpoint)))
    if checkpoint is None:
        return _Llm(False, None, found, None)
    return _Llm(False, machine.weights(settings, checkpoint), found, lambda: model.identity(settings, checkpoint))


def _second(settings: Settings) -> tuple[_Llm | None, list[Finding]]:
    """A cascade's second LLM: is it here, and does its router fit? Loading both shows whether they go together."""
    try:
        check_routers(settings)
        own = second_settings(settings)
        llm = None if own is None else _llm(own)
    except RhConnectorError as error:
        return None, [failed("second model", error)]
    if own is None or llm is None:
        return None, []
    found = [*llm.found, *([] if llm.identity is None else _ranking(own, llm.identity, None))]
    return llm, [
        replace(each, check=f"second {each.check}", mend=each.mend.replace("router.bundle", "cascade.bundle"))
        for each in found
    ]


def _first(settings: Settings, llm: _Llm, beside: int, load: Load | None) -> Iterator[Finding]:
    """Machine, packages and folders, the LLM, and what ranks by it.

    Args:
        settings: see ``load_settings``.
        llm: theirs.
        beside: bytes of a second LLM's weights.
        load: see ``diagnose``.
    """
    program = machine.EXPORTED_PROGRAM_BYTES if llm.is_exported else machine.PROGRAM_BYTES
    yield from run("machine", lambda: machine.machine(settings, llm.size, program, beside))
    if not llm.is_exported:
        yield from run("gpu", lambda: machine.gpu(settings))
    yield from run("packages", lambda: machine.packages(settings, exported=llm.is_exported))
    yield from run("cache folder", lambda: machine.cache_folder(settings, llm.identity is not None))
    yield from run("shared documents", lambda: machine.shared_documents(settings))
    yield from llm.found
    if llm.identity is not None:
        yield from _ranking(settings, llm.identity, load)


def _ranking(settings: Settings, identity: Callable[[], BackboneIdentity], load: Load | None) -> Iterator[Finding]:
    fits = yield from _watched("heads", lambda: model.heads(settings, identity()))
    here = fits and (yield from _watched("embedding model", lambda: model.embedding_model(settings, identity())))
    if load is not None and here:
        yield from run("golden query", partial(model.golden_query, settings, load))


def _checkpoint(settings: Settings) -> tuple[Checkpoint | None, Finding | None]:
    try:
        return model.local_checkpoint(settings), None
    except BackboneError as error:
        return None, model.model_error(settings, error)
    except Exception as error:
        return None, failed("model", error)


def _cluster(connection: Connection, settings: Settings) -> Iterator[Finding]:
    there = yield from _watched("index", lambda: cluster.index(connection, settings))
    if there:
        yield from run("fields", lambda: cluster.fields(connection, settings))
    yield from run("disk", lambda: cluster.blocks(connection))
    wanted = settings.writeback.service_url is not None
    reached: bool | None
    if settings.engine.kind == "opensearch":
        reached = yield from _opensearch(connection, settings, wanted)
    else:
        reached = yield from _elasticsearch(connection, settings, wanted)
    if wanted:
        yield from run("service from here", lambda: cluster.service(settings, reached))


def _opensearch(connection: Connection, settings: Settings, wanted: bool) -> _Reaching:
    from connector.diagnosis import opensearch

    usable = yield from _watched("plugins", lambda: opensearch.plugins(connection, wanted))
    if not wanted or not usable:
        if wanted:
            yield Finding("pipeline", "ok", "not tried: a plugin is missing")
        else:
            yield from run("pipeline", lambda: _unchecked("pipeline", connection, settings, "/_search/pipeline"))
        return None
    try:
        there = opensearch.installed(connection, settings)
    except Exception as error:
        yield failed("pipeline", error)
        return None
    yield from run("cluster settings", lambda: opensearch.settings_of(connection, there))
    yield from run("pipeline", lambda: opensearch.pieces(there))
    index = settings.engine.index
    yield from run("default pipeline", lambda: opensearch.default_pipelines(connection, there, index))
    if there.found.is_empty:
        return None
    yield from run("hybrid searches", lambda: opensearch.searches(connection, there, index))
    yield from run("failures", lambda: opensearch.counted(there))
    if there.found.model is None:
        return None
    try:
        finding, reached = opensearch.reached(there)
    except Exception as error:
        yield failed("service from the cluster", error)
        return None
    yield finding
    return reached


def _elasticsearch(connection: Connection, settings: Settings, wanted: bool) -> _Reaching:
    from connector.diagnosis import elasticsearch

    try:
        finding, usable = elasticsearch.inference(connection)
    except Exception as error:
        finding, usable = failed("inference API", error), False
    yield finding
    if not usable:
        return None
    yield from run("licence", lambda: elasticsearch.licence(connection))
    if not wanted:
        yield from run("endpoint", lambda: _unchecked("endpoint", connection, settings, "/_inference/rerank"))
        return None
    try:
        finding, reached = elasticsearch.endpoint(connection, settings)
    except Exception as error:
        finding, reached = failed("endpoint", error), None
    yield finding
    return reached


def _unchecked(piece: str, connection: Connection, settings: Settings, path: str) -> Iterator[Finding]:
    """What stands in the cluster under our name though the settings ask for nothing."""
    name = settings.writeback.name
    try:
        connection.request("GET", f"{path}/{name}")
    except ClusterError as error:
        if error.status in (403, 404):
            yield Finding(piece, "ok", _NO_SERVICE)
            return
        raise
    yield Finding(
        piece,
        "warn",
        f"{name} is installed and was not checked: writeback.service_url is not set",
        "set writeback.service_url to the service's URL as the cluster sees it",
    )


def _embedded(settings: Settings) -> Iterator[Finding]:
    from connector.engines.index_names import other_indexes
    from connector.engines.open_engine import index_folder, open_engine

    folder = index_folder(settings)
    make = "rh-connector index SOURCE"
    if not folder.is_dir():
        yield Finding(
            "index", "warn", f"there is no index in {folder}{other_indexes(settings)}", f"{make}; or set engine.index"
        )
        return
    # An embedding model is not fetched.
    local = settings.backbone.model_copy(update={"offline": True})
    with closing(open_engine(settings.model_copy(update={"backbone": local}))) as engine:
        count = engine.count()
        if count:
            # Fields that no document has are told by a search.
            engine.search("cats", 1)
            vectors = settings.engine.embedder
            seen = f"{count} document{'' if count == 1 else 's'}{f', with vectors of {vectors},' if vectors else ''}"
            yield Finding("index", "ok", f"{seen} in {folder}")
        else:
            yield Finding("index", "warn", f"no documents in {folder}", make)


def _watched(name: str, check: Check) -> _Watching:
    """As ``run``; returns whether nothing failed."""
    good = True
    for finding in run(name, check):
        good = good and finding.level != "fail"
        yield finding
    return good
