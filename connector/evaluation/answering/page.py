"""The report as one HTML file that needs nothing else: no script, and its style and pictures are in it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup

from connector.documents import Hit, clean_text
from connector.evaluation.answering.charts import changes_chart, rows_chart, windows_chart
from connector.evaluation.answering.meaning import assignment
from connector.evaluation.answering.verdict import Verdict, assigned
from connector.evaluation.answering.view import MOST_HITS, changes, one_window, recall, shown_rows, window_sizes
from connector.evaluation.collections import Collection
from connector.evaluation.measures import MEASURES
from connector.evaluation.report import FIRST_STAGE, Report
from connector.evaluation.running import Ranked
from connector.sections import Settings
from connector.templates import environment

__all__ = ["report_page"]


def report_page(
    report: Report,
    verdict: Verdict,
    ranked: Sequence[Ranked],
    collection: Collection,
    windows: Mapping[str, Sequence[Hit]],
    settings: Settings,
    memory: int,
) -> str:
    """The page.

    Args:
        report, verdict: what was found.
        ranked, collection, windows: see ``changes``.
        settings: those that it was measured with.
        memory: bytes that measuring took at most.

    Raises:
        MissingExtraError: charts cannot be drawn here.
    """
    sizes = window_sizes(verdict, ranked)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            verdict=verdict,
            first=next(own for own in report.systems if own.name == FIRST_STAGE),
            measure=MEASURES[0],
            measures=MEASURES,
            won=changes(verdict.won, verdict, ranked, collection, windows),
            lost=changes(verdict.lost, verdict, ranked, collection, windows),
            changes_chart=Markup(changes_chart(verdict, report)) if verdict.won or verdict.lost else None,
            rows_chart=Markup(rows_chart(report, verdict)),
            windows_chart=Markup(windows_chart(sizes)) if len(sizes) > 1 else None,
            one_window=one_window(report, windows),
            sizes=sizes,
            recall=recall(report, windows),
            rows=shown_rows(report, verdict, settings),
            to_set=None if verdict.settings is None else assigned(verdict.settings),
            options=" ".join(
                f"--set {shlex.quote(assignment(key, value))}" for key, value in (verdict.settings or {}).items()
            ),
            memory_mb=memory / 1_000_000,
            settings=settings,
            most_hits=MOST_HITS,
            css=_css(),
        )
    )
    return clean_text(page)


@cache
def _environment() -> Environment:
    return environment("connector.evaluation.answering", signed=_signed, value=_value)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _value(value: float) -> str:
    return f"{value:.4f}"


@cache
def _css() -> Markup:
    """A file of ours, as it stands in the page: not escaped, for it is no document's."""
    files = resources.files("connector.evaluation.answering")
    return Markup(files.joinpath("templates", "report.css").read_text(encoding="utf-8"))
