"""docs/performance.md from the committed reports: ``python -m connector.studies.performance_page FOLDER PAGE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connector.benchmark.report import read_report
from connector.errors import DataError, RhConnectorError
from connector.studies.markdown import markdown_table
from connector.studies.quality_tables import Quality, quality_tables, read_quality

__all__ = ["Notes", "main", "performance_page", "read_notes", "read_reports"]

_TITLE = "# Performance\n"
_INTRODUCTION = """\
Read the ratios: seconds are those of one machine. One run measured all rows of a report, in turns (A B C A B C).
`make docs` makes this page from the files in `docs/performance/`; do not edit it by hand. Measure your own machine
with `rh-connector bench COLLECTION --out report.json --plot report.svg`. The [speed log](engineering/speed-log.md)
says what was tried for each target.
"""
_EMPTY = "There are no reports yet: `docs/performance/` holds none.\n"
_READING = """\
| row | seconds of |
| --- | --- |
| `warm` | a new query over documents that were encoded before |
| `cold` | a new query over new documents |
| `tail` | the LLM over the query, within warm |
| `encode` | the LLM over the documents, within cold |
| `fusion` | from attention to the order |
| `cross_encoder` | a cross-encoder of MiniLM-L6's shape: 6 layers, 384 wide, random weights |
| `icr` | the same LLM as ICR runs it: one prompt with all documents, all layers, all heads, query and N/A |
| `floor` | the operations of `encode` up to the deepest head, at the speed of the machine's matrix products |
| `http_overhead` | what a request over loopback takes more than the reranker within it |
| `http_fusion` | the fusion within a request over loopback |
| `clients` | a request, wall-clock over all requests, each with a query and a window of its own |

- Numbers are medians; in brackets the shortest and the longest run.
- Of the cross-encoder only its time counts. It has the batch size that suits it best on this machine. Its
  tokenization is not counted, ours is.
- The floor takes the layers' shapes in the same number format. It counts the better of one document and a whole
  window at once.
- The clients run in the server's process.
"""
# measure, ratio of a report, must, aim, whether more is better, shown as a percentage
_TARGETS: tuple[tuple[str, str, float, float, bool, bool], ...] = (
    ("warm solo / MiniLM-L6 ONNX Runtime fp32", "warm_solo_over_cross_encoder", 0.50, 0.25, False, False),
    ("warm late / MiniLM-L6 ONNX Runtime fp32", "warm_late_over_cross_encoder", 0.10, 0.06, False, False),
    ("cold + tail, default layout / ICR's way", "cold_over_icr", 0.35, 0.20, False, False),
    ("cold encode, default layout / its floor at the machine's GEMM rate", "cold_over_floor", 1.5, 1.2, False, False),
    (
        "warm late k = 1,000 / MiniLM-L6 ONNX Runtime fp32 at k = 20",
        "warm_late_1000_over_cross_encoder_20",
        0.35,
        0.15,
        False,
        False,
    ),
    ("8 clients, warm, default layout: throughput / one client", "clients_8_over_1", 1.5, 1.9, True, False),
    ("HTTP + JSON + fusion, part of a warm request", "http_part", 0.15, 0.05, False, True),
)
_SLIM: tuple[tuple[str, str, float, float], ...] = (
    ("slim serving environment, MB", "megabytes", 500, 300),
    ("slim: process start to the first answer, s", "seconds_to_first_answer", 5, 2),
)
_OTHERS = (
    ("warm solo k = 100 / warm solo k = 20", "warm_solo_100_over_20"),
    ("warm solo / MiniLM-L6 ONNX Runtime int8", "warm_solo_over_cross_encoder_int8"),
    ("warm late / MiniLM-L6 ONNX Runtime int8", "warm_late_over_cross_encoder_int8"),
    ("warm solo / MiniLM-L6 torch fp32", "warm_solo_over_cross_encoder_torch"),
    ("cold, default layout / MiniLM-L6 ONNX Runtime fp32", "cold_over_cross_encoder"),
)
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Notes:
    """What no report holds.

    Attributes:
        targets: ratio of a report, or ``slim_megabytes`` and the like -> ``prediction`` (a number, made before it was
            measured, or None).
        decisions: what follows from the tables, paragraphs in Markdown.
        slim: report of ``python -m connector.studies.slim``; empty: there is none.
        quality: see ``Quality``.
    """

    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    decisions: Sequence[str] = ()
    slim: Report = field(default_factory=dict)
    quality: Quality = field(default_factory=lambda: Quality({}, {}))


def read_reports(folder: Path) -> list[tuple[str, Report]]:
    """The reports in a folder's ``bench*.json``, by name.

    Raises:
        DataError: a file is none.
    """
    return [(path.stem, read_report(path)) for path in sorted(folder.glob("bench*.json"))]


def read_notes(folder: Path, results: Path) -> Notes:
    """``notes.json``, ``slim.json`` and the reports on quality; what is missing is empty.

    Raises:
        DataError: a file is none of these.
    """
    found = {}
    for name in ("notes", "slim"):
        path = folder / f"{name}.json"
        try:
            found[name] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error})") from None
    notes = found["notes"]
    return Notes(notes.get("targets", {}), notes.get("decisions", ()), found["slim"], read_quality(folder, results))


def performance_page(reports: Sequence[tuple[str, Report]], notes: Notes | None = None) -> str:
    """The page in Markdown: targets and what was measured of each, quality, then every report."""
    notes = notes or Notes()
    parts = [_TITLE, _INTRODUCTION]
    if not reports:
        return "\n".join([*parts, _EMPTY])
    parts.extend(_targets(reports, notes))
    parts.extend(quality_tables(notes.quality, [report for _, report in reports]))
    parts.extend(f"{paragraph}\n" for paragraph in notes.decisions)
    parts.append("## Reports\n")
    parts.append(_READING)
    for name, report in reports:
        parts.extend(_report(name, report))
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Write the page; the exit code, errors on standard error."""
    if len(arguments) != 3:
        print("usage: python -m connector.studies.performance_page FOLDER RESULTS PAGE", file=sys.stderr)
        return 2
    folder, results, page = map(Path, arguments)
    try:
        text = performance_page(read_reports(folder), read_notes(folder, results))
        page.write_text(text, encoding="utf-8", newline="\n")
    except RhConnectorError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: cannot write {page}: {error.strerror or error}", file=sys.stderr)
        return DataError.exit_code
    return 0


def _targets(reports: Sequence[tuple[str, Report]], notes: Notes) -> Iterator[str]:
    yield "## Targets\n"
    header = [
        "measure (k = 20, 180 tokens)",
        "must",
        "aim",
        "predicted",
        *(_label(report) for _, report in reports),
    ]
    table = []
    for measure, key, must, aim, more, part in _TARGETS:
        sign = ">=" if more else "<="
        predicted = notes.targets.get(key, {}).get("prediction")
        cells = [measure, *(f"{sign} {_number(limit, part)}" for limit in (must, aim))]
        cells.append("" if predicted is None else _number(predicted, part))
        for _, report in reports:
            value = report["ratios"].get(key)
            cells.append("not measured" if value is None else _verdict(value, must, aim, more, part))
        table.append(cells)
    table.extend(_slim_rows(notes, len(reports)))
    for measure, key in _OTHERS:
        values = [report["ratios"].get(key) for _, report in reports]
        table.append([measure, "", "", "", *("not measured" if v is None else _number(v, False) for v in values)])
    for by, state in (("clients", "warm"), ("clients_cold", "new short documents")):
        for layout in ("solo", "late"):
            rates = [_clients_rate(report, by, layout) for _, report in reports]
            if any(rate is not None for rate in rates):
                cells = ["not measured" if rate is None else _number(rate, False) for rate in rates]
                table.append([f"8 clients, {state}, {layout}, of the growth table", "", "", "", *cells])
    yield markdown_table(header, table)


def _slim_rows(notes: Notes, columns: int) -> Iterator[list[str]]:
    for measure, key, must, aim in _SLIM:
        predicted = notes.targets.get(key, {}).get("prediction")
        value = notes.slim.get(key)
        shown = "not measured" if value is None else _verdict(float(value), must, aim, False, False)
        limits = [f"<= {_number(limit, False)}" for limit in (must, aim)]
        # Measured apart, in an environment of its own: it belongs to none of the reports.
        yield [measure, *limits, "" if predicted is None else _number(predicted, False), shown, *[""] * (columns - 1)]


def _clients_rate(report: Report, by: str, layout: str) -> float | None:
    """Throughput of eight clients over that of one."""
    seconds = {
        row["value"]: row["seconds"]
        for row in report.get("growth") or ()
        if (row["by"], row["layout"]) == (by, layout)
    }
    return float(seconds[1] / seconds[8]) if {1, 8} <= seconds.keys() else None


def _label(report: Report) -> str:
    machine = report["machine"]
    return f"{machine['model']}, {machine['runtime']} {machine['precision']}, {machine['threads']} threads"


def _verdict(value: float, must: float, aim: float, more: bool, part: bool) -> str:
    def reached(limit: float) -> bool:
        return value >= limit if more else value <= limit

    word = "aim" if reached(aim) else "must" if reached(must) else "**missed**"
    return f"{_number(value, part)} ({word})"


def _number(value: float, part: bool) -> str:
    return f"{value * 100:.2g} %" if part else f"{value:.3g}"


def _report(name: str, report: Report) -> Iterator[str]:
    machine = report["machine"]
    yield f"## {_label(report)}\n"
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
    # What the runtime made of the machine; of the allocator, reports have told while it was set.
    told = {**machine, **machine.get("plan", {})}
    run = [
        ["date", machine["date"]],
        ["machine", f"{machine['cpu']}; device {machine['device']}"],
        ["threads, for the LLM and for every peer", str(machine["threads"])],
        *([subject, told[subject]] for subject in ("allocator", "weights", "layers", "batches") if subject in told),
        ["load before the run", str(machine["load_average_at_start"])],
        ["documents", f"of {machine['tokens']} tokens from {machine['texts']}"],
        ["versions", f"Python {machine['python']}, {versions}"],
    ]
    yield markdown_table([name, ""], run)
    yield f"```\n{machine['command']}\n```\n"
    yield markdown_table(["row", "seconds", "runs", "notes"], [_row(row) for row in report["rows"]])
    if report.get("growth"):
        yield "### Growth\n"
        for by in ("window", "tokens", "clients", "clients_cold"):
            rows = [row for row in report["growth"] if row["by"] == by]
            if rows:
                yield _growth(by, rows)
    held = [
        [
            f"a cached document of {document['tokens']:.0f} tokens, layout {layout}",
            f"{document['bytes'] / 1000:,.1f} kB",
            f"{document['bytes'] / 1000:,.1f} GB",
        ]
        for layout, document in report.get("cached_document", {}).items()
        if document
    ]
    if held:
        yield markdown_table(["size", "one", "a million"], held)
    memory = [
        [when.replace("_", " "), *(f"{used[key] / 1e9:.2f} GB" for key in ("now", "most"))]
        for when, used in report.get("memory_bytes", {}).items()
    ]
    if memory:
        yield markdown_table(["memory of the process, peers and benchmark included", "then", "at most"], memory)
    for skipped, why in report.get("skipped", {}).items():
        yield f"No row `{skipped}`: {why}.\n"


def _row(row: Mapping[str, Any]) -> list[str]:
    notes = []
    if "batch" in row:
        notes.append(f"batch {row['batch']}")
    if "operations" in row:
        rate = row["operations"] / row["seconds"]
        notes.append(f"{row['operations'] / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s")
    if row.get("deepest_layer") is not None:
        notes.append(f"layers 0 to {row['deepest_layer']}")
    if row.get("note"):
        notes.append(str(row["note"]))
    return [f"`{row['name']}`", _spread(row), str(row["runs"]), "; ".join(notes)]


def _spread(row: Mapping[str, Any]) -> str:
    return f"{row['seconds']:.3g} ({row['least']:.3g} to {row['most']:.3g})"


def _growth(by: str, rows: Sequence[Mapping[str, Any]]) -> str:
    values = sorted({row["value"] for row in rows})
    layouts = sorted({row["layout"] for row in rows})
    by_place = {(row["layout"], row["value"]): row for row in rows}
    state, title = "warm", by
    if by == "clients_cold":
        state, title = "cold", f"clients, {rows[0]['window']} new documents of {rows[0]['tokens']} tokens a request"
    table = []
    for layout in layouts:
        found = [by_place.get((layout, value)) for value in values]
        table.append([f"{state} {layout}", *("" if row is None else f"{row['seconds']:.3g}" for row in found)])
    return markdown_table([f"seconds, by {title}", *(f"{value:,}" for value in values)], table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
