"""Ray against separate processes: ``python -m connector.studies.processes.ray_workers SOURCE``.

Two workers of ``train SOURCE --ray auto`` and two processes ``train SOURCE --shard 1/2`` and ``2/2``, of one core
each, gather the same statistics in turns, each time from nothing. The ratio is that of their rates: files a second
between the first file and the last, so that loading the LLM and starting Ray count apart.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from connector.evaluation.provenance import processor_name, today
from connector.settings import load_settings

__all__ = ["Gathering", "gathered_by", "main"]

_RUN = "from connector.cli import main; main()"
_SHARDS = (("--shard", "1/2"), ("--shard", "2/2"))
_RAY = ("--shard", "1/1", "--ray", "auto", "--ray-workers", "2")


@dataclass(frozen=True, slots=True)
class Gathering:
    """One gathering of all statistics.

    Attributes:
        files: that were made.
        rate: files a second, between the first and the last.
        seconds: of it all, with starting.
    """

    files: int
    rate: float
    seconds: float


def gathered_by(commands: Sequence[Sequence[str]], source: str, options: Sequence[str]) -> Gathering:
    """Run commands at once, from nothing.

    Args:
        commands: options of ``train``, a process each.
        source: its SOURCE.
        options: further ones, of each.

    Raises:
        click.ClickException: one of them failed, or there are too few files for a rate.
    """
    models = load_settings().cache.path / "models"
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        (cache / "models").symlink_to(models)
        common = ("train", source, "--force", *options, "--set", f"cache.path={cache}")
        started = time.monotonic()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _RUN, *common, *own],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for own in commands
        ]
        told = [process.communicate()[1] for process in processes]
        seconds = time.monotonic() - started
        if any(process.returncode for process in processes):
            raise click.ClickException(next(text for text in told if text))
        times = sorted(path.stat().st_mtime for path in (cache / "statistics").rglob("*.npz"))
    if len(times) < 3:
        raise click.ClickException(f"{len(times)} files are too few for a rate; give a SOURCE of more queries")
    return Gathering(len(times), (len(times) - 1) / (times[-1] - times[0]), seconds)


@click.command()
@click.argument("source")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of both, in turns.")
@click.option("--options", default="", help="Further options of train, as in '--queries 200 --window 20'.")
def main(source: str, rounds: int, options: str) -> None:
    """Print the rates of both, and their ratio."""
    given = options.split()
    of_processes, of_ray = [], []
    for number in range(1, rounds + 1):
        of_processes.append(gathered_by(_SHARDS, source, given))
        of_ray.append(gathered_by([_RAY], source, given))
        for name, own in (("two processes", of_processes[-1]), ("two Ray workers", of_ray[-1])):
            click.echo(
                f"{number}: {name}: {own.rate:.3f} files a second, {own.files} files, {own.seconds:.1f} s with all"
            )
    ratios = [ray.rate / own.rate for ray, own in zip(of_ray, of_processes, strict=True)]
    whole = [own.seconds / ray.seconds for ray, own in zip(of_ray, of_processes, strict=True)]
    click.echo(
        f"Ray to processes: {median(ratios):.2f} by rate ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{median(whole):.2f} with starting; {processor_name()}, {os.cpu_count()} cores, {today()}"
    )


if __name__ == "__main__":
    main()
