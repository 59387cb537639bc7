"""``rh-connector model``: the language models that can be used, and what is here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from connector.backbone.onnx_runtime.folder import RECORD, ExportedBackbone, exported_folder
from connector.checkpoints.catalogue import CATALOGUE, parameters_text
from connector.checkpoints.model_facts import describe
from connector.checkpoints.pulling import find_damage, find_local, obtain
from connector.cli.context import Context, pass_context
from connector.diagnosis.exported import describe_export
from connector.diagnosis.model import identity, ranking
from connector.errors import BackboneError
from connector.sections import Settings

_EXPORTS = ("float32", "int8")
_NOT = "-"
_MEANING = """\
memory: of a process in torch, beside cache.memory_mb
gain: nDCG@10 over BM25, mean of nine collections, with the shipped router
s a window: 20 new / cached documents of 180 tokens, bfloat16, two CPU threads
-: not measured"""


@click.group("model")
def command() -> None:
    """List, fetch and show the language models."""


@command.command("list")
@pass_context
def list_models(context: Context) -> None:
    """The models that are known by name, and which of them are here.

    Any decoder of the families that are read works too: give a folder, a .gguf file, or owner/name of the hub.
    """
    settings = context.settings()
    rows = [_row(name, settings) for name in CATALOGUE]
    if context.as_json:
        context.print_json(rows)
        return
    Console().print(
        _table(
            ("name", "size", "download", "layers\nx heads", "licence", "here"),
            [
                (
                    row["name"],
                    parameters_text(row["parameters"]),
                    "from hub" if row["download_bytes"] is None else _megabytes(row["download_bytes"]),
                    f"{row['layers']} x {row['heads']}",
                    row["licence"],
                    _here(row),
                )
                for row in rows
            ],
        ),
        "",
        _table(
            ("on the hub", "languages", "memory", "gain", "s a window"),
            [(row["hub"], row["languages"], *_measured(row["measured"])) for row in rows],
        ),
        "",
        _MEANING,
        sep="\n",
        highlight=False,
    )


@command.command("pull")
@click.argument("name")
@click.option("--accept-license", is_flag=True, help="Accept the model's terms without being asked.")
@pass_context
def pull(context: Context, name: str, accept_license: bool) -> None:
    """Fetch a model, check it, and make it ready for this machine, once.

    NAME is a name of `model list`, a folder, a .gguf file, or owner/name of the hub.
    """
    from connector.routing.opening import pull_model

    settings = context.settings(backbone__model=name)
    accepted = accept_license or settings.backbone.accept_license
    with _progress() as (report, pause):

        def ask(model: str, terms: str) -> bool:
            with pause():
                return _ask(model, terms)

        accept = (lambda model, terms: True) if accepted else ask if _interactive() else None
        pulled = pull_model(settings, report, accept)
    if context.as_json:
        context.print_json({"name": pulled.name, "path": pulled.path, "digest": pulled.digest})
    else:
        click.echo(f"{pulled.name} is here: {pulled.path}")


@command.command("show")
@click.argument("name", required=False)
@pass_context
def show(context: Context, name: str | None) -> None:
    """One model that is here: its files, checked, and its shape. Default: backbone.model.

    Nothing is fetched; a GGUF file that was not converted before is converted. Where only ONNX graphs are here, those
    are shown.
    """
    settings = context.settings(backbone__model=name)
    model = settings.backbone.model
    graphs = _graphs(model, settings)
    if model in CATALOGUE and find_local(model, cache=settings.cache.path) is None:
        damage = find_damage(model, cache=settings.cache.path)
        if damage or not graphs:
            raise BackboneError(damage or f"{model} is not here; run: rh-connector model pull {model}")
        facts = describe_export(settings, graphs[0])
    elif graphs and (Path(model).expanduser() / RECORD).is_file():
        facts = describe_export(settings, graphs[0])
    else:
        with _progress() as (report, _):
            checkpoint = obtain(model, cache=settings.cache.path, offline=True, progress=report)
            report("checking the files", None)
            facts = describe(checkpoint)
            for folder in graphs:
                # They may be what runs.
                try:
                    ExportedBackbone.read(folder, settings.cache.path, fresh=True)
                except BackboneError as error:
                    click.echo(f"Warning: {error}", err=True)
            with suppress(BackboneError):
                facts["ranks_by"] = ranking(settings, identity(settings, checkpoint))
    if context.as_json:
        context.print_json(facts)
        return
    for label, value in _lines(facts):
        click.echo(f"{label:16}{value}")
    if "ranks_by" in facts:
        click.echo(f"{'ranks by':16}{facts['ranks_by']}")


def _row(name: str, settings: Settings) -> dict[str, Any]:
    entry = CATALOGUE[name]
    return {
        "name": entry.name,
        "title": entry.title,
        "source": entry.source,
        "hub": entry.hub,
        "licence": entry.licence,
        "languages": entry.languages,
        "parameters": entry.parameters,
        "download_bytes": sum(part.size for part in entry.parts) if entry.parts else None,
        "digests": list(entry.digests),
        "gguf_sha256": entry.digests[0] if entry.parts else None,
        "layers": entry.layers,
        "heads": entry.heads,
        "template": entry.template,
        "measured": asdict(entry.measured),
        "here": find_local(name, cache=settings.cache.path) is not None,
        "exported": [dtype for dtype in _EXPORTS if _graphs(name, settings, dtype)],
        "damage": find_damage(name, cache=settings.cache.path),
    }


def _graphs(name: str, settings: Settings, *dtypes: str) -> list[Path]:
    """Folders of the model's ONNX graphs that are here."""
    folders = [exported_folder(name, settings.cache.path, dtype) for dtype in dtypes or _EXPORTS]
    return [folder for folder in folders if (folder / RECORD).is_file()]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold")
    for title in titles:
        # A narrow terminal may fold the licence; names and numbers stay whole.
        table.add_column(title, no_wrap=title != "licence")
    for row in rows:
        table.add_row(*row)
    return table


def _measured(measured: dict[str, Any]) -> tuple[str, str, str]:
    """Memory, gain, seconds."""
    memory, gain, seconds = measured["memory_gb"], measured["gain"], measured["seconds_new"]
    return (
        _NOT if memory is None else f"{memory:.2g} GB",
        _NOT if gain is None else f"{gain:+.3f}",
        _NOT if seconds is None else f"{seconds:.2g} / {measured['seconds_cached']:.2g}",
    )


def _here(row: dict[str, Any]) -> str:
    if row["damage"]:
        return "damaged"
    if row["exported"]:
        return "yes, and as ONNX" if row["here"] else "as ONNX"
    return "yes" if row["here"] else "no"


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "name", facts["name"]
    yield "path", facts["path"]
    yield "source", facts["source"]
    if facts["hub"]:
        yield "on the hub", facts["hub"]
    yield "licence", facts["licence"] or "see the model's own page"
    if facts["languages"]:
        yield "languages", facts["languages"]
    yield "digest", facts["digest"]
    if facts.get("gguf_sha256"):
        yield "GGUF SHA-256", facts["gguf_sha256"]
    graphs = facts.get("onnx")
    if graphs:
        yield "files", f"all there; {graphs['layers']} layers as ONNX graphs, weights in {graphs['dtype']}"
    else:
        yield "files", "checked: as converted" if facts["verified"] else "readable; nothing to check them against"
        yield "family", facts["family"]
    yield "layers x heads", f"{facts['layers']} x {facts['heads']} ({facts['kv_heads']} key/value heads)"
    yield "head dimension", str(facts["head_dim"])
    yield "context", f"{facts['max_positions']} tokens"
    if facts["template"]:
        yield "template", facts["template"]
    if facts["measured"]:
        memory, gain, seconds = _measured(facts["measured"])
        yield "measured", f"gain {gain}, {seconds} s a window"
        yield "memory", memory
    if facts["parameters"]:
        yield "parameters", parameters_text(facts["parameters"])
    yield "on disk", _megabytes(facts["bytes"])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(model: str, terms: str) -> bool:
    # Terms are longer than a screen; click falls back to plain printing where there is no pager.
    click.echo_via_pager(terms)
    return click.confirm(f"Do you accept these terms of {model}?", default=False, err=True)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str, float | None], None], Callable[[], Any]]]:
    """A bar on standard error: (what is told about progress, a pause for questions)."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Where standard error is a file or a pipe, a bar is noise in a log.
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}

    def report(label: str, fraction: float | None) -> None:
        if label not in tasks:
            for task in tasks.values():
                bar.update(task, visible=False)
            tasks[label] = bar.add_task(label, total=None if fraction is None else 1.0)
            if bar.disable:
                console.print(label, highlight=False)
        if fraction is not None:
            bar.update(tasks[label], completed=fraction)

    @contextmanager
    def pause() -> Iterator[None]:
        bar.stop()
        yield
        bar.start()

    with bar:
        yield report, pause
