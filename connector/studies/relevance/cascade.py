"""Does a cascade pay? ``python -m connector.studies.relevance.cascade FOLDER… --model NAME --model NAME``.

The first model ranks the whole window, a larger one reads the first few of what comes out, and the product's formula
makes one order of both. All models are probed on the same judged windows, by what other collections taught. What was
read is kept, and shared with ``rh-connector train``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from connector.backbone.open_reader import open_reader
from connector.cli.own_process import keep_big_buffers
from connector.cli.progress import ConsoleProgress
from connector.evaluation.progress import Progress
from connector.heads.needs import Needs
from connector.reranking.cascade import cascaded
from connector.sections import Settings
from connector.settings import load_settings
from connector.statistics.head_tables import statistics_folder
from connector.statistics.signal_tables import SignalTable, gather_signals
from connector.studies.relevance.command import write_report
from connector.studies.relevance.judged import Floats, Judged, Splits, best_held_out, one_vector, whole_collections
from connector.training.probes import fit_log_odds
from connector.training.train_signals import probe_layers
from connector.training.windows import judged_windows, short_windows, without_one_grade

__all__ = ["log_odds", "main", "study", "whole_windows"]

_STRENGTHS = (0.02, 0.04, 0.08, 0.16, 0.32)
_FIRST = (3, 5, 10, 20)
_ALL = 1_000_000


def whole_windows(
    folders: Sequence[Path], model: str, most: int, assignments: Sequence[str], progress: Progress
) -> list[SignalTable]:
    """The first judged windows that ``train`` would read whole, as a model sees them.

    Args:
        folders: BEIR folders whose queries were never tested on.
        model: see ``backbone.model``.
        most: windows of a folder.
        assignments: KEY=VALUE of more settings.
        progress: told of each folder.
    """
    settings = _settings(model, assignments)
    reader = open_reader(settings)
    kept = statistics_folder(settings.cache.path, reader)
    needs = Needs(groups=(), layers=probe_layers(reader.runtime.shape.layers))
    found: list[SignalTable] = []
    for folder in folders:
        windows = without_one_grade(judged_windows(folder, "test", _ALL, settings, 0))
        searched = [each.searched for each in short_windows(windows, most, 0, whole=most)]
        tracked = progress.track(f"{model}, {folder.name}", searched, len(searched))
        found += gather_signals(reader, tracked, kept, needs, windows.fields)
    return found


def _settings(model: str, assignments: Sequence[str]) -> Settings:
    given = {"backbone.layout": "solo", **dict(each.split("=", 1) for each in assignments), "backbone.model": model}
    return load_settings("/dev/null", given, environment={})


def log_odds(judged: Judged, scores: Floats, splits: Splits) -> Floats:
    """Held-out scores as the logarithm of the odds of relevance: float64 [queries, documents].

    Args:
        judged: all windows.
        scores: float64 [queries, documents]: each by what did not see it.
        splits: slope and bias are fitted on the first places of each, and used on the second.
    """
    there, relevant = judged.windows.there.numpy(), judged.windows.grades.numpy() > 0
    weights = judged.windows.weights.double().numpy()
    found = np.zeros_like(scores)
    for train, held in splits:
        known = there[train]
        own, true = scores[train][known], relevant[train][known]
        weighted = np.repeat(weights[train], known.sum(axis=1))
        slope, bias = fit_log_odds(own, true.astype(np.float64), weighted)
        found[held] = slope * scores[held] + bias
    return found


def study(judged: Mapping[str, Judged], say: Callable[[str], None]) -> dict[str, Any]:
    """All rows: each model, and each pair of neighbours as a cascade.

    Args:
        judged: by model, from the smallest to the largest: the same windows in the same order.
        say: called with each row.
    """
    rows: dict[str, Any] = {}

    def told(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        say(f"{name}: {row}")

    one = next(iter(judged.values()))
    told("first stage", {"fused": one.mean(one.ndcg(one.first_stage))})
    heads: dict[str, Floats] = {}
    gates: dict[str, float] = {}
    worth: dict[str, Floats] = {}
    before: Floats | None = None
    for model, own in judged.items():
        splits = whole_collections(own, 4)
        scores, strength = best_held_out(own, splits, _STRENGTHS, partial(one_vector, own))
        row, worth[model] = own.row(scores, before, strength=strength)
        told(model, row)
        before = worth[model]
        heads[model] = log_odds(own, scores, splits)
        # The first stage's weight counts in deviations of a window, as a router's does.
        spread = np.mean(
            [told[mask].std() for told, mask in zip(heads[model], own.windows.there.numpy(), strict=True)]
        )
        gates[model] = row["weight"] * float(spread)
    for small, large in pairwise(judged):
        for first in _FIRST:
            values = one.ndcg(_ranked(one, heads[small], heads[large], gates[small], first))
            row = {
                "fused": one.mean(values),
                "to the small one": one.against(values, worth[small]),
                "to the large one": one.against(values, worth[large]),
            }
            told(f"{small}, then {large} on the first {first}", row)
    return rows


def _ranked(judged: Judged, small: Floats, large: Floats, gate: float, first: int) -> Floats:
    """What the product ranks by: float64 [queries, documents]; 0 where there is no document."""
    found = np.zeros_like(small)
    for at, there in enumerate(judged.windows.there.numpy()):
        own, beside = small[at][there], gate * judged.first_stage[at][there]
        read = np.argsort(-(own + beside), kind="stable")[:first].tolist()
        found[at][there] = cascaded(own, read, large[at][there][read]) + beside
    return found


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--model", "models", multiple=True, required=True, help="From the smallest to the largest.")
@click.option("--queries", default=20, show_default=True, help="Windows of a collection.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="More settings.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON with all figures.")
def main(
    folders: tuple[Path, ...], models: tuple[str, ...], queries: int, assignments: tuple[str, ...], out: Path | None
) -> None:
    """Compare models, and cascades of them; FOLDERS are judged collections."""
    keep_big_buffers()
    progress = ConsoleProgress(Console(stderr=True))
    judged = {model: Judged.of(whole_windows(folders, model, queries, assignments, progress)) for model in models}
    rows = study(judged, progress.say)
    tokens = _settings(models[0], assignments).backbone.max_document_tokens
    write_report(out, rows, len(judged[models[0]]), folders, tokens, assignments)


if __name__ == "__main__":
    main()
