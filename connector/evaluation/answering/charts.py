"""The charts of the report's page."""

from __future__ import annotations

from collections.abc import Sequence

from connector.charts import BETTER, INK, SAME, WORSE, axes_of, svg
from connector.evaluation.answering.verdict import Verdict
from connector.evaluation.answering.view import WindowSize
from connector.evaluation.measures import MEASURES
from connector.evaluation.report import FIRST_STAGE, Report

__all__ = ["changes_chart", "rows_chart", "windows_chart"]

_LINE, _MARGIN = 0.24, 0.7


def changes_chart(verdict: Verdict, report: Report) -> str:
    """Each query's change of nDCG@10, the greatest gain first."""
    first = next(own for own in report.systems if own.name == FIRST_STAGE)
    ordered = [*verdict.won, *verdict.equal, *reversed(verdict.lost)]
    changes = [verdict.system.per_query[query] - first.per_query[query] for query in ordered]
    figure, axes = axes_of(2.2)
    axes.bar(range(len(changes)), changes, width=0.85, color=[BETTER if own > 0 else WORSE for own in changes])
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlim=(-0.5, len(changes) - 0.5), xticks=[], ylabel=f"change of {MEASURES[0]}")
    label = f"{len(verdict.won)} queries won, {len(verdict.equal)} equal, {len(verdict.lost)} lost"
    return svg(figure, label)


def rows_chart(report: Report, verdict: Verdict) -> str:
    """The differences of all rows to the first stage, with their intervals; the row that is judged stands out."""
    rows = [(own, own.comparison) for own in reversed(report.systems) if own.comparison is not None]
    figure, axes = axes_of(_MARGIN + _LINE * len(rows))
    for at, (own, found) in enumerate(rows):
        low, high = found.interval
        colour = BETTER if low > 0 else WORSE if high < 0 else SAME
        judged = own is verdict.system
        axes.plot([low, high], [at, at], color=colour, linewidth=4 if judged else 2, solid_capstyle="butt")
        axes.plot([found.difference], [at], marker="D" if judged else "o", color=INK, markersize=5)
    axes.axvline(0, color=INK, linewidth=0.8)
    labels = [f"{own.label()}{' (judged)' if own is verdict.system else ''}" for own, _ in rows]
    axes.set(yticks=range(len(rows)), yticklabels=labels, ylim=(-0.6, len(rows) - 0.4))
    axes.set_xlabel(f"difference of {MEASURES[0]} to the first stage, 95 % interval")
    return svg(figure, "differences of the rows to the first stage")


def windows_chart(sizes: Sequence[WindowSize]) -> str:
    """nDCG@10 against the number of reranked hits."""
    figure, axes = axes_of(2.6)
    axes.plot([own.hits for own in sizes], [own.value for own in sizes], marker="o", color=BETTER)
    first = sizes[0].value - sizes[0].difference
    axes.axhline(first, color=INK, linewidth=0.8, linestyle="--")
    axes.annotate("first stage", (sizes[-1].hits, first), xytext=(0, 3), textcoords="offset points", ha="right")
    axes.set(xticks=[own.hits for own in sizes], xlabel="hits reranked", ylabel=MEASURES[0])
    return svg(figure, f"{MEASURES[0]} against the number of reranked hits")
