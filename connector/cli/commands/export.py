"""``rh-connector export``: a router becomes an ONNX bundle, the LLM becomes ONNX graphs; or what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context, pass_context
from connector.errors import SettingsError
from connector.routing.metadata import member_name

if TYPE_CHECKING:
    from connector.routing.bundle import Bundle

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("export")
@click.argument("router", type=_FILE, required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="FILE.onnx of a bundle (default: ROUTER with the suffix .onnx), or the folder of a backbone (default: where "
    "backbone.runtime=onnx looks for it, in cache.path).",
)
@click.option("--inspect", type=_FILE, metavar="FILE.onnx", help="Show what a bundle holds; nothing is written.")
@click.option("--backbone", is_flag=True, help="Write the LLM that backbone.model names as ONNX graphs.")
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --backbone: only the first N layers (default: those that the model's routers and head sets read).",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "int8"]),
    help="With --backbone: number format of the weights (default: float32). Use int8 with --set backbone.dtype=int8.",
)
@pass_context
def command(
    context: Context,
    router: Path | None,
    out: Path | None,
    inspect: Path | None,
    backbone: bool,
    layers: int | None,
    precision: Literal["float32", "int8"] | None,
) -> None:
    """Write ROUTER, a .safetensors file of train, as an ONNX bundle, or the LLM as ONNX graphs; and verify them.

    ONNX Runtime must answer as torch does, within 1e-5 and with the same heads, or nothing is written. Use the bundle
    with --set router.bundle=FILE.onnx, and the graphs, without torch, with --set backbone.runtime=onnx: see
    docs/onnx.md.
    """
    if backbone:
        if router is not None or inspect is not None:
            raise SettingsError(
                "export: --backbone goes without ROUTER and --inspect; name the LLM by backbone.model"
            )
        _export_backbone(context, out, layers, precision or "float32")
        return
    for option, given in (("--layers", layers), ("--precision", precision)):
        if given is not None:
            raise SettingsError(f"export: {option} {given} is of backbones; give --backbone too")
    if inspect is not None:
        if router is not None or out is not None:
            raise SettingsError("export: --inspect goes alone; give a ROUTER to export, or --inspect FILE.onnx")
        _inspect(context, inspect)
        return
    if router is None:
        raise SettingsError("export: give ROUTER, the .safetensors file of train, or --inspect FILE.onnx")
    target = out or router.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise SettingsError(f"export: --out {target}: the name of a bundle ends in .onnx")
    from connector.training.router import Router
    from router_export import export

    written = export(*Router.load(router), target)
    if context.as_json:
        context.print_json(
            {
                "file": str(target),
                "bytes": written.bundle.size,
                "real": written.real,
                "random": written.random,
                "largest_difference": written.difference,
            }
        )
        return
    click.echo(
        f"Written to {target} ({written.bundle.size / 1000:.0f} kB). ONNX Runtime and torch agree on {written.real} "
        f"real and {written.random} random query embeddings; largest difference {written.difference:.1e}."
    )


def _export_backbone(
    context: Context, out: Path | None, layers: int | None, precision: Literal["float32", "int8"]
) -> None:
    from connector.backbone.onnx_runtime.folder import exported_folder
    from connector.checkpoints.licences import accepting
    from connector.checkpoints.pulling import obtain
    from connector.routing.needed_layers import layers_read
    from router_export import export_backbone

    settings = context.settings()
    checkpoint = obtain(
        settings.backbone.model,
        cache=settings.cache.path,
        offline=settings.backbone.offline,
        accept_license=accepting(settings.backbone.accept_license),
    )
    folder = out or exported_folder(settings.backbone.model, settings.cache.path, precision)
    written = export_backbone(checkpoint, folder, layers or layers_read(settings), precision)
    exported = written.exported
    if context.as_json:
        context.print_json(
            {
                "folder": str(folder),
                "bytes": written.bytes,
                "layers": exported.layers,
                "dtype": exported.dtype,
                "largest_difference": written.rows_difference,
                "largest_embedding_difference": written.embedding_difference,
            }
        )
        return
    compared = "torch is not installed, so nothing was compared with it."
    if written.rows_difference is not None:
        compared = (
            f"Largest difference from torch: {written.rows_difference:.1e} in attention, "
            f"{written.embedding_difference:.1e} in query embeddings."
        )
    click.echo(
        f"Written to {folder} ({written.bytes / 1e6:.0f} MB, {exported.dtype}): {exported.layers} of "
        f"{exported.shape.layers} layers. {compared}"
    )


def _inspect(context: Context, path: Path) -> None:
    from connector.routing.bundle import Bundle

    bundle = Bundle.load(path)
    if context.as_json:
        context.print_json({**bundle.metadata.model_dump(mode="json"), "digest": bundle.digest})
        return
    Console().print(_table(bundle))


def _table(bundle: Bundle) -> Table:
    metadata = bundle.metadata
    heads = len({(layer, head) for layer, head, _ in metadata.heads})
    made = metadata.embedding
    static = metadata.static
    rows = {
        "model": f"{metadata.model}, layout {metadata.layout}",
        "fingerprint": metadata.fingerprint[:16],
        "format": f"{metadata.format}, made {metadata.created_at}, digest {bundle.digest[:16]}",
        "pool": f"{len(metadata.pool)} members{f' of {heads} heads' if heads else ''}, up to layer "
        f"{metadata.deepest_layer}",
        "a query uses": f"at most {metadata.most_heads} members ({metadata.activation} gates)",
        "kappa": f"{metadata.kappa:g}" + (" (the query changes nothing: static)" if metadata.kappa == 0 else ""),
        "query embedding": f"{made.dimension} numbers: {made.pooling} of the {made.form}, "
        f"entering layer {', '.join(map(str, made.layers))}{', and features' if made.features else ''}",
        "static set": f"{len(static['members'])} members, first stage {static['first_stage']:.2f}: "
        + " ".join(member_name(metadata.pool[at]) for at in static["members"]),
        **{f"training: {name}": str(value) for name, value in metadata.training.items()},
        **{f"gains: {name}": str(value) for name, value in metadata.gains.items()},
    }
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value, style=None)
    return table
