"""Reports of ``evaluate --out`` for docs/results, small: ``python -m connector.studies.condensing REPORT … FOLDER``.

One file a collection with what docs/results.md is made from: means, paired tests as they were made, and nDCG@10 by
query only of the rows that the page compares over the queries of several collections.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from connector.errors import DataError, RhConnectorError
from connector.evaluation.cascaded import CASCADE
from connector.evaluation.report import FIRST_STAGE, Report, report_from_json, report_to_json
from connector.evaluation.running import POOL

__all__ = ["POOLED", "condense", "hybrid_first_stage", "main", "read_report", "read_reports", "second_stage"]

POOLED = ("routed", "static", "permuted", "left-out", CASCADE)
"""Rows of a router, fused and not, that are compared with each other and with the first stage over all queries."""
_ROUTE = ("heads", "lowest_gate", "first_stage_gate", "highest_gate")
# What a condensed row has where it says something, and a row of ``evaluate`` in any case.
_NULLS = ("readout", "seconds_per_query", "seconds_cached", "heads", "weight", "difference", "p_value", "interval")


def condense(report: Report) -> dict[str, Any]:
    """JSON-ready values of a report without what no page reads; ``read_reports`` gives it back as a report.

    A row's ``ndcg`` is nDCG@10 by query, 4 digits, in the order of the queries' ids, which are left out.
    """
    value = report_to_json(report)
    return {
        **{key: own for key, own in value.items() if key not in ("collection", "rows")},
        "rows": [_condensed_row(row, _is_pooled(row)) for row in value["rows"]],
    }


def read_reports(folder: Path | str) -> list[Report]:
    """The condensed reports in a folder's ``*.json``, in the order of file names.

    The queries of a report have numbers for ids, in the order of those that they had.

    Raises:
        DataError: a file holds something else.
    """
    return [report for path in sorted(Path(folder).glob("*.json")) for report in _reports_of(path)]


def read_report(path: Path) -> Report:
    """A report as ``evaluate --out`` wrote it.

    Raises:
        DataError: the file is none.
    """
    return report_from_json(_read(path), str(path))


def hybrid_first_stage(report: Report) -> str | None:
    """The first stage of a report whose windows came from BM25 and an embedding model; None: from something else."""
    first = report.provenance.first_stage
    return first if " and " in first else None


def second_stage(report: Report) -> str | None:
    """What a second LLM read of the windows of a report; None: there was none."""
    made = report.provenance
    return None if made.second_model is None else f"first {made.second_hits} by {made.second_model}"


def main(arguments: Sequence[str]) -> int:
    """Add reports to a folder, each in place of the one on the same; the exit code, errors on standard error."""
    if len(arguments) < 2:
        print("usage: python -m connector.studies.condensing REPORT... FOLDER", file=sys.stderr)
        return 2
    *sources, folder = map(Path, arguments)
    try:
        added = [read_report(path) for path in sources]
        folder.mkdir(parents=True, exist_ok=True)
        for collection in sorted({report.collection for report in added}):
            path = folder / f"{collection}.json"
            reports = _reports_of(path) if path.is_file() else []
            by_subject = {
                _subject(report): report for report in [*reports, *added] if report.collection == collection
            }
            path.write_text(_text(collection, by_subject.values()), encoding="utf-8", newline="\n")
    except RhConnectorError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: cannot write to {folder}: {error.strerror or error}", file=sys.stderr)
        return DataError.exit_code
    return 0


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not an evaluation report ({error}); make it with rh-connector evaluate") from None


def _reports_of(path: Path) -> list[Report]:
    value = _read(path)
    try:
        collection = value["collection"]
        whole = [
            {**entry, "collection": collection, "rows": [_whole_row(row) for row in entry["rows"]]}
            for entry in value["reports"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} holds no condensed reports ({error}); make it with python -m connector.studies.condensing"
        ) from None
    return [report_from_json(entry, str(path)) for entry in whole]


def _subject(report: Report) -> tuple[str, ...]:
    """Two reports of a collection with the same are of the same thing."""
    made = report.provenance
    order = (f"{report.window:05d}", str(made.shuffled), hybrid_first_stage(report) or "")
    return made.model, made.layout, *order, second_stage(report) or "", made.first_reader, made.split


def _text(collection: str, reports: Iterable[Report]) -> str:
    """A row on one line."""

    def lines(entry: Mapping[str, Any]) -> str:
        head = [f"   {json.dumps(key)}: {json.dumps(own)}" for key, own in entry.items() if key != "rows"]
        rows = ",\n".join(f"    {json.dumps(row)}" for row in entry["rows"])
        return "  {\n" + ",\n".join([*head, f'   "rows": [\n{rows}\n   ]']) + "\n  }"

    entries = ",\n".join(lines(condense(report)) for report in sorted(reports, key=_subject))
    return f'{{\n "collection": {json.dumps(collection)},\n "reports": [\n{entries}\n ]\n}}\n'


def _condensed_row(row: Mapping[str, Any], pooled: bool) -> dict[str, Any]:
    kept = {key: own for key, own in row.items() if own is not None and key in ("name", *_NULLS)}
    kept.update({key: own for key, own in row.items() if "@" in key})
    if row["route"]:
        kept["route"] = {key: row["route"][key] for key in _ROUTE if key in row["route"]}
    if "reliability" in row:
        kept["reliability"] = row["reliability"]
    if pooled and row["per_query"]:
        kept["ndcg"] = [row["per_query"][query] for query in sorted(row["per_query"])]
    return kept


def _whole_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """As ``report_from_json`` wants it."""
    values = row.get("ndcg", ())
    # Sorted as texts, the numbers are in their order.
    by_query = {f"{at:06d}": own for at, own in enumerate(values)}
    return {
        **dict.fromkeys((*_NULLS, "head_list")),
        **{key: own for key, own in row.items() if key != "ndcg"},
        "per_query": by_query,
    }


def _is_pooled(row: Mapping[str, Any]) -> bool:
    name, readout = row["name"], row["readout"]
    return (name, readout) == (FIRST_STAGE, None) or (
        readout == POOL and name.removesuffix(f"+{FIRST_STAGE}") in POOLED
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
