"""All that is to be measured on a GPU: ``python -m connector.studies.gpu --data FOLDER``, in the repository's folder.

Each step is a process of its own and leaves a file at once. What was stopped, or failed, goes on with the same
command. ``--device cpu --tiny`` shows on any machine that all steps run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from connector.checkpoints.catalogue import CATALOGUE
from connector.errors import RhConnectorError
from connector.studies.gpu.page import gpu_page
from connector.studies.gpu.plan import Options, steps_of
from connector.studies.gpu.steps import run_steps

_OUT = Path("docs/results/gpu")


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--model", "models", multiple=True, help="Only these: names or folders.  [default: the catalogue's]")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the collections of docs/results.md; without, quality is not measured.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="More settings, for every step.")
@click.option("--step", "wanted", multiple=True, help="Only steps whose names begin so; may be given again.")
@click.option("--tiny", is_flag=True, help="As little as shows that all steps run.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Folder of the results; the page lies beside it.  [default: {_OUT}]",
)
@click.option("--steps", "only_list", is_flag=True, help="List the steps; nothing is run.")
def main(
    device: str,
    models: tuple[str, ...],
    data: Path | None,
    assignments: tuple[str, ...],
    wanted: tuple[str, ...],
    tiny: bool,
    out: Path | None,
    only_list: bool,
) -> None:
    """Measure speed and quality on this machine's GPU, step by step."""
    if out is None and (device == "cpu" or tiny):
        raise click.UsageError(f"{_OUT} is for whole runs on a GPU; name another folder with --out")
    folder = out or _OUT
    named = models or (("smollm2-135m",) if tiny else tuple(CATALOGUE))
    options = Options(device, named, data, assignments, tiny)
    try:
        steps = steps_of(options)
        if wanted:
            steps = [step for step in steps if step.name.startswith(wanted)]
        if not steps:
            raise click.UsageError(f"no step begins with {', '.join(wanted)}; --steps lists them")
        if only_list:
            print("\n".join(step.name for step in steps))
            return
        failures = run_steps(
            steps, folder, options.made_with(), lambda told: print(told, file=sys.stderr, flush=True)
        )
        page = gpu_page(folder)
    except RhConnectorError as error:
        raise click.ClickException(str(error)) from None
    if page is not None:
        path = folder.with_suffix(".md")
        path.write_text(page, encoding="utf-8")
        print(path)
    if failures:
        raise click.ClickException(f"{failures} of {len(steps)} steps failed: {folder}/*.failed.txt say why")


if __name__ == "__main__":
    main()
