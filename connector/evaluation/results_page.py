"""docs/results.md from the committed reports: ``python -m connector.evaluation.results_page FOLDER PAGE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from connector.errors import DataError, RhConnectorError
from connector.evaluation.measures import MEASURES
from connector.evaluation.report import FIRST_STAGE, Report, Row, report_from_json

__all__ = ["main", "read_reports", "results_page"]

_TITLE = "# Results\n"
_INTRODUCTION = """\
What reranking did to the first stage on judged collections, good or bad. This page is made from the files in
`docs/results/` with `make docs`; do not edit it by hand.
"""
_EMPTY = """\
There are no results yet: `docs/results/` holds no reports. Make one with
`rh-connector --json evaluate DIR > docs/results/NAME.json`.
"""
_READING = """\
- `first-stage`: the order before reranking. `all`: every head is read (ICR). `static`: one fixed set of heads.
  `+first-stage`: head scores fused with the first stage's. In brackets: the read-out, see how-it-works.md.
- Every row of a table ranks the same windows of the same queries. A query whose window is empty counts 0.
- difference, 95 % interval (bootstrap) and p (two-sided paired randomization test) are of nDCG@10 against the first
  stage, over queries; they are not corrected for the number of comparisons.
- s/query: seconds to rerank one window of documents that are new (median over the timed queries), on the machine
  named below each table; cached: the same window again, its documents encoded before.
"""
_SIGNIFICANT = 0.05
_Key = tuple[str, str | None]


def read_reports(folder: Path | str) -> list[Report]:
    """The reports in a folder's ``*.json``, in the order of file names.

    Raises:
        DataError: a file is not a report.
    """
    reports = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} is not an evaluation report ({error}); make it with rh-connector evaluate"
            ) from None
        reports.append(report_from_json(value, str(path)))
    return reports


def results_page(reports: Sequence[Report]) -> str:
    """The page in Markdown: for every model and layout the means over collections, then each collection.

    Raises:
        DataError: one model, layout and window has two reports of the same collection and split.
    """
    parts = [_TITLE, _INTRODUCTION]
    if not reports:
        return "\n".join([*parts, _EMPTY])
    parts.append(_READING)
    for (model, layout, window), group in _grouped(reports).items():
        parts.append(f"## {model}, layout {layout}, first {window} hits\n")
        parts.extend(_overview(group))
        for report in group:
            parts.extend(_collection(report))
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Write the page; the exit code, errors on standard error."""
    if len(arguments) != 2:
        print("usage: python -m connector.evaluation.results_page FOLDER PAGE", file=sys.stderr)
        return 2
    folder, page = map(Path, arguments)
    try:
        text = results_page(read_reports(folder))
        page.write_text(text, encoding="utf-8", newline="\n")
    except RhConnectorError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: cannot write {page}: {error.strerror or error}", file=sys.stderr)
        return DataError.exit_code
    return 0


def _grouped(reports: Sequence[Report]) -> dict[tuple[str, str, int], list[Report]]:
    groups: dict[tuple[str, str, int], list[Report]] = {}
    for report in reports:
        made = report.provenance
        group = groups.setdefault((made.model, made.layout, report.window), [])
        if any((other.collection, other.provenance.split) == (report.collection, made.split) for other in group):
            raise DataError(
                f"two reports of {report.collection} ({made.split}) for {made.model}, {made.layout}, window "
                f"{report.window}; remove one from docs/results"
            )
        group.append(report)
    return groups


def _overview(group: Sequence[Report]) -> Iterator[str]:
    """Means over the collections of the rows that all of them have, and how often each was better or worse."""
    rows = [{(row.name, row.readout): row for row in report.rows} for report in group]
    shared = [key for key in rows[0] if all(key in by_key for by_key in rows)]
    names = ", ".join(f"{report.collection} ({report.queries})" for report in group)
    yield f"### Mean over {len(group)} collection{'s' * (len(group) > 1)}\n"
    yield f"Each collection counts once, whatever its number of queries: {names}.\n"
    header = ["ranking", *MEASURES, "difference", "better", "worse", "undecided"]
    table = []
    first = _mean(rows, (FIRST_STAGE, None), MEASURES[0])
    for key in shared:
        comparisons = [by_key[key].comparison for by_key in rows]
        sure = [c for c in comparisons if c is not None and c.p_value < _SIGNIFICANT]
        better = sum(c.difference > 0 for c in sure)
        label = _label(rows[0][key])
        cells = [label, *(f"{_mean(rows, key, measure):.4f}" for measure in MEASURES)]
        if key == (FIRST_STAGE, None):
            cells += ["", "", "", ""]
        else:
            difference = _mean(rows, key, MEASURES[0]) - first
            cells += [f"{difference:+.4f}", str(better), str(len(sure) - better), str(len(group) - len(sure))]
        table.append(cells)
    yield _table(header, table)
    left_out = {key for by_key in rows for key in by_key} - set(shared)
    if left_out:
        labels = ", ".join(sorted(name if readout is None else f"{name} ({readout})" for name, readout in left_out))
        yield f"Not in every collection, so not in this table: {labels}.\n"
    yield f"better, worse: collections where p < {_SIGNIFICANT}; undecided: the others.\n"


def _collection(report: Report) -> Iterator[str]:
    made = report.provenance
    yield f"### {report.collection}\n"
    limited = "" if made.limit is None else f" (limited to {made.limit})"
    yield (
        f"{report.queries} queries{limited} of the split {made.split}, judgments {made.qrels}, first stage "
        f"{made.first_stage}, relevant from grade {made.relevant_from} for {MEASURES[1]}.\n"
    )
    header = ["ranking", "heads", "weight", *MEASURES, "difference", "95 % interval", "p", "s/query", "cached"]
    yield _table(header, [_row(row) for row in report.rows])
    yield (
        f"Measured {made.date} on {made.cpu}; device {made.device}, {made.threads} threads for the LLM; head set "
        f"{made.head_set or 'none'}; fingerprint {made.fingerprint[:12]}; seed {made.seed}; Python {made.python}, "
        f"{', '.join(f'{package} {version}' for package, version in made.versions.items())}.\n"
    )
    yield f"```\n{made.command}\n```\n"


def _row(row: Row) -> list[str]:
    cells = [
        _label(row),
        _heads(row),
        "" if row.weight is None else f"{row.weight:g}",
        *(f"{row.measures[measure]:.4f}" for measure in MEASURES),
    ]
    if row.comparison is None:
        cells += ["", "", ""]
    else:
        low, high = row.comparison.interval
        cells += [f"{row.comparison.difference:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{row.comparison.p_value:.4f}"]
    times = (row.seconds_per_query, row.seconds_cached)
    return [*cells, *("" if time is None else f"{time:.3f}" for time in times)]


def _heads(row: Row) -> str:
    if row.heads is not None:
        return str(row.heads)
    return "" if row.readout is None else "all"


def _label(row: Row) -> str:
    return f"`{row.name}`" if row.readout is None else f"`{row.name}` ({row.readout})"


def _mean(rows: Sequence[Mapping[_Key, Row]], key: _Key, measure: str) -> float:
    return sum(by_key[key].measures[measure] for by_key in rows) / len(rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, rule, *rows))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
