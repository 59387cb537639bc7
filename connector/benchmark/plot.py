"""A report as a picture: bars on a logarithmic scale, with their spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from connector.errors import SettingsError
from connector.evaluation.text_lines import write_text

__all__ = ["check_plot_path", "plot_svg", "write_plot"]

_LABEL, _WIDTH, _LINE, _TOP = 250, 520, 20, 56
_COLOURS = {"warm": "#1b7837", "cold": "#2166ac", "cross": "#b2182b", "icr": "#b2182b", "floor": "#777777"}
_OTHER = "#8073ac"
_TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{{ width }}" height="{{ height }}" font-family="sans-serif" \
font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="10" y="20" font-size="14">{{ title }}</text>
<text x="10" y="38" fill="#555555">{{ subtitle }}</text>
{% for tick in ticks -%}
<line x1="{{ tick.x }}" x2="{{ tick.x }}" y1="{{ top - 8 }}" y2="{{ bottom }}" stroke="#dddddd"/>
<text x="{{ tick.x }}" y="{{ bottom + 14 }}" text-anchor="middle" fill="#555555">{{ tick.label }}</text>
{% endfor -%}
{% for bar in bars -%}
<text x="{{ label - 8 }}" y="{{ bar.y + 11 }}" text-anchor="end">{{ bar.name }}</text>
<rect x="{{ label }}" y="{{ bar.y }}" width="{{ bar.width }}" height="14" fill="{{ bar.colour }}"/>
<line x1="{{ bar.least }}" x2="{{ bar.most }}" y1="{{ bar.y + 7 }}" y2="{{ bar.y + 7 }}" stroke="black"/>
<text x="{{ [bar.most, label + bar.width] | max + 6 }}" y="{{ bar.y + 11 }}">{{ bar.seconds }}</text>
{% endfor -%}
</svg>
"""


def check_plot_path(path: Path) -> None:
    """Refuse a file that is no SVG before anything is measured.

    Raises:
        SettingsError: its name ends otherwise.
    """
    if path.suffix.lower() != ".svg":
        raise SettingsError(f"--plot {path}: pictures are written as SVG; give a name that ends in .svg")


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
    low = math.floor(math.log10(min((row["least"] for row in rows), default=0.001)))
    high = math.ceil(math.log10(max((row["most"] for row in rows), default=1.0)))

    def x(seconds: float) -> float:
        return round(_LABEL + _WIDTH * (math.log10(seconds) - low) / max(high - low, 1), 1)

    bars = [
        {
            "name": row["name"],
            "y": _TOP + at * _LINE,
            "width": round(x(row["seconds"]) - _LABEL, 1),
            "least": x(row["least"]),
            "most": x(row["most"]),
            "colour": _COLOURS.get(row["name"].split("_")[0], _OTHER),
            "seconds": f"{row['seconds']:.3g} s",
        }
        for at, row in enumerate(rows)
    ]
    bottom = _TOP + len(rows) * _LINE
    return (
        Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            width=_LABEL + _WIDTH + 90,
            height=bottom + 24,
            top=_TOP,
            bottom=bottom,
            label=_LABEL,
            title=f"rh-connector bench: {machine['model']}, {machine['precision']}",
            subtitle=f"{machine['cpu']}; {machine['threads']} used; median, least and most; seconds, logarithmic",
            ticks=[{"x": x(10.0**at), "label": f"{10.0**at:g} s"} for at in range(low, high + 1)],
            bars=bars,
        )
    )
