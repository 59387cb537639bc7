"""Per-query values and TREC runs of a report's systems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from connector.evaluation.measures import MEASURES
from connector.evaluation.report import System
from connector.evaluation.running import POOL, Ranked
from connector.evaluation.runs import RunEntry, write_run
from connector.evaluation.text_lines import write_text

__all__ = ["run_name", "write_per_query", "write_runs"]


def write_per_query(ranked: Sequence[Ranked], path: Path) -> None:
    """Write nDCG@10 and MRR@10 of every query and system: tab separated, one line each, with a header.

    Raises:
        DataError: the file cannot be written.
    """
    rows: list[tuple[str, ...]] = [("query", "ranking", *MEASURES)]
    for each in ranked:
        for query in each.values[MEASURES[0]]:
            values = (f"{each.values[measure][query]:.4f}" for measure in MEASURES)
            rows.append((query, each.system.label(), *values))
    write_text(path, ("\t".join(row) + "\n" for row in rows))


def run_name(system: System) -> str:
    """Name of a system's file and the tag in it: its name; of systems that have one read-out, that behind a dot."""
    return system.name if system.readout in (None, POOL) else f"{system.name}.{system.readout}"


def write_runs(ranked: Sequence[Ranked], folder: Path) -> None:
    """Write one TREC run for each system; of a system that is the mean of several draws, the first.

    Raises:
        DataError: a file cannot be written, or an id cannot stand in a run.
    """
    for each in ranked:
        entries = {
            query: [RunEntry(identity, float(len(ids) - place)) for place, identity in enumerate(ids)]
            for query, ids in each.rankings.items()
        }
        write_run(folder / f"{run_name(each.system)}.trec", entries, run_name(each.system))
