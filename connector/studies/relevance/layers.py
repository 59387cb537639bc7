"""Layers for a probe: ``python -m connector.studies.relevance.layers FOLDER… --layer 10 --layer 15``.

Each set of layers is a probe of its own, fitted and measured on the same judged queries, on collections that it did
not see. The likelihood, which takes all layers, is put beside each. What was read is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from connector.backbone.open_reader import open_reader
from connector.cli.own_process import keep_big_buffers
from connector.cli.progress import ConsoleProgress
from connector.heads.needs import Needs
from connector.statistics.signal_tables import SignalTable
from connector.studies.relevance.command import study_options, write_report
from connector.studies.relevance.judged import Floats, Judged, best_held_out, one_vector, whole_collections
from connector.studies.relevance.states import study_settings, study_tables
from connector.training.train_signals import probe_layers

__all__ = ["main", "study"]

_STRENGTHS = (0.02, 0.04, 0.08, 0.16, 0.32)
_SHARES = (0.25, 0.5)
_MOST = 2


def study(tables: Sequence[SignalTable], in_use: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """Rows of all sets of one or two layers, each compared with those in use.

    Args:
        tables: with the states of all layers, and likelihoods or none.
        in_use: layers that training takes, all of them among the tables'.
        say: called with each row.
    """
    judged, layers = Judged.of(tables), tables[0].layers
    rows: dict[str, Any] = {"first stage": {"fused": judged.mean(judged.ndcg(judged.first_stage))}}
    say(f"first stage: {rows['first stage']}")
    told = [table.log_probabilities.astype(np.float64).sum(axis=1) for table in tables]
    # Without likelihoods no table has any.
    likely = judged.laid_out(told, tables) if len(told[0]) else None
    compared: Floats | None = None
    sets = [own for size in range(1, _MOST + 1) for own in combinations(layers, size)]
    # Those in use come first: the rest is compared with them.
    for own in sorted(sets, key=lambda each: (each != tuple(in_use), len(each), each)):
        places = [layers.index(layer) for layer in own]
        chosen = replace(judged, windows=replace(judged.windows, states=judged.windows.states[:, :, places]))
        splits = whole_collections(chosen, 4)
        scores, strength = best_held_out(chosen, splits, _STRENGTHS, partial(one_vector, chosen))
        name = " + ".join(map(str, own))
        rows[name], fused = judged.row(scores, compared, strength=strength)
        compared = fused if compared is None else compared
        say(f"{name}: {rows[name]}")
        if likely is not None:
            rows[f"{name}, likelihood"] = judged.beside(scores, likely, compared, _SHARES)
            say(f"{name}, likelihood: {rows[f'{name}, likelihood']}")
    if likely is not None:
        rows["likelihood"] = judged.row(likely, compared)[0]
        say(f"likelihood: {rows['likelihood']}")
    return rows


@click.command()
@click.option("--layer", "layers", type=click.IntRange(1), multiple=True, help="Beside those in use.")
@click.option("--likelihood/--no-likelihood", default=True, show_default=True)
@study_options(queries=30)
def main(
    folders: tuple[Path, ...],
    layers: tuple[int, ...],
    likelihood: bool,
    queries: int,
    tokens: int,
    assignments: tuple[str, ...],
    out: Path | None,
) -> None:
    """Compare probes of other layers; FOLDERS are judged collections."""
    keep_big_buffers()
    progress = ConsoleProgress(Console(stderr=True))
    settings = study_settings(tokens, assignments)
    reader = open_reader(settings)
    in_use = probe_layers(reader.runtime.shape.layers)
    needs = Needs(groups=(), layers=tuple(sorted({*in_use, *layers})), likelihood=likelihood)
    tables = list(study_tables(reader, folders, queries, settings, needs, progress))
    rows = study(tables, in_use, progress.say)
    write_report(out, rows, len(tables), folders, tokens, assignments)


if __name__ == "__main__":
    main()
