"""A judged collection measured: first stage, heads, fusion, and a router with its controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
import numpy.typing as npt

from connector.backbone.open_reader import reader_from
from connector.backbone.reader import Reader
from connector.backbone.runtime import torch_is_installed
from connector.documents import Hit
from connector.embedding.embedder import Embedder
from connector.embedding.hybrid import hybrid, similarities
from connector.errors import DataError, SettingsError
from connector.evaluation.answering.evaluation import Evaluation
from connector.evaluation.cascaded import cascade_systems, open_cascade
from connector.evaluation.collections import Collection, load_collection
from connector.evaluation.first_stage import first_stage, indexed_first_stage, open_collection_engine
from connector.evaluation.judged_files import load_judged_file
from connector.evaluation.measures import check_measures
from connector.evaluation.progress import Progress, Quiet
from connector.evaluation.provenance import Provenance
from connector.evaluation.report import Report
from connector.evaluation.routed_systems import RoutedBy, routed_by, trained_on
from connector.evaluation.running import (
    AnyTable,
    Ranked,
    drawn_queries,
    peer_systems,
    shuffled,
    signal_systems,
    systems,
    window_recall,
)
from connector.evaluation.runs import read_run
from connector.evaluation.timing import with_seconds
from connector.heads.fusion import fusion_of
from connector.heads.head_sets import StaticHeads
from connector.installation import this_installation
from connector.offline.gathering import HeadScores, Signals, read_by
from connector.offline.workers import Workers
from connector.reranking.cascade import Cascade
from connector.reranking.second_settings import second_settings
from connector.routing.bundle import Bundle
from connector.routing.opening import open_reader
from connector.routing.query_embedding import QueryEmbedding
from connector.routing.selection import check_embedder, counts_nothing, likelihood_route, load_bundle, static_heads
from connector.sections import CLUSTER_KINDS, Settings
from connector.statistics.head_tables import HeadTable, SearchedQuery, gather, statistics_folder
from connector.statistics.signal_tables import gather_signals

__all__ = ["EvaluateOptions", "evaluate"]

_CLICKS = "clicks favour what was shown on top: the first stage looks better in them than it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What is measured, and how. Model, layout and window are settings.

    Attributes:
        limit: at most so many queries, drawn with the seed; None: all.
        split: which queries: ``test``, ``train``, ``dev``.
        qrels: another file of judgments, in the collection's folder or a path; None: the split's own.
        relevant_from: lowest grade that counts as relevant for MRR@10.
        run: a TREC run as first stage, in the collection's folder or a path; None: a search of engine.kind.
        by_rank: fuse with first-stage places, not scores, as a search pipeline does.
        seed: of the drawn queries and the paired tests.
        timed: queries whose reranking is timed; 0: none.
        bundle: a router; None: router.bundle, or the one shipped for the model.
        left_out: a router trained without this collection, for systems of its own; None: none.
        shuffle: the LLM sees each window in random order.
        layers: heads of the first so many layers are scored; None: of all.
        embedder: embedding models (folders, or names of ``embedder.KNOWN``), for rows of their own.
        hybrid: the windows are ranked by first stage and embedding model together (the first one, where there are
            several) before the LLM sees them.
        all_rows: all rows will be looked at: a note tells of those that cannot be had here.
    """

    limit: int | None = None
    split: str = "test"
    qrels: str | None = None
    relevant_from: int = 1
    run: str | None = None
    by_rank: bool = False
    seed: int = 0
    timed: int = 3
    bundle: Path | None = None
    left_out: Path | None = None
    shuffle: bool = False
    layers: int | None = None
    embedder: tuple[str, ...] = ()
    hybrid: bool = False
    all_rows: bool = False

    def __post_init__(self) -> None:
        if self.hybrid and not self.embedder:
            raise SettingsError("hybrid without embedder: give the model, as in --embedder all-MiniLM-L6-v2")
        for key, least in (("limit", 1), ("relevant_from", 1), ("timed", 0), ("layers", 1)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise SettingsError(f"{key} = {value}: give {least} or more")


def evaluate(
    folder: Path | str,
    settings: Settings | None = None,
    options: EvaluateOptions | None = None,
    *,
    reader: Reader | Callable[[Settings], Reader] = open_reader,
    progress: Progress | None = None,
    command: str = "connector.evaluate",
    workers: Workers | None = None,
    second: Reader | None = None,
) -> Evaluation:
    """Measure first stage, all heads (ICR), static heads, and the router with its controls, each alone and fused.

    Where the settings name a second LLM (``cascade.model``), also what both make of the hits together.

    Head scores are kept below ``cache.path`` as they come: an evaluation that was stopped goes on.

    Args:
        folder: the collection, laid out as BEIR does. Where engine.kind is a cluster, engine.index must hold it. Or
            a file of judgments whose documents engine.index holds: see ``load_judged_file``.
        settings: see ``load_settings``; None: the defaults, without any file or variable.
        options: None: the defaults.
        reader: the settings' LLM, or what loads it, called when the first stage is known. Its cache is cleared for
            timing.
        progress: told each note as soon as it is known, and how many queries are read; None: the log.
        command: how the evaluation was asked for, for the report.
        workers: read the windows, with the same numbers; None: the reader does. A second LLM reads here.
        second: the settings' second LLM, where it is loaded already; None: what loads ``reader`` loads it.

    Raises:
        SettingsError: options or settings that do not go together.
        DataError: a file of the collection, a run, or judgments that cannot be used.
        BackboneError: an LLM, a router or a head set cannot be loaded, or is of something else; or there is a second
            LLM, and no router whose scores two can share.
        EngineError: the first stage failed.
        MissingExtraError: ir_measures is not installed, or what a setting or option needs.
    """
    settings, options, progress = settings or Settings(), options or EvaluateOptions(), progress or Quiet()
    check_measures()
    # Settings that do not go together are found out before anything is searched or loaded.
    second_settings(settings)
    folder = Path(folder)
    collection = _load(folder, options)
    fields = tuple(settings.engine.field_weights()) if collection.is_indexed else ("title", "text")
    collection = drawn_queries(collection, options.limit, options.seed)
    windows = _windows(folder, collection, settings, options.run, progress.say)
    embedders = [
        Embedder.load(named, offline=settings.backbone.offline, device=settings.backbone.device)
        for named in options.embedder
    ]
    peers: list[Mapping[str, npt.NDArray[np.float64]]] = []
    for at, embedder in enumerate(embedders):
        each = similarities(embedder, collection.queries, windows, fields)
        cosines = dict(progress.track(f"{embedder.name}, {collection.name}", each, len(windows)))
        if options.hybrid and at == 0:
            windows, cosines = hybrid(windows, cosines)
        peers.append(cosines)
    source, reader = reader, reader_from(reader, settings)
    parts = _Parts.load(collection, settings, options, reader)
    cascade, more = open_cascade(settings, reader, parts.router, source, second)
    notes = [*parts.notes, *more, *([_CLICKS] if collection.shown else [])]
    for text in notes:
        progress.say(text)
    if settings.backbone.layout == "solo":
        ranked = _of_signals(
            collection, windows, settings, options, reader, parts, cascade, fields, progress, workers
        )
    else:
        tables = _tables(collection, windows, settings, options, reader, parts, fields, progress, workers)
        ranked = systems(
            collection,
            windows,
            tables,
            parts.static,
            options.seed,
            ways=parts.ways(tables, reader.runtime.shape.layers, options.seed),
            every_head=parts.cut is None,
            # The layout joint is there to show the published systems as they were published.
            static_systems=settings.backbone.layout != "joint",
        )
    ranked[1:1] = [
        system
        for embedder, by_query in zip(embedders, peers, strict=True)
        for system in peer_systems(collection, windows, embedder.name, by_query, options.seed)
    ]
    found = [each.system for each in ranked]
    if options.timed:
        found = with_seconds(found, reader, parts.router, cascade, collection, windows, options.timed, fields)
    report = Report(
        collection=collection.name,
        queries=len(collection.queries),
        window=settings.rerank.window,
        systems=found,
        provenance=_provenance(collection, settings, options, reader, parts, cascade, embedders, command),
        recall=window_recall(collection, windows),
    )
    return Evaluation(report, tuple(ranked), collection, windows, _counted_in(settings, options), tuple(notes))


def _counted_in(settings: Settings, options: EvaluateOptions) -> Settings:
    """What would have to be set for a search to be what the options made of it."""
    router = settings.router.model_copy(update={"bundle": options.bundle or settings.router.bundle})
    engine, rerank = settings.engine, settings.rerank
    if options.hybrid:
        rerank = rerank.model_copy(update={"fusion": fusion_of(settings, hybrid=True)})
        if engine.kind not in CLUSTER_KINDS:
            engine = engine.model_copy(update={"embedder": options.embedder[0]})
    return settings.model_copy(update={"router": router, "engine": engine, "rerank": rerank})


@dataclass(frozen=True, slots=True)
class _Parts:
    """What is measured besides the first stage.

    Attributes:
        static: the static head sets, of which those above the cut are left out.
        source: their file, or None.
        router: the router of the settings or options.
        without: the router that was trained without the collection.
        cut: heads of the first so many layers are scored; None: of all.
        notes: see ``Evaluation``.
    """

    static: StaticHeads | None
    source: str | None
    router: Bundle | None
    without: Bundle | None
    cut: int | None
    notes: tuple[str, ...]

    @classmethod
    def load(cls, collection: Collection, settings: Settings, options: EvaluateOptions, reader: Reader) -> _Parts:
        layers, there = options.layers, reader.runtime.readable_layers
        lacking = layers is None and there < reader.runtime.shape.layers
        layers = there if lacking else layers
        cut = None if layers is None or layers >= reader.runtime.shape.layers else layers
        static, source = static_heads(settings, reader.identity, reader)
        static, notes = _within(static, cut)
        if lacking and (options.all_rows or settings.router.mode == "all"):
            note = f"no rows likelihood and all: ONNX Runtime has the first {there} layers here; for these rows set "
            note += "backbone.runtime=torch"
            if not torch_is_installed():
                note += f"; torch is not installed; install it with: {this_installation().adding('torch')}"
            notes.append(note)
        for given in (options.bundle, options.left_out):
            if given is not None and given.suffix != ".onnx":
                raise SettingsError(f"evaluate: {given} is no router; give the .onnx file that train wrote")
        router = load_bundle(settings, reader.identity, options.bundle, reader)
        without = load_bundle(settings, reader.identity, options.left_out, reader) if options.left_out else None
        for bundle in (router, without):
            if bundle is not None:
                check_embedder(bundle, reader)
        if told := counts_nothing(settings, router):
            notes.append(told)
        if without is not None and trained_on(without.metadata, collection.name):
            notes.append(
                f"{without.path.name} was trained on {collection.name}: its row left-out is none; train it with "
                f"--leave-out {collection.name}"
            )
        if router is not None and _learned_from(router, collection):
            notes.append(
                f"{router.path.name} was trained on {collection.name}:{collection.split}, the queries it is measured "
                f"on: the verdict says nothing of other queries; give another --split"
            )
        for own in (router, without):
            if own is not None and cut is not None and own.metadata.deepest_layer >= cut:
                raise SettingsError(
                    f"evaluate: --layers {cut}: {own.path.name} reads layer {own.metadata.deepest_layer}; give at "
                    f"least {own.metadata.deepest_layer + 1}"
                )
        return cls(static, source, router, without, cut, tuple(notes))

    def ways(self, tables: Sequence[HeadTable], depth: int, seed: int) -> list[RoutedBy]:
        """The routes of both routers, and of the first one's controls."""
        by_query = {table.query_id: table for table in tables}
        found: list[RoutedBy] = []
        for own, name in ((self.router, "routed"), (self.without, "left-out")):
            if own is not None:
                made = own.metadata.embedding
                embedding = QueryEmbedding(made.form, made.layers, made.pooling, made.features)
                pool, scales = own.metadata.heads, own.metadata.scales
                controls = name == "routed"
                found += routed_by(own, pool, scales, embedding, by_query, depth, seed, controls=controls, name=name)
        return found


def _load(folder: Path, options: EvaluateOptions) -> Collection:
    if not folder.exists():
        raise DataError(
            f"there is no {folder}; give a folder as BEIR lays it out, pairs (.csv), or a click log (.jsonl)"
        )
    if folder.is_dir():
        return load_collection(folder, options.split, options.qrels, options.relevant_from)
    for option, own, plain in (
        ("--split", options.split, "test"),
        ("--qrels", options.qrels, None),
        ("--relevant-from", options.relevant_from, 1),
    ):
        if own != plain:
            raise SettingsError(f"{folder} is a file of judgments: it takes no {option} {own}; leave it out")
    return load_judged_file(folder)


def _windows(
    folder: Path, collection: Collection, settings: Settings, run: str | None, say: Callable[[str], None]
) -> dict[str, Sequence[Hit]]:
    if collection.is_indexed:
        return dict(indexed_first_stage(collection, settings, say, run=None if run is None else read_run(run)))
    if run is None:
        engine = open_collection_engine(collection, settings)
        return dict(first_stage(collection, settings.rerank.window, engine=engine))
    path = folder / run if (folder / run).is_file() else Path(run)
    return dict(first_stage(collection, settings.rerank.window, run=read_run(path)))


def _tables(
    collection: Collection,
    windows: Mapping[str, Sequence[Hit]],
    settings: Settings,
    options: EvaluateOptions,
    reader: Reader,
    parts: _Parts,
    fields: Sequence[str],
    progress: Progress,
    workers: Workers | None,
) -> list[HeadTable]:
    folder = statistics_folder(settings.cache.path, reader)
    embed = parts.router is not None or parts.without is not None
    kept = HeadScores(tuple(fields), parts.cut, embed=embed)
    searched = read_by(workers, kept, reader, _searched(collection, windows, options), folder)
    gathered = gather(reader, searched, folder, fields, layers=parts.cut, embed=embed)
    tables = progress.track(f"head scores, {collection.name}", gathered, len(collection.queries))
    return [_of_places(table) if options.by_rank else table for table in tables]


def _of_signals(
    collection: Collection,
    windows: Mapping[str, Sequence[Hit]],
    settings: Settings,
    options: EvaluateOptions,
    reader: Reader,
    parts: _Parts,
    cascade: Cascade | None,
    fields: Sequence[str],
    progress: Progress,
    workers: Workers | None,
) -> list[Ranked]:
    """The layout ``solo``: the likelihood as published, which needs no training, and what routers make of signals."""
    # A likelihood needs every layer.
    routes = {"likelihood": likelihood_route()} if parts.cut is None else {}
    routes.update(
        {
            name: own.static_route()
            for name, own in (("routed", parts.router), ("left-out", parts.without))
            if own is not None
        }
    )
    weight = fusion_of(settings, hybrid=options.hybrid)
    if not isinstance(weight, str):
        routes = {name: replace(route, first_stage_gate=weight) for name, route in routes.items()}
    if not routes:
        raise SettingsError("evaluate: --layers leaves the layout solo nothing to rank by without a router; give one")
    needs = replace(reduce(or_, (route.needs for route in routes.values())), heads=(), groups=())
    folder = statistics_folder(settings.cache.path, reader)
    searched = read_by(
        workers, Signals(needs, tuple(fields)), reader, _searched(collection, windows, options), folder
    )
    gathered = gather_signals(reader, searched, folder, needs, fields)
    read = progress.track(f"signals, {collection.name}", gathered, len(collection.queries))
    tables = [_of_places(table) if options.by_rank else table for table in read]
    queries = [table.query_id for table in tables]
    ways = [RoutedBy(name, (dict.fromkeys(queries, route),)) for name, route in routes.items()]
    ranked = signal_systems(collection, windows, tables, ways, options.seed)
    if cascade is None:
        return ranked
    second = cascade_systems(
        cascade,
        collection,
        windows,
        tables,
        routes["routed"],
        ranked,
        cache=settings.cache.path,
        fields=fields,
        seed=options.seed,
        progress=progress,
    )
    return [*ranked, *second]


def _of_places(table: AnyTable) -> AnyTable:
    """Without first-stage scores: places are all that is known."""
    return replace(table, first_stage=np.full(len(table.ids), np.nan))


def _searched(
    collection: Collection, windows: Mapping[str, Sequence[Hit]], options: EvaluateOptions
) -> Iterator[SearchedQuery]:
    seen = shuffled(windows, options.seed) if options.shuffle else windows
    for query, text in collection.queries.items():
        yield SearchedQuery(query, text, seen[query], collection.qrels[query], f"{collection.name}:{options.split}")


def _learned_from(router: Bundle, collection: Collection) -> bool:
    sources = router.metadata.training.get("sources")
    own = f"{collection.name}:{collection.split}"
    return trained_on(router.metadata, collection.name) and any(
        isinstance(each, dict) and each.get("source") == own
        for each in (sources if isinstance(sources, list) else [])
    )


def _within(static: StaticHeads | None, cut: int | None) -> tuple[StaticHeads | None, list[str]]:
    """The static sets that need no head above the cut, and which ones are left out."""
    if static is None or cut is None:
        return static, []
    sets = {name: own for name, own in static.sets.items() if all(layer < cut for layer, _ in own.heads)}
    left = sorted(static.sets.keys() - sets.keys())
    notes = [f"no static row for {', '.join(left)}: their heads lie above --layers {cut}"] if left else []
    return replace(static, sets=sets), notes


def _provenance(
    collection: Collection,
    settings: Settings,
    options: EvaluateOptions,
    reader: Reader,
    parts: _Parts,
    cascade: Cascade | None,
    embedders: Sequence[Embedder],
    command: str,
) -> Provenance:
    def named(bundle: Bundle | None) -> str | None:
        return None if bundle is None else f"{bundle.path.name} {bundle.digest[:12]}"

    first = f"{settings.engine.kind} BM25" if options.run is None else Path(options.run).name
    if options.run is None and collection.shown:
        first = "what was shown"
    elif options.run is None and settings.engine.embedder is not None:
        first = f"{first} and vectors of {Path(settings.engine.embedder).name}"
    if options.hybrid:
        first = f"{first} and {embedders[0].name}"
    return Provenance(
        model=settings.backbone.model,
        fingerprint=reader.fingerprint,
        layout=settings.backbone.layout,
        head_set=parts.source,
        first_stage=f"{first} (places)" if options.by_rank else first,
        qrels=collection.qrels_file,
        split=options.split,
        limit=options.limit,
        seed=options.seed,
        relevant_from=options.relevant_from,
        threads=reader.runtime.threads,
        device=reader.runtime.device,
        command=command,
        router=named(parts.router),
        left_out=named(parts.without),
        shuffled=options.shuffle,
        layers=parts.cut,
        precision=reader.runtime.precision,
        embedder=", ".join(f"{own.name} {own.digest[:12]}" for own in embedders) or None,
        second_model=None if cascade is None else cascade.name,
        second_router=None if cascade is None else named(cascade.routes.bundle),
        second_hits=None if cascade is None else cascade.hits,
        router_embedder=_weighed(parts.router),
    )


def _weighed(router: Bundle | None) -> str | None:
    """Names and digests of the embedding models that count beside the LLM."""
    members = () if router is None else router.metadata.similarities
    return ", ".join(f"{member.similarity} {member.digest[:12]}" for member in members) or None
