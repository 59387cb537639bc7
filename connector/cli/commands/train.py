"""``rh-connector train``: head statistics, then a router, or a fixed set of heads."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context, pass_context
from connector.errors import DataError, SettingsError
from connector.settings import LAYOUTS

if TYPE_CHECKING:
    from connector.heads.readouts import ReadOut
    from connector.training.train_router import Trained

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("train")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--static", is_flag=True, help="Find static head sets, one a read-out, instead of a router.")
@click.option("--mode", type=click.Choice(["listwise", "paper"]), default="listwise", show_default=True)
@click.option("--queries", type=click.IntRange(1), default=50, show_default=True, help="Queries of each source.")
@click.option("--queries-file", type=_FILE, metavar="FILE", help="JSONL with _id and text, searched in the engine.")
@click.option("--qrels", type=_FILE, metavar="FILE", help="Judgments (TREC or BEIR) of --queries-file.")
@click.option("--kappa", type=click.FloatRange(0, 4), help="Strength of routing; default: by cross-validation.")
@click.option("--pool", type=click.IntRange(1), help="Heads that may be chosen; default: 32, in paper mode 64.")
@click.option(
    "--most-heads", type=click.IntRange(1), help="Heads a query uses at most; default: 16, in paper mode 8."
)
@click.option(
    "--readouts", default="query", show_default=True, help="How heads may be read, with commas: query,share."
)
@click.option("--layers", type=click.IntRange(1), help="Score heads of so many layers; default: two thirds of all.")
@click.option("--criterion", type=click.Choice(["ndcg", "mass", "contrast"]), default="ndcg", show_default=True)
@click.option(
    "--size", type=click.IntRange(1), help="Heads of a static set; default: as many as rank best, up to 16."
)
@click.option("--window", type=click.IntRange(2), help="First-stage hits of each query; default: rerank.window.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which queries are drawn and made, and the fit.")
@click.option("--shard", metavar="I/N", help="Only gather head scores, of the I-th of N parts (from 1).")
@click.option("--merge", type=click.Path(path_type=Path), multiple=True, help="Head scores gathered elsewhere.")
@click.option("--leave-out", multiple=True, metavar="NAME", help="Train without this collection's queries.")
@click.option("--quick", is_flag=True, help="Do not measure the router on held-out queries.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Default: backbone.layout.")
@click.option("--model", help="Default: backbone.model.")
@click.option("--out", type=_FILE, help="Default: MODEL.LAYOUT.onnx (static: .json) here.")
@pass_context
def command(
    context: Context,
    sources: tuple[str, ...],
    static: bool,
    mode: str,
    queries: int,
    queries_file: Path | None,
    qrels: Path | None,
    kappa: float | None,
    pool: int | None,
    most_heads: int | None,
    readouts: str,
    layers: int | None,
    criterion: str,
    size: int | None,
    window: int | None,
    seed: int,
    shard: str | None,
    merge: tuple[Path, ...],
    leave_out: tuple[str, ...],
    quick: bool,
    layout: str | None,
    model: str | None,
    out: Path | None,
) -> None:
    """Train a router that picks the heads of each query, on TRAIN queries, and export it.

    A SOURCE is FOLDER:SPLIT (a judged BEIR folder; the split is train unless given), FOLDER:made or FILE.jsonl:made
    (no labels: queries are made of the documents), or engine:made (of the configured engine's documents); :COUNT
    behind it overrides --queries.

    Every head is scored once for every query and kept on disk: a run that was stopped goes on where it was, and
    training again needs no LLM. What routing gains is measured on held-out queries; where it gains nothing, the
    router says so and is the static set. Use the file with --set router.bundle=FILE.
    """
    if not sources and queries_file is None:
        raise SettingsError("train: give a SOURCE (FOLDER:SPLIT, FOLDER:made, engine:made), or --queries-file")
    if (queries_file is None) != (qrels is None):
        raise SettingsError("train: --queries-file and --qrels go together; give both")
    part = _shard(shard)
    from connector.training.sources import read_source

    named = [read_source(source) for source in sources]
    settings = context.settings(rerank__window=window, backbone__layout=layout, backbone__model=model)
    console = Console(stderr=True)
    for source in named:
        if source.split == "test":
            console.print(f"[yellow]{source.path}: what is trained on test queries cannot be measured on them[/]")
    if static:
        from connector.cli.train_static import find_static

        find_static(context, settings, named, criterion=criterion, size=size, queries=queries, seed=seed, out=out)
        return
    target = out or Path(f"{Path(settings.backbone.model).name}.{settings.backbone.layout}.onnx")
    if target.suffix != ".onnx":
        raise SettingsError(f"train: --out {target}: the name of a router ends in .onnx")
    from connector.backbone.open_reader import open_reader
    from connector.cli.train_tables import portable, tables_of
    from connector.evaluation.head_tables import statistics_folder
    from connector.training.fitting import FitOptions
    from connector.training.train_router import Backbone, TrainOptions, train_router
    from connector.training.windows import engine_windows
    from router_export import export

    started = time.monotonic()
    reader = open_reader(settings)
    shape = reader.runtime.shape
    _merge(merge, statistics_folder(settings.cache.path, reader), console)
    more = []
    if queries_file is not None and qrels is not None:
        more.append(engine_windows(queries_file, qrels, queries, settings, seed))
    found, used = tables_of(
        settings,
        reader,
        named,
        queries,
        seed,
        console,
        layers=layers or (shape.layers if mode == "paper" else -(-2 * shape.layers // 3)),
        for_router=True,
        shard=part or (0, 1),
        more=more,
    )
    if part is not None:
        done = f"The head scores of {len(found)} queries are in {statistics_folder(settings.cache.path, reader)}."
        click.echo(f"{done} Copy them to where the router is trained, and name their folder with --merge.", err=True)
        if context.as_json:
            context.print_json({"queries": len(found), "seconds": round(time.monotonic() - started, 1)})
        return
    kept = [query for query in found if query.collection.partition(":")[0] not in leave_out]
    if not kept:
        raise DataError("train: no train query is left; check --leave-out, the judgments and the window")
    paper = mode == "paper"
    fit = FitOptions(most_heads=most_heads or (8 if paper else 16), seed=seed)
    options = TrainOptions(
        mode="paper" if paper else "listwise",
        pool=pool or (64 if paper else 32),
        readouts=_readouts("icr" if paper and readouts == "query" else readouts),
        kappa=kappa,
        fit=fit,
        measured=not quick,
    )
    trained = train_router(
        kept,
        Backbone(
            settings.backbone.model, reader.fingerprint, reader.template_hash, settings.backbone.layout, shape.layers
        ),
        options,
        {
            "sources": used,
            "left out": list(leave_out),
            "window": settings.rerank.window,
            "seed": seed,
            "precision": reader.runtime.precision,
            "command": portable(),
        },
        lambda text: console.print(f"{text} ...", markup=False),
    )
    trained.router.save(target.with_suffix(".safetensors"), trained.metadata)
    written = export(trained.router, trained.metadata, target)
    seconds = time.monotonic() - started
    if context.as_json:
        context.print_json(
            {
                "file": str(target),
                "bytes": written.bundle.size,
                "kappa": trained.metadata.kappa,
                "gains": trained.metadata.gains,
                "seconds": round(seconds, 1),
            }
        )
        return
    _print(trained, target, written.bundle.size, seconds)


def _print(trained: Trained, target: Path, size: int, seconds: float) -> None:
    table = Table("held-out train queries, fused", "first stage", "static", "routed", "permuted", box=None)
    for name, own in (("folds", trained.cross_validated), ("collection left out", trained.left_out)):
        if own is not None:
            values = (own.first_stage, own.static, own.routed, own.permuted)
            table.add_row(name, *(f"{value:.4f}" for value in values))
    Console().print(table)
    kappa = trained.metadata.kappa
    if kappa == 0:
        click.echo("kappa = 0: routing did not help on held-out queries; the router is its static set.")
    else:
        click.echo(f"kappa = {kappa:g}: see how far routed is above permuted, which is what routing itself gains.")
    click.echo(
        f"Written to {target} ({size / 1000:.0f} kB) in {seconds:.0f} s. Use it with: --set router.bundle={target}"
    )


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
    if not 1 <= number <= count:
        raise SettingsError(f"train: --shard {text}: give I/N with I from 1 to N, as in 1/4")
    return number - 1, count


def _readouts(text: str) -> tuple[ReadOut, ...]:
    from connector.heads.readouts import READOUTS

    names = [name.strip() for name in text.split(",")]
    chosen = tuple(readout for readout in READOUTS if readout in names)
    if len(chosen) != len(names):
        raise SettingsError(f"train: --readouts {text}: give some of {', '.join(READOUTS)}, with commas")
    return chosen


def _merge(folders: tuple[Path, ...], target: Path, console: Console) -> None:
    """Copy tables that were gathered elsewhere; those that are here already stay."""
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"train: --merge {folder}: there is no such folder; give one with .npz files")
        files = sorted(folder.glob("*.npz")) or sorted((folder / target.name).glob("*.npz"))
        if not files:
            raise DataError(f"{folder} holds no head scores (.npz); give the statistics folder of a shard")
        target.mkdir(parents=True, exist_ok=True)
        new = [file for file in files if not (target / file.name).exists()]
        for file in new:
            shutil.copy2(file, target / file.name)
        console.print(f"{len(new)} of {len(files)} tables were new in {folder}", markup=False)
