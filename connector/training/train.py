"""From train queries to a router in a file: gather head statistics, train, export."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connector.backbone.open_reader import open_reader, reader_from
from connector.backbone.reader import Reader
from connector.checkpoints.identifying import known_as
from connector.errors import DataError, MissingExtraError, SettingsError
from connector.evaluation.progress import Progress, Quiet
from connector.heads.head_sets import HeadSet, StaticHeads
from connector.heads.needs import Head, Needs
from connector.heads.reference import ReferenceScores
from connector.offline.gathering import Signals, read_by
from connector.offline.workers import Workers
from connector.routing.bundle import Bundle
from connector.routing.formats import built_in_scores
from connector.routing.selection import fixed_route
from connector.sections import READOUTS, ReadOut, Settings
from connector.statistics.head_tables import statistics_folder
from connector.statistics.signal_tables import gather_signals, unread_texts
from connector.training.gain import enough
from connector.training.sources import MADE, TrainSource, read_source, source_windows
from connector.training.static_heads import Criterion, best_weight, find_heads
from connector.training.tables import Gathered, gather_tables, merge_tables, reading_cost
from connector.training.windows import TrainWindows, engine_windows, short_windows, without_one_grade
from router_export import export

if TYPE_CHECKING:
    from connector.training.train_router import Backbone, RouterOptions, Trained
    from connector.training.train_signals import JudgedWindow

__all__ = ["StaticResult", "TrainOptions", "TrainResult", "find_static_heads", "gather_shard", "train"]

_LIBRARY = "connector.train"
# Those of smollm2-135m were found with answers put among other texts: the tokens that they show lie in the answer
# most often. That of gemma3-270m is the head that ranked best by itself; where it points was not measured.
_SHOWN: Mapping[str, tuple[Head, ...]] = {"smollm2-135m": ((2, 4), (8, 0), (15, 6)), "gemma3-270m": ((5, 2),)}
# Options of layouts that read heads.
_OF_HEADS = ("pool", "most_heads", "kappa", "layers")
_NO_SOURCE = "train: give a SOURCE (FOLDER:SPLIT, FOLDER:made, engine:made)"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What ``train`` learns from, and how.

    Attributes:
        mode: ``listwise``, or ``paper`` (RouteHead, arXiv 2604.24608, as published, as far as it is).
        queries: most queries of each source that names no count.
        queries_file, qrels: JSONL with ``_id`` and ``text``, and their judgments (TREC or BEIR): a further source,
            searched in the configured engine. Both or neither.
        seed: which queries are drawn and made, and of the fit.
        pool: (head, read-out) pairs that may be chosen; None: 32, in paper mode 64.
        most_heads: heads that a query uses at most; None: 16, in paper mode 8.
        readouts: by which read-outs heads may be read.
        kappa: strength of routing; None: by cross-validation.
        layers: heads of the first so many layers; None: two thirds of all, in paper mode all.
        shard: (i, n): gather head scores of every n-th query from the i-th (0 to n - 1) only; see ``gather_shard``.
        merge: folders of head scores that were gathered elsewhere.
        leave_out: collections whose queries are not trained on.
        whole: in the layout ``solo``, how many queries of each source have their whole window read; None: 20. The
            rest have a few documents of it.
        measured: whether the gains on held-out queries are measured, which takes most of the time. In the layout
            ``solo`` they always are: the probe's penalty is chosen by them.
        force: train although there is too little to learn from.
        command: what the router's record says made it.
    """

    mode: Literal["listwise", "paper"] = "listwise"
    queries: int = 50
    queries_file: Path | None = None
    qrels: Path | None = None
    seed: int = 0
    pool: int | None = None
    most_heads: int | None = None
    readouts: tuple[ReadOut, ...] = ("query",)
    kappa: float | None = None
    layers: int | None = None
    shard: tuple[int, int] = (0, 1)
    merge: tuple[Path, ...] = ()
    leave_out: tuple[str, ...] = ()
    whole: int | None = None
    measured: bool = True
    force: bool = False
    command: str = _LIBRARY

    def router_options(self) -> RouterOptions:
        """What the mode's defaults make of them."""
        from connector.training.fitting import FitOptions
        from connector.training.train_router import RouterOptions

        paper = self.mode == "paper"
        return RouterOptions(
            mode=self.mode,
            pool=self.pool or (64 if paper else 32),
            readouts=("icr",) if paper and self.readouts == ("query",) else self.readouts,
            kappa=self.kappa,
            fit=FitOptions(most_heads=self.most_heads or (8 if paper else 16), seed=self.seed),
            measured=self.measured,
        )


@dataclass(frozen=True)
class TrainResult:
    """A router and its file.

    Attributes:
        trained: the router, its record and what was measured of it.
        bundle: loaded from the file that was written; ``Settings.router.bundle`` takes ``bundle.path``.
    """

    trained: Trained
    bundle: Bundle


@dataclass(frozen=True)
class StaticResult:
    """Static head sets, one a read-out.

    Attributes:
        heads: to be saved with ``StaticHeads.save``.
        ndcg: read-out -> mean nDCG@10 on the train queries, fused with the first stage.
    """

    heads: StaticHeads
    ndcg: dict[ReadOut, float]


def train(
    sources: Sequence[str | Path | TrainSource],
    out: Path | str,
    settings: Settings | None = None,
    options: TrainOptions | None = None,
    *,
    reader: Reader | Callable[[Settings], Reader] = open_reader,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> TrainResult:
    """Train a router that picks the heads of each query, and write it as an ONNX bundle.

    Every head is scored once for every query and kept on disk: a run that was stopped goes on where it was, and
    training again needs no LLM. The same queries, options and versions give the same file.

    Args:
        sources: ``FOLDER:SPLIT`` (a judged BEIR folder; the split is train unless given), ``FOLDER:made`` or
            ``FILE.jsonl:made`` (no labels: queries are made of the documents), ``engine:made``; ``:COUNT`` behind it
            overrides ``TrainOptions.queries``.
        out: where the bundle goes; beside it the router itself, as ``.safetensors``.
        settings: model, layout, window, cache folder, engine; None: the defaults.
        options: None: the defaults.
        reader: the settings' LLM, or what loads it, called when the sources are known.
        progress: told what it costs and how far it is; None: the log.
        workers: read the windows, with the same numbers; None: the reader does.

    Raises:
        SettingsError: options or sources that do not go together, or a name that does not end in .onnx.
        DataError: there is nothing to learn from.
        BackboneError, EngineError, MissingExtraError: the LLM, the first stage, or what a package lacks.
    """
    settings, options, progress = settings or Settings(), options or TrainOptions(), progress or Quiet()
    target = Path(out)
    if target.suffix != ".onnx":
        raise SettingsError(f"train: --out {target}: the name of a router ends in .onnx")
    if options.shard != (0, 1):
        raise SettingsError("train: a shard gathers head scores only; call gather_shard")
    # Imported here: options, static heads and shards need no torch, where the LLM runs without it.
    try:
        from connector.training.train_router import train_router
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "train") from None
    if settings.backbone.layout == "solo":
        return _train_signals(sources, target, settings, options, reader, progress, workers)
    _check_read_whole(settings, options)
    reader, gathered = _gathered(sources, settings, options, reader, progress, workers)
    kept = [query for query in gathered.queries if query.collection.partition(":")[0] not in options.leave_out]
    if not kept:
        raise DataError("train: no train query is left; check --leave-out, the judgments and the window")
    enough(len(kept), options.force, progress)
    trained = train_router(
        kept,
        _backbone(settings, reader),
        options.router_options(),
        _record(options, settings, reader, gathered.used),
        lambda text: progress.say(f"{text} ..."),
    )
    return _written(trained, target, reader)


def _backbone(settings: Settings, reader: Reader) -> Backbone:
    """What a router is bound to."""
    from connector.training.train_router import Backbone

    layers = reader.runtime.shape.layers
    named = settings.backbone
    model = known_as(named.model, settings.cache.path)
    return Backbone(model, reader.fingerprint, reader.template_hash, named.layout, layers)


def _written(trained: Trained, target: Path, reader: Reader) -> TrainResult:
    unscored = export(trained.router, trained.metadata, target).bundle
    reference = ReferenceScores.of(built_in_scores(reader, unscored.static_route()))
    trained = replace(trained, metadata=trained.metadata.model_copy(update={"reference": reference}))
    trained.router.save(target.with_suffix(".safetensors"), trained.metadata)
    return TrainResult(trained, export(trained.router, trained.metadata, target).bundle)


def _train_signals(
    sources: Sequence[str | Path | TrainSource],
    target: Path,
    settings: Settings,
    options: TrainOptions,
    reader: Reader | Callable[[Settings], Reader],
    progress: Progress,
    workers: Workers | None,
) -> TrainResult:
    """The layout ``solo``: a probe of hidden states, learned from a few documents of each query's window."""
    from connector.training.train_signals import probe_layers, train_signals

    reader, judged, used = _judged_signals(sources, settings, options, reader, progress, workers)
    bound = _backbone(settings, reader)
    trained = train_signals(
        judged,
        bound,
        _record(options, settings, reader, used),
        options.seed,
        _shown_heads(
            known_as(settings.backbone.model, settings.cache.path), max(probe_layers(reader.runtime.shape.layers))
        ),
        lambda text: progress.say(f"{text} ..."),
        reader.embedder,
    )
    return _written(trained, target, reader)


def _judged_signals(
    sources: Sequence[str | Path | TrainSource],
    settings: Settings,
    options: TrainOptions,
    reader: Reader | Callable[[Settings], Reader],
    progress: Progress,
    workers: Workers | None,
) -> tuple[Reader, list[JudgedWindow], list[dict[str, Any]]]:
    """The reader, what it saw of the windows of this shard, and what is told of each source."""
    from connector.training.train_signals import WHOLE, JudgedWindow, probe_layers

    of_heads = {
        "--mode paper": options.mode == "paper",
        "--readouts": options.readouts != ("query",),
        "--quick": not options.measured,
        **{f"--{name.replace('_', '-')}": getattr(options, name) is not None for name in _OF_HEADS},
    }
    whole = WHOLE if options.whole is None else options.whole
    given = [name for name, is_given in of_heads.items() if is_given]
    if given:
        raise SettingsError(
            f"train: {', '.join(given)}: the layout solo has no heads to pick; leave it out, or give --layout late"
        )
    _check_sources(sources, options)
    named = _read_sources(sources, progress)
    part, parts = options.shard
    every = [(_all_windows(source, settings, options), source.count or options.queries) for source in named]
    if options.queries_file is not None and options.qrels is not None:
        judgments = (options.queries_file, options.qrels)
        every.append((engine_windows(*judgments, sys.maxsize, settings, options.seed), options.queries))
    taken = [(without_one_grade(own), count) for own, count in every if _name(own) not in options.leave_out]
    read = [
        (own, short_windows(own, count, options.seed, whole=whole)[part::parts]) for own, count in taken
    ]  # fmt: skip
    used = []
    for own, short in read:
        progress.say(own.told() + (f"; {len(short)} are taken" if len(short) < len(own.windows) else ""))
        used.append(
            {"source": own.source, "drawn": own.drawn, "used": len(short), "left out": dict(own.left_out)}
        )  # fmt: skip
    queries = sum(len(short) for _, short in read)
    if parts == 1:
        # Before the LLM is loaded, which takes long.
        enough(queries, options.force, progress)
    reader = reader_from(reader, settings)
    folder = statistics_folder(settings.cache.path, reader)
    merge_tables(options.merge, folder, progress)
    layers = probe_layers(reader.runtime.shape.layers)
    needs = Needs(groups=(), layers=layers, similarity=reader.embedder is not None)
    texts: list[str] = []
    for own, short in read:
        texts += unread_texts(reader, (each.searched for each in short), folder, needs, own.fields)
    if texts:
        shape = reader.runtime.shape
        # Half-precision states of each layer; the likelihoods beside them are next to nothing.
        size = len(texts) * len(needs.layers) * shape.hidden * 2
        seconds = reader.seconds_to_encode(texts, max(needs.layers))
        progress.say(reading_cost(queries, len(texts), seconds, folder, size))
    else:
        progress.say(f"{queries} train queries; what the LLM shows of all is on disk.")
    judged: list[JudgedWindow] = []
    for own, short in read:
        kept = Signals(needs, tuple(own.fields))
        searched = read_by(workers, kept, reader, (each.searched for each in short), folder)
        gathered = gather_signals(reader, searched, folder, needs, own.fields)
        drawn = {each.searched.query_id: each for each in short}
        judged += [
            JudgedWindow(table, drawn[table.query_id].others, drawn[table.query_id].whole)
            for table in progress.track(f"signals, {own.source}", gathered, len(short))
        ]
    return reader, judged, used


def _check_read_whole(settings: Settings, options: TrainOptions) -> None:
    if options.whole is not None:
        raise SettingsError(
            f"train: --whole-windows: the layout {settings.backbone.layout} reads all windows whole; leave it out"
        )


def _name(windows: TrainWindows) -> str:
    return windows.source.partition(":")[0]


def _shown_heads(model: str, depth: int) -> tuple[Head, ...]:
    """Heads that say where in a document the answer stands, of the layers that are run."""
    return tuple(head for head in _SHOWN.get(model, ()) if head[0] < depth)


def _all_windows(source: TrainSource, settings: Settings, options: TrainOptions) -> TrainWindows:
    """Of judged queries all, so that the draw is among those that teach; queries are made as many as are wanted."""
    if source.split == MADE:
        return source_windows(source, options.queries, settings, options.seed)
    return source_windows(replace(source, count=None), sys.maxsize, settings, options.seed)


def _record(
    options: TrainOptions, settings: Settings, reader: Reader, used: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What a router tells of its training."""
    return {
        "sources": list(used),
        "left out": list(options.leave_out),
        "window": settings.rerank.window,
        "seed": options.seed,
        "precision": reader.runtime.precision,
        "command": options.command,
    }


def gather_shard(
    sources: Sequence[str | Path | TrainSource],
    settings: Settings | None = None,
    options: TrainOptions | None = None,
    *,
    reader: Reader | Callable[[Settings], Reader] = open_reader,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> tuple[int, Path]:
    """Gather the head scores of one part of the train queries, for ``TrainOptions.merge`` elsewhere.

    Returns:
        How many queries, and the folder of their tables.

    Raises:
        As ``train``.
    """
    settings, options, progress = settings or Settings(), options or TrainOptions(), progress or Quiet()
    if settings.backbone.layout == "solo":
        reader, judged, _ = _judged_signals(sources, settings, options, reader, progress, workers)
        return len(judged), statistics_folder(settings.cache.path, reader)
    _check_read_whole(settings, options)
    reader, gathered = _gathered(sources, settings, options, reader, progress, workers)
    return len(gathered.queries), statistics_folder(settings.cache.path, reader)


def find_static_heads(
    sources: Sequence[str | Path | TrainSource],
    settings: Settings | None = None,
    options: TrainOptions | None = None,
    *,
    criterion: Criterion = "ndcg",
    size: int | None = None,
    reader: Reader | Callable[[Settings], Reader] = open_reader,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> StaticResult:
    """Find the heads that rank best by themselves, one set a read-out.

    Args:
        sources, settings, reader, progress, workers: see ``train``.
        options: of these ``queries``, ``seed``, ``force`` and ``command`` count; None: the defaults.
        criterion: see ``static_heads``.
        size: heads of a set; None: as many as rank best, up to 16.

    Raises:
        As ``train``.
    """
    settings, options, progress = settings or Settings(), options or TrainOptions(), progress or Quiet()
    if not sources:
        raise SettingsError(_NO_SOURCE)
    if settings.backbone.layout == "solo":
        raise SettingsError("train: --static finds heads, and the layout solo ranks by none; give --layout late")
    named = _read_sources(sources, progress)
    reader = reader_from(reader, settings)
    gathered = gather_tables(settings, reader, named, options.queries, options.seed, progress, workers=workers)
    enough(len(gathered.queries), options.force, progress)
    sets: dict[str, HeadSet] = {}
    ndcg: dict[ReadOut, float] = {}
    weights: dict[str, float] = {}
    for readout in READOUTS:
        sets[readout], ndcg[readout] = find_heads(gathered.queries, readout, criterion, size=size)
        weights[readout], _ = best_weight(gathered.queries, readout, None)
    found = {
        "collections": gathered.used,
        "criterion": criterion,
        "window": settings.rerank.window,
        "seed": options.seed,
        "nDCG@10 on these queries": {readout: round(mean, 4) for readout, mean in ndcg.items()},
        "command": options.command,
    }
    model = known_as(settings.backbone.model, settings.cache.path)
    reference: dict[str, ReferenceScores] = {
        readout: ReferenceScores.of(built_in_scores(reader, fixed_route(sets[readout], readout)))
        for readout in READOUTS
    }
    heads = StaticHeads(model, reader.fingerprint, reader.layout, sets, weights, found, reference)
    return StaticResult(heads, ndcg)


def _gathered(
    sources: Sequence[str | Path | TrainSource],
    settings: Settings,
    options: TrainOptions,
    reader: Reader | Callable[[Settings], Reader],
    progress: Progress,
    workers: Workers | None,
) -> tuple[Reader, Gathered]:
    _check_sources(sources, options)
    named = _read_sources(sources, progress)
    reader = reader_from(reader, settings)
    merge_tables(options.merge, statistics_folder(settings.cache.path, reader), progress)
    more = []
    if options.queries_file is not None and options.qrels is not None:
        more.append(engine_windows(options.queries_file, options.qrels, options.queries, settings, options.seed))
    depth = reader.runtime.shape.layers
    gathered = gather_tables(
        settings,
        reader,
        named,
        options.queries,
        options.seed,
        progress,
        layers=options.layers or (depth if options.mode == "paper" else -(-2 * depth // 3)),
        for_router=True,
        shard=options.shard,
        more=more,
        workers=workers,
    )
    return reader, gathered


def _check_sources(sources: Sequence[str | Path | TrainSource], options: TrainOptions) -> None:
    if not sources and options.queries_file is None:
        raise SettingsError(f"{_NO_SOURCE}, or --queries-file")
    if (options.queries_file is None) != (options.qrels is None):
        raise SettingsError("train: --queries-file and --qrels go together; give both")


def _read_sources(sources: Sequence[str | Path | TrainSource], progress: Progress) -> list[TrainSource]:
    named = [source if isinstance(source, TrainSource) else read_source(str(source)) for source in sources]
    for source in named:
        if source.split == "test":
            progress.say(f"{source.path}: what is trained on test queries cannot be measured on them")
    return named
