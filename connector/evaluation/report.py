"""The report of one collection: systems and their measures, as JSON and as a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from connector.errors import DataError
from connector.evaluation.measures import MEASURES, Bin, PerQuery, calibration_error, mean
from connector.evaluation.provenance import Provenance
from connector.evaluation.significance import Comparison, compare

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "FIRST_STAGE",
    "Report",
    "System",
    "make_system",
    "render_controls",
    "render_table",
    "report_from_json",
    "report_text",
    "report_to_json",
]

FIRST_STAGE = "first-stage"
_SYSTEM_KEYS = (
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
# What newer reports have besides.
_CONTROLS = ("static", "permuted")
_AGAINST = (*_CONTROLS, "routed")


@dataclass(frozen=True, slots=True)
class System:
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
        against: name of another system -> nDCG@10 against it; both fused, or both not.
        per_query: query -> nDCG@10; empty in reports of older versions.
        route: of routed systems: mean number of heads and deepest layer, mean and range of the first stage's gate.
        reliability: where scores stand for odds of relevance, told probabilities beside what came true.
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
    against: Mapping[str, Comparison] = field(default_factory=dict)
    per_query: Mapping[str, float] = field(default_factory=dict)
    route: Mapping[str, float] = field(default_factory=dict)
    reliability: tuple[Bin, ...] = ()

    def label(self) -> str:
        """Name and read-out on one line."""
        return self.name if self.readout is None else f"{self.name} ({self.readout})"


@dataclass(frozen=True)
class Report:
    """The systems of one collection, all over the same windows and queries.

    Attributes:
        collection: its name.
        queries: number of queries in every mean: those with a positive judgment, or ``limit`` of them.
        window: number of first-stage hits that were reranked.
        systems: the first stage first.
        provenance: what the numbers were made with.
        recall: share of the relevant documents that are in the window, the same for every system; None in reports of
            older versions.
    """

    collection: str
    queries: int
    window: int
    systems: Sequence[System]
    provenance: Provenance
    recall: float | None = None


def make_system(
    name: str,
    values: Mapping[str, PerQuery],
    baseline: Mapping[str, PerQuery] | None = None,
    *,
    readout: str | None = None,
    heads: int | None = None,
    head_list: Sequence[tuple[int, int]] | None = None,
    weight: float | None = None,
    seed: int = 0,
    against: Mapping[str, Mapping[str, float]] | None = None,
    route: Mapping[str, float] | None = None,
    reliability: tuple[Bin, ...] = (),
) -> System:
    """A system from values per query.

    Args:
        name, readout, heads, head_list, weight, route, reliability: see ``System``.
        values: measure -> query -> value, as ``per_query`` gives it.
        baseline: the first stage's values; None for itself.
        seed: of the paired tests.
        against: name of another system -> its nDCG@10 by query.

    Raises:
        DataError: no queries, or other ones than the baseline's.
    """
    comparison = None if baseline is None else compare(values[MEASURES[0]], baseline[MEASURES[0]], seed)
    means = {measure: mean(by_query) for measure, by_query in values.items()}
    pairs = None if head_list is None else tuple((int(layer), int(head)) for layer, head in head_list)
    return System(
        name,
        means,
        readout=readout,
        heads=heads,
        head_list=pairs,
        weight=weight,
        comparison=comparison,
        against={other: compare(values[MEASURES[0]], by_query, seed) for other, by_query in (against or {}).items()},
        per_query={query: round(value, 4) for query, value in values[MEASURES[0]].items()},
        route=route or {},
        reliability=reliability,
    )


def report_to_json(report: Report) -> dict[str, Any]:
    """JSON-ready values: ``{"collection", "queries", "window", "rows": […], "provenance": {…}}``.

    An entry of ``rows`` holds ``name``, ``readout``, the measures, ``seconds_per_query``, ``seconds_cached``,
    ``heads``, ``head_list``, ``weight``, and against the first stage ``difference`` (of nDCG@10), ``p_value`` and
    ``interval`` (null for the first stage itself); the same numbers in ``against_static`` and ``against_permuted``
    where there are such systems, and of a cascade in ``against_routed``; ``per_query``, nDCG@10 by query; of routed
    systems ``route``; and of those whose scores stand for odds of relevance ``reliability``: ten bins of [hits, mean
    probability, share that is relevant].
    """
    return {
        "collection": report.collection,
        "queries": report.queries,
        "window": report.window,
        "recall": report.recall,
        "rows": [_system_to_json(system) for system in report.systems],
        "provenance": report.provenance.to_json(),
    }


def report_from_json(value: Any, source: str) -> Report:
    """The inverse of ``report_to_json``.

    Args:
        value: parsed JSON.
        source: its file, for messages.

    Raises:
        DataError: a key is missing or wrong, or there is no first-stage system.
    """
    try:
        report = Report(
            collection=str(value["collection"]),
            queries=int(value["queries"]),
            window=int(value["window"]),
            systems=tuple(_system_from_json(system) for system in value["rows"]),
            provenance=Provenance.from_json(value["provenance"]),
            recall=value.get("recall"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{source} is not an evaluation report ({error}); make it with rh-connector evaluate"
        ) from None
    if not any(system.name == FIRST_STAGE and system.readout is None for system in report.systems):
        raise DataError(f"{source} has no row {FIRST_STAGE}; make it with rh-connector evaluate")
    return report


def report_text(value: Mapping[str, Any]) -> str:
    """JSON for a file: indented, but the values per query of a system on one line."""
    # Lines end between values only (in texts they are escaped): nothing but the look can change.
    indented = json.dumps(value, indent=1)
    return re.sub(r'"per_query": \{[^{}]*', lambda found: re.sub(r"\n\s*", " ", found[0]), indented) + "\n"


def render_controls(report: Report) -> Table | None:
    """The systems of a router against its static set and its permuted control; None where there are none.

    Where there is a cascade, there are no controls: its systems are against the router alone.
    """
    from rich.table import Table

    systems = [system for system in report.systems if system.route]
    if not systems:
        return None
    calibrated = any(system.reliability for system in systems)
    others = ("routed",) if any("routed" in system.against for system in systems) else _CONTROLS
    rows = " and ".join("static (pool)" if other == "static" else other for other in others)
    table = Table(
        caption=f"differences of nDCG@10 (p) to the row{'s' * (len(others) > 1)} {rows} of the same fusion; "
        "heads, gate of the first stage, and deepest layer: means over queries"
        + ("; ECE: of the probabilities of relevance" if calibrated else ""),
        box=None,
    )
    table.add_column("ranking (pool)", no_wrap=True)
    for header in (*(f"to {other}" for other in others), "heads", "gate", "layer", *(["ECE"] if calibrated else [])):
        table.add_column(header, justify="right", no_wrap=True)
    for system in systems:
        compared = (system.against.get(other) for other in others)
        cells = ["" if own is None else f"{own.difference:+.4f} ({own.p_value:.3f})" for own in compared]
        heads, gate, layer = (system.route[key] for key in ("heads", "first_stage_gate", "deepest_layer"))
        missed = [f"{calibration_error(system.reliability):.3f}"] if system.reliability else []
        table.add_row(system.name, *cells, f"{heads:.1f}", f"{gate:.2f}", f"{layer:.1f}", *missed)
    return table


def render_table(report: Report) -> Table:
    """The report for a terminal."""
    from rich.table import Table

    # Fits 80 columns; the bootstrap interval is in the JSON and on the results page.
    table = Table(
        title=f"{report.collection}: {report.queries} queries, first {report.window} hits reranked",
        caption=f"{report.provenance.readers}, {report.provenance.layout}; difference of nDCG@10 to the first stage; "
        "p: paired randomization test; seconds a query: new documents, cached ones",
        box=None,
    )
    table.add_column("ranking", no_wrap=True)
    for header in (*MEASURES, "differ.", "p", "s new", "cached"):
        table.add_column(header, justify="right", no_wrap=True, min_width=6)
    best = max(system.measures[MEASURES[0]] for system in report.systems)
    for system in report.systems:
        style = "bold" if system.measures[MEASURES[0]] == best else None
        seconds = ["" if t is None else f"{t:.3f}" for t in (system.seconds_per_query, system.seconds_cached)]
        cells = [f"{system.measures[measure]:.4f}" for measure in MEASURES]
        table.add_row(system.label(), *cells, *_comparison_cells(system.comparison), *seconds, style=style)
    return table


def _comparison_cells(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return ["", ""]
    return [f"{comparison.difference:+.4f}", f"{comparison.p_value:.4f}"]


def _system_to_json(system: System) -> dict[str, Any]:
    return {
        "name": system.name,
        "readout": system.readout,
        **{measure: round(value, 6) for measure, value in system.measures.items()},
        "seconds_per_query": None if system.seconds_per_query is None else round(system.seconds_per_query, 4),
        "seconds_cached": None if system.seconds_cached is None else round(system.seconds_cached, 4),
        "heads": system.heads,
        "head_list": None if system.head_list is None else [list(pair) for pair in system.head_list],
        "weight": system.weight,
        **_comparison_to_json(system.comparison),
        **{f"against_{name}": _comparison_to_json(own) for name, own in system.against.items()},
        "route": {name: round(value, 4) for name, value in system.route.items()},
        **({"reliability": _bins_to_json(system.reliability)} if system.reliability else {}),
        "per_query": dict(system.per_query),
    }


def _bins_to_json(bins: Sequence[Bin]) -> list[list[float]]:
    return [[each.hits, round(each.told, 4), round(each.relevant, 4)] for each in bins]


def _comparison_to_json(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {"difference": None, "p_value": None, "interval": None}
    return {
        "difference": round(comparison.difference, 6),
        "p_value": round(comparison.p_value, 6),
        "interval": [round(end, 6) for end in comparison.interval],
    }


def _comparison_from_json(value: Mapping[str, Any]) -> Comparison | None:
    if value["difference"] is None:
        return None
    low, high = value["interval"]
    return Comparison(float(value["difference"]), float(value["p_value"]), (float(low), float(high)))


def _system_from_json(value: Mapping[str, Any]) -> System:
    seconds, cached, readout, heads, pairs, weight, *_ = (value[key] for key in _SYSTEM_KEYS)
    measures = {name: float(value[name]) for name in value if "@" in name}
    for measure in MEASURES:
        if measure not in measures:
            raise KeyError(measure)
    head_list = None if pairs is None else tuple((int(layer), int(head)) for layer, head in pairs)
    found = {name: _comparison_from_json(value[f"against_{name}"]) for name in _AGAINST if f"against_{name}" in value}
    return System(
        str(value["name"]),
        measures,
        seconds,
        cached,
        readout,
        heads,
        head_list,
        weight,
        _comparison_from_json(value),
        {name: own for name, own in found.items() if own is not None},
        {str(query): float(own) for query, own in value.get("per_query", {}).items()},
        {str(name): float(own) for name, own in value.get("route", {}).items()},
        tuple(Bin(int(hits), float(told), float(true)) for hits, told, true in value.get("reliability", ())),
    )
