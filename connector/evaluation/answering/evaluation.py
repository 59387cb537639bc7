"""What an evaluation found: the report, the verdict on the settings, and the files that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from connector.documents import Hit
from connector.errors import DataError
from connector.evaluation.answering.page import report_page
from connector.evaluation.answering.verdict import Verdict, verdict_of
from connector.evaluation.collections import Collection
from connector.evaluation.provenance import memory_in_use
from connector.evaluation.report import Report, report_text, report_to_json
from connector.evaluation.running import Ranked
from connector.evaluation.system_files import write_per_query, write_runs
from connector.evaluation.text_lines import write_text
from connector.sections import Settings

__all__ = ["Evaluation"]


# No slots: the verdict is kept.
@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        report: the systems' means and comparisons, with what they were made with.
        ranked: the systems with values and rankings of every query; in the report's order.
        collection: queries and judgments.
        windows: first-stage hits of every query.
        settings: those that it was measured with, options counted in.
        notes: what whoever reads the report should know, a sentence each.
    """

    report: Report
    ranked: tuple[Ranked, ...]
    collection: Collection
    windows: Mapping[str, Sequence[Hit]]
    settings: Settings
    notes: tuple[str, ...] = ()

    def verdict(self) -> Verdict | None:
        """Whether reranking with these settings is worth it; None: no row stands for a setting."""
        return self._verdict

    @cached_property
    def _verdict(self) -> Verdict | None:
        # A paired test a row.
        return verdict_of(self.report, self.settings)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready values: see ``report_to_json``."""
        return report_to_json(self.report)

    def write_report(self, path: Path | str) -> None:
        """Write the report as JSON.

        Raises:
            DataError: the file cannot be written.
        """
        write_text(Path(path), [report_text(self.to_json())])

    def write_page(self, path: Path | str) -> None:
        """Write the verdict with all that led to it as one HTML file.

        Raises:
            DataError: there is no verdict, or the file cannot be written.
            MissingExtraError: charts cannot be drawn here.
        """
        verdict = self.verdict()
        if verdict is None:
            raise DataError("there is no verdict to report: no row stands for a setting; leave out --layers")
        memory = memory_in_use()["most"]
        page = report_page(self.report, verdict, self.ranked, self.collection, self.windows, self.settings, memory)
        write_text(Path(path), [page])

    def write_per_query(self, path: Path | str) -> None:
        """Write the measures of every query and system, tab separated.

        Raises:
            DataError: the file cannot be written.
        """
        write_per_query(self.ranked, Path(path))

    def write_runs(self, folder: Path | str) -> None:
        """Write a TREC run of each system.

        Raises:
            DataError: a file cannot be written, or an id cannot stand in a run.
        """
        write_runs(self.ranked, Path(folder))
