"""``rh-connector export``: a trained router becomes an ONNX bundle; or what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from connector.cli.context import Context, pass_context
from connector.errors import SettingsError

if TYPE_CHECKING:
    from connector.routing.bundle import Bundle

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("export")
@click.argument("router", type=_FILE, required=False)
@click.option("--out", type=_FILE, metavar="FILE.onnx", help="Default: ROUTER with the suffix .onnx.")
@click.option("--inspect", type=_FILE, metavar="FILE.onnx", help="Show what a bundle holds; nothing is written.")
@pass_context
def command(context: Context, router: Path | None, out: Path | None, inspect: Path | None) -> None:
    """Write ROUTER, a .safetensors file of train, as an ONNX bundle, and verify it.

    ONNX Runtime must answer as torch does, within 1e-5 and with the same heads, or nothing is written. Use the bundle
    with --set router.bundle=FILE.onnx.
    """
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
    from connector.routing.router import Router
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


def _inspect(context: Context, path: Path) -> None:
    from connector.routing.bundle import Bundle

    bundle = Bundle.load(path)
    if context.as_json:
        context.print_json({**bundle.metadata.model_dump(mode="json"), "digest": bundle.digest})
        return
    Console().print(_table(bundle))


def _table(bundle: Bundle) -> Table:
    metadata = bundle.metadata
    heads = len({(layer, head) for layer, head, _ in metadata.pool})
    made = metadata.embedding
    static = metadata.static
    rows = {
        "model": f"{metadata.model}, layout {metadata.layout}",
        "fingerprint": metadata.fingerprint[:16],
        "format": f"{metadata.format}, made {metadata.created_at}, digest {bundle.digest[:16]}",
        "pool": f"{len(metadata.pool)} members of {heads} heads, up to layer {metadata.deepest_layer}",
        "a query uses": f"at most {metadata.most_heads} members ({metadata.activation} gates)",
        "kappa": f"{metadata.kappa:g}" + (" (the query changes nothing: static)" if metadata.kappa == 0 else ""),
        "query embedding": f"{made.dimension} numbers: {made.pooling} of the {made.form}, "
        f"entering layer {', '.join(map(str, made.layers))}{', and features' if made.features else ''}",
        "static set": f"{len(static['members'])} members, first stage {static['first_stage']:.2f}: "
        + " ".join(f"{layer}.{head}/{readout}" for layer, head, readout in bundle.static_route().members),
        **{f"training: {name}": str(value) for name, value in metadata.training.items()},
        **{f"gains: {name}": str(value) for name, value in metadata.gains.items()},
    }
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value, style=None)
    return table
