"""docs/results.md from the committed reports: ``python -m connector.studies.results_page FOLDER PAGE``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from connector.errors import DataError, RhConnectorError
from connector.evaluation.cascaded import CASCADE
from connector.evaluation.measures import MEASURES, Bin, calibration_error
from connector.evaluation.report import FIRST_STAGE, Report, System
from connector.evaluation.running import POOL
from connector.evaluation.significance import compare
from connector.sections import LAYOUTS
from connector.studies.condensing import hybrid_first_stage, read_reports, second_stage
from connector.studies.markdown import markdown_table
from connector.studies.relevance.windows import read_windows, windows_section

__all__ = ["main", "results_page"]

_TITLE = "# Results\n"
_INTRODUCTION = """\
What reranking did to the first stage on judged collections, good or bad. `make docs` makes this page from the files
in `{folder}/`; do not edit it by hand.
"""
_EMPTY = """\
There are no results yet: `docs/results/` holds no reports. Make one with
`rh-connector evaluate DIR --out report.json`, and add it with
`python -m connector.studies.condensing report.json docs/results`.
"""
_READING = """\
| row | order of the hits |
| --- | --- |
| `first-stage` | before reranking |
| `all` | every head is read (ICR) |
| `static` | one fixed set of heads; with (pool): the set that the router was made around |
| `routed` | the router picks the heads of each query and how far the first stage counts |
| `random` | control: as many random heads of the router's pool |
| `permuted` | control: the router with the embeddings of other queries of the same collection |
| `left-out` | a router trained in the same way without anything of this collection |
| `likelihood` | how likely the LLM finds the query behind each document, without any training |
{cascade}| a name of an embedding model | its cosines, the peer that search teams already run |
| `+first-stage` | head scores fused with the first stage's |

In brackets: the read-out ([how it works](how-it-works.md#read-outs)); rows with (pool) are of a router. What `routed`
gains over `permuted` is routing.

- Every row of a table ranks the same windows of the same queries. A query whose window is empty counts 0.
- difference, interval and p are of nDCG@10 against the first stage, over queries. The interval is a 95 % bootstrap,
  p a two-sided paired randomization test. Neither is corrected for the number of comparisons.
- s/query: seconds to rerank one window of new documents, on the machine named below each table (median over the
  timed queries). cached: the same window again, its documents encoded before.
"""
_CASCADE = "| `cascade` | `routed`, whose first hits a second LLM has read, too |\n"
_JOINT = """\
The published systems as published: all documents in one causal prompt. `all` (icr) is ICR. `routed` is RouteHead with
a router trained in `--mode paper` on this layout. In first-stage order the prompt leaks that order to the LLM;
shuffled, it cannot.
"""
_SIGNIFICANT = 0.05
_FIRST = "smollm2-135m"
_PAIRS = (
    ("routed", FIRST_STAGE),
    ("routed", "static"),
    ("routed", "permuted"),
    ("left-out", FIRST_STAGE),
    ("left-out", "static"),
    (CASCADE, FIRST_STAGE),
    (CASCADE, "routed"),
)
_Key = tuple[str, str | None]
# Model and what the router weighs beside it, layout, window, shuffled, hybrid first stage, what a second LLM reads.
_Group = tuple[str, str, int, bool, str | None, str | None]


def results_page(
    reports: Sequence[Report], folder: str = "docs/results", windows: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The page in Markdown: for every model and layout the means over collections, then each collection.

    Args:
        reports: what it is made from.
        folder: where they lie in the repository.
        windows: see ``windows_section``.

    Raises:
        DataError: one model, layout and window has two reports of the same collection and split.
    """
    parts = [_TITLE, _INTRODUCTION.format(folder=folder)]
    if not reports:
        return "\n".join([*parts, _EMPTY])
    parts.append(_READING.format(cascade=_CASCADE if any(map(second_stage, reports)) else ""))
    if windows:
        parts.append(windows_section(windows))
    for (model, layout, window, shuffled, hybrid, second), group in _grouped(reports).items():
        order = (f" of {hybrid}" if hybrid else "") + (", shuffled" if shuffled else "")
        order += f", the {second}" if second else ""
        parts.append(f"## {model}, layout {layout}, first {window} hits{order}\n")
        if layout == "joint":
            parts.append(_JOINT)
        parts.extend(_overview(group))
        parts.extend(_pooled(group))
        parts.extend(_calibrated(group))
        for report in group:
            parts.extend(_collection(report))
    return "\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Write the page; the exit code, errors on standard error."""
    if len(arguments) != 2:
        print("usage: python -m connector.studies.results_page FOLDER PAGE", file=sys.stderr)
        return 2
    folder, page = map(Path, arguments)
    try:
        text = results_page(read_reports(folder), folder.as_posix(), read_windows(folder / "windows"))
        page.write_text(text, encoding="utf-8", newline="\n")
    except RhConnectorError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: cannot write {page}: {error.strerror or error}", file=sys.stderr)
        return DataError.exit_code
    return 0


def _grouped(reports: Sequence[Report]) -> dict[_Group, list[Report]]:
    groups: dict[_Group, list[Report]] = {}
    for report in sorted(reports, key=_place):
        made = report.provenance
        apart = (hybrid_first_stage(report), second_stage(report))
        key = (made.first_reader, made.layout, report.window, made.shuffled, *apart)
        group = groups.setdefault(key, [])
        if any((other.collection, other.provenance.split) == (report.collection, made.split) for other in group):
            raise DataError(
                f"two reports of {report.collection} ({made.split}) for {made.model}, {made.layout}, window "
                f"{report.window}; remove one from docs/results"
            )
        group.append(report)
    return groups


def _place(report: Report) -> tuple[bool, str, int, str, int, bool, str, str, str, str]:
    """The default model and layout first, the largest groups' windows before others."""
    made = report.provenance
    layouts = LAYOUTS
    layout = layouts.index(made.layout) if made.layout in layouts else len(layouts)
    model = (made.model != _FIRST, made.model, layout, made.layout)
    apart = (hybrid_first_stage(report) or "", second_stage(report) or "", made.first_reader)
    return (*model, report.window, made.shuffled, *apart, report.collection)


def _pooled(group: Sequence[Report]) -> Iterator[str]:
    """The router against its controls over all queries, and where it did worst."""
    table = []
    proven = False
    for suffix in ("", "+first-stage"):
        for name, other in _PAIRS:
            mine, theirs = (_values(group, f"{system}{suffix}") for system in (name, other))
            if mine is None or theirs is None:
                continue
            found = compare(mine, theirs)
            low, high = found.interval
            if (name, other) == ("routed", "permuted") and found.difference > 0 and found.p_value < _SIGNIFICANT:
                proven = True
            table.append(
                [
                    f"`{name}{suffix}` against `{other}{suffix if other != FIRST_STAGE else ''}`",
                    str(len(mine)),
                    f"{found.difference:+.4f}",
                    f"{low:+.4f} to {high:+.4f}",
                    f"{found.p_value:.4f}",
                ]
            )
    if not table:
        return
    yield "Pooled over all queries of these collections (each query counts once), nDCG@10 of the (pool) rows:\n"
    yield markdown_table(["comparison", "queries", "difference", "95 % interval", "p"], table)
    if not proven and any(system.name == "permuted" for report in group for system in report.systems):
        yield (
            "No gain of routing itself is shown here: `routed` was not found better than `permuted` (p < 0.05) in "
            "either system. [The log](engineering/routing-log.md) says what was tried.\n"
        )
    for name in ("routed", "left-out"):
        differences = {
            report.collection: system.comparison.difference
            for report in group
            for system in report.systems
            if system.name == f"{name}+first-stage" and system.comparison is not None
        }
        if differences:
            worst = min(differences, key=lambda collection: differences[collection])
            yield (
                f"`{name}+first-stage` against the first stage is lowest on {worst} ({differences[worst]:+.4f}); "
                f"mean over collections {sum(differences.values()) / len(differences):+.4f}.\n"
            )


def _calibrated(group: Sequence[Report]) -> Iterator[str]:
    """What came true of the probabilities that the default told, over all hits of these collections."""
    own = [
        system.reliability
        for report in group
        for system in report.systems
        if system.name == "routed+first-stage" and system.reliability
    ]
    if not own or len(own) < len(group):
        return
    bins = [_together(parts) for parts in zip(*own, strict=True)]
    single = sum(calibration_error(each) for each in own) / len(own)
    yield (
        f"The probabilities of `routed+first-stage`, over all hits of these collections: calibration error "
        f"{calibration_error(bins):.3f} (ECE, ten bins); mean of the collections' own {single:.3f}. What nobody "
        "judged counts as not relevant.\n"
    )
    rows = [[f"{each.hits:,}", f"{each.told:.3f}", f"{each.relevant:.3f}"] for each in bins if each.hits]
    yield markdown_table(["hits", "told, mean", "relevant"], rows)


def _together(bins: Sequence[Bin]) -> Bin:
    hits = sum(each.hits for each in bins)
    told, relevant = (sum(each.hits * each[at] for each in bins) / max(hits, 1) for at in (1, 2))
    return Bin(hits, told, relevant)


def _values(group: Sequence[Report], name: str) -> dict[str, float] | None:
    """nDCG@10 by collection and query; None where a report lacks the system, or its queries."""
    plain = name.removesuffix("+first-stage")
    wanted, readout = (plain, None) if plain == FIRST_STAGE else (name, POOL)
    found: dict[str, float] = {}
    for report in group:
        system = next(
            (system for system in report.systems if (system.name, system.readout) == (wanted, readout)), None
        )
        if system is None or not system.per_query:
            return None
        found.update({f"{report.collection} {query}": value for query, value in system.per_query.items()})
    return found


def _overview(group: Sequence[Report]) -> Iterator[str]:
    """Means over the collections of the systems that all of them have, and how often each was better or worse."""
    by_report = [{(system.name, system.readout): system for system in report.systems} for report in group]
    shared = [key for key in by_report[0] if all(key in by_key for by_key in by_report)]
    names = ", ".join(f"{report.collection} ({report.queries})" for report in group)
    yield f"### Mean over {len(group)} collection{'s' * (len(group) > 1)}\n"
    yield f"Each collection counts once, whatever its number of queries: {names}.\n"
    header = ["ranking", *MEASURES, "difference", "better", "worse", "undecided"]
    table = []
    first = _mean(by_report, (FIRST_STAGE, None), MEASURES[0])
    for key in shared:
        comparisons = [by_key[key].comparison for by_key in by_report]
        sure = [c for c in comparisons if c is not None and c.p_value < _SIGNIFICANT]
        better = sum(c.difference > 0 for c in sure)
        label = _label(by_report[0][key])
        cells = [label, *(f"{_mean(by_report, key, measure):.4f}" for measure in MEASURES)]
        if key == (FIRST_STAGE, None):
            cells += ["", "", "", ""]
        else:
            difference = _mean(by_report, key, MEASURES[0]) - first
            cells += [f"{difference:+.4f}", str(better), str(len(sure) - better), str(len(group) - len(sure))]
        table.append(cells)
    yield markdown_table(header, table)
    left_out = {key for by_key in by_report for key in by_key} - set(shared)
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
        f"{made.first_stage}, relevant from grade {made.relevant_from} for {MEASURES[1]}."
        + ("" if report.recall is None else f" The windows hold {report.recall:.3f} of the relevant documents.")
        + (" The LLM saw them in random order." if made.shuffled else "")
        + "\n"
    )
    header = ["ranking", "heads", "weight", *MEASURES, "difference", "95 % interval", "p", "s/query", "cached"]
    yield markdown_table(header, [_cells(system) for system in report.systems])
    for system in report.systems:
        if system.reliability:
            missed = calibration_error(system.reliability)
            yield f"Calibration error of `{system.name}`'s probabilities (ECE, ten bins): {missed:.3f}.\n"
    heads = [
        f"head set {made.head_set or 'none'}",
        *([f"router {made.router}"] if made.router else []),
        *([f"left-out router {made.left_out}"] if made.left_out else []),
        *([f"second LLM {made.second_model}, router {made.second_router}"] if made.second_model else []),
        *([f"of the first {made.layers} layers"] if made.layers else []),
        *([f"embedding models {made.embedder}"] if made.embedder else []),
        *([f"beside the LLM {made.router_embedder}"] if made.router_embedder else []),
    ]
    versions = ", ".join(f"{package} {version}" for package, version in made.versions.items())
    run = [
        ["date", made.date],
        ["machine", f"{made.cpu}; device {made.device}; threads for the LLM: {made.threads}"],
        ["heads", ", ".join(heads)],
        *([["precision", made.precision]] if made.precision else []),
        ["fingerprint, seed", f"{made.fingerprint[:12]}, {made.seed}"],
        ["versions", f"Python {made.python}, {versions}"],
    ]
    yield markdown_table(["measured", ""], run)
    yield f"```\n{made.command}\n```\n"


def _cells(system: System) -> list[str]:
    cells = [
        _label(system),
        _heads(system),
        _weight(system),
        *(f"{system.measures[measure]:.4f}" for measure in MEASURES),
    ]
    if system.comparison is None:
        cells += ["", "", ""]
    else:
        low, high = system.comparison.interval
        cells += [
            f"{system.comparison.difference:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
            f"{system.comparison.p_value:.4f}",
        ]
    times = (system.seconds_per_query, system.seconds_cached)
    return [*cells, *("" if time is None else f"{time:.3f}" for time in times)]


def _weight(system: System) -> str:
    if system.weight is not None:
        return f"{system.weight:g}"
    if system.route and system.name.endswith("+first-stage"):
        low, mean, high = (system.route[key] for key in ("lowest_gate", "first_stage_gate", "highest_gate"))
        return f"{mean:.2f}" if low == high else f"{mean:.2f} ({low:.2f} to {high:.2f})"
    return ""


def _heads(system: System) -> str:
    if system.heads is not None:
        return str(system.heads)
    if system.route:
        return f"{system.route['heads']:.1f}"
    return "" if system.readout is None else "all"


def _label(system: System) -> str:
    return f"`{system.name}`" if system.readout is None else f"`{system.name}` ({system.readout})"


def _mean(by_report: Sequence[Mapping[_Key, System]], key: _Key, measure: str) -> float:
    return sum(by_key[key].measures[measure] for by_key in by_report) / len(by_report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
