"""Quality beside speed, for docs/performance.md: number formats and windows, from committed reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from connector.errors import DataError
from connector.evaluation.significance import compare
from connector.studies.markdown import markdown_table

__all__ = ["Quality", "quality_tables", "read_quality"]

_FUSED = "routed+first-stage"
_READOUT = "pool"
_MEASURE = "nDCG@10"
_SIGNIFICANT = 0.05
_REFERENCE = "torch-float32"
Report = Mapping[str, Any]

_SWEPT = """\
What a request gets in the layout late: the shipped heads with the first stage, through all short cuts.
At most 100 test queries a collection, drawn with seed 0. The means differ from those of the [results](results.md),
for three reasons: more queries, weights in bfloat16, and the embedded BM25 for dl19 too. An asterisk marks a
difference to the first stage with p < .05 (paired randomization test, not corrected for their number). Made with
`python -m connector.studies.window_sweep`.
"""


@dataclass(frozen=True)
class Quality:
    """What the tables are made from.

    Attributes:
        sweeps: collection -> report of ``connector.studies.window_sweep`` in the layout late.
        formats: runtime and weights, as in ``torch float32`` -> collection -> report of ``rh-connector evaluate``, on
            the same windows; the first is the reference.
    """

    sweeps: Mapping[str, Report]
    formats: Mapping[str, Mapping[str, Report]]


def read_quality(performance: Path, results: Path) -> Quality:
    """Read ``windows-*.json`` in one folder, and ``formats/RUNTIME-WEIGHTS/COLLECTION.json`` in the other.

    Of the latter, only the rows of the first stage and of the default are read; the committed ones hold no others.

    Raises:
        DataError: a file is no report.
    """
    sweeps = [_read(path) for path in sorted(performance.glob("windows-*.json"))]
    formats: dict[str, dict[str, Report]] = {}
    folders = [folder for folder in (results / "formats").glob("*-*") if folder.is_dir()]
    for folder in sorted(folders, key=lambda folder: (folder.name != _REFERENCE, folder.name)):
        found = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
        if found:
            formats[folder.name.replace("-", " ")] = found
    return Quality({report["collection"]: report for report in sweeps if report["layout"] == "late"}, formats)


def quality_tables(
    quality: Quality, speed: Sequence[Report] = (), collections: Sequence[str] = ("scifact", "cosqa", "dl19")
) -> Iterator[str]:
    """The sections in Markdown; those for which there are reports.

    Args:
        quality: the reports.
        speed: reports of ``rh-connector bench``.
        collections: for which number formats are compared.
    """
    if len(quality.formats) > 1:
        yield "## Number formats\n"
        yield (
            f"{_MEASURE} of the default (the shipped router with the first stage, window 20). "
            "In brackets behind a collection: its test queries, the same windows in every row. In brackets behind a "
            "number: the difference to the first row and its 95 % interval (bootstrap over queries). The last "
            "columns are seconds for 20 documents of 180 tokens in the default layout. Reports and commands: "
            "`docs/results/formats`.\n"
        )
        yield _formats(quality.formats, collections, speed)
    if quality.sweeps:
        yield "## Windows of the layout late\n"
        yield _SWEPT
        yield _windows(quality.sweeps, speed)


def _formats(formats: Mapping[str, Mapping[str, Report]], collections: Sequence[str], speed: Sequence[Report]) -> str:
    measured = {}
    for timed in speed:
        machine = timed["machine"]
        seconds = {row["name"]: f"{row['seconds']:.3g}" for row in timed["rows"]}
        measured[f"{machine['runtime']} {machine['precision'].partition('-')[0]}"] = [
            seconds.get(name, "") for name in ("warm_solo_20", "cold_solo_20")
        ]
    reference = next(iter(formats.values()))
    table = []
    for name, reports in formats.items():
        cells = [name]
        for collection in collections:
            report, exact = reports.get(collection), reference.get(collection)
            if report is None or exact is None or not _same_windows(report, exact):
                cells.append("")
                continue
            values, of_reference = _fused(report), _fused(exact)
            cell = f"{fmean(values.values()):.4f}"
            if reports is not reference:
                found = compare(values, of_reference)
                low, high = found.interval
                cell += f" ({found.difference:+.4f}; {low:+.4f} to {high:+.4f})"
            cells.append(cell)
        table.append([*cells, *measured.get(name, ("", ""))])
    header = [f"{each} ({reference[each]['queries']})" if each in reference else each for each in collections]
    return markdown_table(["", *header, "cached, solo", "new, solo"], table)


def _same_windows(one: Report, other: Report) -> bool:
    """Of the same queries: the first stage has the same value for each."""
    firsts = [report["rows"][0]["per_query"] for report in (one, other)]
    return (one["queries"], one["window"]) == (other["queries"], other["window"]) and firsts[0] == firsts[1]


def _fused(report: Report) -> Mapping[str, float]:
    """By query.

    Raises:
        DataError: the report has none of the default.
    """
    for row in report["rows"]:
        if (row["name"], row["readout"]) == (_FUSED, _READOUT):
            found: Mapping[str, float] = row["per_query"]
            return found
    raise DataError(f"a report in docs/results/formats has no row {_FUSED} ({_READOUT})")


def _windows(sweeps: Mapping[str, Report], speed: Sequence[Report]) -> str:
    sizes = sorted({int(row["window"]) for report in sweeps.values() for row in report["rows"]})
    table = []
    whole: list[list[float]] = []
    for collection, report in sweeps.items():
        rows = {int(row["window"]): row for row in report["rows"]}
        first = rows[min(rows)]
        cells = [f"{collection} ({first['queries']} queries)", f"{first['first_stage']:.4f}"]
        cells.extend(_judged(rows[size]) if size in rows else "" for size in sizes)
        table.append(cells)
        if len(rows) == len(sizes):
            whole.append([float(first["first_stage"]), *(float(rows[size]["fused"]) for size in sizes)])
    if whole:
        means = [sum(values) / len(values) for values in zip(*whole, strict=True)]
        table.append([f"mean of {len(whole)}", *(f"{value:.4f}" for value in means)])
    for report in speed:
        grown = {
            int(row["value"]): row["seconds"]
            for row in report.get("growth") or ()
            if (row["by"], row["layout"]) == ("window", "late")
        }
        if grown:
            times = (f"{grown[size] * 1000:.0f}" if size in grown else "" for size in sizes)
            machine = report["machine"]
            label = f"milliseconds, cached documents of {machine['tokens']} tokens, {machine['threads']} threads"
            table.append([label, "", *times])
            break
    return markdown_table([f"late, {_MEASURE} by window", "first stage", *(f"{size:,}" for size in sizes)], table)


def _judged(row: Mapping[str, Any]) -> str:
    return f"{row['fused']:.4f}{'*' if row['p_value'] < _SIGNIFICANT else ''}"


def _read(path: Path) -> Report:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no report ({error})") from None
    if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
        raise DataError(f"{path} is no report: it has no rows")
    return value
