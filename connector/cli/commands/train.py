"""``rh-connector train``: head statistics, then a router, or a fixed set of heads."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context, pass_context
from connector.cli.elsewhere import ray_options, workers_of
from connector.cli.progress import ConsoleProgress
from connector.errors import SettingsError
from connector.sections import LAYOUTS, Settings

if TYPE_CHECKING:
    from connector.offline.workers import Workers
    from connector.sections import ReadOut
    from connector.training.static_heads import Criterion
    from connector.training.train import TrainOptions
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
@click.option(
    "--whole-windows",
    type=click.IntRange(1),
    help="Layout solo: queries of each source whose whole window is read; default: 20.",
)
@click.option("--quick", is_flag=True, help="Do not measure the router on held-out queries.")
@click.option("--force", is_flag=True, help="Train although there is too little to learn from.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Default: backbone.layout.")
@click.option("--model", help="Default: backbone.model.")
@click.option("--out", type=_FILE, help="Default: MODEL.LAYOUT.onnx (static: .json) here.")
@ray_options
@pass_context
def command(context: Context, /, **options: Any) -> None:
    """Train a router that picks the heads of each query, on TRAIN queries, and export it.

    A SOURCE is FOLDER:SPLIT (a judged BEIR folder; the split is train unless given), FOLDER:made or FILE.jsonl:made
    (no labels: queries are made of the documents), or engine:made (of the configured engine's documents); :COUNT
    behind it overrides --queries.

    Every head is scored once for every query and kept on disk: a run that was stopped goes on where it was, and
    training again needs no LLM. What routing gains is measured on held-out queries; where it gains nothing, the
    router says so and is the static set. Use the file with --set router.bundle=FILE.
    """
    chosen = _Chosen(**options)
    part = _shard(chosen.shard)
    if chosen.static and part is not None:
        raise SettingsError(f"train: --static and --shard {chosen.shard}: head sets are found at once; leave one out")
    settings = context.settings(
        rerank__window=chosen.window, backbone__layout=chosen.layout, backbone__model=chosen.model
    )
    if settings.backbone.runtime == "auto":
        # It looks at every layer of the LLM, and learns in torch.
        backbone = settings.backbone.model_copy(update={"runtime": "torch"})
        settings = settings.model_copy(update={"backbone": backbone})
    from connector.engines.index_names import naming_indexes

    with naming_indexes(settings), workers_of(settings, chosen.ray, chosen.ray_workers) as workers:
        if chosen.static:
            _static(context, settings, chosen, workers)
        elif part is not None:
            _gather(context, settings, chosen, part, workers)
        else:
            _train(context, settings, chosen, workers)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The command's options, as they were given."""

    sources: tuple[str, ...]
    static: bool
    mode: Literal["listwise", "paper"]
    queries: int
    queries_file: Path | None
    qrels: Path | None
    kappa: float | None
    pool: int | None
    most_heads: int | None
    readouts: str
    layers: int | None
    criterion: Criterion
    size: int | None
    window: int | None
    seed: int
    shard: str | None
    merge: tuple[Path, ...]
    leave_out: tuple[str, ...]
    whole_windows: int | None
    quick: bool
    force: bool
    layout: str | None
    model: str | None
    out: Path | None
    ray: str | None
    ray_workers: int | None

    def train_options(self, shard: tuple[int, int] = (0, 1)) -> TrainOptions:
        from connector.evaluation.provenance import portable_command
        from connector.training.train import TrainOptions

        return TrainOptions(
            mode=self.mode,
            queries=self.queries,
            queries_file=self.queries_file,
            qrels=self.qrels,
            seed=self.seed,
            pool=self.pool,
            most_heads=self.most_heads,
            readouts=_readouts(self.readouts),
            kappa=self.kappa,
            layers=self.layers,
            shard=shard,
            merge=self.merge,
            leave_out=self.leave_out,
            whole=self.whole_windows,
            measured=not self.quick,
            force=self.force,
            command=portable_command(sys.argv[1:]),
        )

    def target(self, settings: Settings, suffix: str) -> Path:
        return self.out or Path(f"{Path(settings.backbone.model).name}.{settings.backbone.layout}.{suffix}")


def _train(context: Context, settings: Settings, chosen: _Chosen, workers: Workers | None) -> None:
    from connector.training.train import train

    started = time.monotonic()
    target = chosen.target(settings, "onnx")
    progress = ConsoleProgress(Console(stderr=True))
    result = train(
        chosen.sources,
        target,
        settings,
        chosen.train_options(),
        reader=context.models.reader,
        progress=progress,
        workers=workers,
    )
    seconds = time.monotonic() - started
    if context.as_json:
        context.print_json(
            {
                "file": str(target),
                "bytes": result.bundle.size,
                "kappa": result.trained.metadata.kappa,
                "gains": result.trained.metadata.gains,
                "seconds": round(seconds, 1),
            }
        )
        return
    _print(result.trained, target, result.bundle.size, seconds, settings.router.embedder)


def _gather(
    context: Context, settings: Settings, chosen: _Chosen, part: tuple[int, int], workers: Workers | None
) -> None:
    from connector.training.train import gather_shard

    started = time.monotonic()
    progress = ConsoleProgress(Console(stderr=True))
    queries, folder = gather_shard(
        chosen.sources,
        settings,
        chosen.train_options(part),
        reader=context.models.reader,
        progress=progress,
        workers=workers,
    )
    done = f"The head scores of {queries} queries are in {folder}."
    click.echo(f"{done} Copy them to where the router is trained, and name their folder with --merge.", err=True)
    if context.as_json:
        context.print_json({"queries": queries, "seconds": round(time.monotonic() - started, 1)})


def _static(context: Context, settings: Settings, chosen: _Chosen, workers: Workers | None) -> None:
    from connector.training.train import find_static_heads

    started = time.monotonic()
    progress = ConsoleProgress(Console(stderr=True))
    found = find_static_heads(
        chosen.sources,
        settings,
        chosen.train_options(),
        criterion=chosen.criterion,
        size=chosen.size,
        reader=context.models.reader,
        progress=progress,
        workers=workers,
    )
    out = chosen.target(settings, "json")
    found.heads.save(out)
    if context.as_json:
        seconds = round(time.monotonic() - started, 1)
        context.print_json({"file": str(out), "nDCG@10": found.ndcg, "seconds": seconds})
        return
    table = Table("read-out", "heads (layer, head)", "first-stage weight", "nDCG@10 on the very queries", box=None)
    for readout, mean in found.ndcg.items():
        entry = found.heads.sets[readout]
        heads = " ".join(f"({layer},{head})" for layer, head in entry.heads)
        table.add_row(readout, heads, f"{entry.weight:g}", f"{mean:.3f}")
    Console().print(table)
    click.echo("What they gain is told by other queries: rh-connector evaluate FOLDER --bundle FILE")
    click.echo(f"Written to {out}. Use it with: --set router.bundle={out}")


def _print(trained: Trained, target: Path, size: int, seconds: float, embedder: str | None) -> None:
    if trained.gain is not None:
        click.echo(trained.gain.told())
    if trained.metadata.probes:
        table = Table("nDCG@10, queries of collections left out", "", box=None)
        for name in ("first stage", "probe", "probe and first stage"):
            table.add_row(name, f"{trained.metadata.gains[name]:.4f}")
        Console().print(table)
        beside = "" if embedder is None or not trained.metadata.similarities else f" --set router.embedder={embedder}"
        click.echo(
            f"Written to {target} ({size / 1000:.0f} kB) in {seconds:.0f} s. Use it with: --set backbone.layout=solo "
            f"--set router.bundle={target}{beside}"
        )
        return
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
    from connector.sections import READOUTS

    names = [name.strip() for name in text.split(",")]
    chosen = tuple(readout for readout in READOUTS if readout in names)
    if len(chosen) != len(names):
        raise SettingsError(f"train: --readouts {text}: give some of {', '.join(READOUTS)}, with commas")
    return chosen
