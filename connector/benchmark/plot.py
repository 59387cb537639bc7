"""A report as a picture: bars on a logarithmic scale, with their spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from connector.charts import INK, axes_of, check_charts, svg
from connector.errors import SettingsError
from connector.evaluation.text_lines import write_text

__all__ = ["check_plot_path", "plot_svg", "write_plot"]

_COLOURS = {"warm": "#2e9e5b", "cold": "#3a7fc2", "cross": "#d1574a", "icr": "#d1574a", "floor": "#8b95a7"}
_OTHER = "#8073ac"
_LINE, _MARGIN = 0.24, 1.1


def check_plot_path(path: Path) -> None:
    """Refuse what cannot be drawn before anything is measured.

    Raises:
        SettingsError: the file's name is no SVG's.
        MissingExtraError: charts cannot be drawn here.
    """
    if path.suffix.lower() != ".svg":
        raise SettingsError(f"--plot {path}: pictures are written as SVG; give a name that ends in .svg")
    check_charts("bench")


def write_plot(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture.

    Raises:
        DataError: the file cannot be written.
    """
    write_text(path, [plot_svg(report)])


def plot_svg(report: Mapping[str, Any]) -> str:
    """The picture of all rows, and of the growth rows below them."""
    rows: Sequence[Mapping[str, Any]] = [*report["rows"], *report.get("growth", ())]
    machine = report["machine"]
    seconds = [row["seconds"] for row in rows]
    figure, axes = axes_of(_MARGIN + _LINE * len(rows))
    places = range(len(rows))
    colours = [_COLOURS.get(row["name"].split("_")[0], _OTHER) for row in rows]
    axes.barh(places, seconds, color=colours)
    axes.hlines(places, [row["least"] for row in rows], [row["most"] for row in rows], color=INK, linewidth=1)
    for at, row in zip(places, rows, strict=True):
        axes.annotate(f"{row['seconds']:.3g} s", (row["most"], at), (4, 0), textcoords="offset points", va="center")
    axes.set(yticks=places, yticklabels=[row["name"] for row in rows], xscale="log")
    axes.set_xlabel("seconds: median, least and most")
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.01)
    title = f"rh-connector bench: {machine['model']}, {machine['precision']}"
    axes.set_title(f"{title}\n{machine['cpu']}; {machine['threads']} used", loc="left")
    return svg(figure, title, alone=True)
