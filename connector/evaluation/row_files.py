"""Per-query values and TREC runs of a report's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from connector.documents import Hit
from connector.errors import DataError
from connector.evaluation.report import FIRST_STAGE, Report
from connector.evaluation.routed_rows import RoutedBy, route_ranking
from connector.evaluation.running import FUSED
from connector.evaluation.runs import RunEntry, write_run
from connector.heads.head_sets import StaticHeads
from connector.routing.selection import fixed_route
from connector.routing.statistics import HeadTable

__all__ = ["write_per_query", "write_runs"]


def write_per_query(report: Report, path: Path) -> None:
    """Write nDCG@10 of every query and row: tab separated, one line each, with a header.

    Raises:
        DataError: the file cannot be written.
    """
    lines = ["query\tranking\tnDCG@10"]
    for row in report.rows:
        lines.extend(f"{query}\t{row.label()}\t{value:.4f}" for query, value in row.per_query.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def write_runs(
    folder: Path,
    windows: Mapping[str, Sequence[Hit]],
    tables: Mapping[str, HeadTable],
    ways: Sequence[RoutedBy],
    static: StaticHeads | None,
) -> None:
    """Write one TREC run for the first stage, each static set and each way of the router (the first of its draws).

    Raises:
        DataError: a file cannot be written.
    """
    routes = [(way.name, "", dict(way.draws[0])) for way in ways if way.name != "static"]
    if static is not None:
        for readout, heads in static.sets.items():
            fixed = fixed_route(heads, readout)  # type: ignore[arg-type]
            routes.append(("static", f".{readout}", dict.fromkeys(tables, fixed)))
    runs = {FIRST_STAGE: {query: [hit.id for hit in hits] for query, hits in windows.items()}}
    for name, readout, own in routes:
        for fused in (False, True):
            runs[f"{name}{FUSED if fused else ''}{readout}"] = {
                query: route_ranking(hits, tables[query], own[query], fused=fused)
                if query in tables
                else [hit.id for hit in hits]
                for query, hits in windows.items()
            }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rankings in runs.items():
        entries = {
            query: [RunEntry(identity, float(len(ids) - place)) for place, identity in enumerate(ids)]
            for query, ids in rankings.items()
        }
        write_run(folder / f"{name}.trec", entries, name)
