"""How many hits to rerank: ``python -m connector.studies.relevance.windows REPORT… --folder FOLDER --picture FILE``.

Each REPORT is what ``connector.studies.window_sweep --out`` wrote of one collection. Those of one model become one
file of FOLDER (docs/results/windows), which docs/results.md has its table from; the picture draws all files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from connector.charts import BETTER, INK, SAME, WORSE, panels_of, svg
from connector.errors import DataError, RhConnectorError
from connector.evaluation.significance import Comparison, compare
from connector.evaluation.text_lines import write_text
from connector.studies.markdown import markdown_table

__all__ = ["joined", "main", "read_windows", "windows_chart", "windows_section"]

Study = Mapping[str, Any]
_DEFAULT = 20
_ALIKE = ("model", "layout", "precision", "split", "limit", "seed", "picked_from", "router_embedder")
"""What reports of one study have in common."""
_ABOUT = (*_ALIKE, "threads", "cpu", "date", "versions")
_MEASURED = ("fused", "alone", "milliseconds")
_SECTION = """\
## How many hits

The first hits of BM25 are reranked, some or many of them. All rows of a model have the same test queries, as many of
each collection, drawn with seed {seed}. Those of a model with fewer are among those of the others. nDCG@10 of head
scores fused with the first stage's, mean over the queries.

{table}
In brackets: 95 % intervals. Milliseconds: median of a window whose documents are cached, {threads} thread(s) of
{cpu}. Other work ran beside it. These queries chose nothing: the
[default](engineering/signals-log.md#how-many-hits) was set on train queries. There, too, `late` picked
[twenty of two hundred](engineering/signals-log.md#twenty-of-two-hundred).

![Gain and milliseconds for each window](images/windows.svg)
"""


def joined(reports: Sequence[Study]) -> dict[str, Any]:
    """One model's reports as one study: values by collection and window, in the order of the queries' ids.

    Raises:
        DataError: they were made in different ways, two are of one collection, or windows have different queries.
    """
    names = [report["collection"] for report in reports]
    for key in _ALIKE:
        found = {str(report.get(key)) for report in reports}
        if len(found) > 1:
            raise DataError(f"reports differ in {key} ({', '.join(sorted(found))}): give those of one study")
    if len(set(names)) != len(names):
        raise DataError(f"reports on {', '.join(sorted(names))}: give one of each collection")
    collections = {}
    for report in sorted(reports, key=lambda own: str(own["collection"])):
        lines: dict[int, dict[str, Any]] = {}
        for line in report.get("lines", []):
            lines.setdefault(int(line["window"]), {})[str(line["query"])] = line
        if _DEFAULT not in lines or len({frozenset(own) for own in lines.values()}) > 1:
            raise DataError(
                f"the report of {report['collection']} lacks the window {_DEFAULT}, or lines of some queries; "
                "make it again with window_sweep --out"
            )
        smallest = lines[min(lines)]
        collections[report["collection"]] = {
            "first_stage": [round(smallest[query]["first_stage"], 4) for query in sorted(smallest)],
            "windows": {
                str(size): {key: [round(own[query][key], 4) for query in sorted(own)] for key in _MEASURED}
                for size, own in sorted(lines.items())
            },
        }
    return {**{key: reports[0].get(key) for key in _ABOUT}, "collections": collections}


def read_windows(folder: Path) -> list[dict[str, Any]]:
    """The studies of a folder, by name of the file; none where there is no folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def windows_section(studies: Sequence[Study]) -> str:
    """Table, picture and what was measured, in Markdown.

    Raises:
        DataError: the studies were made of other queries, or on other machines.
    """
    about, rows = studies[0], []
    if any(study[key] != about[key] for study in studies for key in ("split", "seed", "threads", "cpu")):
        raise DataError("the files of windows were made in different ways; make them again with one command")
    for study in studies:
        for size in _sizes(study):
            gain = _compared(study, size, None)
            other = None if size == _DEFAULT else _compared(study, size, _DEFAULT)
            rows.append(
                [
                    f"`{study['model']}`",
                    str(len(study["collections"])),
                    str(sum(len(own["first_stage"]) for own in study["collections"].values())),
                    str(size),
                    f"{_mean(study, size):.4f}",
                    _told(gain),
                    "" if other is None else _told(other),
                    "not measured"
                    if (milliseconds := _milliseconds(study, size)) is None
                    else f"{milliseconds:,.0f}",
                ]
            )
    header = [
        "model",
        "collections",
        "queries",
        "hits",
        "nDCG@10",
        "to the first stage",
        f"to {_DEFAULT} hits",
        "ms, cached",
    ]
    return _SECTION.format(
        seed=about["seed"],
        threads=about["threads"],
        cpu=about["cpu"],
        table=markdown_table(header, rows),
    )


def windows_chart(studies: Sequence[Study]) -> str:
    """What more or fewer hits than the default gain, and the time, against the window; a line a model."""
    figure, (gains, times) = panels_of(3.2, 2, same_heights=False)
    for study, colour, marker in zip(studies, (BETTER, SAME, INK, WORSE), "osD^", strict=False):
        sizes = _sizes(study)
        # Models were measured on different numbers of queries: each is compared with itself.
        worth = [_mean(study, size) - _mean(study, _DEFAULT) for size in sizes]
        took = [value for size in sizes if (value := _milliseconds(study, size)) is not None]
        for axes, values in ((gains, worth), (times, took)):
            if len(values) == len(sizes):
                axes.plot(sizes, values, color=colour, marker=marker, label=study["model"])
            axes.set_xscale("log")
            axes.set_xticks(sizes, map(str, sizes))
            axes.minorticks_off()
            axes.set_xlabel("hits that are reranked")
    gains.set_ylabel(f"nDCG@10 to {_DEFAULT} hits")
    gains.axhline(0, color=INK, linewidth=0.6)
    times.set_ylabel("milliseconds, cached")
    times.set_ylim(bottom=0)
    gains.legend(frameon=False, fontsize=8)
    return svg(figure, "what reranking more hits is worth and costs", alone=True)


def _sizes(study: Study) -> list[int]:
    return sorted({int(size) for own in study["collections"].values() for size in own["windows"]})


def _values(own: Study, size: int | None) -> list[float]:
    return list(own["first_stage"] if size is None else own["windows"][str(size)]["fused"])


def _mean(study: Study, size: int | None) -> float:
    """Mean over queries; None: of the first stage."""
    return float(np.mean([value for own in study["collections"].values() for value in _values(own, size)]))


def _compared(study: Study, size: int, other: int | None) -> Comparison:
    keyed: list[dict[str, float]] = [{}, {}]
    for name, own in study["collections"].items():
        for values, kept in zip((_values(own, size), _values(own, other)), keyed, strict=True):
            kept.update({f"{name} {at}": value for at, value in enumerate(values)})
    return compare(keyed[0], keyed[1])


def _told(compared: Comparison) -> str:
    low, high = compared.interval
    return f"{compared.difference:+.4f} ({low:+.3f} to {high:+.3f})"


def _milliseconds(study: Study, size: int) -> float | None:
    """The median; None: not measured."""
    every = [own["windows"][str(size)]["milliseconds"] for own in study["collections"].values()]
    known = [value for values in every for value in values if value]
    return float(np.median(known)) if known else None


@click.command()
@click.argument("reports", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--without-times", is_flag=True, help="REPORTS were timed under other conditions than the rest.")
def main(reports: tuple[Path, ...], folder: Path, picture: Path, without_times: bool) -> None:
    """Keep REPORTS in the folder, a file a model, and draw all that the folder has."""
    by_model: dict[str, list[Study]] = {}
    for path in reports:
        report = json.loads(path.read_text(encoding="utf-8"))
        if without_times:
            report["lines"] = [{**line, "milliseconds": 0.0} for line in report["lines"]]
        by_model.setdefault(report["model"], []).append(report)
    try:
        for model, own in by_model.items():
            write_text(folder / f"{model}.json", [json.dumps(joined(own), separators=(",", ":")), "\n"])
        write_text(picture, [windows_chart(read_windows(folder))])
    except RhConnectorError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
