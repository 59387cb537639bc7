"""Charts as SVG, for pages and files, drawn by matplotlib (extras ``evaluate`` and ``bench``)."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from connector.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BETTER", "INK", "SAME", "WORSE", "axes_of", "check_charts", "panels_of", "svg"]

BETTER, WORSE, SAME = "#2e9e5b", "#d1574a", "#8b95a7"
"""Colours that can be seen on white and on black."""
INK = "#010203"
"""Stands for the colour of the text around the chart."""
_WIDTH = 9.0
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
}
_NAMESPACES = re.compile(r' xmlns(:xlink)?="[^"]*"')
# What a page of several charts would have several times; nothing refers to it.
_OWN_IDS = re.compile(r' id="[\w.]+_\d+"')


def check_charts(extra: str = "evaluate") -> None:
    """Can charts be drawn here? Asked before anything is measured.

    Raises:
        MissingExtraError: no; the message names the extra.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "matplotlib", extra) from None


def axes_of(height: float) -> tuple[Figure, Axes]:
    """An empty chart; its height in inches, where a page's width has nine."""
    figure, (axes,) = panels_of(height, 1)
    return figure, axes


def panels_of(height: float, count: int, same_heights: bool = True) -> tuple[Figure, Sequence[Axes]]:
    """Empty charts side by side, with one scale of heights or each with its own."""
    check_charts()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        return figure, figure.subplots(1, count, sharey=same_heights, squeeze=False)[0].tolist()


def svg(figure: Figure, label: str, alone: bool = False) -> str:
    """The chart as an ``svg`` element.

    Args:
        figure: as ``axes_of`` gave it.
        label: what it shows, for those who cannot see it.
        alone: it is a file, with a white ground. Otherwise it stands in a page, in the colour of the text there.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": label}):
        # The same numbers give the same file.
        figure.savefig(
            file, format="svg", transparent=not alone, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    text = file.getvalue()
    text = _OWN_IDS.sub("", text[text.index("<svg") :])
    if not alone:
        # HTML knows the names of SVG.
        text = _NAMESPACES.sub("", text.replace(INK, "currentColor"), 2)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
