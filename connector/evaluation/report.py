"""The report of one collection: rows of measures, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connector.errors import DataError
from connector.evaluation.measures import MEASURES, PerQuery, mean
from connector.evaluation.provenance import Provenance
from connector.evaluation.significance import Comparison, compare

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["FIRST_STAGE", "Report", "Row", "make_row", "render_table", "report_from_json", "report_to_json"]

FIRST_STAGE = "first-stage"
_ROW_KEYS = (
    "seconds_per_query",
    "seconds_cached",
    "readout",
    "heads",
    "head_list",
    "weight",
    "difference",
    "p_value",
    "interval",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One way of ranking. ``name`` and ``readout`` together say which.

    Attributes:
        name: ``first-stage``, ``all``, ``static`` …, with ``+first-stage`` where it is fused.
        measures: ``nDCG@10`` and ``MRR@10``, mean over the queries.
        seconds_per_query: of reranking a window of new documents, median; None where it was not measured.
        seconds_cached: the same with the documents in the cache.
        readout: how attention became a score; None for the first stage.
        heads: number of heads that were read.
        head_list: the (layer, head) pairs, where they are few enough to be told; None for all heads.
        weight: first-stage weight of the fusion.
        comparison: nDCG@10 against the first stage; None for the first stage itself.
    """

    name: str
    measures: Mapping[str, float]
    seconds_per_query: float | None = None
    seconds_cached: float | None = None
    readout: str | None = None
    heads: int | None = None
    head_list: tuple[tuple[int, int], ...] | None = None
    weight: float | None = None
    comparison: Comparison | None = None

    def label(self) -> str:
        """Name and read-out on one line."""
        return self.name if self.readout is None else f"{self.name} ({self.readout})"


@dataclass(frozen=True)
class Report:
    """The rows of one collection, all over the same windows and queries.

    Attributes:
        collection: its name.
        queries: number of queries in every mean: those with a positive judgment, or ``limit`` of them.
        window: number of first-stage hits that were reranked.
        rows: the first stage first.
        provenance: what the numbers were made with.
    """

    collection: str
    queries: int
    window: int
    rows: Sequence[Row]
    provenance: Provenance


def make_row(
    name: str,
    values: Mapping[str, PerQuery],
    baseline: Mapping[str, PerQuery] | None = None,
    *,
    readout: str | None = None,
    heads: int | None = None,
    head_list: Sequence[tuple[int, int]] | None = None,
    weight: float | None = None,
    seed: int = 0,
) -> Row:
    """A row from values per query.

    Args:
        name, readout, heads, head_list, weight: see ``Row``.
        values: measure -> query -> value, as ``per_query`` gives it.
        baseline: the first stage's values; None for its own row.
        seed: of the paired test.

    Raises:
        DataError: no queries, or other ones than the baseline's.
    """
    comparison = None if baseline is None else compare(values[MEASURES[0]], baseline[MEASURES[0]], seed)
    means = {measure: mean(by_query) for measure, by_query in values.items()}
    pairs = None if head_list is None else tuple((int(layer), int(head)) for layer, head in head_list)
    return Row(
        name,
        means,
        readout=readout,
        heads=heads,
        head_list=pairs,
        weight=weight,
        comparison=comparison,
    )


def report_to_json(report: Report) -> dict[str, Any]:
    """JSON-ready values: ``{"collection", "queries", "window", "rows": […], "provenance": {…}}``.

    A row holds ``name``, ``readout``, the measures, ``seconds_per_query``, ``seconds_cached``, ``heads``,
    ``head_list``, ``weight``, and against the first stage ``difference`` (of nDCG@10), ``p_value`` and ``interval``
    (null in the first stage's own row).
    """
    return {
        "collection": report.collection,
        "queries": report.queries,
        "window": report.window,
        "rows": [_row_to_json(row) for row in report.rows],
        "provenance": report.provenance.to_json(),
    }


def report_from_json(value: Any, source: str) -> Report:
    """The inverse of ``report_to_json``.

    Args:
        value: parsed JSON.
        source: its file, for messages.

    Raises:
        DataError: a key is missing or wrong, or there is no first-stage row.
    """
    try:
        report = Report(
            collection=str(value["collection"]),
            queries=int(value["queries"]),
            window=int(value["window"]),
            rows=tuple(_row_from_json(row) for row in value["rows"]),
            provenance=Provenance.from_json(value["provenance"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{source} is not an evaluation report ({error}); make it with rh-connector evaluate"
        ) from None
    if not any(row.name == FIRST_STAGE and row.readout is None for row in report.rows):
        raise DataError(f"{source} has no row {FIRST_STAGE}; make it with rh-connector evaluate")
    return report


def render_table(report: Report) -> Table:
    """The report for a terminal."""
    from rich.table import Table

    # Fits 80 columns; the bootstrap interval is in the JSON and on the results page.
    table = Table(
        title=f"{report.collection}: {report.queries} queries, first {report.window} hits reranked",
        caption=f"{report.provenance.model}, {report.provenance.layout}; difference of nDCG@10 to the first stage; "
        "p: paired randomization test; seconds a query: new documents, cached ones",
        box=None,
    )
    table.add_column("ranking", no_wrap=True)
    for header in (*MEASURES, "differ.", "p", "s new", "cached"):
        table.add_column(header, justify="right", no_wrap=True, min_width=6)
    best = max(row.measures[MEASURES[0]] for row in report.rows)
    for row in report.rows:
        style = "bold" if row.measures[MEASURES[0]] == best else None
        seconds = ["" if t is None else f"{t:.3f}" for t in (row.seconds_per_query, row.seconds_cached)]
        cells = [f"{row.measures[measure]:.4f}" for measure in MEASURES]
        table.add_row(row.label(), *cells, *_comparison_cells(row.comparison), *seconds, style=style)
    return table


def _comparison_cells(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["", ""]
    return [f"{comparison.difference:+.4f}", f"{comparison.p_value:.4f}"]


def _row_to_json(row: Row) -> dict[str, Any]:
    comparison = row.comparison
    return {
        "name": row.name,
        "readout": row.readout,
        **{measure: round(value, 6) for measure, value in row.measures.items()},
        "seconds_per_query": None if row.seconds_per_query is None else round(row.seconds_per_query, 4),
        "seconds_cached": None if row.seconds_cached is None else round(row.seconds_cached, 4),
        "heads": row.heads,
        "head_list": None if row.head_list is None else [list(pair) for pair in row.head_list],
        "weight": row.weight,
        "difference": None if comparison is None else round(comparison.difference, 6),
        "p_value": None if comparison is None else round(comparison.p_value, 6),
        "interval": None if comparison is None else [round(end, 6) for end in comparison.interval],
    }


def _row_from_json(value: Mapping[str, Any]) -> Row:
    seconds, cached, readout, heads, pairs, weight, difference, p_value, interval = (value[key] for key in _ROW_KEYS)
    comparison = None
    if difference is not None:
        low, high = interval
        comparison = Comparison(float(difference), float(p_value), (float(low), float(high)))
    measures = {name: float(value[name]) for name in value if "@" in name}
    for measure in MEASURES:
        if measure not in measures:
            raise KeyError(measure)
    head_list = None if pairs is None else tuple((int(layer), int(head)) for layer, head in pairs)
    return Row(str(value["name"]), measures, seconds, cached, readout, heads, head_list, weight, comparison)
